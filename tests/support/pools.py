"""Live pools on a real engine under a standing clock, with plain objects in the place of SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import date

from gateway.domain.answers import PoolView, Settled, settled_before
from gateway.domain.asks import AccountConfig, AccountStatus, End
from gateway.domain.calls import CallRecord, CycleOpened
from gateway.domain.errors import CallUnknown
from gateway.domain.plans import AppliesFrom, Plan, plan_change
from gateway.domain.policy import Policy
from gateway.pool.engine import connect
from gateway.pool.live_pool import LivePool


class LiveAccounts:
    """Accounts whose pools live in an engine. What SQL would keep of them is kept here."""

    def __init__(self) -> None:
        self.configs: dict[str, AccountConfig] = {}
        self.pool: LivePool

    async def load(self, account: str) -> AccountConfig | None:
        """What SQL knows of an account."""
        return self.configs.get(account)

    async def at(self, now_ms: int) -> None:
        """Let it be so late."""
        await self.pool.move_clock(now_ms, 0, anywhere=not self.configs)

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
        return await self._put(
            AccountConfig(
                account=account,
                revision=1,
                status="active",
                billing_date=billing_date,
                time_zone=time_zone,
                plan=plan,
                staff=staff,
                channels=channels,
            )
        )

    async def change_plan(self, account: str, plan: Plan) -> AppliesFrom:
        """R21-R23."""
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
            replace(
                config,
                revision=config.revision + 1,
                plan=change.plan,
                pending_plan=change.pending,
                pending_from_ms=cycle.end_ms if change.pending else None,
            )
        )
        return change.applies

    async def withdraw_pending(self, account: str) -> None:
        """R23."""
        cycle = (await self.pool.read(account)).cycle
        config = self._with_plan_in_force(self.configs[account], cycle.start_ms)
        await self._put(
            replace(config, revision=config.revision + 1, pending_plan=None, pending_from_ms=None)
        )

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
            replace(
                config,
                revision=config.revision + 1,
                status=status or config.status,
                time_zone=time_zone or config.time_zone,
                staff=config.staff if staff is None else staff,
                channels=config.channels if channels is None else channels,
            )
        )

    async def end(self, ask: End) -> Settled:
        """End a call; a settlement that Redis has forgotten comes from the records (R17)."""
        try:
            answer = await self.pool.ask(ask)
        except CallUnknown:
            view = await self.pool.read(ask.account)
            for item in reversed(await self.recorded()):
                if isinstance(item, CallRecord) and (item.account, item.call_id) == (ask.account, ask.call_id):
                    return settled_before(item, view.remaining_seconds)
            raise
        assert isinstance(answer, Settled)
        return answer

    async def recorded(self) -> list[CallRecord | CycleOpened]:
        """All that was sent to SQL, in the order of each shard."""
        return [item for entry in await self.pool.records.read({}, 10_000) for item in entry.items]

    @staticmethod
    def _with_plan_in_force(config: AccountConfig, cycle_start_ms: int) -> AccountConfig:
        if config.pending_from_ms is None or config.pending_from_ms > cycle_start_ms:
            return config
        return replace(config, plan=config.pending_plan, pending_plan=None, pending_from_ms=None)

    async def _put(self, config: AccountConfig) -> PoolView:
        self.configs[config.account] = config
        return await self.pool.apply(config)


@asynccontextmanager
async def live_accounts(
    engine_url: str, policy: Policy, *, simulate: bool = True, call_id_memory_hours: int = 48
) -> AsyncIterator[LiveAccounts]:
    """Pools in an empty engine, under a clock that stands still."""
    accounts = LiveAccounts()
    engine = connect(engine_url)
    accounts.pool = LivePool(
        engine, accounts.load, policy, simulate=simulate, call_id_memory_hours=call_id_memory_hours
    )
    await accounts.pool.open()
    running = asyncio.create_task(accounts.pool.run())
    try:
        yield accounts
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await engine.close()
