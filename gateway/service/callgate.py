"""What the API is in front of: one object with everything that a gateway can be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, cast

import structlog
from redis.exceptions import RedisError

from gateway.domain.answers import Answer, PoolView
from gateway.domain.asks import AccountStatus, Ask, Asker
from gateway.domain.calls import Caller, CallInProgress, CallRecord
from gateway.domain.cycles import LATEST_MS
from gateway.domain.errors import EngineUnavailable, FieldError, Forbidden, InvalidField, NotFound
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from gateway.domain.usage import Step
from gateway.live import control
from gateway.live.control import Control, PoolsMoved, StaffRemoved, TokensRevoked
from gateway.live.feeds import Feeds
from gateway.live.gateways import Gateways
from gateway.live.subscriptions import Subscriptions
from gateway.pool.live_pool import FoundCall, LivePool
from gateway.pool.operations import Done
from gateway.pool.shards import Clock
from gateway.pool.unreadable import PoolUnreadable
from gateway.records.accounts import Account, AccountFields
from gateway.records.members import Channel, ChannelFields, StaffFields, StaffMember
from gateway.records.plan_changes import PlanChangeResult
from gateway.records.plans import PlanFields
from gateway.records.recorder import Recorder
from gateway.records.statements import Statement
from gateway.records.store import Records
from gateway.service.administration import Administration
from gateway.service.calls import Calls
from gateway.service.device_notices import DeviceNotices
from gateway.service.health import Health, Monitor
from gateway.service.journal import Journal
from gateway.service.ranking import Ranking
from gateway.service.rebuilding import Rebuilder
from gateway.service.status import Status, StatusReader
from gateway.service.usage import UsageOfCycle, UsageReader
from gateway.sessions.devices import DeviceConnections
from gateway.sessions.keeper import Keeper
from gateway.sessions.readers import ReaderConnections
from gateway.sessions.revocations import Revocation, Revocations
from gateway.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

POOL_SECONDS: Final = 2.0
"""So long a device that connects waits for its pool: SQL, which knows it after a loss, may be silent."""
MANY_WAITING: Final = 1_000_000
"""From how many records on that wait for SQL the operator is warned: some 150 MB of the engine's memory."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a device is welcomed with: the clock, what is left, and its calls in progress.

    `number` tells this connection from the device's others, on whatever gateway: a later one has a greater
    number. `remaining_seconds` is None where the account's pool cannot be read.
    """

    server_time_ms: int
    remaining_seconds: int | None
    calls: list[CallInProgress]
    number: int


@dataclass(frozen=True, slots=True)
class AccountListItem:
    """An account and its pool, in short."""

    account: str
    name: str
    plan: str | None
    status: AccountStatus
    allocated_seconds: int
    used_seconds: int
    calls_in_progress: int


class Callgate:
    """A gateway.

    All of it raises CallgateError: EngineUnavailable, DatabaseUnavailable, and what each method names.
    """

    def __init__(
        self,
        settings: Settings,
        pool: LivePool,
        records: Records,
        recorder: Recorder,
        control: Control,
        subscriptions: Subscriptions,
        gateways: Gateways,
        administration: Administration,
        monitor: Monitor,
    ) -> None:
        self.settings = settings
        self.devices = DeviceConnections()
        self.readers = ReaderConnections()
        self.feeds = Feeds(pool, subscriptions)
        self.revocations = Revocations()
        self._pool = pool
        self._records = records
        self._recorder = recorder
        self._control = control
        self._subscriptions = subscriptions
        self._notices = DeviceNotices(pool, subscriptions, self.devices)
        self._administration = administration
        self._monitor = monitor
        self._ranking = Ranking(records, pool)
        self._usage = UsageReader(records, recorder.as_of_ms)
        self._status = StatusReader(
            pool, records, recorder, gateways, monitor, sends_webhooks=settings.webhook_url is not None
        )
        self.rebuilder = Rebuilder(records, pool)
        self._calls = Calls(
            pool,
            records,
            Journal(settings.data_dir, pool.ask, self.server_time_ms, self._cycle_start_ms),
            self._cycle_start_ms,
            admits_offline=settings.when_engine_down == "admit",
        )
        self.keeper = Keeper(
            self.devices, pool.renew, self._calls.submit, pool.known_call, settings.lease_seconds * 1000
        )

    # Calls

    def submit(self, ask: Ask, done: Done) -> None:
        """Ask; returns at once. `done` is called once, on this loop; asks of an account keep their order
        (R6).

        An emergency call is answered within 300 ms whatever is down (R30). An end of a call that Redis has
        forgotten is answered from SQL (R17).
        """
        self._calls.submit(ask, done)

    async def ask(self, ask: Ask) -> Answer:
        """Ask and wait for the answer."""
        return await self._calls.ask(ask)

    async def keepalive(
        self,
        account: str,
        device: Asker | None,
        call_ids: Sequence[str],
        receipts: Mapping[str, CallInProgress],
    ) -> list[str]:
        """Vouch for calls (R12, R15), and return those that are not in progress.

        `receipts` are for calls that the pool does not know, beside what SQL has of them. `device` None is
        the admin.
        """
        return await self._calls.keepalive(account, device, call_ids, receipts)

    def lost(self, account: str, call_ids: Sequence[str], number: int, heard_ago_ms: int) -> None:
        """Hear that nobody vouches for these calls any more: connection `number` is gone (R13).

        Its device was last heard of so long ago. Returns at once.
        """
        self._calls.journal.lost(account, call_ids, heard_ago_ms)
        self.keeper.lost(account, call_ids, number, heard_ago_ms)

    async def find_call(self, account: str, call_id: str) -> FoundCall:
        """The newest call of that id, from its admission on. Raises NotFound."""
        found = await self._pool.find_call(account, call_id)
        if found is not None:
            return found
        record = await self._records.calls.find_call(account, call_id)
        if record is None:
            raise NotFound(f"There is no call {call_id} of the account {account}.")
        return (await self._as_found([record]))[0]

    async def connect_device(self, caller: Caller) -> Greeting:
        """Welcome a device, and have its older connections on other gateways closed."""
        gateway = self._control.gateway
        try:
            number = await self._pool.next_connection(caller.account)
            await self._control.send(
                control.DeviceConnected(gateway, caller.account, caller.staff, caller.device, number)
            )
        except (RedisError, OSError) as failure:
            raise EngineUnavailable from failure
        remaining: int | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(POOL_SECONDS):
                remaining = await self._remaining_seconds(caller.account)
        calls = await self._pool.calls_of_device(caller.account, caller.staff, caller.device)
        return Greeting(self.server_time_ms(), remaining, calls, number)

    async def _remaining_seconds(self, account: str) -> int | None:
        before = self.devices.before_looking(account)
        views = await self._pool.read_many([account])
        if account in views:
            self.devices.minutes_seen(account, exhausted=views[account].is_exhausted, before=before)
            return views[account].remaining_seconds
        # Whoever is told that nothing is left does not call.
        return None if account in self._pool.unreadable else 0

    # Plans, accounts, members

    async def put_plan(self, plan: str, fields: Mapping[str, Any]) -> tuple[Plan, bool]:
        """Make or change a plan; tells whether it is new. Raises InvalidField, PlanInUse."""
        return await self._records.plans.put_plan(plan, cast(PlanFields, fields))

    async def get_plan(self, plan: str) -> Plan:
        """Raises NotFound."""
        return await self._records.plans.get_plan(plan)

    async def list_plans(self, after: str | None, limit: int) -> tuple[list[Plan], str | None]:
        """A page of plans, and where the next one begins."""
        return await self._records.plans.list_plans(after, limit)

    async def put_account(self, account: str, fields: Mapping[str, Any]) -> tuple[Account, bool]:
        """Make or change an account; tells whether it is new. Raises InvalidField, ImmutableField."""
        return await self._administration.put_account(account, cast(AccountFields, fields))

    async def get_account(self, account: str) -> Account:
        """Raises NotFound."""
        return await self._records.accounts.get_account(account, self.server_time_ms())

    async def list_accounts(
        self, q: str | None, after: str | None, limit: int, *, by_use: bool = False
    ) -> tuple[list[AccountListItem], str | None, int]:
        """A page of accounts with their pools in short, where the next one begins, and as of when that is.

        In order of their ids, or (`by_use`) the nearest to exhaustion first.
        """
        now_ms = (await self._pool.clock()).now_ms
        if by_use:
            ranked, following = await self._ranking.page(q, after, limit)
            found = await self._records.accounts.get_accounts(ranked, now_ms)
            accounts = [found[account] for account in ranked]  # none is ever deleted
        else:
            accounts, following = await self._records.accounts.list_accounts(q, after, limit, now_ms)
        views = await self._pool.read_many([account.account for account in accounts])
        for account in accounts:
            if account.account not in views:
                # A list that leaves it out, or says what it has used when nobody knows, would be believed.
                raise PoolUnreadable(f"What the live engine holds of {account.account} cannot be read.")
        items = [
            AccountListItem(
                account=account.account,
                name=account.name,
                plan=account.plan,
                status=account.status,
                allocated_seconds=views[account.account].allocated_seconds,
                used_seconds=views[account.account].used_seconds,
                calls_in_progress=views[account.account].calls_in_progress,
            )
            for account in accounts
        ]
        return items, following, now_ms

    async def change_plan(self, account: str, plan: str) -> PlanChangeResult:
        """R21-R23. Raises NotFound, InvalidField, SeatLimit, ChannelLimit."""
        return await self._administration.change_plan(account, plan)

    async def withdraw_pending_plan(self, account: str) -> None:
        """R23. Raises NotFound."""
        await self._administration.withdraw_pending_plan(account)

    async def put_staff(
        self, account: str, staff: str, fields: Mapping[str, Any]
    ) -> tuple[StaffMember, bool]:
        """R25. Raises NotFound, SeatLimit."""
        return await self._administration.put_staff(account, staff, cast(StaffFields, fields))

    async def delete_staff(self, account: str, staff: str) -> None:
        """R25. Raises NotFound. Their dashboards close, on all gateways as soon as they hear."""
        await self._administration.delete_staff(account, staff)
        self.readers.close_removed([(account, staff)])
        await self._tell_others(StaffRemoved(self._control.gateway, account, staff))

    async def list_staff(
        self, account: str, after: str | None, limit: int
    ) -> tuple[list[StaffMember], str | None]:
        """A page of staff members, and where the next one begins. Raises NotFound."""
        return await self._records.members.list_staff(account, after, limit)

    async def put_channel(
        self, account: str, channel: str, fields: Mapping[str, Any]
    ) -> tuple[Channel, bool]:
        """R25. Raises NotFound, ChannelLimit."""
        return await self._administration.put_channel(account, channel, cast(ChannelFields, fields))

    async def delete_channel(self, account: str, channel: str) -> None:
        """R25. Raises NotFound."""
        await self._administration.delete_channel(account, channel)

    async def list_channels(
        self, account: str, after: str | None, limit: int
    ) -> tuple[list[Channel], str | None]:
        """A page of channels, and where the next one begins. Raises NotFound."""
        return await self._records.members.list_channels(account, after, limit)

    async def require_member(self, account: str, staff: str | None) -> None:
        """Raises NotFound unless there is the account, and the staff member if one is named."""
        await self.get_account(account)
        if staff is not None:
            await self._records.members.get_staff(account, staff)

    # Pools and records

    async def pool_view(self, account: str) -> PoolView:
        """The pool as it is now. Raises NotFound."""
        return await self._pool.read(account)

    async def list_calls(
        self,
        account: str,
        *,
        cycle_start_ms: int | None,
        staff: str | None,
        after: str | None,
        limit: int,
    ) -> tuple[list[FoundCall], str | None, int]:
        """A page of call records, where the next one begins, and as of when they are. Raises NotFound."""
        await self.get_account(account)
        as_of_ms = await self._recorder.as_of_ms()
        records, following = await self._records.calls.list_calls(
            account, cycle_start_ms=cycle_start_ms, staff=staff, after=after, limit=limit
        )
        return await self._as_found(records), following, as_of_ms

    async def list_statements(
        self, account: str, after: str | None, limit: int
    ) -> tuple[list[Statement], str | None, int]:
        """A page of statements, newest first, where the next one begins, and as of when they are.

        Raises NotFound.
        """
        await self.get_account(account)
        as_of_ms = await self._recorder.as_of_ms()
        statements, following = await self._records.statements.list_statements(account, after, limit)
        return statements, following, as_of_ms

    async def get_statement(self, account: str, cycle_start_ms: int) -> tuple[Statement, int]:
        """One cycle's statement, and as of when it is. Raises NotFound."""
        as_of_ms = await self._recorder.as_of_ms()
        return await self._records.statements.get_statement(account, cycle_start_ms), as_of_ms

    def statement_calls(self, account: str, cycle_start_ms: int) -> AsyncGenerator[CallRecord]:
        """All records of a cycle, oldest admitted first, but for those whose call came back (R15)."""
        return self._records.calls.calls_of_cycle(account, cycle_start_ms)

    # Dashboards

    async def require_watchable(self, account: str, staff: str | None) -> None:
        """Raises NotFound unless there is the account, Forbidden if the staff member was removed."""
        await self.get_account(account)
        if staff is not None and await self._records.members.removed([(account, staff)]):
            raise Forbidden("The staff member of this token was removed from the account.")

    async def close_removed_readers(self) -> None:
        """Close the dashboards of staff members who were removed, as SQL says. Raises DatabaseUnavailable."""
        members = self.readers.staff()
        if members:
            self.readers.close_removed(await self._records.members.removed(members))

    async def usage(self, account: str, cycle_start_ms: int | None, step: Step) -> UsageOfCycle:
        """The running total of what a cycle's calls billed, by default the running cycle's.

        Raises NotFound.
        """
        now_ms = (await self._pool.clock()).now_ms
        return await self._usage.read(account, cycle_start_ms, step, now_ms)

    # Tokens

    async def revoke_tokens(self, account: str, staff: str | None, device: str | None) -> None:
        """Refuse tokens issued until now, here at once and on all gateways as soon as they hear.

        Raises NotFound.
        """
        saved = await self._records.revocations.revoke(account, staff, device, time.time_ns() // 1_000_000)
        self.revocations.add(Revocation(saved.account, saved.staff, saved.device, saved.until_ms))
        await self._tell_others(TokensRevoked(self._control.gateway))

    # The deployment

    def server_time_ms(self) -> int:
        """Billing time by this gateway's reckoning, without asking the engine."""
        return self._pool.estimated_now_ms()

    async def clock(self) -> Clock:
        """The simulated clock. Raises NotFound without --simulate."""
        self._require_simulation()
        return await self._pool.clock()

    async def move_clock(self, *, at_ms: int | None, advance_ms: int | None, speed: int | None) -> Clock:
        """Move the simulated clock; what falls due on the way happens before this returns.

        Raises NotFound without --simulate, InvalidField for a move back.
        """
        self._require_simulation()
        now_ms = (await self._pool.clock()).now_ms
        if now_ms + (advance_ms or 0) > LATEST_MS:
            raise InvalidField(errors=[FieldError("advance_ms", "leads beyond the year 9999")])
        is_back = at_ms is not None and at_ms < now_ms
        anywhere = is_back and not (await self._records.accounts.list_accounts(None, None, 1, 0))[0]
        try:
            clock = await self._pool.move_clock(at_ms, speed, by_ms=advance_ms or 0, anywhere=anywhere)
        finally:  # it may have moved part of the way
            await self._show_all_pools()
        await self.close_statements()
        return clock

    async def policy(self) -> Policy:
        """The policy in force."""
        return await self._pool.policy()

    async def set_policy(self, policy: Policy) -> None:
        """Bill by another policy from now on, for all gateways at once, calls in progress included."""
        await self._records.policy.begin(policy)
        await self._pool.set_policy(policy)
        await self._show_all_pools()
        await self._records.policy.finish(policy)

    async def close_statements(self) -> int:
        """Close the statements that are due (R27); answers how many."""
        now_ms = (await self._pool.clock()).now_ms

        async def oldest_call(account: str) -> int | None:
            return (await self._pool.oldest_calls([account]))[account]

        closed = await self._records.closing.close_due(
            now_ms,
            late_resume_ms=self.settings.late_resume_hours * 3_600_000,
            oldest_call_in_progress=oldest_call,
            save_all=self._recorder.drain,
        )
        return len(closed)

    def health(self) -> Health:
        """Whether the gateway takes requests, and how the engine and the database are."""
        health = self._monitor.health(draining=self.leaving)
        waiting = self._recorder.status().waiting_entries
        if waiting <= MANY_WAITING:
            return health
        warning = f"{waiting:,} records wait to be saved: they fill the engine's memory."
        return replace(health, warnings=(warning,))

    async def status(self) -> Status:
        """How the deployment is, as far as it can be asked."""
        return await self._status.read(self.health())

    @property
    def background(self) -> tuple[Callable[[], Coroutine[Any, Any, NoReturn]], ...]:
        """What has to run as long as the gateway does: each until it is cancelled."""
        return (
            self.keeper.run,
            self._calls.journal.run,
            self._calls.kept_ends.run,
            self.rebuilder.run,
            self._subscriptions.run,
            self.feeds.run,
            self._notices.run,
        )

    async def adopt_journals(self) -> None:
        """Go on from the journals of processes of this data directory that are gone."""
        await self._calls.journal.adopt()

    async def save_journal(self) -> None:
        """Write down what this process has let through and not told the engine of yet. Raises OSError."""
        await self._calls.journal.save()

    @property
    def leaving(self) -> bool:
        """Whether `/readyz` says that this gateway is going, so that nobody is sent here any more."""
        return self.devices.draining

    async def drain(self) -> None:
        """Take leave of all dashboards, and of all devices, each once its requests are answered.

        The devices' calls go on (R11). The grace of their calls starts now, and they connect elsewhere within
        it (R13).
        """
        patience_seconds = self.settings.drain_seconds / 2
        await asyncio.gather(self.devices.drain(patience_seconds), self.readers.drain(patience_seconds))
        try:
            await self.keeper.tell_lost()
        except EngineUnavailable:
            # Nobody vouches for them any more, so their leases run out, and the grace behind them.
            log.warning("drain.grace_not_told")

    @property
    def dashboards(self) -> int:
        """How many dashboards are connected to this process."""
        return len(self.readers)

    # Inside

    async def _tell_others(self, message: control.Message) -> None:
        try:
            await self._control.send(message)
        except (RedisError, OSError) as failure:
            # The others look into SQL by themselves, a little later.
            log.warning("control.not_told", message=type(message).__name__, error=type(failure).__name__)

    async def _show_all_pools(self) -> None:
        self.feeds.moved()
        await self._tell_others(PoolsMoved(self._control.gateway))

    async def _as_found(self, calls: Sequence[CallRecord | CallInProgress]) -> list[FoundCall]:
        """Calls as SQL has them, with the instant that each is told of."""
        policy: Policy | None = None
        found = []
        for call in calls:
            if isinstance(call, CallRecord):
                found.append(FoundCall(call, call.settled_at_ms, call.policy))
                continue
            if policy is None:
                policy = await self._records.policy.read() or self.settings.policy
            found.append(FoundCall(call, self.server_time_ms(), policy))
        return found

    def _require_simulation(self) -> None:
        if not self.settings.simulate:
            raise NotFound("This gateway runs on real time; its clock can be moved only with --simulate.")

    async def _cycle_start_ms(self, account: str, at_ms: int) -> int:
        """Where the cycle of an account began that holds an instant. Raises NotFound, DatabaseUnavailable."""
        return (await self._records.configs.running_cycle(account, at_ms)).start_ms
