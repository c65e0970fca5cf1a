"""Short ways to make pools of the plain model, and to put asks to them."""

from __future__ import annotations

from datetime import date
from typing import Any

from gateway.domain.answers import Admitted, NotDue, Noted, Refused, Resumed, Settled
from gateway.domain.asks import Answered, Asker, End, Reap, Resume, Retell, Start
from gateway.domain.calls import CallRecord
from gateway.domain.cycles import parse_rfc3339
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from gateway.domain.pool import PoolModel

ACCOUNT = "acme"
ANA: Asker = ("ana", "desk")
BOB: Asker = ("bob", "mobile")
TO = "+14155550100"

T0 = parse_rfc3339("2026-11-15T00:00:00Z")
"""The beginning of the cycle in which `a_pool` is made, in UTC; `CYCLE_END` is its end."""
CYCLE_END = parse_rfc3339("2026-12-15T00:00:00Z")

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


def a_plan(minutes: int, **changes: Any) -> Plan:
    """Return a plan of so many minutes, with seats and channels to spare."""
    fields: dict[str, Any] = {
        "plan": f"minutes-{minutes}",
        "name": f"{minutes} minutes",
        "minutes": minutes,
        "connected_channels": 10,
        "staff_seats": 10,
    }
    return Plan(**(fields | changes))


def a_pool(minutes: int | None = 10, **changes: Any) -> PoolModel:
    """Return a pool made at `T0`, with Ana and Bob in it and the channel `main`; without a plan if None."""
    fields: dict[str, Any] = {
        "billing_date": date(2026, 11, 15),
        "time_zone": "UTC",
        "policy": Policy(),
        "now_ms": T0,
        "plan": None if minutes is None else a_plan(minutes),
        "staff": frozenset({"ana", "bob"}),
        "channels": frozenset({"main"}),
    }
    return PoolModel(ACCOUNT, **(fields | changes))


def start(
    pool: PoolModel, call_id: str, at_ms: int, device: Asker = ANA, **changes: Any
) -> Admitted | Refused:
    """Ask for admission, by default of Ana's desk phone to `TO`."""
    fields: dict[str, Any] = {"to": TO} | changes
    return pool.start(Start(ACCOUNT, *device, call_id, **fields), at_ms)


def emergency(pool: PoolModel, call_id: str, at_ms: int, fresh: str, device: Asker = ANA) -> Admitted:
    """Ask for admission of a call to 112."""
    answer = start(pool, call_id, at_ms, device, to="112", emergency=True, fresh_call_id=fresh)
    assert isinstance(answer, Admitted)
    return answer


def admit(pool: PoolModel, call_id: str, at_ms: int, device: Asker = ANA, **changes: Any) -> Admitted:
    """Start a call that must be admitted."""
    answer = start(pool, call_id, at_ms, device, **changes)
    assert isinstance(answer, Admitted), answer
    return answer


def refusal(pool: PoolModel, call_id: str, at_ms: int, device: Asker = ANA, **changes: Any) -> Refused:
    """Start a call that must be refused."""
    answer = start(pool, call_id, at_ms, device, **changes)
    assert isinstance(answer, Refused), answer
    return answer


def answered(
    pool: PoolModel,
    call_id: str,
    at_ms: int,
    device: Asker | None = ANA,
    ago_ms: int = 0,
    connection: int = 0,
) -> Noted:
    """Report an answer."""
    return pool.answered(Answered(ACCOUNT, call_id, device, ago_ms, connection), at_ms)


def end(
    pool: PoolModel, call_id: str, at_ms: int, device: Asker | None = ANA, ago_ms: int = 0, **changes: Any
) -> Settled:
    """End a call."""
    return pool.end(End(ACCOUNT, call_id, device, ago_ms, **changes), at_ms)


def resume(
    pool: PoolModel, call_id: str, at_ms: int, connection: int = 0, device: Asker | None = ANA, **changes: Any
) -> Resumed:
    """Vouch for a call again."""
    return pool.resume(Resume(ACCOUNT, call_id, device, connection, **changes), at_ms)


def reap(pool: PoolModel, call_id: str, at_ms: int, **changes: Any) -> Settled | NotDue:
    """Ask for a call to be settled that nobody may vouch for any more."""
    return pool.reap(Reap(ACCOUNT, call_id), at_ms, **changes)


def settled_in_absence(pool: PoolModel, call_id: str, at_ms: int) -> Settled:
    """Settle a call that nobody vouches for any more."""
    answer = reap(pool, call_id, at_ms)
    assert isinstance(answer, Settled), answer
    return answer


def retell(pool: PoolModel, record: CallRecord, at_ms: int, *, saved: bool = False) -> Noted:
    """Tell a settlement again."""
    return pool.retell(Retell(record, saved), at_ms)
