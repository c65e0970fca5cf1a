"""Closing statements: once the cycle is over, its last call ended and saved, and none can come back (R27).

Nor did one come back that has not ended again (R15): its record is in progress.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sqlalchemy import Row, bindparam, case, exists, func, literal_column, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.database import Database
from gateway.records.outbox import save_closed
from gateway.records.statements import Statement, closed_statement, sums
from gateway.records.tables import call_records, statements

PAGE: Final = 200
"""How many statements are closed in one transaction."""

_IN_ABSENCE: Final = call_records.c.ended_by != literal_column("'hangup'")  # literally as the index has it

OldestCall = Callable[[str], Awaitable[int | None]]


class Closing:
    """Closes the statements that are due."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def close_due(
        self,
        now_ms: int,
        *,
        late_resume_ms: int,
        oldest_call_in_progress: OldestCall,
        save_all: Callable[[], Awaitable[object]],
    ) -> list[Statement]:
        """Close every statement that can be closed at `now_ms`, and return those, oldest cycle end first.

        `oldest_call_in_progress` tells of an account when the oldest of its calls in progress was admitted,
        None if there is none; after it, `save_all` (`Recorder.drain`) has everything saved that was settled.
        So no call of the cycle can be missed in between.

        A statement counts as closed at the instant when it could first have been: the cycle's end, the
        settling of its last call, or the end of the time in which one settled in its absence could still
        come back, whichever is latest. Two gateways that close at once don't both return a statement.
        """
        closed: list[Statement] = []
        last: Row[Any] | None = None
        while due := await self._database.read(_due, now_ms, late_resume_ms, last):
            last = due[-1]
            ended = await _without_calls(due, oldest_call_in_progress)
            if ended:
                await save_all()
                closed += await self._database.write(_close, ended, now_ms, late_resume_ms)
        return closed


async def _without_calls(due: Sequence[Row[Any]], oldest_call_in_progress: OldestCall) -> list[Row[Any]]:
    """Return those of whose cycle no call is in progress any more (R20)."""
    accounts = sorted({row.account for row in due})
    admitted = await asyncio.gather(*map(oldest_call_in_progress, accounts))
    oldest = dict(zip(accounts, admitted, strict=True))
    return [row for row in due if (oldest_ms := oldest[row.account]) is None or oldest_ms >= row.cycle_end_ms]


async def _due(
    connection: AsyncConnection, now_ms: int, late_resume_ms: int, last: Row[Any] | None
) -> Sequence[Row[Any]]:
    may_come_back = exists().where(
        call_records.c.account == statements.c.account,
        call_records.c.cycle_start_ms == statements.c.cycle_start_ms,
        call_records.c.ended_at_ms >= now_ms - late_resume_ms,
        _IN_ABSENCE,
    )
    came_back = exists().where(
        call_records.c.account == statements.c.account,
        call_records.c.cycle_start_ms == statements.c.cycle_start_ms,
        call_records.c.reopened,
    )
    is_over = statements.c.cycle_end_ms <= now_ms
    query = (
        select(statements)
        .where(statements.c.closed_at_ms.is_(None), is_over, ~may_come_back, ~came_back)
        .order_by(statements.c.cycle_end_ms, statements.c.account)
        .limit(PAGE)
    )
    if last is not None:
        place = tuple_(statements.c.cycle_end_ms, statements.c.account)
        query = query.where(place > tuple_(last.cycle_end_ms, last.account))
    return (await connection.execute(query)).all()


async def _close(
    connection: AsyncConnection, ended: Sequence[Row[Any]], now_ms: int, late_resume_ms: int
) -> list[Statement]:
    # One by one: asked for several at once, either database would now and then rather read all its records.
    found = [await _close_one(connection, row, now_ms, late_resume_ms) for row in ended]
    closed = [statement for statement in found if statement is not None]
    await save_closed(connection, closed, time.time_ns() // 1_000_000)
    return closed


async def _close_one(
    connection: AsyncConnection, row: Row[Any], now_ms: int, late_resume_ms: int
) -> Statement | None:
    key = {"of": row.account, "since_ms": row.cycle_start_ms}
    total = (await connection.execute(_TOTAL, key)).one()
    late_until_ms = 0 if total.absent_at_ms is None else total.absent_at_ms + late_resume_ms
    if late_until_ms >= now_ms or total.reopened:
        return None  # by what was saved meanwhile
    final = {
        "closed_at_ms": max(row.cycle_end_ms, total.settled_at_ms or 0, late_until_ms),
        "used_seconds": total.used_seconds,
        "calls_counted": total.calls_counted,
        "calls_free": total.calls_free,
    }
    saved = (await connection.execute(_CLOSE, {**key, **final})).one_or_none()
    return None if saved is None else closed_statement(saved)


_TOTAL: Final = select(
    *sums(),
    func.max(call_records.c.settled_at_ms).label("settled_at_ms"),
    func.max(case((_IN_ABSENCE, call_records.c.ended_at_ms))).label("absent_at_ms"),
    func.count(case((call_records.c.reopened, 1))).label("reopened"),
).where(call_records.c.account == bindparam("of"), call_records.c.cycle_start_ms == bindparam("since_ms"))

_CLOSE: Final = (
    update(statements)
    .where(
        statements.c.account == bindparam("of"),
        statements.c.cycle_start_ms == bindparam("since_ms"),
        statements.c.closed_at_ms.is_(None),
    )
    .values(
        {name: bindparam(name) for name in ("closed_at_ms", "used_seconds", "calls_counted", "calls_free")}
    )
    .returning(statements)
)
