"""Call records, as they are read (R26).

A record whose call came back (R15) is read as a call in progress, until the next revision replaces it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Row, Select, and_, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.policy import CountFrom, Policy
from gateway.records.database import Database
from gateway.records.paging import after_instant_and_id, page_of
from gateway.records.tables import call_records, statements

NAMED_AT_ONCE: Final = 500
"""How many calls one query names."""

PAGE: Final = 1000
"""How many records one query of a long reading takes."""

_CYCLES_OF_RETURNS: Final = 2
"""A call of the cycle before may come back yet, and be settled again (R15); one of an older cycle may not."""


class Calls:
    """The call records of all accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_call(self, account: str, call_id: str) -> CallRecord | CallInProgress | None:
        """Return the newest call of that id (R9), or None if none ever ended."""
        return await self._database.read(_find_call, account, call_id)

    async def find_known(
        self, account: str, calls: Sequence[tuple[str, int]]
    ) -> list[CallRecord | CallInProgress]:
        """Return those of an account's calls (id, admission) that ended at least once.

        One that came back since is in progress, with the revision of its latest record.
        """
        found: list[CallRecord | CallInProgress] = []
        for first in range(0, len(calls), NAMED_AT_ONCE):
            piece = calls[first : first + NAMED_AT_ONCE]
            found += await self._database.read(_find_known, account, piece)
        return found

    async def find_resettled(self, account: str) -> list[CallRecord]:
        """Return those records that replaced earlier ones of their calls, which may come back yet (R15)."""
        return await self._database.read(_find_resettled, account)

    async def list_calls(
        self,
        account: str,
        *,
        cycle_start_ms: int | None = None,
        staff: str | None = None,
        after: str | None = None,
        limit: int,
    ) -> tuple[list[CallRecord | CallInProgress], str | None]:
        """Return a page of an account's calls, newest admitted first, and the cursor of the next page.

        They are those of one cycle, of one staff member, of both, or all, that ended at least once.
        """
        return await self._database.read(
            _list_calls, account, cycle_start_ms, staff, after_instant_and_id(after), limit
        )

    async def calls_of_cycle(self, account: str, cycle_start_ms: int) -> AsyncGenerator[CallRecord]:
        """Give all records of a cycle, oldest admitted first, but for those whose call came back.

        No connection is held in between pages.
        """
        last: CallRecord | None = None
        while True:
            records = await self._database.read(_records_of_cycle, account, cycle_start_ms, last)
            for record in records:
                yield record
            if len(records) < PAGE:
                return
            last = records[-1]


