"""The live pools of all accounts: what can be asked of them, and what keeps them going."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from redis.exceptions import RedisError

from gateway.domain.answers import MAX_CALLS_SHOWN, Answer, PoolView
from gateway.domain.asks import AccountConfig, Answered, Ask, End, as_of_earlier
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.errors import CallgateError, EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.pool.accounts import Accounts, FindResettled, Loader
from gateway.pool.alarms import Alarms
from gateway.pool.batcher import Batcher, Lengths
from gateway.pool.device_calls import DeviceCalls
from gateway.pool.engine import Engine, Replicas, engine_unavailable
from gateway.pool.housekeeping import Housekeeping
from gateway.pool.kept_answers import FindKnown, KeptAnswers
from gateway.pool.keys import DEFAULT_SHARDS, KeySpace
from gateway.pool.leases import Leases, Vouching
from gateway.pool.operations import Done, answer_to
from gateway.pool.packed import (
    NO_VALUE,
    PackedPool,
    is_ended,
    is_in_progress,
    unpack_call_in_progress,
    unpack_policy,
    unpack_record,
)
from gateway.pool.policies import SavedPolicy, no_policy_saved
from gateway.pool.pool_reading import PoolReader
from gateway.pool.record_stream import RecordStream
from gateway.pool.retelling import Retelling, SavedBeforeMs
from gateway.pool.scripts import script
from gateway.pool.shards import Clock, NewEpoch, SavedNumbers, Shards, none_saved
from gateway.pool.together import run_together
from gateway.pool.unreadable import Unreadable

MS_AN_HOUR: Final = 3_600_000


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
        saved_before_ms: SavedBeforeMs | None = None,
        replicas: Replicas = 0,
    ) -> None:
        self._engine = engine
        self._simulate = simulate
        self._keys = KeySpace(shards)
        memory_ms = call_id_memory_hours * MS_AN_HOUR
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
        self._find_known = find_known
        self._find_resettled = find_resettled
        self.unreadable = Unreadable()
        """Accounts that cannot be read or asked, met lately."""
        self._reader = PoolReader(engine, self._keys, self._accounts, loader, self.unreadable)
        self._kept = KeptAnswers(self._keys.shard_of, self._shards.estimated_now_ms, find_known)
        self._retelling = Retelling(
            self._kept,
            self._keys,
            self._shards,
            self._reader,
            self.ask,
            self.unreadable,
            saved_before_ms,
            lease_ms=lease_ms,
        )
        self._opened = asyncio.Event()
        self._alarms = Alarms(engine, self._keys, self._shards, self._reader.turn_cycles)
        lengths = Lengths(memory_ms, lease_ms, grace_ms, late_resume_hours * MS_AN_HOUR)
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
        self._housekeeping = Housekeeping(
            engine,
            self._keys,
            self._shards,
            self._leases,
            self.submit,
            lease_ms=lease_ms,
            grace_ms=grace_ms,
            memory_ms=memory_ms,
        )
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
        await run_together(self._housekeeping.run(), self._retelling.run())

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
            if standing in (Renewed.RENEWED, Renewed.UNKNOWN):  # the latter is told again, with that
                self._kept.alive(vouching.account, vouching.call_id, at_ms)
        return renewed

    def as_of_now(self, ask: Answered | End, asked_at: float) -> Answered | End:
        """An answer or end that is put again as of when it was first asked (`monotonic`): R16.

        While a simulated clock is asked nothing passes.
        """
        return as_of_earlier(ask, 0 if self._simulate else int((monotonic() - asked_at) * 1000))

    def known_call(self, account: str, call_id: str) -> CallInProgress | None:
        """What this gateway knows of a call that was in progress when it last heard of it."""
        return self._kept.call_in_progress(account, call_id)

    async def oldest_calls(self, accounts: Iterable[str]) -> dict[str, int | None]:
        """When each account's oldest call in progress was admitted, at the latest (ms;

        R27). Raises EngineUnavailable.
        """
        oldest: dict[str, int | None] = {}
        by_shard = self._keys.by_shard(accounts)
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
        return (await self._reader.read([account], MAX_CALLS_SHOWN, must_exist=True))[account]

    async def read_many(self, accounts: Iterable[str]) -> dict[str, PoolView]:
        """Pools without their calls;

        accounts that SQL does not know are left out, and those that are `unreadable`. Raises
        EngineUnavailable.
        """
        return await self._reader.read(list(accounts), 0, must_exist=False)

    async def read_live(self, accounts: Iterable[str]) -> dict[str, PoolView]:
        """Pools with their calls, as their readers are shown them;

        accounts that SQL does not know are left out, and those that are `unreadable`. Raises
        EngineUnavailable, DatabaseUnavailable.
        """
        return await self._reader.read(list(accounts), MAX_CALLS_SHOWN, must_exist=False)

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
        return await self._reader.glance(accounts)

    async def not_made(self, accounts: Sequence[str], epochs: Mapping[int, int]) -> list[str]:
        """Those whose pool is not there, or is of another epoch than their shard, of these `epochs`.

        As cheap as `glance`. Raises EngineUnavailable.
        """
        return await self._reader.not_made(accounts, epochs)

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
        with self.unreadable.alone(config.account):
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
