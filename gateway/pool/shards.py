"""The shards as a whole: built at first start, one billing clock; what an engine has lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol, TypeVar

import structlog
from redis.exceptions import RedisError

from gateway.domain.errors import CallgateError, EngineUnavailable, FieldError, InvalidField, StartRefused
from gateway.domain.policy import Policy
from gateway.pool.codes import NO_EPOCH, Code
from gateway.pool.engine import Engine
from gateway.pool.keys import DEPLOYMENT_KEY, KeySpace
from gateway.pool.policies import (
    Policies,
    SavedPolicy,
    described,
    no_policy_saved,
    policy_arguments,
    policy_of,
)
from gateway.pool.scripts import Argument, script
from gateway.pool.together import Shared

log = structlog.get_logger(__name__)

T = TypeVar("T")

_REAL: Final = 0
_SIMULATED: Final = 1

NewEpoch = Callable[[Mapping[int, bool]], None]
"""Hears of shards that have a new epoch, or of which another engine answered than the one that counts:

whether it was this gateway that gave them a new epoch, by shard.
"""

SavedNumbers = Callable[[], Awaitable[Mapping[int, int]]]
"""Asks SQL for the number of each shard's last item that it has. Raises DatabaseUnavailable."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The billing clock:

    the instant it shows, and how many of its seconds pass in a real one (0: it stands).
    """

    now_ms: int
    speed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a shard had come when a script last answered: in which run of an engine, and in which epoch.

    `run_seq` tells where that run began. A primary that was deposed, filled by its successor and made the
    primary again is the same process, but not in the same term of office.
    """

    run: int
    run_seq: int
    seq: int
    epoch: int

    @property
    def term(self) -> tuple[int, int, int]:
        """What stays as it is while more is written."""
        return self.run, self.run_seq, self.epoch


_NOTHING_SEEN: Final = Seen(0, 0, 0, 0)
_NO_TERM: Final = -1
"""The `run_seq` of what is not what was seen in this run."""


class ShardState(NamedTuple):
    """A shard's epoch, the run of an engine that answers for it, and what time it is there."""

    epoch: int
    run: int
    engine_ms: int


class States(NamedTuple):
    """Each shard that is there, and those that could not be asked, in a Cluster."""

    there: Mapping[int, ShardState]
    away: frozenset[int]


class Saved(Protocol):
    """How far a shard is saved."""

    @property
    def entry_id(self) -> str:
        """The last entry."""

    @property
    def epoch(self) -> int:
        """The epoch that SQL takes entries of."""

    @property
    def record_number(self) -> int:
        """The highest number of an item."""


async def none_saved() -> Mapping[int, int]:
    """SQL has nothing, or is not asked."""
    return {}


