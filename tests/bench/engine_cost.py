"""What one start or end costs the engine, by how many calls are in progress in its pool.

Batches of 64 (32 starts, 32 ends of calls taken at random, with record, lease, device place and publishing)
go to one pool that stays at its size, under a clock that moves so that calls last three minutes on average: a
steady mixture of young and old; and to 64 pools of ten calls each, one operation a pool. Beside it, in the
same run, a pipelined script that does one HGET, one HSET and one XADD. All of it twice: with nothing kept,
and as the embedded engine is run, with every write appended and synced before it is answered. CPU time is the
engine's main thread's, on the CPU, in ns from the kernel's schedstat.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from redis import Redis

from gateway.domain.asks import AccountConfig, Ask, End, Start
from gateway.domain.plans import Plan
from gateway.embedded import valkey_binary
from gateway.pool.accounts import AccountRead, account_arguments
from gateway.pool.keys import KeySpace
from gateway.pool.operations import Operation, section_arguments
from gateway.pool.scripts import Argument, script
from tests.support.engines import EngineServer

BATCH: Final = 64
DEPTHS: Final = (16, 64)
"""How deep the script beside it is pipelined."""
SIZES: Final = ((1, 100), (1, 1_000), (1, 10_000), (1, 100_000), (64, 10))
"""Pools, and calls in progress in each."""
AVERAGE_CALL_MS: Final = 180_000
START_MS: Final = 1_795_392_000_000
ACCOUNT: Final = "acme"
LENGTHS: Final = ("172800000", "15000", "30000", "43200000", "0")
"""Call id memory, lease, grace, late return, in ms."""

TRIVIAL: Final = """#!lua
redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('XADD', KEYS[2], '*', 'd', ARGV[2])
return 1
"""


class CpuClock:
    """Time that the engine's main thread spent on a CPU."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/task/{pid}/schedstat")

    def read_us(self) -> float:
        """Microseconds since the engine started."""
        return int(self._path.read_text().split()[0]) / 1000


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation."""

    cpu_us: float
    commands: float


class PoolLoad:
    """Pools with a given number of calls in progress each, driven straight through the scripts."""

    def __init__(self, client: Redis, calls: int, pools: int = 1) -> None:
        self._client = client
        self._loaded: set[str] = set()
        self._keys = KeySpace(1)
        self._random = random.Random(7)
        self._now_ms = START_MS
        self._made = 0
        self._accounts = [ACCOUNT, *(f"{ACCOUNT}-{number}" for number in range(1, pools))]
        self._going: dict[str, list[str]] = {account: [] for account in self._accounts}
        self._calls = calls
        policy = ["30", "1", "60", "0"]
        metas = [self._keys.of_shard(0)[0]]
        opening = ["1", *policy, "1", str(START_MS), "0", "0", "0", "0", "0", "0"]
        ((_, epoch, *_),) = self._run("shards_open", metas, opening)
        plan = Plan("big", "Big", 1_000_000_000, 10, 10)
        for account in self._accounts:
            config = AccountConfig(
                account, 1, "active", date(2026, 11, 23), "UTC", plan, staff=frozenset({"ana"})
            )
            arguments = account_arguments(AccountRead(config, epoch), -2, 4, unvouched_ms=45_000)
            self._run("account_apply", self._keys_of([account]), arguments)
        self._fill()

    def _keys_of(self, accounts: Iterable[str]) -> list[str]:
        keys = list(self._keys.of_shard(0))
        for account in accounts:
            keys += self._keys.of_account(account, 0)
        return keys

    def _run(self, name: str, keys: list[str], arguments: Sequence[Any]) -> Any:
        one = script(name)
        if name not in self._loaded:
            self._client.script_load(one.source)
            self._loaded.add(name)
        return self._client.evalsha(one.sha, len(keys), *keys, *arguments)

    def move_clock(self, by_ms: int) -> None:
        """Let so much time pass."""
        self._now_ms += by_ms
        self._run("clock_move", [self._keys.of_shard(0)[0]], [str(self._now_ms), "0", "0"])

    def _start(self, account: str) -> Ask:
        self._made += 1
        call_id = f"call-{self._made:08d}"
        self._going[account].append(call_id)
        return Start(account, "ana", f"desk-{self._made % 100}", call_id, "+14155550100")

    def _end(self, account: str) -> Ask:
        going = self._going[account]
        at = self._random.randrange(len(going))
        going[at], going[-1] = going[-1], going[at]
        return End(account, going.pop(), None)

    def _fill(self) -> None:
        # Spread over two average lengths, so that most are old when the load begins.
        for first in range(0, self._calls, BATCH):
            count = min(BATCH, self._calls - first)
            for account in self._accounts:
                self.decide([self._start(account) for _ in range(count)])
            self.move_clock(max(1, 2 * AVERAGE_CALL_MS * count // self._calls))

    def decide(self, asks: list[Ask]) -> None:
        """One script call."""
        accounts: dict[str, list[Operation]] = {}
        for ask in asks:
            accounts.setdefault(ask.account, []).append(Operation(ask, lambda answer: None, 0))
        arguments = ["1", *LENGTHS, *section_arguments(accounts)]
        reply = self._run("calls_decide", self._keys_of(accounts), arguments)
        assert reply[0] in (1, 4), reply[:9]

    def start_command(self, call_id: str) -> tuple[str, list[str], list[Argument]]:
        """The digest, keys and arguments of a script call that starts one call."""
        operation = Operation(Start(ACCOUNT, "ana", "desk", call_id, "+14155550100"), lambda answer: None, 0)
        arguments = ["1", *LENGTHS, *section_arguments({ACCOUNT: [operation]})]
        return script("calls_decide").sha, self._keys_of([ACCOUNT]), arguments

    @property
    def order_key(self) -> str:
        """The set of the first pool's calls in progress."""
        return self._keys.of_account(ACCOUNT, 0)[1]

    def one_batch(self, cpu: Callable[[], float]) -> float:
        """Half starts, half ends, in mixed order, a while after the last;

        answers the CPU time they took, in us.
        """
        calls = self._calls * len(self._accounts)
        self.move_clock(max(1, AVERAGE_CALL_MS * (BATCH // 2) // calls))
        asks = self.next_batch()
        before = cpu()
        self.decide(asks)
        return cpu() - before

    def next_batch(self) -> list[Ask]:
        """Half starts, half ends of calls that were there before."""
        pairs = BATCH // 2
        named = self._random.sample(self._accounts, BATCH) if len(self._accounts) >= BATCH else []
        ending = (
            sorted(named, key=lambda account: -len(self._going[account]))[:pairs] or self._accounts * pairs
        )
        starting = [account for account in named if account not in ending] or self._accounts * pairs
        # Ends first drawn: one that ends a call of its own batch would be a section of its own.
        ends = [self._end(account) for account in ending]
        return [
            ask for account, end in zip(starting, ends, strict=True) for ask in (self._start(account), end)
        ]


def commands_run(client: Redis) -> int:
    """Commands that the engine has carried out, those of scripts included."""
    return sum(each["calls"] for each in client.info("commandstats").values())


def measure_pools(server: EngineServer, calls: int, pools: int, batches: int) -> Cost:
    """So many pools, of that many calls in progress each."""
    server.flush()
    load = PoolLoad(server.client, calls, pools)
    cpu = CpuClock(server.process.pid)
    for _ in range(batches // 4):
        load.one_batch(cpu.read_us)
    total = sum(load.one_batch(cpu.read_us) for _ in range(batches))
    before = commands_run(server.client)
    counted = 20
    for _ in range(counted):
        load.one_batch(cpu.read_us)
    # The clock's own script, its two commands and the INFO before are not the operations'.
    commands = commands_run(server.client) - before - counted * 4 - 1
    return Cost(total / batches / BATCH, commands / counted / BATCH)


def measure_trivial(server: EngineServer, batches: int, depth: int) -> float:
    """CPU time (us) of the script of three commands, so many of it pipelined;

    its value is as long as a call's.
    """
    server.flush()
    client = server.client
    sha = client.script_load(TRIVIAL)
    cpu = CpuClock(server.process.pid)
    payload = "x" * 130
    total = 0.0
    warm_up = batches // 4
    for batch in range(batches + warm_up):
        pipeline = client.pipeline(transaction=False)
        for at in range(depth):
            call = f"acme/call-{(batch * depth + at) % 1000:08d}"
            pipeline.evalsha(sha, 2, "{t}:h", "{t}:s", call, payload)
        before = cpu.read_us()
        pipeline.execute()
        if batch >= warm_up:
            total += cpu.read_us() - before
    return total / batches / depth


def measure(*, persistent: bool, batches: int) -> None:
    """Print one table."""
    server = EngineServer(valkey_binary(), persistent=persistent)
    server.start()
    trivial: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    rows = []
    try:
        for pools, calls in SIZES:
            for depth, found in trivial.items():
                found.append(measure_trivial(server, batches, depth))
            rows.append((pools, calls, measure_pools(server, calls, pools, batches)))
    finally:
        server.discard()
    bases = {depth: sorted(found)[len(found) // 2] for depth, found in trivial.items()}
    print("every write appended and synced, as the embedded engine does" if persistent else "nothing kept")
    for depth, base in bases.items():
        print(
            f"  pipelined HGET+HSET+XADD script, {depth} deep: {base:.2f} us CPU each "
            f"(from {min(trivial[depth]):.2f} to {max(trivial[depth]):.2f} over the run)"
        )
    ratios = "".join(f"{f'ratio to {depth} deep':>18}" for depth in DEPTHS)
    print(f"{'pools':>7}{'calls in each':>15}{'CPU us/operation':>18}{ratios}{'commands/operation':>20}")
    for pools, calls, cost in rows:
        ratios = "".join(f"{cost.cpu_us / base:>18.2f}" for base in bases.values())
        print(f"{pools:>7}{calls:>15,}{cost.cpu_us:>18.2f}{ratios}{cost.commands:>20.2f}")


def run(batches: int = 400) -> None:
    """Print both tables."""
    for persistent in (False, True):
        measure(persistent=persistent, batches=batches)


if __name__ == "__main__":
    run()
