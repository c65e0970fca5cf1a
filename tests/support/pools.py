"""Live pools on a real engine under a standing clock, with plain objects in the place of SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import date

from gateway.domain.answers import Answer, PoolView, Settled, settled_before
from gateway.domain.asks import AccountConfig, AccountStatus, Ask, Asker, End
from gateway.domain.calls import CallRecord, CallReopened, CycleOpened, Threshold, ThresholdsPassed
from gateway.domain.cycles import Cycle
from gateway.domain.errors import CallgateError, CallUnknown
from gateway.domain.leases import Renewed
from gateway.domain.plans import AppliesFrom, Plan, plan_change
from gateway.domain.policy import Policy
from gateway.pool.engine import Engine, Replicas, connect
from gateway.pool.keys import DEFAULT_SHARDS, KeySpace
from gateway.pool.leases import Vouching
from gateway.pool.live_pool import MS_AN_HOUR, LivePool
from gateway.pool.packed import Notice
from gateway.pool.scripts import script
from gateway.pool.shards import Shards
from tests.support.engines import EngineServer

SWEPT_AT_ONCE = 100_000


class LiveAccounts:
    """Accounts whose pools live in an engine. What SQL would keep of them is kept here."""

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        *,
        simulate: bool,
        call_id_memory_hours: int,
        shards: int,
        lease_ms: int,
        grace_ms: int,
        replicas: Replicas,
    ) -> None:
        self.engine = engine
        self.keys = KeySpace(shards)
        self.configs: dict[str, AccountConfig] = {}
        self.lost_records: list[CallRecord | CallReopened | CycleOpened] = []
        """What SQL has got of what the engine has lost since."""
        self.lost_notices: list[Notice] = []
        self.loads: list[str] = []
        """The accounts that SQL was asked for, in order."""
        self.saved_policy: Policy | None = None
        """The policy that SQL has."""
        self.database_failure: CallgateError | None = None
        """Raised to whoever asks SQL."""
        self.database_answers = asyncio.Event()
        """Whoever asks SQL waits for this."""
        self.database_answers.set()
        self.may_find = asyncio.Event()
        """Who asks which calls SQL knows to have ended waits for this."""
        self.may_find.set()
        self._memory_ms = call_id_memory_hours * MS_AN_HOUR
        self._shards = Shards(engine, self.keys, policy, simulate=simulate)
        self.pool = LivePool(
            engine,
            self.load,
            policy,
            simulate=simulate,
            call_id_memory_hours=call_id_memory_hours,
            lease_ms=lease_ms,
            grace_ms=grace_ms,
            shards=shards,
            saved_policy=self.load_policy,
            find_known=self.find_known,
            find_resettled=self.find_resettled,
            replicas=replicas,
        )

    # SQL

    async def find_known(self, account: str, calls: Sequence[tuple[str, int]]) -> list[CallRecord]:
        """Which of these calls SQL knows to have ended."""
        if calls:
            await self.may_find.wait()
        return [record for key, record in (await self._standing_of(account)).items() if key in calls]

    async def find_resettled(self, account: str) -> list[CallRecord]:
        """The records that replaced an earlier one of their calls."""
        return [record for record in (await self._standing_of(account)).values() if record.revision > 1]

    async def _standing_of(self, account: str) -> dict[tuple[str, int], CallRecord]:
        return _standing(item for item in await self.recorded() if item.account == account)

    async def load_policy(self) -> Policy | None:
        """The policy that SQL has."""
        if self.database_failure is not None:
            raise self.database_failure
        return self.saved_policy

    async def load(self, account: str) -> AccountConfig | None:
        """What SQL knows of an account, once it has saved all records."""
        self.loads.append(account)
        await self.database_answers.wait()
        if self.database_failure is not None:
            raise self.database_failure
        config = self.configs.get(account)
        if config is None:
            return None
        of_account = [item for item in await self.recorded() if item.account == account]
        config = replace(config, reopened=_reopened(of_account))
        opened = [item for item in of_account if isinstance(item, CycleOpened)]
        if not opened:
            return config
        cycle = Cycle(opened[-1].cycle_index, opened[-1].cycle_start_ms, opened[-1].cycle_end_ms)
        billed = [
            record.billed_seconds
            for record in _standing(of_account).values()
            if record.cycle_start_ms == cycle.start_ms
        ]
        return replace(
            config,
            running_cycle=cycle,
            settled_seconds=sum(billed),
            thresholds=await self._passed(account, cycle.start_ms),
        )

    async def _passed(self, account: str, cycle_start_ms: int) -> tuple[Threshold, ...]:
        told = [
            notice.thresholds
            for notice in await self.noticed()
            if isinstance(notice, ThresholdsPassed)
            and (notice.account, notice.cycle_start_ms) == (account, cycle_start_ms)
        ]
        return told[-1] if told else ()

    async def noticed(self) -> list[Notice]:
        """All that was sent to SQL of which nothing is billed, in the order of each shard."""
        entries = await self.pool.records.read({}, 100_000)
        return self.lost_notices + [notice for entry in entries for notice in entry.notices]

    async def recorded(self) -> list[CallRecord | CallReopened | CycleOpened]:
        """All that was sent to SQL, in the order of each shard."""
        entries = await self.pool.records.read({}, 100_000)
        sent = [item for entry in entries for item in entry.items if not isinstance(item, bytes)]
        return self.lost_records + sent

    async def keep_records(self) -> None:
        """Have SQL keep what the engine, which is about to lose it, has told it."""
        self.lost_records, self.lost_notices = await self.recorded(), await self.noticed()

    # Time

    async def at(self, now_ms: int) -> None:
        """Let it be so late; what falls due on the way happens."""
        await self.pool.move_clock(now_ms, 0, anywhere=not self.configs)

    async def at_once(self, now_ms: int) -> None:
        """Let it be so late all at once, as if no gateway had been there to see to what fell due."""
        await self._shards.set_clock(now_ms, 0)

    async def forget_old_calls(self) -> int:
        """Sweep all shards, as every gateway does now and then. Answers how many calls were forgotten."""
        keys = [
            key
            for shard in range(self.keys.shards)
            for key in self.keys.named(shard, "meta", "calls", "ended", "overtaken")
        ]
        return int(
            await script("calls_forget").run(
                self.engine.client, keys, [str(self._memory_ms), str(SWEPT_AT_ONCE)]
            )
        )

    # Accounts

    async def make(
        self,
        account: str,
        *,
        billing_date: date,
        time_zone: str = "UTC",
        plan: Plan | None = None,
        staff: frozenset[str] = frozenset({"ana"}),
        channels: frozenset[str] = frozenset(),
    ) -> PoolView:
        """Make an account and its pool."""
        self.configs[account] = AccountConfig(
            account=account,
            revision=1,
            status="active",
            billing_date=billing_date,
            time_zone=time_zone,
            plan=plan,
            staff=staff,
            channels=channels,
        )
        return await self.pool.apply(self.configs[account])

    async def change_plan(self, account: str, plan: Plan) -> AppliesFrom:
        """R21-R23. Raises SeatLimit or ChannelLimit."""
        cycle = (await self.pool.read(account)).cycle
        config = self._with_plan_in_force(self.configs[account], cycle.start_ms)
        change = plan_change(
            config.plan,
            config.pending_plan,
            plan,
            seats_used=len(config.staff),
            channels_used=len(config.channels),
        )
        await self._put(
            config,
            replace(
                config,
                plan=change.plan,
                pending_plan=change.pending,
                pending_from_ms=cycle.end_ms if change.pending else None,
            ),
        )
        return change.applies

    async def withdraw_pending(self, account: str) -> None:
        """R23."""
        cycle = (await self.pool.read(account)).cycle
        config = self._with_plan_in_force(self.configs[account], cycle.start_ms)
        await self._put(config, replace(config, pending_plan=None, pending_from_ms=None))

    async def change(
        self,
        account: str,
        *,
        status: AccountStatus | None = None,
        time_zone: str | None = None,
        staff: frozenset[str] | None = None,
        channels: frozenset[str] | None = None,
    ) -> PoolView:
        """Change what is given of an account."""
        config = self.configs[account]
        return await self._put(
            config,
            replace(
                config,
                status=status or config.status,
                time_zone=time_zone or config.time_zone,
                staff=config.staff if staff is None else staff,
                channels=config.channels if channels is None else channels,
            ),
        )

    # Asks

    async def ask_all(self, asks: Iterable[Ask]) -> list[Answer | CallgateError]:
        """Submit all asks at once and answer with what became of each, in their order."""
        answers: list[asyncio.Future[Answer | CallgateError]] = []
        for ask in asks:
            answers.append(asyncio.get_running_loop().create_future())
            self.pool.submit(ask, answers[-1].set_result)
        return [await answer for answer in answers]

    async def renew(
        self,
        account: str,
        call_id: str,
        *,
        connection: int,
        heard_ago_ms: int = 0,
        lost: bool = False,
        device: Asker | None = None,
    ) -> Renewed:
        """Vouch for one call, as a gateway does for many at a time."""
        vouching = Vouching(account, call_id, connection, heard_ago_ms, lost, device)
        return (await self.pool.renew([vouching]))[0]

    async def end(self, ask: End) -> Settled:
        """End a call; a settlement that Redis has forgotten comes from the records (R17)."""
        try:
            answer = await self.pool.ask(ask)
        except CallUnknown:
            answer = await self.settled_before(ask)
        assert isinstance(answer, Settled)
        return answer

    async def settled_before(self, ask: End) -> Settled:
        """The settlement that the records have of a call. Raises CallUnknown for no call of that device."""
        view = await self.pool.read(ask.account)
        for item in reversed(await self.recorded()):
            if isinstance(item, CallRecord) and (item.account, item.call_id) == (ask.account, ask.call_id):
                if ask.device not in (None, (item.staff, item.device)):
                    break
                return settled_before(item, view.remaining_seconds)
        raise CallUnknown

    @staticmethod
    def _with_plan_in_force(config: AccountConfig, cycle_start_ms: int) -> AccountConfig:
        if config.pending_from_ms is None or config.pending_from_ms > cycle_start_ms:
            return config
        return replace(config, plan=config.pending_plan, pending_plan=None, pending_from_ms=None)

    async def _put(self, before: AccountConfig, after: AccountConfig) -> PoolView:
        if after == before:
            return await self.pool.read(after.account)
        self.configs[after.account] = replace(after, revision=after.revision + 1)
        return await self.pool.apply(self.configs[after.account])


def _standing(
    items: Iterable[CallRecord | CallReopened | CycleOpened],
) -> dict[tuple[str, int], CallRecord]:
    """R15: a higher revision replaces a lower one; that of a call that goes on again counts no more."""
    return {key: record for key, (record, is_back) in _latest(items).items() if not is_back}


def _reopened(items: Iterable[CallRecord | CallReopened | CycleOpened]) -> tuple[CallRecord, ...]:
    """The latest records of calls that have come back since."""
    return tuple([record for record, is_back in _latest(items).values() if is_back])


def _latest(
    items: Iterable[CallRecord | CallReopened | CycleOpened],
) -> dict[tuple[str, int], tuple[CallRecord, bool]]:
    """Each call's latest record, and whether the call has come back since."""
    latest: dict[tuple[str, int], tuple[CallRecord, bool]] = {}
    for item in items:
        if isinstance(item, CallRecord):
            latest[item.call_id, item.admitted_at_ms] = item, False
        elif isinstance(item, CallReopened) and (key := (item.call_id, item.admitted_at_ms)) in latest:
            latest[key] = latest[key][0], True
    return latest