class Shards:
    """All shards of a deployment.

    An engine that restarts, fails over or is restored may lack what it had answered. Its scripts then decide
    nothing until a gateway has compared what is there with what it saw (`confirm`): each shard counts its
    writes (`seq`), so that nothing needs to be guessed. A shard that lacks something gets a new epoch, and
    `on_new_epoch` says so: its pools are made anew from SQL as they are met, and what was answered is to be
    told again. docs/how-it-works.md tells the whole of it: "When the engine has lost something".
    """

    def __init__(
        self,
        engine: Engine,
        keys: KeySpace,
        policy: Policy,
        *,
        simulate: bool,
        saved_numbers: SavedNumbers = none_saved,
        saved_policy: SavedPolicy = no_policy_saved,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._simulate = simulate
        self._saved_numbers = saved_numbers
        self._asking_numbers = Shared(self._ask_numbers)
        self._clock: Clock | None = None
        self._clock_at = 0.0
        self._seen: dict[int, Seen] = {}
        self._comparing = asyncio.Lock()
        self._listeners: list[NewEpoch] = []
        # To be compared with what was seen of them, which is not done yet.
        self._suspect: set[int] = set()
        self._away: frozenset[int] = frozenset()
        self._any_shard = 0
        # Compared while SQL could not be asked, which may have later records than they.
        self._blind: set[int] = set()
        # Given a new epoch here, which is still to be heard of.
        self._renewed: set[int] = set()
        # Runs that answered while another was the one compared last, by shard.
        self._strangers: dict[int, set[int]] = {}
        self._real: dict[int, tuple[int, float]] = {}
        self._is_open = False
        self.policies = Policies(engine, keys, self, policy, saved_policy)
        """The policy that they bill by."""

    def on_new_epoch(self, listener: NewEpoch) -> None:
        """Have `listener` called for shards whose epoch is another than this gateway knew."""
        self._listeners.append(listener)

    async def open(self, policy: Policy | None = None, *, replace_policy: bool = False) -> None:
        """Build what is missing and check that the data was made as this gateway is set up.

        `policy` takes the place of the one given at first. With `replace_policy` shards may have another.

        Raises StartRefused if the data has another policy, another number of shards, or another kind of
        clock, and RedisError if the engine can't be reached.
        """
        known = self.policies.known = policy or self.policies.known
        await self._keep_number()
        for found in (await self._compare(range(self._keys.shards), build=True)).values():
            kept_policy, mode = policy_of(found[3:7]), found[7]
            if mode != (_SIMULATED if self._simulate else _REAL):
                made, start = ("with", "with") if mode == _SIMULATED else ("without", "without")
                raise StartRefused(
                    f"The data was made {made} --simulate and can only be used {start} it: "
                    f"its instants are not {'real' if mode == _SIMULATED else 'simulated'} ones."
                )
            if kept_policy != known and not replace_policy:
                raise StartRefused(
                    f"The data is kept under the policy {described(kept_policy)}, "
                    f"but the settings say {described(known)}. Set the same one, "
                    "or change the data's with `callgate policy set` on a running gateway. "
                    "If the engine went back to an older copy, run `callgate rebuild`."
                )
        self._is_open = True

    async def attach(self) -> None:
        """Work with what is there, whatever its policy is, and build nothing. Raises RedisError."""
        await self._compare(range(self._keys.shards), build=False)

    async def confirm(self, shards: Iterable[int]) -> None:
        """Compare what shards have with what was seen of them, and build those that are not there.

        On a single server all of them, as all have had the same fate. Raises RedisError, and
        EngineUnavailable before the data was found to be this gateway's (`open`).
        """
        if not self._is_open:
            raise EngineUnavailable
        wanted = set(range(self._keys.shards)) if self._engine.spans_shards else set(shards)
        before = {shard: self._seen.get(shard, _NOTHING_SEEN) for shard in wanted}
        # Not while others wait to compare: SQL may be silent for long.
        saved = await self._asking_numbers.ask()
        async with self._comparing:
            # Who waited here may find that it was done meanwhile. That more was written says nothing of that.
            left = {
                shard for shard in wanted if self._seen.get(shard, _NOTHING_SEEN).term == before[shard].term
            }
            if left:
                await self._confirm(left, saved)

    async def confirm_blind(self) -> None:
        """Compare again what had to be compared without SQL.

        But for what is away. Raises DatabaseUnavailable if it is away still, RedisError.
        """
        if blind := self._blind - self._away:
            saved = await self._saved_numbers()
            async with self._comparing:
                await self._compare_with(saved, sorted(blind), build=True)

    @property
    def blind(self) -> frozenset[int]:
        """Shards that were compared without SQL, which may have later records than they."""
        return frozenset(self._blind)

    def saw(self, shard: int, run: int, epoch: int, seq: int) -> None:
        """Take note of how far a shard has come, as a script has just said."""
        before = self._seen.get(shard, _NOTHING_SEEN)
        if (before.run, before.epoch) == (run, epoch):
            if seq > before.seq:
                self._seen[shard] = replace(before, seq=seq)
        elif epoch > 0:
            # Another gateway has compared it already; what this one saw must be compared as well. Or else it
            # is a primary that was deposed and does not know it yet: what that answered is lost.
            self._suspect.add(shard)
            self._strangers.setdefault(shard, set()).add(run)

    @property
    def epochs_seen(self) -> Mapping[int, int]:
        """The epoch of each shard that was seen, as it was last."""
        return {shard: seen.epoch for shard, seen in self._seen.items()}

    @property
    def away(self) -> frozenset[int]:
        """Shards of a Cluster that could not be told, or seen to, in the latest beat that told any."""
        return self._away

    async def beat(self, lease_ms: int) -> frozenset[int]:
        """Tell all shards that a gateway is there, and see to those that are not as they were.

        Answers those that are away, in a Cluster; the others are told, and seen to. Raises EngineUnavailable,
        RedisError.
        """

        async def tell(shards: Sequence[int]) -> None:
            asked_at = time.monotonic()
            before = {shard: self._seen.get(shard, _NOTHING_SEEN) for shard in shards}
            run, real_ms, *said = await script("shards_beat").run(
                self._engine.client, self._keys.metas(shards), [str(lease_ms)]
            )
            for shard, epoch, seq, run_seq in zip(shards, said[::3], said[1::3], said[2::3], strict=True):
                self._real[shard] = (real_ms, asked_at)
                if epoch <= NO_EPOCH:
                    self._suspect.add(shard)
                else:
                    self._saw_term(shard, before[shard], Seen(run, run_seq, seq, epoch))
                    self.saw(shard, run, epoch, seq)

        asked = await self._engine.ask_shards(range(self._keys.shards), tell)
        away = self._away = frozenset(asked.away)
        # They stay suspect until they are compared: also for another beat that waits for the same.
        if suspect := self._suspect - away:
            try:
                await self.confirm(suspect)
            except (RedisError, OSError):
                if self._engine.spans_shards:
                    raise
                away = self._away = away | (suspect & self._suspect)
        # Another gateway may have set it; what is made anew is made under the one in force.
        self.policies.known = await self.policies.read()
        return away

    async def of_any(self, ask: Callable[[Sequence[int]], Awaitable[T]]) -> T:
        """Ask a shard what all would say: the same as before, or another if that is away in a Cluster.

        Or if it is not there, of which `ask` raises EngineUnavailable. Raises what `ask` raises.
        """
        try:
            return await ask([self._any_shard])
        except (EngineUnavailable, RedisError, OSError):
            if self._engine.spans_shards:
                raise
        asked = await self._engine.ask_shards(range(self._keys.shards), ask)
        (self._any_shard,), answer = asked.said[0]
        return answer

    async def server_ms(self) -> int:
        """What time it is at the engine (real ms). Raises RedisError."""

        async def ask(shards: Sequence[int]) -> int:
            reply: int = await script("server_time").run(self._engine.client, self._keys.metas(shards))
            return reply

        return await self.of_any(ask)

    def real_ms(self, shard: int) -> int:
        """What a shard's engine says the time is (real ms), reckoned from the latest beat; 0 before that.

        It may be ahead by as long as that beat was on its way, never behind.
        """
        if shard not in self._real:
            return 0
        real_ms, asked_at = self._real[shard]
        return real_ms + int((time.monotonic() - asked_at) * 1000)

    def forget_real_ms(self, shard: int) -> None:
        """Take note that an engine's clock is not what it was reckoned to be."""
        self._real.pop(shard, None)

    async def renew_epochs(self, saved: Mapping[int, Saved] | None = None) -> int:
        """Give all shards that are there a new epoch, or only those of `saved`: above what SQL has of them.

        Answers how many that are. Raises RedisError.
        """
        renewed = 0
        for group in self._engine.split_shards(range(self._keys.shards) if saved is None else sorted(saved)):
            known = [] if saved is None else [saved[shard] for shard in group]
            numbers = [str(number) for each in known for number in (each.epoch, each.record_number)]
            if known:
                # Before it is asked: the answer may be lost, and another group may be away.
                self._renewed.update(group)
            renewed += await script("shards_renew").run(
                self._engine.client, self._keys.metas(group), numbers or [""] * 2 * len(group)
            )
        return renewed

    async def states(self) -> States:
        """Each shard that is there. Raises RedisError if none can be asked.

        What is read of its stream before this counts as seen: were it lost, this gateway would find out.
        """
        found: dict[int, ShardState] = {}
        asked = await self._engine.ask_shards(range(self._keys.shards), self._read_clocks)
        for shards, said in asked.said:
            for shard, each in zip(shards, said, strict=True):
                if each:
                    epoch, run, engine_ms, seq = each[4:]
                    found[shard] = ShardState(epoch, run, engine_ms)
                    self.saw(shard, run, epoch, seq)
        return States(found, frozenset(asked.away))

    async def clock(self) -> Clock:
        """What the billing clock shows. Raises EngineUnavailable if the shards are not built, RedisError."""

        async def ask(shards: Sequence[int]) -> Clock:
            (found,) = await self._read_clocks(shards)
            if not found:
                raise EngineUnavailable
            return Clock(found[0], found[1])

        try:
            clock = await self.of_any(ask)
        except EngineUnavailable:
            await self.confirm([self._any_shard])
            clock = await self.of_any(ask)
        return self.saw_clock(clock)

    async def epoch(self, shard: int) -> int:
        """The epoch that a shard has now. Raises EngineUnavailable, RedisError."""
        for _ in range(2):
            (found,) = await script("clock_read").run(self._engine.client, self._keys.metas([shard]))
            if found:
                return int(found[4])
            await self.confirm([shard])
        raise EngineUnavailable

    async def count_calls(self) -> int:
        """How many calls are in progress in all shards. Raises RedisError."""
        count = 0
        for group in self._engine.split_shards(range(self._keys.shards)):
            found = await script("clock_read").run(self._engine.client, self._keys.metas(group))
            count += sum(each[3] for each in found if each)
        return count

    async def next_connection(self, shard: int) -> int:
        """A number for a new connection, greater than any before in that shard.

        Raises EngineUnavailable, RedisError.
        """
        for _ in range(2):
            absent, number = await script("connection_open").run(
                self._engine.client, self._keys.metas([shard])
            )
            if not absent:
                return int(number)
            await self.confirm([shard])
        raise EngineUnavailable

    async def stop_clock(self) -> Clock:
        """Have the simulated clock stand still where it is. Raises RedisError."""
        now_ms = 0
        for group in self._engine.split_shards(range(self._keys.shards)):
            code, at_ms, *_ = await script("clock_move").run(
                self._engine.client, self._keys.metas(group), ["", "0", "0"]
            )
            if code != Code.APPLIED:
                raise EngineUnavailable
            now_ms = max(now_ms, at_ms)
        if not self._engine.spans_shards:
            return await self.set_clock(now_ms, 0)
        return self.saw_clock(Clock(now_ms, 0))

    async def set_clock(self, at_ms: int, speed: int, *, anywhere: bool = False) -> Clock:
        """Set the simulated clock of all shards. Raises InvalidField if that is back in time, RedisError."""
        for group in self._engine.split_shards(range(self._keys.shards)):
            code, *detail = await script("clock_move").run(
                self._engine.client,
                self._keys.metas(group),
                [str(at_ms), str(speed), "1" if anywhere else "0"],
            )
            if code == Code.CLOCK_BACKWARDS:
                raise InvalidField(
                    errors=[FieldError("at_ms", f"the clock shows {detail[0]} and only moves forward")]
                )
            if code != Code.APPLIED:
                raise EngineUnavailable
        return self.saw_clock(Clock(at_ms, speed))

    def saw_clock(self, clock: Clock) -> Clock:
        """Take note of what the clock was seen to show just now."""
        self._clock, self._clock_at = clock, time.monotonic()
        return clock

    def estimated_now_ms(self, ago_ms: int = 0) -> int:
        """What the clock shows, or showed so long ago, reckoned from when it was last seen.

        Before it was, this host's real time.
        """
        if self._clock is None:
            return time.time_ns() // 1_000_000 - ago_ms
        elapsed_ms = int((time.monotonic() - self._clock_at) * 1000) - ago_ms
        return self._clock.now_ms + elapsed_ms * self._clock.speed

    # Inside

    def _saw_term(self, shard: int, before: Seen, now: Seen) -> None:
        """Find out that an engine was another in between: `before` was known when it was asked for `now`."""
        if (now.run, now.epoch) != (before.run, before.epoch):
            return
        if self._seen[shard].term != before.term:
            return  # it was compared meanwhile
        if now.run_seq != before.run_seq or now.seq < before.seq:
            self._seen[shard] = replace(self._seen[shard], run_seq=_NO_TERM)
            self._suspect.add(shard)

    async def _read_clocks(self, shards: Sequence[int]) -> list[list[int]]:
        found: list[list[int]] = await script("clock_read").run(self._engine.client, self._keys.metas(shards))
        return found

    async def _confirm(self, shards: set[int], saved: Mapping[int, int] | None) -> None:
        # In a Cluster the number of shards lies in a slot of its own, whose node may be away; so may others.
        first = set() if self._engine.spans_shards else shards - {0}
        failure: Exception | None = None
        if first:
            try:
                await self._compare_with(saved, sorted(first), build=True)
            except (RedisError, OSError) as error:
                failure = error
        if left := shards - first:
            if 0 in left:
                await self._keep_number()
            await self._compare_with(saved, sorted(left), build=True)
        if failure is not None:
            raise failure

    async def _keep_number(self) -> None:
        """Keep how many shards there are with the data.

        Raises StartRefused if it has another number, EngineUnavailable if it was emptied or failed over just
        then.
        """
        client = self._engine.client
        kept = await client.hget(DEPLOYMENT_KEY, "shards")
        if kept is None:
            # Only then: an engine that has no memory left refuses it, whether it would write or not.
            await client.hsetnx(DEPLOYMENT_KEY, "shards", str(self._keys.shards))
            kept = await client.hget(DEPLOYMENT_KEY, "shards")
        if kept is None:
            raise EngineUnavailable
        if int(kept) != self._keys.shards:
            raise StartRefused(f"The data is spread over {int(kept)} shards, not {self._keys.shards}.")

    async def _compare(self, shards: Iterable[int], *, build: bool) -> dict[int, list[int]]:
        """Answer what `shards_open` says of each of these shards."""
        return await self._compare_with(await self._ask_numbers(), list(shards), build=build)

    async def _ask_numbers(self) -> Mapping[int, int] | None:
        """What SQL has of each shard; None if it can't be asked."""
        try:
            return await self._saved_numbers()
        except CallgateError as failure:
            # Nothing can be made anew without SQL either; what is missing shows when it is back.
            log.warning("shards.compared_blindly", code=failure.code)
            return None

    async def _compare_with(
        self, saved: Mapping[int, int] | None, shards: Iterable[int], *, build: bool
    ) -> dict[int, list[int]]:
        """`saved` is None if SQL is away. What was said is taken in, also if RedisError is raised."""
        # In a Cluster shards are built one by one: a simulated clock must start at one instant for all; one
        # that was lost goes on from where it was seen.
        base = str(self.estimated_now_ms() if self._clock else await self.server_ms())

        async def compare(group: Sequence[int]) -> list[list[int]]:
            opening = self._opening(group, base, saved or {}, build=build)
            reply: list[list[int]] = await script("shards_open").run(
                self._engine.client, self._keys.metas(group), opening
            )
            return reply

        asked = await self._engine.ask_shards(shards, compare)
        found = {s: each for group, reply in asked.said for s, each in zip(group, reply, strict=True)}
        self._take_in(found)
        if saved is None:
            self._blind |= found.keys()
        else:
            self._blind -= found.keys()
        for failure in asked.away.values():
            raise failure
        return found

    def _opening(
        self, group: Iterable[int], base: str, saved: Mapping[int, int], *, build: bool
    ) -> list[Argument]:
        arguments: list[Argument] = [
            "1" if build else "0",
            *policy_arguments(self.policies.known),
            str(_SIMULATED if self._simulate else _REAL),
            base,
            str(self._clock.speed) if self._simulate and self._clock else "0",
        ]
        for shard in group:
            seen = self._seen.get(shard, _NOTHING_SEEN)
            numbers = (seen.run, seen.run_seq, seen.seq, seen.epoch, saved.get(shard, 0))
            arguments += map(str, numbers)
        return arguments

    def _take_in(self, found: Mapping[int, list[int]]) -> None:
        changed: dict[int, bool] = {}
        for shard, said in found.items():
            if not said:
                continue
            is_new, epoch, seq, run, run_seq = said[0], said[1], said[2], said[9], said[10]
            before = self._seen.get(shard)
            if before is not None and (before.run, before.epoch) == (run, epoch):
                # What was answered later may have been heard of sooner.
                seq = max(seq, before.seq)
            self._seen[shard] = Seen(run, run_seq, seq, epoch)
            self._suspect.discard(shard)
            strangers = self._strangers.pop(shard, set()) - {run}
            if is_new or strangers or (before is not None and before.epoch != epoch):
                changed[shard] = bool(is_new) or shard in self._renewed
                self._renewed.discard(shard)
        if changed:
            log.info("shards.new_epoch", shards=len(changed), found_out=sum(changed.values()))
            for listener in self._listeners:
                listener(changed)
