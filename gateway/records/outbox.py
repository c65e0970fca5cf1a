"""The outbox: events for webhooks, written in the transaction that saves what they are about.

Which events are wanted is kept with the data (`Outbox.want`), so that whoever saves something writes them:
any gateway, and `callgate rebuild`. Times are real ones: they are about sending.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, delete, func, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.calls import CallRecord, PoolNotice
from gateway.domain.webhooks import EVENT_TYPES
from gateway.records.bulk import BulkInsert
from gateway.records.database import Database
from gateway.records.deployment import put_value, settle_value, value_of
from gateway.records.events import Event, of_notice, of_record, of_statement, with_figures
from gateway.records.statements import Statement, billed_seconds_in_all
from gateway.records.tables import call_records, statements, webhook_events

KEPT_MS: Final = 14 * 86_400_000
"""How long an event is kept, sent or not. Longer than records are kept in the engine, from which an event of
one that is saved again would otherwise be made again."""

COUNTED_AT_MOST: Final = 100_000
DELETED_AT_ONCE: Final = 1000

_WANTED: Final = "webhook_events"
_NAMESPACE: Final = "webhook_namespace"
_GONE: Final = "webhook_gone"
_FAILING: Final = "webhook_failing"

SAVE_EVENTS: Final = BulkInsert(webhook_events, "DO NOTHING")


class DueEvent(NamedTuple):
    """An event that is to be sent now, and how often that has failed."""

    event_id: str
    type: str
    account: str
    body: str
    first_tried_at_ms: int | None
    failures: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt: sent if there is no error, else tried again at an instant, or never."""

    event_id: str
    tried_at_ms: int
    error: str | None = None
    next_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class OutboxState:
    """How sending goes: how many events wait (counted to 100,000), since when the receiver fails, and how.

    `gone` if it has said that it wants no more.
    """

    waiting: int
    failing_since_ms: int | None
    error: str | None
    gone: bool


class Wanted:
    """Makes rows of events that are wanted."""

    def __init__(self, types: Collection[str], namespace: uuid.UUID, now_ms: int) -> None:
        self.types = types
        self._namespace = namespace
        self._now_ms = now_ms

    def of_notice(self, notice: PoolNotice) -> tuple[Any, ...] | None:
        """Return the row of what happened to a pool; None if it is not wanted."""
        return self._row(of_notice(self._namespace, notice)) if notice.kind in self.types else None

    def of_record(self, record: CallRecord) -> tuple[Any, ...]:
        """Return the row of a record, which must be wanted."""
        return self._row(of_record(self._namespace, record))

    def of_statement(self, statement: Statement) -> tuple[Any, ...]:
        """Return the row of a closed statement, which must be wanted."""
        return self._row(of_statement(self._namespace, statement))

    def _row(self, event: Event) -> tuple[Any, ...]:
        return (*event, self._now_ms, None, 0, self._now_ms, None, False, None)


async def wanted_events(connection: AsyncConnection, now_ms: int) -> Wanted | None:
    """Return what makes rows of events that are wanted, None if none are. `now_ms` is the real time."""
    types = frozenset((await value_of(connection, _WANTED) or "").split(",")) & set(EVENT_TYPES)
    if not types:
        return None
    namespace = await value_of(connection, _NAMESPACE)
    assert namespace is not None, "it is written before anything is wanted"
    return Wanted(types, uuid.UUID(namespace), now_ms)


async def save_closed(connection: AsyncConnection, closed: Sequence[Statement], now_ms: int) -> None:
    """Write the events of statements that this transaction closes, if they are wanted."""
    wanted = await wanted_events(connection, now_ms) if closed else None
    if wanted is not None and "cycle_closed" in wanted.types:
        await SAVE_EVENTS.run(connection, sorted(map(wanted.of_statement, closed)))