async def _find_call(
    connection: AsyncConnection, account: str, call_id: str
) -> CallRecord | CallInProgress | None:
    query = (
        _of_account(account)
        .where(call_records.c.call_id == call_id)
        .order_by(call_records.c.admitted_at_ms.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _call(row)


async def _find_known(
    connection: AsyncConnection, account: str, calls: Sequence[tuple[str, int]]
) -> list[CallRecord | CallInProgress]:
    key = tuple_(call_records.c.call_id, call_records.c.admitted_at_ms)
    query = _of_account(account).where(key.in_(calls))
    return [_call(row) for row in await connection.execute(query)]


async def _list_calls(
    connection: AsyncConnection,
    account: str,
    cycle_start_ms: int | None,
    staff: str | None,
    after: tuple[int, str] | None,
    limit: int,
) -> tuple[list[CallRecord | CallInProgress], str | None]:
    admitted_at_ms, call_id = call_records.c.admitted_at_ms, call_records.c.call_id
    query = _of_account(account).order_by(admitted_at_ms.desc(), call_id).limit(limit + 1)
    if cycle_start_ms is not None:
        query = query.where(call_records.c.cycle_start_ms == cycle_start_ms)
    if staff is not None:
        query = query.where(call_records.c.staff == staff)
    if after is not None:
        at_ms, shown = after
        # The first condition alone lets an index begin there.
        query = query.where(admitted_at_ms <= at_ms, or_(admitted_at_ms < at_ms, call_id > shown))
    rows = [_call(row) for row in await connection.execute(query)]
    return page_of(rows, limit, lambda call: (call.admitted_at_ms, call.call_id))


async def _records_of_cycle(
    connection: AsyncConnection, account: str, cycle_start_ms: int, last: CallRecord | None
) -> list[CallRecord]:
    admitted_at_ms, call_id = call_records.c.admitted_at_ms, call_records.c.call_id
    query = (
        _of_account(account)
        .where(call_records.c.cycle_start_ms == cycle_start_ms, ~call_records.c.reopened)
        .order_by(admitted_at_ms, call_id.desc())  # the list's order backwards, which one index serves
        .limit(PAGE)
    )
    if last is not None:
        at_ms = last.admitted_at_ms
        query = query.where(
            admitted_at_ms >= at_ms,
            or_(admitted_at_ms > at_ms, and_(admitted_at_ms == at_ms, call_id < last.call_id)),
        )
    return [_record(row) for row in await connection.execute(query)]


async def reopened_calls(connection: AsyncConnection, account: str) -> tuple[CallRecord, ...]:
    """Return the latest records of calls that have come back since, and are in progress (R15)."""
    query = _of_account(account).where(call_records.c.reopened).order_by(call_records.c.call_id)
    return tuple([_record(row) for row in await connection.execute(query)])


async def _find_resettled(connection: AsyncConnection, account: str) -> list[CallRecord]:
    latest = (
        select(statements.c.cycle_start_ms)
        .where(statements.c.account == account)
        .order_by(statements.c.cycle_start_ms.desc())
        .limit(_CYCLES_OF_RETURNS)
    )
    query = _of_account(account).where(
        call_records.c.cycle_start_ms.in_(latest), call_records.c.revision > 1, ~call_records.c.reopened
    )
    return [_record(row) for row in await connection.execute(query)]


def _of_account(account: str) -> Select[Any]:
    return select(call_records).where(call_records.c.account == account)


def _call(row: Row[Any]) -> CallRecord | CallInProgress:
    return _in_progress(row) if row.reopened else _record(row)


def _in_progress(row: Row[Any]) -> CallInProgress:
    return CallInProgress(
        account=row.account,
        call_id=row.call_id,
        staff=row.staff,
        device=row.device,
        channel=row.channel,
        to=row.to,
        admitted_at_ms=row.admitted_at_ms,
        answered_at_ms=row.answered_at_ms,
        cycle_start_ms=row.cycle_start_ms,
        emergency=row.emergency,
        counts=not row.emergency,  # whether its cycle is over as well, only the pool knows
        revision=row.revision,
        admitted_offline=row.admitted_offline,
    )


def _record(row: Row[Any]) -> CallRecord:
    return CallRecord(
        account=row.account,
        call_id=row.call_id,
        staff=row.staff,
        device=row.device,
        channel=row.channel,
        to=row.to,
        admitted_at_ms=row.admitted_at_ms,
        answered_at_ms=row.answered_at_ms,
        ended_at_ms=row.ended_at_ms,
        settled_at_ms=row.settled_at_ms,
        duration_ms=row.duration_ms,
        billed_seconds=row.billed_seconds,
        counted=row.counted,
        ended_by=row.ended_by,
        emergency=row.emergency,
        cycle_start_ms=row.cycle_start_ms,
        revision=row.revision,
        policy=_policy(row.free_seconds, row.increment_seconds, row.hold_seconds, row.count_from),
        admitted_offline=row.admitted_offline,
    )


@lru_cache(maxsize=64)
def _policy(free_seconds: int, increment_seconds: int, hold_seconds: int, count_from: CountFrom) -> Policy:
    return Policy(free_seconds, increment_seconds, hold_seconds, count_from)
