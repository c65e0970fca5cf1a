"""Asks of many devices, carried out together: one script call for all that came while the last ran.

Asks of one account go by one lane, and a lane has one script call under way, so they are carried out in the
order they were submitted (R6). Every ask is idempotent by its call id (R9, R17): where the engine gave no
usable reply, the same asks are put again until their time is up. Where a script breaks down on one account,
that one alone is answered so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

import structlog
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from gateway import metrics
from gateway.domain.asks import Ask, End
from gateway.domain.errors import CallgateError, EngineFull, EngineUnavailable
from gateway.pool.codes import UNDECIDED, Code
from gateway.pool.engine import Engine, Replicas
from gateway.pool.kept_answers import KeptAnswers
from gateway.pool.keys import KeySpace
from gateway.pool.leases import RealTime, carry_out_until_ms
from gateway.pool.operations import Done, Operation, Reply, section_arguments
from gateway.pool.packed import NO_VALUE
from gateway.pool.scripts import ALLOW_OOM, Argument, Script, script
from gateway.pool.together import run_together
from gateway.pool.unreadable import UNDECODABLE, Unreadable, broke_down

log = structlog.get_logger(__name__)

LANES: Final = 2
MAX_BATCH: Final = 512
RETRY_SECONDS: Final = 0.05
EXPIRE_SECONDS: Final = 0.05
"""How often asks are looked through for those whose time is up."""

NEW_CALLS: Final = frozenset("SCD")
"""Letters of asks for calls that are no emergencies."""

Section = tuple[int, dict[str, list[Operation]]]
"""A shard, and the operations of its accounts."""


class Provisioner(Protocol):
    """Supplies what a script found missing."""

    async def supply(self, account: str, code: int) -> bool:
        """Load a pool, or what else is missing for it. False: SQL knows no such account."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """What scripts decide calls by, in ms: how long an id is remembered, lease, grace, late return."""

    memory_ms: int
    lease_ms: int
    grace_ms: int
    late_resume_ms: int

    def arguments(self) -> tuple[str, ...]:
        """As the script takes them."""
        lengths = (self.memory_ms, self.lease_ms, self.grace_ms, self.late_resume_ms)
        return tuple(str(each) for each in lengths)


Saw = Callable[[int, int, int, int], None]
"""Hears of each shard that a script has answered from: shard, run, epoch, seq."""


class Batcher:
    """The lanes by which asks reach the engine. `run` carries them out until it is cancelled."""

    def __init__(
        self,
        engine: Engine,
        keys: KeySpace,
        provisioner: Provisioner,
        lengths: Lengths,
        saw: Saw,
        kept: KeptAnswers,
        real_ms: RealTime,
        unreadable: Unreadable,
        replicas: Replicas = 0,
        *,
        ages: bool = False,
    ) -> None:
        """Take what it needs; `ages` if billing time passes as real time does, while something waits."""
        self._keys = keys
        # In a Cluster every shard is asked by itself, and one that is away must not hold up the others.
        lanes = LANES if engine.spans_shards else keys.shards
        self._lanes = [
            _Lane(
                engine,
                keys,
                provisioner,
                lengths.arguments(),
                saw,
                kept,
                real_ms,
                unreadable,
                replicas,
                ages=ages,
            )
            for _ in range(lanes)
        ]

    def submit(self, ask: Ask, done: Done) -> None:
        """Queue an ask and return at once; `done` is called later, on this loop, exactly once."""
        operation = Operation(ask, done, monotonic())
        self._lanes[self._keys.shard_of(ask.account) % len(self._lanes)].submit(operation)

    async def run(self) -> None:
        """Carry out what is submitted. When cancelled, the rest is answered with `engine_unavailable`."""
        try:
            await run_together(*(lane.run() for lane in self._lanes), self._expire())
        finally:
            for lane in self._lanes:
                lane.close()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_SECONDS)
            now = monotonic()
            for lane in self._lanes:
                lane.expire(now)


class _Lane:
    """One queue of asks, and the one batch it has under way."""

    def __init__(
        self,
        engine: Engine,
        keys: KeySpace,
        provisioner: Provisioner,
        head: tuple[str, ...],
        saw: Saw,
        kept: KeptAnswers,
        real_ms: RealTime,
        unreadable: Unreadable,
        replicas: Replicas,
        *,
        ages: bool,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._provisioner = provisioner
        self._head = head
        self._saw = saw
        self._kept = kept
        self._real_ms = real_ms
        self._unreadable = unreadable
        self._ages = ages
        self._waiting: deque[Operation] = deque()
        self._under_way: list[Operation] = []
        # Asks of an account whose pool is being loaded wait here, so that they keep their order.
        self._parked: dict[str, list[Operation]] = {}
        self._supplying: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._is_closed = False
        self._replicas = replicas
        self._script = script("calls_decide")
        self._script_in_tight_memory = script("calls_decide", ALLOW_OOM)

    def submit(self, operation: Operation) -> None:
        if self._is_closed:
            asyncio.get_running_loop().call_soon(operation.fail, _stopping())
            return
        parked = self._parked.get(operation.account)
        if parked is not None:
            parked.append(operation)
            return
        self._waiting.append(operation)
        self._wake.set()

    async def run(self) -> None:
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            self._under_way = self._take_batch()
            if self._under_way:
                await self._decide(self._under_way)
            self._under_way = []

    def close(self) -> None:
        self._is_closed = True
        for task in self._supplying:
            task.cancel()
        for operation in self._all():
            operation.fail(_stopping())

    def expire(self, now: float) -> None:
        """Answer asks whose time is up, also those under way: what becomes of these is unknown."""
        for operation in self._all():
            operation.expire(now)
        for parked in self._parked.values():
            # SQL may be silent for long, and more is asked all the while.
            if any(each.done is None for each in parked):
                parked[:] = [each for each in parked if each.done is not None]

    def _all(self) -> list[Operation]:
        return [
            *self._under_way,
            *self._waiting,
            *(each for parked in self._parked.values() for each in parked),
        ]

    def _take_batch(self) -> list[Operation]:
        batch: list[Operation] = []
        while self._waiting and len(batch) < MAX_BATCH:
            operation = self._waiting.popleft()
            if operation.done is not None:
                batch.append(operation)
        return batch

    async def _decide(self, batch: list[Operation]) -> None:
        metrics.BATCH_SIZE.observe(len(batch))
        failed: list[Operation] = []
        for sections in self._engine.split(_sections(batch, self._keys)):
            failed += await self._carry_out(sections, self._script)
        if failed:
            # First in line again, so that they stay in order with what was asked since.
            self._waiting.extendleft(reversed([each for each in failed if each.done is not None]))
            await asyncio.sleep(RETRY_SECONDS)

    async def _decide_in_tight_memory(self, operations: list[Operation]) -> list[Operation]:
        """The engine takes nothing new, but ends, returns and emergencies it must; answers what failed."""
        for operation in operations:
            if operation.letter in NEW_CALLS:
                operation.fail(EngineFull())
        left = [each for each in operations if each.letter not in NEW_CALLS]
        failed: list[Operation] = []
        for sections in self._engine.split(_sections(left, self._keys)) if left else ():
            failed += await self._carry_out(sections, self._script_in_tight_memory)
        return failed

    async def _carry_out(self, sections: list[Section], deciding: Script) -> list[Operation]:
        """Have them decided, those of accounts that a script broke down on lately each by itself.

        Answers what failed, or was not put any more: only that may be put again. What an earlier script was
        asked was answered, or waits for what it lacks, and would be decided twice.
        """
        failed: list[Operation] = []
        parts = self._apart(sections)
        while parts:
            part = parts.popleft()
            try:
                parts += await self._run_script(part, deciding)
            except (RedisError, OSError) as failure:
                if isinstance(failure, OutOfMemoryError) and deciding is self._script:
                    # Not logged: there is nothing to wait for, so it may be as often as there are batches.
                    metrics.ENGINE_FAILURES.inc()
                    failed += await self._decide_in_tight_memory(_operations(part))
                    continue
                _note_failure(failure)
                failed += _operations(part)
                if not isinstance(failure, ResponseError):
                    # It is the engine; to wait for it once more for each of the others would take long.
                    failed += [each for others in parts for each in _operations(others)]
                    break
        return failed

    def _apart(self, sections: list[Section]) -> deque[list[Section]]:
        if not self._unreadable:
            return deque([sections])
        suspects = {account for account in _accounts(sections) if account in self._unreadable}
        sound = _sections_of(sections, lambda account: account not in suspects)
        return deque([sound] if sound else []) + _by_account(sections, sorted(suspects))

    async def _run_script(self, sections: list[Section], deciding: Script) -> deque[list[Section]]:
        """Have them decided by one script; answers what is to be asked again, each account by itself."""
        keys, arguments = self._encode(sections)
        try:
            reply = await self._engine.run_script(deciding, keys, arguments, replicas=self._replicas)
        except ResponseError as failure:
            if not broke_down(failure):
                raise
            # Where an account is read the script knows of it by itself. This is the rest: what was written of
            # other sections stands, and asked again with the same ids they are told of it; accounts of the
            # same section may count twice what was just said of them.
            accounts = dict.fromkeys(_accounts(sections))
            if len(accounts) > 1:
                _note_failure(failure)
                return _by_account(sections, accounts)
            for account in accounts:
                self._fail(account, _operations(sections), failure)
            return deque()
        self._deliver(sections, reply)
        return deque()

    def _fail(self, account: str, operations: Iterable[Operation], because: BaseException) -> None:
        error = self._unreadable.note(account, because)
        for operation in operations:
            operation.fail(error)

    def _encode(self, sections: list[Section]) -> tuple[list[str], list[Argument]]:
        keys: list[str] = []
        # Carried out later than that, "now" would be another moment than the one that was meant.
        until_ms = carry_out_until_ms(self._real_ms(sections[0][0]))
        arguments: list[Argument] = [str(len(sections)), *self._head, until_ms]
        now = monotonic()
        for operation in _operations(sections):
            if isinstance(operation.ask, End):
                # All that the engine has lost of a call may be its answer, and nobody has noticed yet.
                operation.tell_answered(self._kept.answered_at_ms(operation.account, operation.ask.call_id))
            if self._ages:
                operation.age(now)
        for shard, accounts in sections:
            keys.extend(self._keys.of_shard(shard))
            for account in accounts:
                keys.extend(self._keys.of_account(account, shard))
            arguments.extend(section_arguments(accounts))
        return keys, arguments

    def _deliver(self, sections: list[Section], reply: Reply) -> None:
        at = 0
        undecided: dict[str, tuple[int, list[Operation]]] = {}
        for _, accounts in sections:
            for account, operations in accounts.items():
                self._unreadable.forget(account)
                if reply[at] == Code.POOL_UNREADABLE:
                    self._fail(account, operations, UNDECODABLE)
                    at += sum(operation.width for operation in operations)
                    continue
                if reply[at] in UNDECIDED:
                    undecided.setdefault(account, (reply[at], []))[1].extend(operations)
                    at += sum(operation.width for operation in operations)
                    continue
                for operation in operations:
                    try:
                        answer = operation.deliver(reply, at)
                    except NO_VALUE as failure:
                        # A value of a call that is none: the script only passed it on.
                        self._fail(account, [operation], failure)
                        at += operation.width
                        continue
                    if operation.width > 1:
                        self._kept.note(operation.ask, answer, reply[at + 1])
                    elif operation.letter == "A":
                        self._kept.note(operation.ask, answer, None)
                    at += operation.width
        for account, (code, of_all_sections) in undecided.items():
            self._park(account, of_all_sections, code)
        run = reply[at]
        for (shard, _), epoch, seq in zip(sections, reply[at + 1 :: 2], reply[at + 2 :: 2], strict=True):
            self._saw(shard, run, epoch, seq)

    def _park(self, account: str, operations: list[Operation], code: int) -> None:
        later = [each for each in self._waiting if each.account == account]
        if later:
            self._waiting = deque(each for each in self._waiting if each.account != account)
        self._parked[account] = [*operations, *later]
        task = asyncio.get_running_loop().create_task(self._supply(account, code))
        self._supplying.add(task)
        task.add_done_callback(self._supplying.discard)

    async def _supply(self, account: str, code: int) -> None:
        failure: CallgateError | None = EngineUnavailable()
        is_known = False
        try:
            is_known = await self._provisioner.supply(account, code)
            failure = None
        except CallgateError as error:
            failure = error
        except NO_VALUE as error:
            failure = self._unreadable.note(account, error)
        except (RedisError, OSError) as error:
            if broke_down(error):
                failure = self._unreadable.note(account, error)
            log.warning("pool.not_supplied", account=account, error=type(error).__name__)
        finally:
            for operation in self._parked.pop(account, []):
                if operation.done is None:
                    continue
                if failure is not None:
                    operation.fail(failure)
                elif is_known or operation.without_pool():
                    self.submit(operation)


def _accounts(sections: Iterable[Section]) -> Iterable[str]:
    return (account for _, accounts in sections for account in accounts)


def _sections_of(sections: Iterable[Section], wanted: Callable[[str], bool]) -> list[Section]:
    """What these sections have of the accounts that are wanted."""
    parts = [
        (shard, {account: operations for account, operations in accounts.items() if wanted(account)})
        for shard, accounts in sections
    ]
    return [(shard, accounts) for shard, accounts in parts if accounts]


def _by_account(sections: list[Section], accounts: Iterable[str]) -> deque[list[Section]]:
    return deque(_sections_of(sections, account.__eq__) for account in accounts)


def _operations(sections: Iterable[Section]) -> list[Operation]:
    return [each for _, accounts in sections for operations in accounts.values() for each in operations]


def _note_failure(failure: Exception) -> None:
    metrics.ENGINE_FAILURES.inc()
    log.warning("engine.failed", error=type(failure).__name__, detail=str(failure)[:200])


def _stopping() -> EngineUnavailable:
    return EngineUnavailable("The gateway is stopping; ask again with the same call_id.")


def _sections(batch: Iterable[Operation], keys: KeySpace) -> list[Section]:
    """Operations by shard and account, each account's in their order, and no call twice in a section.

    What is said again of a call within the batch stands in a later section, with all that its account says
    after it: the script finds there what the earlier section has written.
    """
    rounds: list[dict[int, dict[str, list[Operation]]]] = []
    latest: dict[str, tuple[int, set[str]]] = {}
    for operation in batch:
        account = operation.account
        number, named = latest.get(account, (0, None))
        if named is None:
            named = set()
            latest[account] = (0, named)
        elif not named.isdisjoint(operation.calls):
            number, named = number + 1, set()
            latest[account] = (number, named)
        named.update(operation.calls)
        if number == len(rounds):
            rounds.append({})
        accounts = rounds[number].setdefault(keys.shard_of(account), {})
        operations = accounts.get(account)
        if operations is None:
            accounts[account] = [operation]
        else:
            operations.append(operation)
    return [section for each in rounds for section in each.items()]