class Outbox:
    """What is to be sent, was sent, or was given up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def want(self, types: Iterable[str]) -> None:
        """Keep events of these types from now on, and of no others; ask a receiver again that was gone."""
        await self._database.write(_want, ",".join(sorted(types)))

    async def due(self, now_ms: int, limit: int) -> list[DueEvent]:
        """Return up to `limit` events that are to be sent by now, the longest due first.

        Theirs are the bodies to send, as they will be at every try.
        """
        found = await self._database.read(_due, now_ms, limit)
        unfilled = [row.event_id for row in found if row.figures_of_ms is not None]
        if unfilled:
            await self._database.write(_fill, unfilled)
            found = await self._database.read(_due, now_ms, limit)
        return [
            DueEvent(*(getattr(row, name) for name in DueEvent._fields))
            for row in found
            if row.figures_of_ms is None
        ]

    async def note(self, outcomes: Sequence[Outcome]) -> None:
        """Note what became of attempts, in one transaction."""
        await self._database.write(_note, outcomes)

    async def hurry(self, now_ms: int) -> None:
        """Have everything that waits tried at once: the receiver is back."""
        await self._database.write(_hurry, now_ms)

    async def delete_old(self, now_ms: int) -> int:
        """Delete what is older than is kept; return how many of those had not been sent."""
        unsent = 0
        while True:
            deleted, of_them_unsent = await self._database.write(_delete_old, now_ms - KEPT_MS)
            unsent += of_them_unsent
            if deleted < DELETED_AT_ONCE:
                return unsent

    async def failing(self, since_ms: int | None, error: str = "") -> None:
        """Note that the receiver fails since then, or (None) that it does not."""
        await self._database.write(put_value, _FAILING, "" if since_ms is None else f"{since_ms} {error}")

    async def gone(self) -> None:
        """Note that the receiver wants no more, until a gateway starts."""
        await self._database.write(put_value, _GONE, "410")

    async def state(self) -> OutboxState:
        """Return how sending goes, whichever gateway sends."""
        return await self._database.read(_state)


async def _want(connection: AsyncConnection, types: str) -> None:
    await settle_value(connection, _NAMESPACE, str(uuid.uuid4()))
    await put_value(connection, _WANTED, types)
    await put_value(connection, _GONE, "")
    if not types:
        await put_value(connection, _FAILING, "")


async def _due(connection: AsyncConnection, now_ms: int, limit: int) -> Sequence[Any]:
    query = (
        select(webhook_events)
        .where(webhook_events.c.next_at_ms <= now_ms)
        .order_by(webhook_events.c.next_at_ms, webhook_events.c.event_id)
        .limit(limit)
    )
    return (await connection.execute(query)).all()


async def _fill(connection: AsyncConnection, event_ids: Sequence[str]) -> None:
    query = select(webhook_events).where(
        webhook_events.c.event_id.in_(event_ids), webhook_events.c.figures_of_ms.is_not(None)
    )
    figures: dict[tuple[str, int], tuple[int | None, int, int]] = {}
    for row in (await connection.execute(query)).all():
        cycle = row.account, row.figures_of_ms
        if cycle not in figures:
            figures[cycle] = await _figures(connection, *cycle)
        body = with_figures(row.body, row.figures_of_ms, *figures[cycle])
        this = webhook_events.c.event_id == row.event_id
        await connection.execute(update(webhook_events).where(this).values(body=body, figures_of_ms=None))


async def _figures(
    connection: AsyncConnection, account: str, cycle_start_ms: int
) -> tuple[int | None, int, int]:
    head = select(statements.c.cycle_end_ms, statements.c.allocated_seconds).where(
        statements.c.account == account, statements.c.cycle_start_ms == cycle_start_ms
    )
    used = select(billed_seconds_in_all()).where(
        call_records.c.account == account, call_records.c.cycle_start_ms == cycle_start_ms
    )
    row = (await connection.execute(head)).one_or_none()
    used_seconds = await connection.scalar(used) or 0
    return (None, 0, used_seconds) if row is None else (row.cycle_end_ms, row.allocated_seconds, used_seconds)


async def _note(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
    for outcome in sorted(outcomes, key=lambda each: each.event_id):
        sent = outcome.error is None
        changed: dict[str, Any] = {
            "first_tried_at_ms": func.coalesce(webhook_events.c.first_tried_at_ms, outcome.tried_at_ms),
            "failures": webhook_events.c.failures + (0 if sent else 1),
            "next_at_ms": outcome.next_at_ms,
            "done_at_ms": outcome.tried_at_ms if outcome.next_at_ms is None else None,
            "sent": sent,
            "last_error": outcome.error,
        }
        # Once sent it stays so, should two gateways have sent it.
        this = (webhook_events.c.event_id == outcome.event_id) & webhook_events.c.next_at_ms.is_not(None)
        await connection.execute(update(webhook_events).where(this).values(changed))


async def _hurry(connection: AsyncConnection, now_ms: int) -> None:
    await connection.execute(
        update(webhook_events).where(webhook_events.c.next_at_ms > now_ms).values(next_at_ms=now_ms)
    )


async def _delete_old(connection: AsyncConnection, before_ms: int) -> tuple[int, int]:
    old = (
        select(webhook_events.c.event_id)
        .where(webhook_events.c.created_at_ms < before_ms)
        .order_by(webhook_events.c.created_at_ms)
        .limit(DELETED_AT_ONCE)
    )
    gone = delete(webhook_events).where(webhook_events.c.event_id.in_(old)).returning(webhook_events.c.sent)
    sent = list(await connection.scalars(gone))
    return len(sent), sent.count(False)


async def _state(connection: AsyncConnection) -> OutboxState:
    waiting: Select[Any] = (
        select(literal_column("1")).where(webhook_events.c.next_at_ms.is_not(None)).limit(COUNTED_AT_MOST)
    )
    count = await connection.scalar(select(func.count()).select_from(waiting.subquery())) or 0
    since, _, error = (await value_of(connection, _FAILING) or "").partition(" ")
    return OutboxState(
        waiting=count,
        failing_since_ms=int(since) if since else None,
        error=error or None,
        gone=bool(await value_of(connection, _GONE)),
    )
