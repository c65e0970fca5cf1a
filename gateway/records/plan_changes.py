"""Changing an account's plan (R21-R23)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.errors import InvalidField, NotFound
from gateway.domain.plans import plan_change
from gateway.records.accounts import account_to_change, save, unknown_plan
from gateway.records.database import Database
from gateway.records.members import in_use
from gateway.records.plans import plans_by_id
from gateway.records.tables import channels, staff


@dataclass(frozen=True, slots=True)
class PlanChangeResult:
    """The plan in force, the instant from which the asked one holds, and the coming plan or None."""

    plan: str | None
    effective_at_ms: int
    pending: str | None


class PlanChanges:
    """Moves of accounts from plan to plan."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def change_plan(self, account: str, plan: str, now_ms: int, cycle_end_ms: int) -> PlanChangeResult:
        """Move an account to a plan: at once, or from `cycle_end_ms`, the end of its running cycle (R21-R23).

        Raises NotFound for the account, InvalidField for the plan if there is none, SeatLimit or ChannelLimit
        if more is in use than the plan allows.
        """
        return await self._database.write(_change_plan, account, plan, now_ms, cycle_end_ms)

    async def withdraw_pending(self, account: str, now_ms: int) -> None:
        """Take back a coming change of plan (R23). Raises NotFound if there is none, or no such account."""
        await self._database.write(_withdraw_pending, account, now_ms)


async def _change_plan(
    connection: AsyncConnection, account: str, plan: str, now_ms: int, cycle_end_ms: int
) -> PlanChangeResult:
    before = await account_to_change(connection, account, now_ms)
    known = await plans_by_id(connection, [before.plan, before.pending_plan, plan], keep=True)
    if plan not in known:
        raise InvalidField(errors=[unknown_plan(plan)])
    change = plan_change(
        None if before.plan is None else known[before.plan],
        None if before.pending_plan is None else known[before.pending_plan],
        known[plan],
        seats_used=await in_use(connection, staff, account),
        channels_used=await in_use(connection, channels, account),
    )
    after = replace(
        before,
        plan=None if change.plan is None else change.plan.plan,
        pending_plan=None if change.pending is None else change.pending.plan,
        pending_from_ms=None if change.pending is None else cycle_end_ms,
    )
    if after != before:
        await save(connection, after)
    return PlanChangeResult(
        plan=after.plan,
        effective_at_ms=now_ms if change.applies == "now" else cycle_end_ms,
        pending=after.pending_plan,
    )


async def _withdraw_pending(connection: AsyncConnection, account: str, now_ms: int) -> None:
    before = await account_to_change(connection, account, now_ms)
    if before.pending_plan is None:
        raise NotFound(f"No change of plan is pending on the account {account}.")
    await save(connection, replace(before, pending_plan=None, pending_from_ms=None))