def everything_in(server: EngineServer) -> dict[object, object]:
    """Every key of an engine with its value: what a refused ask must leave as it is (R10)."""
    # Not DUMP: it tells apart hash tables that hold the same in another order.
    client = server.client
    read: dict[object, object] = {}
    for key in client.scan_iter():
        match client.type(key):
            case b"string":
                read[key] = client.get(key)
            case b"hash":
                read[key] = client.hgetall(key)
            case b"list":
                read[key] = client.lrange(key, 0, -1)
            case b"set":
                read[key] = client.smembers(key)
            case b"zset":
                read[key] = client.zrange(key, 0, -1, withscores=True)
            case b"stream":
                read[key] = client.xrange(key)
            case other:
                raise AssertionError(f"{key!r} is a {other!r}")
    return read


@asynccontextmanager
async def live_accounts(
    engine_url: str,
    policy: Policy,
    *,
    simulate: bool = True,
    call_id_memory_hours: int = 48,
    shards: int = DEFAULT_SHARDS,
    lease_ms: int = 3_600_000,
    grace_ms: int = 30_000,
    replicas: Replicas = 0,
) -> AsyncIterator[LiveAccounts]:
    """Pools in an engine, under a clock that stands still. `leases` is what `LivePool` is told of them."""
    engine = connect(engine_url)
    accounts = LiveAccounts(
        engine,
        policy,
        simulate=simulate,
        call_id_memory_hours=call_id_memory_hours,
        shards=shards,
        lease_ms=lease_ms,
        grace_ms=grace_ms,
        replicas=replicas,
    )
    try:
        await accounts.pool.open()
        running = asyncio.create_task(accounts.pool.run())
        try:
            yield accounts
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    finally:
        await engine.close()
