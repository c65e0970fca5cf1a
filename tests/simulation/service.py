"""A gateway of a history: the product's own service, over the real scripts and SQL in memory.

`LivePool`, `Recorder`, `Administration`, `Calls` and `Journal` are what a gateway is made of; only what waits
for time is not here. Their background tasks are done step by step, at instants that the history chooses, and
asks go to the engine one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Protocol, cast
from unittest.mock import patch

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway.domain.answers import Answer
from gateway.domain.asks import AccountConfig, Ask, End
from gateway.domain.errors import CallgateError, EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool.codes import UNDECIDED
from gateway.pool.engine import Engine
from gateway.pool.live_pool import LivePool
from gateway.pool.operations import Done, Operation, section_arguments
from gateway.pool.scripts import script
from gateway.records.recorder import Recorder
from gateway.service.administration import Administration
from gateway.service.calls import Calls
from gateway.service.journal import Journal
from tests.simulation.database import DatabaseOfGateway, MemoryDatabase
from tests.simulation.engine import ACCOUNT, DECIDING, GRACE_MS, KEYS, LEASE_MS
from tests.simulation.scripts import SCRIPTS

ATTEMPTS: Final = 4
"""How often an ask is put to the engine, before its time is up."""
KEPT_MS: Final = 24 * 3_600_000
"""So long records stay in the stream: no history is as long."""


class World(Protocol):
    """What a gateway finds around it."""

    @property
    def now_ms(self) -> int:
        """What time it is."""

    def run_step(self, name: str, keys: str, arguments: Sequence[Any]) -> Any:
        """Have the engine carry out one thing. Raises EngineUnavailable while it is down."""

    def is_answer_lost(self, name: str) -> bool:
        """Whether nobody hears what the engine answers."""

    def may_come_late(self, name: str, keys: str, arguments: Sequence[Any]) -> None:
        """Hear of what was sent to an engine that did not answer."""


class CrashedError(Exception):
    """The gateway went down in the midst of what it was doing."""


class ServedGateway:
    """One gateway. `number` is its place; there may be several processes of it, one after the other."""

    def __init__(self, world: World, database: MemoryDatabase, data_dir: Path, name: str) -> None:
        self.cut_until_ms = 0
        """Until when it can't reach the engine, which others can."""
        self.no_sql_until_ms = 0
        self._world = world
        self._steps_left: int | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._released: asyncio.Future[None] | None = None
        self.client = EngineClient(world, self)
        self.records = DatabaseOfGateway(database, self._reach_sql).records()
        self.pool = LivePool(
            OneByOne(cast(Any, self.client), spans_shards=True),
            self._load,
            Policy(),
            lease_ms=LEASE_MS,
            grace_ms=GRACE_MS,
            shards=1,
            saved_numbers=self._saved_numbers,
            saved_policy=self.records.policy.require,
            find_known=self.records.calls.find_known,
            find_resettled=self.records.calls.find_resettled,
            saved_before_ms=self._saved_before_ms,
        )
        self.pool._batcher = cast(Any, AtOnce(self))
        self.recorder = Recorder(self.records.database, self.pool.records, self._now_ms, kept_ms=KEPT_MS)
        self.administration = Administration(self.records, self.pool, self.recorder)
        self.journal = Journal(data_dir, self.pool.ask, self.pool.estimated_now_ms, self._cycle_start_ms)
        self.journal._files.path = data_dir / "emergencies" / f"{name}.jsonl"
        self.calls = Calls(self.pool, self.records, self.journal, self._cycle_start_ms, admits_offline=True)

    async def open(self) -> None:
        """Begin, as soon as engine and database are there."""
        await self.journal.adopt()
        await self.records.policy.settle(Policy())
        await self.pool.open()

    def close(self) -> None:
        """Let go of what a process that is gone has no more."""
        files = self.journal._files
        if files._file is not None:
            os.close(files._file)
            files._file = None

    # What happens to it

    async def until_it_stops(self, work: Awaitable[Any], steps: int | None, *, dies: bool = True) -> Any:
        """Do something, but be stopped after so many steps: the whole process if it `dies`, else only this.

        Raises CrashedError.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)
        self._steps_left, self._stopped, self._released = steps, loop.create_future(), loop.create_future()
        await asyncio.wait((task, self._stopped), return_when=asyncio.FIRST_COMPLETED)
        self._steps_left = None
        if task.done():
            return await task
        others = asyncio.all_tasks() - {asyncio.current_task(), task}
        for each in (task, *others) if dies else (task,):
            each.cancel()
        self._released.set_result(None)
        await asyncio.gather(task, *others, return_exceptions=True)
        raise CrashedError

    async def step(self) -> None:
        """Between any two things that it does with engine and database."""
        if self._steps_left is None:
            return
        self._steps_left -= 1
        if self._steps_left <= 0:
            assert self._stopped is not None
            assert self._released is not None
            if not self._stopped.done():
                self._stopped.set_result(None)
            await asyncio.shield(self._released)

    def reaches_engine(self) -> bool:
        """Whether the network is up."""
        return self._world.now_ms >= self.cut_until_ms

    async def _reach_sql(self) -> bool:
        await self.step()
        return self._world.now_ms >= self.no_sql_until_ms

    # What it does

    async def ask(self, ask: Ask) -> Answer | CallgateError:
        """As the API asks."""
        try:
            return await self.calls.ask(ask)
        except CallgateError as error:
            return error

    async def beat(self) -> None:
        """Say that it is there; tell again what was lost; let go of what is safe."""
        pool = self.pool
        try:
            await pool._shards.beat(LEASE_MS)
            await pool._retelling.tell()
            await pool._retelling.release()
        except (CallgateError, RedisError, OSError):
            return

    async def keep_house(self) -> None:
        """What else it does with nobody asking."""
        await self.journal.tell()
        await self.calls.kept_ends.deliver()
        for work in (self.administration.catch_up, self.pool._alarms.fire_due):
            with contextlib.suppress(CallgateError, RedisError, OSError):
                await cast(Callable[[], Awaitable[Any]], work)()

    async def save(self) -> bool:
        """Save what is in the stream; answers whether that was all."""
        try:
            await self.recorder.drain()
        except (CallgateError, RedisError, OSError):
            return False
        return True

    async def _load(self, account: str) -> AccountConfig | None:
        return await self.administration.load(account)

    async def _saved_numbers(self) -> Mapping[int, int]:
        return await self.recorder.saved_numbers()

    async def _saved_before_ms(self, away: Any) -> int:
        return await self.recorder.saved_here_before_ms(away)

    async def _now_ms(self) -> int:
        return (await self.pool.clock()).now_ms

    async def _cycle_start_ms(self, account: str, at_ms: int) -> int:
        return (await self.records.configs.running_cycle(account, at_ms)).start_ms


class AtOnce:
    """Asks without a batch: as the batcher puts them, one by one and at once."""

    def __init__(self, gateway: ServedGateway) -> None:
        self._gateway = gateway
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, ask: Ask, done: Done) -> None:
        """Ask; `done` is called later."""
        task = asyncio.get_running_loop().create_task(self._carry_out(ask, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, ask: Ask, done: Done) -> None:
        try:
            answer = await self._answer(ask)
        except CallgateError as error:
            answer = error
        done(answer)

    async def _answer(self, ask: Ask) -> Answer | CallgateError:
        pool = self._gateway.pool
        for _ in range(ATTEMPTS):
            operation = Operation(ask, lambda _: None, 0.0)
            if isinstance(ask, End):
                operation.tell_answered(pool._kept.answered_at_ms(ACCOUNT, ask.call_id))
            arguments = (*DECIDING, *section_arguments({ACCOUNT: [operation]}))
            try:
                reply = await script("calls_decide").run(cast(Any, self._gateway.client), KEYS, arguments)
            except (RedisError, OSError):
                continue
            if reply[0] in UNDECIDED:
                try:
                    await pool._accounts.supply(ACCOUNT, reply[0])
                except (RedisError, OSError):
                    return EngineUnavailable()
                continue
            answer = operation.deliver(reply, 0)
            if operation.width > 1 or operation.letter == "A":
                pool._kept.note(ask, answer, reply[1] if operation.width > 1 else None)
            run, epoch, seq = reply[operation.width :]
            pool._shards.saw(0, run, epoch, seq)
            return answer
        return EngineUnavailable()


class EngineClient:
    """An engine's client, as `gateway.pool` uses it."""

    def __init__(self, world: World, gateway: ServedGateway) -> None:
        self._world = world
        self._gateway = gateway
        self._names = {script(name).sha: name for name in SCRIPTS} | {script("server_time").sha: "TIME"}

    async def execute_command(self, command: str, *given: Any) -> Any:
        """Any command. Raises RedisError."""
        name, keys, arguments = command, "", given
        if command == "EVALSHA":
            sha, count, *rest = given
            name, arguments = self._names[sha], tuple(rest[count:])
            keys = ",".join(str(KEYS.index(key) + 1) for key in rest[:count])
        await self._gateway.step()
        reply = self._ask(name, keys, arguments)
        await self._gateway.step()
        if self._world.is_answer_lost(name):
            raise RedisConnectionError("the answer was lost")
        if name == "XREAD":
            return [(key, _entries(found)) for key, found in reply or ()]
        return _entries(reply) if name == "XREVRANGE" else reply

    def _ask(self, name: str, keys: str, arguments: Sequence[Any]) -> Any:
        if not self._gateway.reaches_engine():
            raise RedisConnectionError("no way to the engine")
        try:
            if name == "TIME":
                self._world.run_step("GET", "1", ())
                return self._world.now_ms
            return self._world.run_step(name, keys, arguments)
        except EngineUnavailable as failure:
            self._world.may_come_late(name, keys, arguments)
            raise RedisConnectionError("the engine is away") from failure

    async def hsetnx(self, *_: object) -> None:
        """The number of shards is kept."""

    async def hget(self, *_: object) -> str:
        """It is one."""
        return "1"


def _entries(found: Sequence[Any]) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return [(entry_id, dict(zip(fields[::2], fields[1::2], strict=True))) for entry_id, fields in found]


class OneByOne(Engine):
    """An engine that is sent plain commands one by one."""

    async def run_all(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        """Send them."""
        return [await self.client.execute_command(*command) for command in commands]


@dataclass
class SimulatedTime:
    """What gateways take for the time that passes: the history's."""

    world: World | None = None

    def monotonic(self) -> Fraction:
        """Seconds, and none of them rounded."""
        assert self.world is not None
        return Fraction(self.world.now_ms, 1000)

    def time_ns(self) -> int:
        """Nanoseconds."""
        assert self.world is not None
        return self.world.now_ms * 1_000_000


@contextmanager
def simulated_time() -> Iterator[SimulatedTime]:
    """Have gateways take their time from a history: from which, is to be said."""
    time = SimulatedTime()
    with contextlib.ExitStack() as stack:
        for module in ("gateway.pool.policies", "gateway.pool.shards", "gateway.records.recorder"):
            stack.enter_context(patch(f"{module}.time", time))
        for module in ("gateway.service.calls", "gateway.service.kept_ends"):
            stack.enter_context(patch(f"{module}.monotonic", time.monotonic))
        yield time
