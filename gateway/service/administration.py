"""Changes of plans, accounts and members:

SQL decides and keeps them, the live pool follows before the answer.
"""

from __future__ import annotations

from contextlib import suppress

from gateway.domain.asks import AccountConfig
from gateway.pool.live_pool import LivePool
from gateway.pool.unreadable import PoolUnreadable
from gateway.records.accounts import Account, AccountFields
from gateway.records.members import Channel, ChannelFields, StaffFields, StaffMember
from gateway.records.plan_changes import PlanChangeResult
from gateway.records.recorder import Recorder
from gateway.records.store import Records

CAUGHT_UP_AT_ONCE = 100


class Administration:
    """Carries out what the operator asks. All of it raises EngineUnavailable and DatabaseUnavailable.

    A change is answered when SQL and the pool both have it. One that reached only SQL is finished by
    whichever gateway comes first to `catch_up`.
    """

    def __init__(self, records: Records, pool: LivePool, recorder: Recorder) -> None:
        self._records = records
        self._pool = pool
        self._recorder = recorder

    async def put_account(self, account: str, fields: AccountFields) -> tuple[Account, bool]:
        """Make or change an account. Raises InvalidField, ImmutableField."""
        now_ms = (await self._pool.clock()).now_ms
        found, created = await self._records.accounts.put_account(account, fields, now_ms)
        await self._bring_up(account)
        return found, created

    async def change_plan(self, account: str, plan: str) -> PlanChangeResult:
        """R21-R23. Raises NotFound, InvalidField, SeatLimit, ChannelLimit."""
        view = await self._pool.read(account)
        result = await self._records.plan_changes.change_plan(account, plan, view.at_ms, view.cycle.end_ms)
        await self._bring_up(account)
        return result

    async def withdraw_pending_plan(self, account: str) -> None:
        """R23. Raises NotFound."""
        now_ms = (await self._pool.clock()).now_ms
        await self._records.plan_changes.withdraw_pending(account, now_ms)
        await self._bring_up(account)

    async def put_staff(self, account: str, staff: str, fields: StaffFields) -> tuple[StaffMember, bool]:
        """R25. Raises NotFound, SeatLimit."""
        now_ms = (await self._pool.clock()).now_ms
        done = await self._records.members.put_staff(account, staff, fields, now_ms)
        await self._bring_up(account)
        return done

    async def delete_staff(self, account: str, staff: str) -> None:
        """R25. Raises NotFound."""
        now_ms = (await self._pool.clock()).now_ms
        await self._records.members.delete_staff(account, staff, now_ms)
        await self._bring_up(account)

    async def put_channel(self, account: str, channel: str, fields: ChannelFields) -> tuple[Channel, bool]:
        """R25. Raises NotFound, ChannelLimit."""
        now_ms = (await self._pool.clock()).now_ms
        done = await self._records.members.put_channel(account, channel, fields, now_ms)
        await self._bring_up(account)
        return done

    async def delete_channel(self, account: str, channel: str) -> None:
        """R25. Raises NotFound."""
        now_ms = (await self._pool.clock()).now_ms
        await self._records.members.delete_channel(account, channel, now_ms)
        await self._bring_up(account)

    async def load(self, account: str) -> AccountConfig | None:
        """What an account's pool is made from; None if SQL knows no such account."""
        now_ms = (await self._pool.clock()).now_ms
        if await self._records.configs.config(account, now_ms) is None:
            return None
        # What is settled and not yet saved would be missing from the sum of the records.
        await self._recorder.drain(self._pool.shard_of(account))
        return await self._records.configs.config(account, now_ms)

    async def catch_up(self) -> int:
        """Finish changes that reached SQL only; answers how many."""
        accounts = await self._records.accounts.unapplied(CAUGHT_UP_AT_ONCE)
        for account in accounts:
            # One that cannot be brought up now must not keep others waiting.
            with suppress(PoolUnreadable):
                await self._bring_up(account)
        return len(accounts)

    async def _bring_up(self, account: str) -> None:
        now_ms = (await self._pool.clock()).now_ms
        config = await self._records.configs.config(account, now_ms)
        assert config is not None, "accounts are never deleted"
        await self._pool.apply(config)
        await self._records.accounts.mark_applied(account, config.revision)
