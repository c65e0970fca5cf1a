"""The checkers find what they are for: books that agree, with one thing amiss at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.client.call import Settlement
from tests.faults.checkers import Bounds, Report, _compare_calls
from tests.faults.load import Booked, by_id
from tests.support.operators import Json

HUNG_UP = Settlement("c-1", 2500, 3, True, "hangup", 1, False, None)
CALL = Booked(
    "acme",
    "d1",
    "c-1",
    asked_ms=1000,
    told_ms=1020,
    admitted_at_ms=1010,
    ended_ms=3505,
    settled_ms=3520,
    settlement=HUNG_UP,
)
RECORD: Json = {
    "call_id": "c-1",
    "state": "ended",
    "admitted_at_ms": 1010,
    "ended_at_ms": 3510,
    "duration_ms": 2500,
    "billed_seconds": 3,
    "ended_by": "hangup",
    "revision": 1,
}
LEFT = replace(CALL, ended_ms=None, settlement=None, left_ms=6000)
REAPED = RECORD | {
    "ended_at_ms": 5010,
    "duration_ms": 4000,
    "billed_seconds": 4,
    "ended_by": "connection_lost",
}


def found(calls: list[Booked], records: list[Json]) -> Report:
    report = Report()
    _compare_calls(report, by_id(calls), records, Bounds())
    return report


def test_books_that_agree() -> None:
    assert found([CALL], [RECORD]).faults() == []
    assert found([LEFT], [REAPED]).faults() == []
    assert found([replace(CALL, told_ms=None, admitted_at_ms=None, failed="NoAnswer")], []).faults() == []
    assert (
        found([replace(CALL, told_ms=None, admitted_at_ms=None, refused="too_many_calls")], []).faults() == []
    )


def test_an_end_may_be_off_by_what_the_host_s_clock_was_set_by() -> None:
    later = RECORD | {"ended_at_ms": 7510, "duration_ms": 6500, "billed_seconds": 7}
    assert "late" in found([CALL], [later]).faults()[0]
    report = Report()
    _compare_calls(report, by_id([CALL]), [later], Bounds().where_the_clock_was_set(2000))
    assert "late" not in " ".join(report.faults())


@pytest.mark.parametrize(
    ("kind", "calls", "records"),
    [
        ("lost", [CALL], []),
        ("duplicated", [CALL], [RECORD, RECORD | {"admitted_at_ms": 1011}]),
        ("unexpected", [], [RECORD]),
        ("unexpected", [replace(CALL, refused="minutes_exhausted")], [RECORD]),
        ("early", [replace(CALL, ended_ms=3600)], [RECORD]),
        ("early", [replace(LEFT, left_ms=9000)], [REAPED]),
        ("wrong", [replace(CALL, ended_ms=900)], [RECORD]),
        ("wrong", [CALL], [RECORD | {"ended_by": "lease_expired"}]),
        ("wrong", [CALL], [RECORD | {"billed_seconds": 2}]),
        ("wrong", [CALL], [RECORD | {"duration_ms": 2600}]),
        ("wrong", [CALL], [RECORD | {"state": "in_progress"}]),
        ("wrong", [CALL], [RECORD | {"admitted_at_ms": 1000}]),
        ("wrong", [CALL], [RECORD | {"revision": 2}]),
        ("wrong", [replace(CALL, settlement=None)], [RECORD]),
        ("wrong", [replace(CALL, elsewhere=True)], [RECORD]),
        ("wrong", [replace(LEFT, left_ms=2000)], [REAPED]),
        ("wrong", [LEFT], [REAPED | {"ended_by": "hangup"}]),
    ],
)
def test_what_is_amiss_is_found(kind: str, calls: list[Booked], records: list[Json]) -> None:
    faults = found(calls, records).faults()
    assert any(each.startswith(f"{kind}:") for each in faults), faults
