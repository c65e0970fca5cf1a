"""The live pools of all accounts: what can be asked of them, and what keeps them going."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from gateway import turns
from gateway.domain.answers import MAX_CALLS_SHOWN, Answer, PoolView, Settled
from gateway.domain.asks import AccountConfig, Answered, Ask, End, Reap
from gateway.domain.billing import overrun_seconds, remaining_seconds
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.cycles import Cycle
from gateway.domain.errors import CallgateError, DatabaseUnavailable, EngineUnavailable, NotFound
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.pool.accounts import Accounts, FindResettled, Loader
from gateway.pool.alarms import Alarms
from gateway.pool.batcher import Batcher, Lengths
from gateway.pool.codes import UNDECIDED, Code
from gateway.pool.device_calls import DeviceCalls
from gateway.pool.engine import Engine, Replicas, engine_unavailable
from gateway.pool.kept_answers import FindKnown, KeptAnswers
from gateway.pool.keys import DEFAULT_SHARDS, KeySpace
from gateway.pool.leases import Leases, Vouching
from gateway.pool.operations import Done, answer_to
from gateway.pool.packed import (
    NO_VALUE,
    PackedPool,
    is_ended,
    is_in_progress,
    pool_epoch,
    unpack_call_in_progress,
    unpack_policy,
    unpack_pool,
    unpack_record,
)
from gateway.pool.policies import SavedPolicy, no_policy_saved
from gateway.pool.record_stream import RecordStream
from gateway.pool.scripts import script
from gateway.pool.shards import Clock, NewEpoch, SavedNumbers, Shards, none_saved
from gateway.pool.together import run_together
from gateway.pool.unreadable import UNDECODABLE, PoolUnreadable, Unreadable, broke_down

log = structlog.get_logger(__name__)

MS_AN_HOUR: Final = 3_600_000
READ_AT_ONCE: Final = 200
SUPPLIED_AT_ONCE: Final = 20
BEATS_A_LEASE: Final = 6
LONGEST_BEAT_SECONDS: Final = 5.0
LONGEST_LOOK_SECONDS: Final = 1.0
SHORTEST_LOOK_SECONDS: Final = 0.05
KEPT_SECONDS: Final = 2.0
FORGET_SECONDS: Final = 10.0
FORGET_AT_ONCE: Final = 1000
FEW_COMING_CYCLES: Final = 2


@dataclass(frozen=True, slots=True)
class FoundCall:
    """A call, the instant it was looked at, and the policy that its live figures follow."""

    call: CallInProgress | CallRecord
    at_ms: int
    policy: Policy


class LivePool:
    """The pools in the engine. `run` must be under way for anything to be decided."""

    def __init__(
        self,
        engine: Engine,
        loader: Loader,
        policy: Policy,
        *,
        simulate: bool = False,
        call_id_memory_hours: int = 48,
        lease_ms: int = 15_000,
        grace_ms: int = 30_000,
        late_resume_hours: int = 12,
        shards: int = DEFAULT_SHARDS,
        saved_numbers: SavedNumbers | None = None,
        saved_policy: SavedPolicy | None = None,
        find_known: FindKnown | None = None,
        find_resettled: FindResettled | None = None,
        saved_before_ms: Callable[[Set[int]], Awaitable[int]] | None = None,
        replicas: Replicas = 0,
    ) -> None:
        self._engine = engine
        self._simulate = simulate
        self._keys = KeySpace(shards)
        self._memory_ms = call_id_memory_hours * MS_AN_HOUR
        self.lease_ms = lease_ms
        self.grace_ms = grace_ms
        self._shards = Shards(
            engine,
            self._keys,
            policy,
            simulate=simulate,
            saved_numbers=saved_numbers or none_saved,
            saved_policy=saved_policy or no_policy_saved,
        )
        self._accounts = Accounts(
            engine,
            self._keys,
            self._shards,
            loader,
            self._ended_calls,
            unvouched_ms=lease_ms + grace_ms,
        )
        self._loader = loader
        self._find_known = find_known
        self._find_resettled = find_resettled
        self._saved_before_ms = saved_before_ms
        self.unreadable = Unreadable()
        """Accounts that cannot be read or asked, met lately."""
        self._kept = KeptAnswers(self._keys.shard_of, self._shards.estimated_now_ms, find_known)
        self._has_to_tell = asyncio.Event()
        self._opened = asyncio.Event()
        self._shards.on_new_epoch(self._lost)
        self._alarms = Alarms(engine, self._keys, self._shards, self._turn_cycles)
        lengths = Lengths(self._memory_ms, lease_ms, grace_ms, late_resume_hours * MS_AN_HOUR)
        self._batcher = Batcher(
            engine,
            self._keys,
            self._accounts,
            lengths,
            self._shards.saw,
            self._kept,
            self._shards.real_ms,
            self.unreadable,
            replicas,
            ages=not simulate,
        )
        self._leases = Leases(engine, self._keys, self._shards.real_ms, lease_ms=lease_ms, grace_ms=grace_ms)
        self._device_calls = DeviceCalls(engine, self._keys)
        self.records = RecordStream(engine, self._keys, self._shards)

    async def open(self, policy: Policy | None = None, *, replace_policy: bool = False) -> None:
        """Build the shards, or check those that are there.

        `policy` may take the place of the one given at first.
        With `replace_policy` another policy of the shards is no reason to refuse: it is about to be replaced.
        Raises StartRefused (the data was made under other settings), EngineUnavailable.
        """
        try:
            await self._shards.open(policy, replace_policy=replace_policy)
        except (RedisError, OSError) as failure:
            raise EngineUnavailable(f"The engine cannot be reached: {failure}") from failure
        self._opened.set()

    async def attach(self) -> None:
        """Read what is there, and build nothing. Raises EngineUnavailable."""
        try:
            await self._shards.attach()
        except (RedisError, OSError) as failure:
            raise EngineUnavailable(f"The engine cannot be reached: {failure}") from failure

    async def run(self) -> None:
        """Carry out asks, reset pools on time and forget old call ids, until cancelled."""
        await run_together(
            self._batcher.run(),
            self._alarms.run(),
            self._keep_house(),
        )

    async def _keep_house(self) -> None:
        """What nobody asks for, once the data was found to be this gateway's."""
        await self._opened.wait()
        await run_together(self._beat(), self._reap(), self._keep_answers(), self._forget_old_calls())

    # Calls

    def submit(self, ask: Ask, done: Done) -> None:
        """Ask;

        returns at once. `done` is called once, on this loop; asks of an account keep their order (R6).
        """
        self._batcher.submit(ask, done)

    async def ask(self, ask: Ask) -> Answer:
        """Ask and wait for the answer.

        Raises CallgateError: CallIdUsed, CallUnknown, EngineUnavailable, ...
        """
        return await answer_to(ask, self.submit)

    async def find_call(self, account: str, call_id: str) -> FoundCall | None:
        """A call in progress, or one that ended and is remembered.

        Raises EngineUnavailable (also where the call is not what it should be).
        """
        shard = self._keys.shard_of(account)
        found = await self._run(
            "call_read", self._keys.named(shard, "meta", "calls"), [f"{account}/{call_id}"]
        )
        if not found:
            return None
        now_ms, packed_policy, packed = found
        policy = unpack_policy(packed_policy)
        try:
            if is_in_progress(packed):
                views = await self.read_many([account])
                cycle_start_ms = views[account].cycle.start_ms if account in views else 0
                call = unpack_call_in_progress(account, call_id, packed, cycle_start_ms)
                return FoundCall(call, now_ms, policy)
            if is_ended(packed):
                return FoundCall(unpack_record(account, call_id, packed, policy), now_ms, policy)
        except NO_VALUE as failure:
            raise self.unreadable.note(account, failure) from failure
        return None

    async def calls_of(self, account: str) -> list[CallInProgress]:
        """All calls in progress of an account, looked through a piece at a time. Raises EngineUnavailable."""
        with engine_unavailable():
            return await self._device_calls.all_of(account)

    async def calls_of_device(self, account: str, staff: str, device: str) -> list[CallInProgress]:
        """A device's calls in progress. Raises EngineUnavailable."""
        return await self._device_calls.of(account, staff, device)

    async def next_connection(self, account: str) -> int:
        """A number for a new connection of a device of the account, greater than any before (R12).

        Raises EngineUnavailable.
        """
        with engine_unavailable():
            return await self._shards.next_connection(self._keys.shard_of(account))

    async def renew(self, vouchings: Sequence[Vouching]) -> list[Renewed]:
        """Vouch for calls, or say that their connection is lost (R12, R13).

        Answers where each stands: UNDECIDED where it could not be asked, UNREADABLE where it is damaged.
        Raises EngineUnavailable.
        """
        heard_at_ms = [self._shards.estimated_now_ms(each.heard_ago_ms) for each in vouchings]
        with engine_unavailable():
            renewed = await self._leases.renew(vouchings)
        for vouching, at_ms, standing in zip(vouchings, heard_at_ms, renewed, strict=True):
            if standing is Renewed.RENEWED:
                self._kept.alive(vouching.account, vouching.call_id, at_ms)
        return renewed

    def as_of_now(self, ask: Answered | End, asked_at: float) -> Answered | End:
        """An answer or end that is put again as of when it was first asked (`monotonic`): R16.

        While a simulated clock is asked nothing passes.
        """
        waited_ms = 0 if self._simulate else int((monotonic() - asked_at) * 1000)
        if isinstance(ask, End):
            return replace(ask, ended_ago_ms=ask.ended_ago_ms + waited_ms)
        return replace(ask, answered_ago_ms=ask.answered_ago_ms + waited_ms)

    def known_call(self, account: str, call_id: str) -> CallInProgress | None:
        """What this gateway knows of a call that was in progress when it last heard of it."""
        return self._kept.call_in_progress(account, call_id)

    async def oldest_calls(self, accounts: Iterable[str]) -> dict[str, int | None]:
        """When each account's oldest call in progress was admitted, at the latest (ms;

        R27). Raises EngineUnavailable.
        """
        oldest: dict[str, int | None] = {}
        by_shard: dict[int, list[str]] = {}
        for account in accounts:
            by_shard.setdefault(self._keys.shard_of(account), []).append(account)
        for sections in self._engine.split(list(by_shard.items())):
            named = [(account, shard) for shard, members in sections for account in members]
            keys = [self._keys.of_account(account, shard)[1] for account, shard in named]
            found = await self._run("calls_oldest", keys, [])
            oldest |= {account: at_ms or None for (account, _), at_ms in zip(named, found, strict=True)}
        return oldest

    # Pools

    async def read(self, account: str) -> PoolView:
        """An account's pool as it is now.

        Raises NotFound (SQL says so), EngineUnavailable (also where the pool is not what it should be),
        DatabaseUnavailable.
        """
        return (await self._read([account], MAX_CALLS_SHOWN, must_exist=True))[account]

    async def read_many(self, accounts: Iterable[str]) -> dict[str, PoolView]:
        """Pools without their calls;

        accounts that SQL does not know are left out, and those that are `unreadable`. Raises
        EngineUnavailable.
        """
        return await self._read(list(accounts), 0, must_exist=False)

    async def read_live(self, accounts: Iterable[str]) -> dict[str, PoolView]:
        """Pools with their calls, as their readers are shown them;

        accounts that SQL does not know are left out, and those that are `unreadable`. Raises
        EngineUnavailable, DatabaseUnavailable.
        """
        return await self._read(list(accounts), MAX_CALLS_SHOWN, must_exist=False)

    def read_together(self, account: str) -> int:
        """A number that is the same for accounts whose pools one script call can read."""
        return 0 if self._engine.spans_shards else self._keys.shard_of(account)

    def channel_of(self, account: str) -> str:
        """Where it is published that an account's pool changed."""
        return self._keys.of_account(account, self._keys.shard_of(account))[0]

    async def glance(self, accounts: Sequence[str]) -> dict[str, PackedPool | None]:
        """Pools as they were last written: nothing is reckoned, turned or made; None where there is none,
        or none that can be read.

        So what is used is right only where no call is in progress and the cycle is not over. Much cheaper
        than `read_many`. Raises EngineUnavailable.
        """
        found = await self._glance(accounts)
        return {account: _glanced(packed) for account, packed in found.items()}

    async def not_made(self, accounts: Sequence[str], epochs: Mapping[int, int]) -> list[str]:
        """Those whose pool is not there, or is of another epoch than their shard, of these `epochs`.

        As cheap as `glance`. Raises EngineUnavailable.
        """
        found = await self._glance(accounts)
        return [
            account
            for account, packed in found.items()
            if packed is None or pool_epoch(packed) != epochs.get(self._keys.shard_of(account))
        ]

    def notices_channels(self) -> list[str]:
        """Where it is published that accounts ran out of minutes, or have them back (R11), shard by shard."""
        return [self._keys.notices(shard) for shard in range(self._keys.shards)]

    def notices_channel_of(self, account: str) -> str:
        """Where that is published of this account."""
        return self._keys.notices(self._keys.shard_of(account))

    async def apply(self, config: AccountConfig) -> PoolView:
        """Bring an account's pool up to what SQL said; an older revision changes nothing.

        One that is not there is made from what SQL says then. Raises NotFound, DatabaseUnavailable,
        EngineUnavailable (PoolUnreadable: what is wrong is of this account alone).
        """
        with self._unreadable_alone(config.account):
            await self._accounts.apply(config)
        return await self.read(config.account)

    # The deployment

    async def clock(self) -> Clock:
        """The billing clock. Raises EngineUnavailable."""
        with engine_unavailable():
            return await self._shards.clock()

    def estimated_now_ms(self) -> int:
        """What the billing clock shows, reckoned from when it was last read."""
        return self._shards.estimated_now_ms()

    async def count_calls(self) -> int:
        """How many calls are in progress in all pools. Raises RedisError."""
        return await self._shards.count_calls()

    async def move_clock(
        self, to_ms: int | None, speed: int | None, *, by_ms: int = 0, anywhere: bool = False
    ) -> Clock:
        """Move the simulated clock; what falls due on the way happens, in order, before this returns.

        See `Alarms.move_clock`. Raises InvalidField, EngineUnavailable.
        """
        with engine_unavailable():
            return await self._alarms.move_clock(to_ms, speed, by_ms=by_ms, anywhere=anywhere)

    async def policy(self) -> Policy:
        """The policy in force. Raises EngineUnavailable."""
        with engine_unavailable():
            return await self._shards.policies.read()

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return self._keys.shards

    async def epochs(self) -> dict[int, int]:
        """The epoch of each shard that is there. Raises EngineUnavailable if none can be asked."""
        with engine_unavailable():
            states = await self._shards.states()
        return {shard: state.epoch for shard, state in states.there.items()}

    async def renew_epochs(self) -> int:
        """Have all pools made anew from SQL as they are met; answers in how many shards.

        Raises EngineUnavailable.
        """
        with engine_unavailable():
            return await self._shards.renew_epochs()

    async def set_policy(self, policy: Policy) -> None:
        """Bill by another policy from now on, calls in progress included. Raises EngineUnavailable."""
        with engine_unavailable():
            await self._shards.policies.set_all(policy)

    async def keep_policy(self) -> None:
        """Bill by the policy that SQL has. Raises DatabaseUnavailable, EngineUnavailable."""
        with engine_unavailable():
            await self._shards.policies.keep_all()

    def shard_of(self, account: str) -> int:
        """The shard that an account's pool lives on."""
        return self._keys.shard_of(account)

    def on_new_epoch(self, listener: NewEpoch) -> None:
        """Have `listener` called for shards that lost something: what was answered is to be told again."""
        self._shards.on_new_epoch(listener)

    async def ping(self) -> bool:
        """Whether the engine answers."""
        try:
            await self._shards.clock()
        except (RedisError, OSError, CallgateError):
            return False
        return True

    # Inside

    async def _run(self, name: str, keys: list[str], arguments: list[str]) -> Any:
        with engine_unavailable():
            return await script(name).run(self._engine.client, keys, arguments)

    async def _glance(self, accounts: Sequence[str]) -> dict[str, bytes | None]:
        by_shard: dict[int, list[str]] = {}
        for account in accounts:
            by_shard.setdefault(self._keys.shard_of(account), []).append(account)
        commands = [
            ("MGET", *(self._keys.of_account(account, shard)[0] for account in members))
            for shard, members in by_shard.items()
        ]
        with engine_unavailable():
            found = await self._engine.run_all(commands)
        return {
            account: packed
            for members, pools in zip(by_shard.values(), found, strict=True)
            for account, packed in zip(members, pools, strict=True)
        }

    async def _read(self, accounts: list[str], listed: int, *, must_exist: bool) -> dict[str, PoolView]:
        views: dict[str, PoolView] = {}
        unreadable: dict[str, EngineUnavailable] = {}
        left = dict.fromkeys(accounts)
        for _ in range(3):
            missing: dict[str, int] = {}
            for first in range(0, len(left), READ_AT_ONCE):
                raw, failed = await self._read_raw(list(left)[first : first + READ_AT_ONCE], listed)
                unreadable |= failed
                for account, found in raw.items():
                    if found[0] in UNDECIDED:
                        missing[account] = found[0]
                        continue
                    if found[0] == Code.POOL_UNREADABLE:
                        unreadable[account] = self.unreadable.note(account, UNDECODABLE)
                        continue
                    try:
                        views[account] = _view(account, found)
                    except NO_VALUE as failure:
                        unreadable[account] = self.unreadable.note(account, failure)
            if not missing:
                break
            left = {}
            for account, code in missing.items():
                try:
                    is_known = await self._supply(account, code)
                except PoolUnreadable as failure:
                    unreadable[account] = failure
                    continue
                if is_known:
                    left[account] = None
                elif must_exist:
                    raise NotFound(f"There is no account {account}.")
        else:
            raise EngineUnavailable
        if must_exist:
            for unread in unreadable.values():
                raise unread
        return views

    async def _supply(self, account: str, code: int) -> bool:
        with self._unreadable_alone(account):
            return await self._accounts.supply(account, code)

    @contextmanager
    def _unreadable_alone(self, account: str) -> Iterator[None]:
        """Raise PoolUnreadable for what is of this account alone, and note it; EngineUnavailable else."""
        try:
            yield
        except PoolUnreadable as failure:
            raise self.unreadable.note(account, failure.__cause__ or failure) from failure
        except NO_VALUE as failure:
            raise self.unreadable.note(account, failure) from failure
        except (RedisError, OSError) as failure:
            if broke_down(failure):
                raise self.unreadable.note(account, failure) from failure
            raise EngineUnavailable from failure

    async def _read_raw(
        self, accounts: list[str], listed: int, *, for_alarms: bool = False
    ) -> tuple[dict[str, list[Any]], dict[str, EngineUnavailable]]:
        """What the script says of each, and those that it broke down on: none of them takes others along."""
        by_shard: dict[int, list[str]] = {}
        for account in accounts:
            by_shard.setdefault(self._keys.shard_of(account), []).append(account)
        found: dict[str, list[Any]] = {}
        unreadable: dict[str, EngineUnavailable] = {}
        for sections in self._engine.split(list(by_shard.items())):
            keys: list[str] = []
            arguments = [str(len(sections)), str(listed), "1" if for_alarms else "0"]
            for shard, members in sections:
                keys.extend(self._keys.of_shard(shard))
                arguments += [str(len(members)), *members]
                for account in members:
                    keys.extend(self._keys.of_account(account, shard))
            names = [account for _, members in sections for account in members]
            try:
                found.update(zip(names, await self._run("pools_read", keys, arguments), strict=True))
            except EngineUnavailable as failure:
                if not broke_down(failure.__cause__):
                    raise
                if len(names) == 1:
                    because = failure.__cause__ or failure
                    unreadable[names[0]] = self.unreadable.note(names[0], because)
                    continue
                for account in names:
                    alone, failed = await self._read_raw([account], listed, for_alarms=for_alarms)
                    found |= alone
                    unreadable |= failed
        return found, unreadable

    async def _turn_cycles(self, accounts: Iterable[str]) -> Mapping[str, Exception]:
        """Reading a pool turns its cycle and passes its thresholds.

        One that knows few coming boundaries is given more. Answers those that could not be seen to, each with
        why. Raises EngineUnavailable where that is the same for all.
        """
        named, failed = list(accounts), dict[str, Exception]()
        lacking: dict[str, int | None] = {}
        for first in range(0, len(named), READ_AT_ONCE):
            chunk = named[first : first + READ_AT_ONCE]
            try:
                raw, unreadable = await self._read_raw(chunk, 0, for_alarms=True)
            except EngineUnavailable as failure:
                if self._engine.spans_shards:
                    raise
                failed |= dict.fromkeys(chunk, failure)
                continue
            failed |= unreadable
            for account, found in raw.items():
                if found[0] == Code.POOL_UNREADABLE:
                    failed[account] = self.unreadable.note(account, UNDECODABLE)
                elif found[0] in UNDECIDED:
                    lacking[account] = found[0]
                else:
                    try:
                        coming_ends_ms = unpack_pool(found[4]).coming_ends_ms
                    except NO_VALUE as failure:
                        failed[account] = self.unreadable.note(account, failure)
                        continue
                    if sum(end > 0 for end in coming_ends_ms) < FEW_COMING_CYCLES:
                        lacking[account] = None
        return failed | await self._supply_all_due(lacking)

    async def _supply_all_due(self, lacking: Mapping[str, int | None]) -> dict[str, Exception]:
        """Behind all that needs no SQL, which may be silent for long. Answers those that could not be."""
        failed: dict[str, Exception] = {}
        left = list(lacking)
        while left:
            group, left = left[:SUPPLIED_AT_ONCE], left[SUPPLIED_AT_ONCE:]
            became = await asyncio.gather(*(self._supply_due(account, lacking[account]) for account in group))
            failed |= {name: why for name, why in zip(group, became, strict=True) if why is not None}
            if all(isinstance(failure, DatabaseUnavailable) for failure in became):
                # So it is for the others; what falls due meanwhile shall not wait for that.
                failed |= dict.fromkeys(left, failed[group[0]])
                break
        return failed

    async def _supply_due(self, account: str, code: int | None) -> Exception | None:
        """Supply what an account that is due lacks; without a code, more boundaries. Answers what failed."""
        try:
            with self._unreadable_alone(account):
                if code is None:
                    config = await self._loader(account)
                    if config is not None:
                        await self._accounts.apply(config)
                elif not await self._accounts.supply(account, code):
                    # SQL was restored to an earlier day: nothing can be due for what it does not know.
                    alarms = self._keys.named(self._keys.shard_of(account), "alarms")[0]
                    await self._engine.client.zrem(alarms, account)
        except CallgateError as failure:
            return failure
        return None

    async def _ended_calls(self, account: str) -> Sequence[CallRecord]:
        """What SQL may know of an account's calls that its engine forgot, as its pool is to be made anew.

        Those in progress there that have ended, and those that were settled again.
        """
        ended: list[CallRecord] = []
        if self._find_known is not None:
            calls = await self._device_calls.all_of(account)
            known = await self._find_known(account, [(call.call_id, call.admitted_at_ms) for call in calls])
            ended += [each for each in known if isinstance(each, CallRecord)]
        if self._find_resettled is not None:
            ended += await self._find_resettled(account)
        return ended

    def _lost(self, changed: Mapping[int, bool]) -> None:
        self._kept.lost(changed)
        self._has_to_tell.set()

    async def _keep_answers(self) -> None:
        """Tell again what an engine has lost, and let go of what is safe (R26)."""
        while True:
            try:
                async with asyncio.timeout(KEPT_SECONDS):
                    await self._has_to_tell.wait()
            except TimeoutError:
                pass
            self._has_to_tell.clear()
            if self._kept.has_to_tell:
                await self._kept.tell(
                    self._bring_up, self.ask, self._shards.policies.known, self._shards.away
                )
            try:
                await self._release_saved()
            except (CallgateError, RedisError, OSError) as failure:
                log.debug("answers.kept", error=type(failure).__name__)
            else:
                turns.finished("answers")

    async def _bring_up(self, account: str) -> int:
        # Before the pool: then it is of this epoch, or of one in which nothing is told that SQL said in this.
        epoch = await self._shards.epoch(self._keys.shard_of(account))
        await self.read_many([account])
        return epoch

    async def _release_saved(self) -> None:
        failure: Exception | None = None
        for see_to in (self._shards.confirm_blind, self._shards.policies.keep_all):
            try:
                await see_to()
            except (EngineUnavailable, RedisError, OSError) as error:
                # That may be one shard of many; without SQL there is nothing to let go of.
                failure = error
        if self._saved_before_ms is not None and len(self._kept):
            await self._release_before(self._saved_before_ms)
        if failure is not None:
            raise failure

    async def _release_before(self, ask_saved_before_ms: Callable[[Set[int]], Awaitable[int]]) -> None:
        # What was answered of shards that are away stays.
        away = self._shards.away
        saved_before_ms = await ask_saved_before_ms(away)
        # Only if nothing was lost up to now is what SQL has got all that was answered before that.
        away_now = await self._shards.beat(self.lease_ms)
        if away_now <= away and not self._kept.has_to_tell_but_of(away, self.unreadable.lately()):
            # What SQL may have more of than the engine is compared first.
            await self._kept.release(saved_before_ms, away | self._shards.blind)

    async def _beat(self) -> None:
        """Say to the shards that a gateway is there, so that they know that leases could be renewed (R14)."""
        while True:
            try:
                away = await self._shards.beat(self.lease_ms)
            except (RedisError, OSError, CallgateError) as failure:
                log.warning("shards.not_told", error=type(failure).__name__)
            else:
                turns.finished("beats")
                if away:
                    log.warning("shards.away", shards=len(away))
            # However long a lease is: this is also how a gateway hears that a shard has a new epoch.
            pause = min(self.lease_ms / 1000 / BEATS_A_LEASE, LONGEST_BEAT_SECONDS)
            await asyncio.sleep(pause * random.uniform(0.8, 1))  # noqa: S311 - no secret

    async def _reap(self) -> None:
        """Settle what nobody vouches for any more (R13, R14). The script decides whether it may be."""
        while True:
            wait_ms = 0
            try:
                due, wait_ms = await self._leases.due()
                for account, call_id in due:
                    self.submit(Reap(account, call_id), partial(_reaped, account))
            except (RedisError, OSError) as failure:
                log.warning("leases.not_looked_through", error=type(failure).__name__)
            else:
                turns.finished("reaper")
            # A lease given meanwhile by another gateway falls due later than this looks again.
            longest = min(LONGEST_LOOK_SECONDS, (self.lease_ms + self.grace_ms) / 1000)
            await asyncio.sleep(min(max(wait_ms / 1000, SHORTEST_LOOK_SECONDS), longest))

    async def _forget_old_calls(self) -> None:
        while True:
            await asyncio.sleep(FORGET_SECONDS)
            try:
                await self._engine.ask_shards(range(self._keys.shards), self._forget)
            except (RedisError, OSError) as failure:
                log.warning("calls.not_forgotten", error=type(failure).__name__)
            else:
                turns.finished("forgetting")

    async def _forget(self, shards: Sequence[int]) -> None:
        names = ("meta", "calls", "ended", "overtaken")
        keys = [key for shard in shards for key in self._keys.named(shard, *names)]
        await script("calls_forget").run(
            self._engine.client, keys, [str(self._memory_ms), str(FORGET_AT_ONCE)]
        )


