"""The scripts in a real engine at simulated instants.

A history does not wait for the engine: it goes on with what the model answers, and notes each step with what
is to come of it. All steps are then sent at once, and whatever the engine answers otherwise is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from hiredis import pack_command

from gateway.domain.answers import Answer
from gateway.domain.asks import AccountConfig, Ask
from gateway.domain.errors import CallgateError
from gateway.domain.leases import Renewed
from gateway.pool.accounts import AccountRead, account_arguments
from gateway.pool.codes import UNDECIDED, Code
from gateway.pool.keys import ACCOUNT_KEYS, SHARD_KEYS, KeySpace
from gateway.pool.operations import Operation, section_arguments
from gateway.pool.packed import Item, PackedPool, unpack_items, unpack_policy, unpack_pool
from tests.simulation.scripts import all_in_one
from tests.support.engines import EngineServer

ACCOUNT: Final = "acme"
LEASE_MS: Final = 15_000
GRACE_MS: Final = 30_000
LATE_MS: Final = 12 * 3_600_000
MEMORY_MS: Final = 48 * 3_600_000

KEY_SPACE: Final = KeySpace(1)
KEYS: Final = (*KEY_SPACE.of_shard(0), *KEY_SPACE.of_account(ACCOUNT, 0))
ALL: Final = ",".join(str(number + 1) for number in range(len(KEYS)))
META, CALLS, LEASES, RECORDS, POOL, _ORDER, _PHASE = (
    str((*SHARD_KEYS, *ACCOUNT_KEYS).index(name) + 1)
    for name in ("meta", "calls", "leases", "records", "pool", "order", "phase")
)
DECIDING: Final = ("1", *map(str, (MEMORY_MS, LEASE_MS, GRACE_MS, LATE_MS, 0)))
RENEWED: Final = {
    Code.RENEWED: Renewed.RENEWED,
    Code.CALL_ID_CONFLICT: Renewed.NEWER_OWNER,
    Code.ABSENT: Renewed.ABSENT,
    Code.CALL_ID_USED: Renewed.ENDED,
    Code.CALL_UNKNOWN: Renewed.UNKNOWN,
}

Argument = str | bytes | int


class InconsistentError(AssertionError):
    """What must never be was seen."""


def check(holds: bool, what: str, *details: object) -> None:
    """Raise InconsistentError unless it holds."""
    if not holds:
        raise InconsistentError(f"{what}: {', '.join(map(str, details))}")


@dataclass
class Steps:
    """What the engine is to do, in order, each with what to do with its answer."""

    now_ms: int
    run: int = 1
    """Which process of an engine it is."""
    sent: list[Argument] = field(default_factory=list)
    then: list[tuple[int, str, Callable[[Any], None]]] = field(default_factory=list)

    def add(self, name: str, keys: str, arguments: Sequence[Argument], then: Callable[[Any], None]) -> None:
        """A script or a command."""
        self.sent += (name, self.now_ms, self.run, keys, len(arguments), *arguments)
        self.then.append((self.now_ms, name, then))

    def take(self, replies: Sequence[Any]) -> None:
        """Look at what the engine answered. Raises InconsistentError for what it should not have."""
        check(len(replies) == len(self.then), "not every step was answered", len(replies), len(self.then))
        for (at_ms, name, then), reply in zip(self.then, replies, strict=True):
            try:
                check(not (isinstance(reply, list) and reply[:1] == [b"failed"]), "a script failed", reply)
                then(reply)
            except InconsistentError as failure:
                failure.add_note(f"{name} at {at_ms}")
                raise
        self.sent, self.then = [], []

    # What is done

    def empty(self) -> None:
        """Nothing is there any more."""
        self.add("UNLINK", ALL, (), lambda _: None)

    def copy(self, name: str) -> None:
        """Keep a copy of all that is there."""
        for number, key in enumerate(KEYS):
            self.add("UNLINK", "", (f"{name}:{key}",), lambda _: None)
            self.add("COPY", str(number + 1), (f"{name}:{key}",), lambda _: None)

    def go_back_to(self, name: str) -> None:
        """Have nothing but what was kept."""
        self.empty()
        for key in KEYS:
            self.add("COPY", "", (f"{name}:{key}", key), lambda _: None)

    def begin(self, config: AccountConfig, first: int, last: int) -> None:
        """An empty shard, and the account's pool in it, with the boundaries of these cycles."""
        self.empty()
        opening = ("1", "30", "1", "60", "0", "0", "", "0", "0", "0", "0", "0", "0")
        self.add("shards_open", META, opening, lambda _: None)
        self.add(
            "account_apply",
            ALL,
            account_arguments(
                AccountRead(config, epoch=self.now_ms), first, last, unvouched_ms=LEASE_MS + GRACE_MS
            ),
            lambda reply: check(reply[0] == Code.APPLIED, "the pool is not made", reply),
        )

    def ask(self, ask: Ask, then: Callable[[Answer | CallgateError], None]) -> None:
        """Ask one thing."""
        operation = Operation(ask, lambda _: None, 0.0)
        arguments = (*DECIDING, *section_arguments({ask.account: [operation]}))

        def answered(reply: list[Any]) -> None:
            check(reply[0] not in UNDECIDED, "nothing was decided", reply)
            then(operation.deliver(reply, 0))

        self.add("calls_decide", ALL, arguments, answered)

    def renew(
        self, call_id: str, connection: int, heard_ago_ms: int, lost: bool, then: Callable[[Renewed], None]
    ) -> None:
        """Renew a call's lease, or tell that its connection is lost."""
        said = (f"{ACCOUNT}/{call_id}", connection, "", heard_ago_ms, int(lost))
        arguments = (LEASE_MS, GRACE_MS, 0, 1, *said)
        keys = f"{META},{CALLS},{LEASES}"
        self.add("calls_renew", keys, arguments, lambda reply: then(RENEWED[Code(reply[0])]))

    def beat(self) -> None:
        """Tell that a gateway is there."""
        self.add("shards_beat", META, (LEASE_MS,), lambda reply: check(reply[2] > 0, "a beat", reply))

    def due(self, then: Callable[[list[str]], None]) -> None:
        """The calls that may be due for reaping."""
        keys = f"{META},{CALLS},{LEASES}"
        self.add(
            "leases_due",
            keys,
            (1000,),
            lambda reply: then([each.decode().partition("/")[2] for each in reply[2:]]),
        )

    def pool(self, then: Callable[[PackedPool], None]) -> None:
        """The account's pool as it is kept."""
        self.add("GET", POOL, (), lambda reply: then(unpack_pool(reply)))

    def items(self, then: Callable[[list[Item]], None]) -> None:
        """All that SQL was told, in order."""

        def read(entries: list[Any]) -> None:
            found: list[Item] = []
            for _, fields in entries:
                entry = dict(zip(fields[::2], fields[1::2], strict=True))
                found += unpack_items(entry[b"d"], unpack_policy(entry[b"p"]))
            then(found)

        self.add("XRANGE", RECORDS, ("-", "+"), read)

    def in_progress(self, then: Callable[[int, int, int], None]) -> None:
        """Calls in progress: as the shard counts them, and in the indexes of the account."""
        found: list[int] = []
        self.add("clock_read", META, (), lambda reply: found.append(reply[0][3]))
        self.add("ZCARD", _ORDER, (), found.append)

        def all_found(phase: int) -> None:
            then(found[0], found[1], phase)

        self.add("ZCARD", _PHASE, (), all_found)


class SimulatedEngine:
    """An engine that carries out steps with these texts of the scripts.

    `send` does not wait: another history can be played meanwhile, and is sent once `receive` was called.
    """

    def __init__(self, server: EngineServer, texts: Mapping[str, str]) -> None:
        # A machine that is busy may take its time.
        self._client = redis.Redis(unix_socket_path=str(server.socket), protocol=2, socket_timeout=60)
        self._connection: Any = self._client.connection_pool.get_connection()
        self._sha = str(server.client.script_load(all_in_one(texts)))

    def send(self, steps: Steps) -> None:
        """Have it carry out all steps."""
        command: tuple[Any, ...] = ("EVALSHA", self._sha, len(KEYS), *KEYS, *steps.sent)
        packed = pack_command(command)
        self._connection.send_packed_command([packed])

    def carry_out(self, steps: Steps) -> list[Any]:
        """Have it carry out all steps, wait, and look at what it answered, which is returned."""
        self.send(steps)
        replies = self.receive()
        steps.take(replies)
        return replies

    def receive(self) -> list[Any]:
        """What it answered. Raises RedisError."""
        replies: list[Any] = self._connection.read_response()
        return replies

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.disconnect()
        self._client.close()
