"""Plans: what accounts subscribe to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, TypedDict

from sqlalchemy import Row, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.errors import NotFound, PlanInUse
from gateway.domain.plans import Plan, Price
from gateway.records.database import Database
from gateway.records.fields import check, missing, unkeepable
from gateway.records.paging import after_id, page_of
from gateway.records.tables import accounts, plans
from gateway.records.upserts import insert


class PlanFields(TypedDict, total=False):
    """What of a plan to set; a field left out keeps its value, and None takes an optional one away."""

    name: str
    minutes: int
    connected_channels: int
    staff_seats: int
    max_concurrent_calls: int | None
    monthly_price: Price | None


_REQUIRED: Final = ("name", "minutes", "connected_channels", "staff_seats")


class Plans:
    """The plans of a deployment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put_plan(self, plan: str, fields: PlanFields) -> tuple[Plan, bool]:
        """Make a plan, or change one; return it, and whether it was made.

        Raises InvalidField for what a new one lacks, and PlanInUse if anything but the name or the price of
        one changes that accounts are on, or will be.
        """
        return await self._database.write(_put_plan, plan, fields)

    async def get_plan(self, plan: str) -> Plan:
        """Return a plan. Raises NotFound."""
        found = await self._database.read(plans_by_id, [plan])
        if plan not in found:
            raise NotFound(f"There is no plan {plan}.")
        return found[plan]

    async def list_plans(self, after: str | None, limit: int) -> tuple[list[Plan], str | None]:
        """Return a page of the plans in order of their ids, and the cursor of the next page."""
        return await self._database.read(_list_plans, after_id(after), limit)


async def plans_by_id(
    connection: AsyncConnection, ids: Iterable[str | None], *, keep: bool = False
) -> dict[str, Plan]:
    """Return those of the plans that exist. With `keep` none of them changes before this transaction ends."""
    wanted = sorted({each for each in ids if each is not None})
    if not wanted:
        return {}
    query = select(plans).where(plans.c.plan.in_(wanted)).order_by(plans.c.plan)
    if keep:
        query = query.with_for_update(read=True)
    return {row.plan: _plan(row) for row in await connection.execute(query)}


async def _put_plan(connection: AsyncConnection, plan: str, fields: PlanFields) -> tuple[Plan, bool]:
    check(unkeepable(fields))
    # Waits for, and then keeps out, changes that put an account on this plan.
    one = select(plans).where(plans.c.plan == plan).with_for_update()
    row = (await connection.execute(one)).one_or_none()
    if row is None:
        check(missing(fields, _REQUIRED))
        made = Plan(plan, **fields)
        new = insert(connection, plans).values(_columns(made)).on_conflict_do_nothing()
        if (await connection.execute(new)).rowcount:
            return made, True
        row = (await connection.execute(one)).one()  # another gateway was first
    before = _plan(row)
    after = replace(before, **fields)
    if after != replace(before, name=after.name, monthly_price=after.monthly_price) and await _in_use(
        connection, plan
    ):
        raise PlanInUse
    if after != before:
        await connection.execute(update(plans).where(plans.c.plan == plan).values(_columns(after)))
    return after, False


async def _in_use(connection: AsyncConnection, plan: str) -> bool:
    on_it = or_(accounts.c.plan == plan, accounts.c.pending_plan == plan)
    return (await connection.execute(select(accounts.c.account).where(on_it).limit(1))).first() is not None


async def _list_plans(connection: AsyncConnection, after: str, limit: int) -> tuple[list[Plan], str | None]:
    query = select(plans).where(plans.c.plan > after).order_by(plans.c.plan).limit(limit + 1)
    rows = [_plan(row) for row in await connection.execute(query)]
    return page_of(rows, limit, lambda plan: (plan.plan,))


def _plan(row: Row[Any]) -> Plan:
    return Plan(
        plan=row.plan,
        name=row.name,
        minutes=row.minutes,
        connected_channels=row.connected_channels,
        staff_seats=row.staff_seats,
        max_concurrent_calls=row.max_concurrent_calls,
        monthly_price=None if row.price_amount is None else Price(row.price_amount, row.price_currency),
    )


def _columns(plan: Plan) -> dict[str, Any]:
    price = plan.monthly_price
    return {
        "plan": plan.plan,
        "name": plan.name,
        "minutes": plan.minutes,
        "connected_channels": plan.connected_channels,
        "staff_seats": plan.staff_seats,
        "max_concurrent_calls": plan.max_concurrent_calls,
        "price_amount": None if price is None else price.amount,
        "price_currency": None if price is None else price.currency,
    }