def _reaped(account: str, answer: Answer | CallgateError) -> None:
    if isinstance(answer, Settled):
        log.info(
            "call.settled",
            account=account,
            call_id=answer.call_id,
            duration_ms=answer.duration_ms,
            billed_seconds=answer.billed_seconds,
            ended_by=answer.ended_by,
            revision=answer.revision,
            replayed=answer.replayed,
        )


def _glanced(packed: bytes | None) -> PackedPool | None:
    try:
        return None if packed is None else unpack_pool(packed)
    except NO_VALUE:
        return None  # whoever works with it tells of that


def _view(account: str, found: list[Any]) -> PoolView:
    """A pool from what `pools_read` says of it."""
    _, now_ms, speed, policy, packed, live_billed, live_held, empty_at_ms, *calls = found
    pool = unpack_pool(packed)
    used = pool.settled_seconds + live_billed
    return PoolView(
        account=account,
        version=pool.version,
        at_ms=now_ms,
        clock_speed=speed,
        plan=pool.plan,
        pending_plan=pool.pending_plan,
        cycle=Cycle(pool.cycle_index, pool.cycle_start_ms, pool.cycle_end_ms),
        policy=unpack_policy(policy),
        allocated_seconds=pool.allocated_seconds,
        settled_seconds=pool.settled_seconds,
        used_seconds=used,
        remaining_seconds=remaining_seconds(pool.allocated_seconds, used),
        overrun_seconds=overrun_seconds(pool.allocated_seconds, used),
        held_seconds=live_held - live_billed,
        calls_in_progress=pool.calls + pool.emergencies,
        calls_counting=pool.counting,
        calls=tuple(
            unpack_call_in_progress(account, call_id.decode(), each, pool.cycle_start_ms)
            for call_id, each in zip(calls[::2], calls[1::2], strict=True)
        ),
        thresholds=pool.thresholds,
        empty_at_ms=empty_at_ms or None,
        seats_used=pool.seats_used,
        seats_limit=pool.seats_limit,
        channels_used=pool.channels_used,
        channels_limit=pool.channels_limit,
        status="suspended" if pool.suspended else "active",
    )
