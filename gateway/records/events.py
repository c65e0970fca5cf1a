"""What webhooks tell: events made of what is saved, each with one id, however often it is made."""

from __future__ import annotations

import json
import uuid
from typing import Any, Final, NamedTuple

from gateway.domain.calls import CallRecord, PoolNotice
from gateway.domain.cycles import rfc3339
from gateway.domain.webhooks import EventType
from gateway.records.statements import Statement

Json = dict[str, Any]

UNKNOWN_FIGURES: Final[Json] = {"cycle": None, "allocated_seconds": None, "used_seconds": None}
"""What an event has until its cycle's figures are filled in."""


class Event(NamedTuple):
    """An event, and its body as it is sent.

    Where `figures_of_ms` is the start of a cycle, that cycle's figures are filled into the body when the
    event is first taken to be sent: to sum them for each record that is saved would hold up recording.
    """

    event_id: str
    type: EventType
    account: str
    body: str
    figures_of_ms: int | None = None


def of_notice(namespace: uuid.UUID, notice: PoolNotice) -> Event:
    """Make the event of what happened to a pool: for a threshold one for each allocation in a cycle (R29)."""
    key: tuple[object, ...] = (notice.account, notice.cycle_start_ms)
    if notice.kind == "plan_changed":
        key += (notice.at_ms, notice.plan)  # a plan may be left and come back to within a cycle
    else:
        key += (notice.allocated_seconds, notice.percent or 0)
    data = {
        "account": notice.account,
        "cycle": _cycle(notice.cycle_start_ms, notice.cycle_end_ms),
        "plan": notice.plan,
        "allocated_seconds": notice.allocated_seconds,
        "used_seconds": notice.used_seconds,
    }
    if notice.kind == "threshold":
        data["percent"] = notice.percent
    return _event(namespace, notice.kind, key, notice.account, notice.at_ms, data)


def of_statement(namespace: uuid.UUID, statement: Statement) -> Event:
    """Make the event of a statement that closed (R27)."""
    assert statement.closed_at_ms is not None
    cycle = _cycle(statement.cycle.start_ms, statement.cycle.end_ms)
    figures = {"allocated_seconds": statement.allocated_seconds, "used_seconds": statement.used_seconds}
    whole = {
        "account": statement.account,
        "plan": statement.plan,
        "cycle": cycle,
        "closed": True,
        "closed_at_ms": statement.closed_at_ms,
        **figures,
        "overrun_seconds": statement.overrun_seconds,
        "calls_counted": statement.calls_counted,
        "calls_free": statement.calls_free,
    }
    data = {"account": statement.account, "cycle": cycle, **figures, "statement": whole}
    key = (statement.account, statement.cycle.start_ms)
    return _event(namespace, "cycle_closed", key, statement.account, statement.closed_at_ms, data)


def of_record(namespace: uuid.UUID, record: CallRecord) -> Event:
    """Make the event of a call record (R26); the figures of its cycle are still to be filled in."""
    whole: Json = {
        "call_id": record.call_id,
        "account": record.account,
        "staff": record.staff,
        "device": record.device,
        "channel": record.channel,
        "to": record.to,
        "state": "ended",
        "admitted_at_ms": record.admitted_at_ms,
        "answered_at_ms": record.answered_at_ms,
        "ended_at_ms": record.ended_at_ms,
        "duration_ms": record.duration_ms,
        "billed_seconds": record.billed_seconds,
        "counted": record.counted,
        "ended_by": record.ended_by,
        "emergency": record.emergency,
        "cycle_start": rfc3339(record.cycle_start_ms),
        "revision": record.revision,
    }
    if record.admitted_offline:
        whole["admitted_offline"] = True
    key = (record.account, record.call_id, record.admitted_at_ms, record.revision)
    data = {"account": record.account, **UNKNOWN_FIGURES, "record": whole}
    event = _event(namespace, "call_recorded", key, record.account, record.settled_at_ms, data)
    return event._replace(figures_of_ms=record.cycle_start_ms)


def with_figures(
    body: str, start_ms: int, end_ms: int | None, allocated_seconds: int, used_seconds: int
) -> str:
    """Fill the figures of its cycle into an event's body. Nothing knows the end of a cycle that is none."""
    event: Json = json.loads(body)
    cycle = {"start": rfc3339(start_ms), "end": None if end_ms is None else rfc3339(end_ms)}
    event["data"] |= {"cycle": cycle, "allocated_seconds": allocated_seconds, "used_seconds": used_seconds}
    return _compact(event)


def _event(
    namespace: uuid.UUID, kind: EventType, key: tuple[object, ...], account: str, at_ms: int, data: Json
) -> Event:
    # Ids have no "/": see `gateway.domain.identifiers`.
    name = "/".join(map(str, (kind, *key)))
    body = _compact({"type": kind, "timestamp": rfc3339(at_ms), "data": data})
    return Event(f"evt_{uuid.uuid5(namespace, name).hex}", kind, account, body)


def _cycle(start_ms: int, end_ms: int) -> Json:
    return {"start": rfc3339(start_ms), "end": rfc3339(end_ms)}


def _compact(value: Json) -> str:
    # ASCII: no database refuses it, and nobody who passes it on can change it.
    return json.dumps(value, separators=(",", ":"))
