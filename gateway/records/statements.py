"""Statements: what each cycle of each account came to (R27)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.billing import overrun_seconds
from gateway.domain.cycles import Cycle
from gateway.domain.errors import NotFound
from gateway.records.database import Database
from gateway.records.paging import after_instant, page_of
from gateway.records.tables import INT, call_records, statements


@dataclass(frozen=True, slots=True)
class Statement:
    """What a cycle came to; so far, if it is open: then it is summed from the records there are.

    Those of calls that came back are in progress, and not in the sums (R15). A closed one never changes.
    `calls_free` counts those that billed nothing, emergencies among them.
    """

    account: str
    plan: str | None
    cycle: Cycle
    closed_at_ms: int | None
    allocated_seconds: int
    used_seconds: int
    calls_counted: int
    calls_free: int

    @property
    def closed(self) -> bool:
        """Whether it is final."""
        return self.closed_at_ms is not None

    @property
    def overrun_seconds(self) -> int:
        """What was used beyond the allocation (R5)."""
        return overrun_seconds(self.allocated_seconds, self.used_seconds)


class Statements:
    """The statements of all accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_statements(
        self, account: str, after: str | None, limit: int
    ) -> tuple[list[Statement], str | None]:
        """Return a page of an account's statements, newest first, and the cursor of the next page.

        The running cycle's is among them once the recorder has heard of it.
        """
        return await self._database.read(_list_statements, account, after_instant(after), limit)

    async def get_statement(self, account: str, cycle_start_ms: int) -> Statement:
        """Return the statement of the cycle that begins then. Raises NotFound."""
        return await self._database.read(_get_statement, account, cycle_start_ms)

    async def sum_again(self, accounts: Collection[str]) -> list[Resummed]:
        """Sum the records of all closed statements of these accounts, beside what those say."""
        return await self._database.read(_sum_again, accounts)


@dataclass(frozen=True, slots=True)
class Resummed:
    """A closed statement, and what its records come to now; `reopened` of them are in progress again."""

    statement: Statement
    used_seconds: int
    calls_counted: int
    calls_free: int
    reopened: int

    @property
    def agrees(self) -> bool:
        """Whether that is what the statement says."""
        closed = self.statement
        stated = (closed.used_seconds, closed.calls_counted, closed.calls_free, 0)
        return stated == (self.used_seconds, self.calls_counted, self.calls_free, self.reopened)


async def latest_cycle(connection: AsyncConnection, account: str, now_ms: int) -> Cycle | None:
    """Return the last cycle that began by `now_ms`, as its pool opened it; None if none was recorded."""
    query = (
        select(statements)
        .where(statements.c.account == account, statements.c.cycle_start_ms <= now_ms)
        .order_by(statements.c.cycle_start_ms.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _cycle(row)


async def recorded_cycle(connection: AsyncConnection, account: str, cycle_start_ms: int) -> Cycle | None:
    """Return the cycle that begins then, as its pool opened it; None if none was recorded."""
    query = select(statements).where(
        statements.c.account == account, statements.c.cycle_start_ms == cycle_start_ms
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _cycle(row)


def billed_seconds_in_all() -> ColumnElement[int]:
    """Return the sum of what records billed; PostgreSQL's own type for it would be a decimal."""
    billed = func.sum(call_records.c.billed_seconds).filter(~call_records.c.reopened)
    return cast(func.coalesce(billed, 0), INT)


def sums() -> tuple[ColumnElement[Any], ...]:
    """Return what is summed of the records of a cycle: used_seconds, calls_counted, calls_free."""
    ended = ~call_records.c.reopened
    counted = func.count(case((call_records.c.counted & ended, 1)))
    return (
        billed_seconds_in_all().label("used_seconds"),
        counted.label("calls_counted"),
        (func.count(case((ended, 1))) - counted).label("calls_free"),
    )


def closed_statement(row: Row[Any]) -> Statement:
    """Make a statement of the row of a closed one."""
    return _statement(row, row.used_seconds, row.calls_counted, row.calls_free)


async def _list_statements(
    connection: AsyncConnection, account: str, before_ms: int | None, limit: int
) -> tuple[list[Statement], str | None]:
    query = (
        select(statements)
        .where(statements.c.account == account)
        .order_by(statements.c.cycle_start_ms.desc())
        .limit(limit + 1)
    )
    if before_ms is not None:
        query = query.where(statements.c.cycle_start_ms < before_ms)
    rows, after = page_of(
        (await connection.execute(query)).all(), limit, lambda row: (int(row.cycle_start_ms),)
    )
    return await _complete(connection, account, rows), after


async def _get_statement(connection: AsyncConnection, account: str, cycle_start_ms: int) -> Statement:
    query = select(statements).where(
        statements.c.account == account, statements.c.cycle_start_ms == cycle_start_ms
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound(f"The account {account} has no statement of a cycle that begins then.")
    return (await _complete(connection, account, [row]))[0]


async def _sum_again(connection: AsyncConnection, accounts: Collection[str]) -> list[Resummed]:
    of_cycle = (call_records.c.account == statements.c.account) & (
        call_records.c.cycle_start_ms == statements.c.cycle_start_ms
    )
    totals = (
        select(
            statements.c.account,
            statements.c.cycle_start_ms,
            *sums(),
            func.count(case((call_records.c.reopened, 1))).label("reopened"),
        )
        .join(call_records, of_cycle, isouter=True)
        .where(statements.c.account.in_(accounts), statements.c.closed_at_ms.is_not(None))
        .group_by(statements.c.account, statements.c.cycle_start_ms)
    )
    closed = select(statements).where(
        statements.c.account.in_(accounts), statements.c.closed_at_ms.is_not(None)
    )
    found = {
        (row.account, row.cycle_start_ms): closed_statement(row)
        for row in (await connection.execute(closed)).all()
    }
    return [
        Resummed(statement, row.used_seconds, row.calls_counted, row.calls_free, row.reopened)
        for row in (await connection.execute(totals)).all()
        if (statement := found.get((row.account, row.cycle_start_ms))) is not None
    ]


async def _complete(connection: AsyncConnection, account: str, rows: Collection[Row[Any]]) -> list[Statement]:
    still_open = [row.cycle_start_ms for row in rows if row.closed_at_ms is None]
    query = (
        select(call_records.c.cycle_start_ms, *sums())
        .where(call_records.c.account == account, call_records.c.cycle_start_ms.in_(still_open))
        .group_by(call_records.c.cycle_start_ms)
    )
    so_far = {
        row.cycle_start_ms: (row.used_seconds, row.calls_counted, row.calls_free)
        for row in (await connection.execute(query) if still_open else ())
    }
    return [
        _statement(row, *so_far.get(row.cycle_start_ms, (0, 0, 0)))
        if row.closed_at_ms is None
        else closed_statement(row)
        for row in rows
    ]


def _statement(row: Row[Any], used_seconds: int, calls_counted: int, calls_free: int) -> Statement:
    return Statement(
        account=row.account,
        plan=row.plan,
        cycle=_cycle(row),
        closed_at_ms=row.closed_at_ms,
        allocated_seconds=row.allocated_seconds,
        used_seconds=used_seconds,
        calls_counted=calls_counted,
        calls_free=calls_free,
    )


def _cycle(row: Row[Any]) -> Cycle:
    return Cycle(row.cycle_index, row.cycle_start_ms, row.cycle_end_ms)
