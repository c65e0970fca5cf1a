"""What an account's live pool is made from, or brought up to."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.asks import AccountConfig
from gateway.domain.calls import Threshold
from gateway.domain.cycles import Cycle, cycle_after, cycle_at
from gateway.domain.errors import NotFound
from gateway.domain.pool_minutes import THRESHOLDS_PERCENT
from gateway.records.accounts import Account, account_at
from gateway.records.calls import reopened_calls
from gateway.records.database import Database
from gateway.records.plans import plans_by_id
from gateway.records.statements import billed_seconds_in_all, latest_cycle
from gateway.records.tables import call_records, channels, staff, statements


class AccountConfigs:
    """Everything that a live pool takes from SQL, read in one moment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def config(
        self, account: str, now_ms: int, cycle_start_ms: int | None = None
    ) -> AccountConfig | None:
        """Return what the pool of an account is made from at `now_ms`; None if there is no such account.

        `settled_seconds` sums the records of the cycle that begins at `cycle_start_ms`, by default of the one
        running at `now_ms`: for the exact truth the recorder must have saved everything (`Recorder.drain`).
        """
        return await self._database.read(_config, account, now_ms, cycle_start_ms)

    async def running_cycle(self, account: str, now_ms: int) -> Cycle:
        """Return the cycle of an account that holds `now_ms`, as its pool opened it. Raises NotFound.

        It differs from the calendar's where the time zone was changed while the cycle ran (R18).
        """
        return await self._database.read(_running_cycle, account, now_ms)


async def _config(
    connection: AsyncConnection, account: str, now_ms: int, cycle_start_ms: int | None
) -> AccountConfig | None:
    try:
        found = await account_at(connection, account, now_ms)
    except NotFound:
        return None
    running = await running_cycle_of(connection, found, now_ms)
    if cycle_start_ms is None:
        cycle_start_ms = running.start_ms
    plans = await plans_by_id(connection, [found.plan, found.pending_plan])
    return AccountConfig(
        account=account,
        revision=found.revision,
        status=found.status,
        billing_date=found.billing_date,
        time_zone=found.time_zone,
        plan=None if found.plan is None else plans[found.plan],
        pending_plan=None if found.pending_plan is None else plans[found.pending_plan],
        pending_from_ms=found.pending_from_ms,
        staff=frozenset(await connection.scalars(select(staff.c.staff).where(staff.c.account == account))),
        channels=frozenset(
            await connection.scalars(select(channels.c.channel).where(channels.c.account == account))
        ),
        running_cycle=running,
        settled_seconds=await _settled_seconds(connection, account, cycle_start_ms),
        thresholds=await _thresholds(connection, account, running.start_ms),
        reopened=await reopened_calls(connection, account),
    )


async def _running_cycle(connection: AsyncConnection, account: str, now_ms: int) -> Cycle:
    return await running_cycle_of(connection, await account_at(connection, account, now_ms), now_ms)


async def running_cycle_of(connection: AsyncConnection, account: Account, now_ms: int) -> Cycle:
    """Return the cycle of an account that holds `now_ms`, as its pool opened it."""
    cycle = await latest_cycle(connection, account.account, now_ms)
    if cycle is None:
        return cycle_at(account.billing_date, account.time_zone, now_ms)
    while cycle.end_ms <= now_ms:
        cycle = cycle_after(cycle, account.billing_date, account.time_zone)
    return cycle


async def _settled_seconds(connection: AsyncConnection, account: str, cycle_start_ms: int) -> int:
    of_cycle = (call_records.c.account == account) & (call_records.c.cycle_start_ms == cycle_start_ms)
    total = await connection.scalar(select(billed_seconds_in_all()).where(of_cycle))
    assert total is not None
    return total


async def _thresholds(
    connection: AsyncConnection, account: str, cycle_start_ms: int
) -> tuple[Threshold, ...]:
    """R29: those that live use has passed in the cycle, as far as SQL was told."""
    columns = [statements.c[f"passed_{percent}_ms"] for percent in THRESHOLDS_PERCENT]
    of_cycle = (statements.c.account == account) & (statements.c.cycle_start_ms == cycle_start_ms)
    row = (await connection.execute(select(*columns).where(of_cycle))).first()
    passed = zip(THRESHOLDS_PERCENT, row or (), strict=False)
    return tuple(Threshold(percent, at_ms) for percent, at_ms in passed if at_ms is not None)
