"""Admission by the pool: R6-R10 and R30."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.domain.admission import RefusalReason
from gateway.domain.answers import Admitted
from gateway.domain.asks import Start
from gateway.domain.calls import UNHEARD_MS
from gateway.domain.errors import CallIdConflict, CallIdUsed, CallUnknown
from gateway.domain.policy import Policy
from tests.support.pool_model import (
    ACCOUNT,
    ANA,
    BOB,
    CYCLE_END,
    HOUR,
    MINUTE,
    SECOND,
    T0,
    TO,
    a_plan,
    a_pool,
    admit,
    emergency,
    end,
    refusal,
    start,
)


def test_an_admitted_call_is_in_progress_with_all_that_was_asked() -> None:
    pool = a_pool()
    answer = admit(pool, "c-1", T0 + SECOND, channel="main")
    assert answer == Admitted(
        "c-1", T0 + SECOND, remaining_seconds=600, replayed=False, emergency=False, cycle_start_ms=T0
    )
    (call,) = pool.read(T0 + SECOND).calls
    assert (call.call_id, call.staff, call.device, call.channel, call.to) == ("c-1", *ANA, "main", TO)
    assert (call.admitted_at_ms, call.answered_at_ms, call.cycle_start_ms) == (T0 + SECOND, None, T0)
    assert (call.counts, call.emergency) == (True, False)


def test_calls_in_progress_are_shown_newest_first_and_at_most_a_hundred() -> None:
    pool = a_pool(10_000)
    for number in range(101):
        admit(pool, f"c-{number}", T0 + number)
    view = pool.read(T0 + SECOND)
    assert view.calls_in_progress == 101
    assert [call.call_id for call in view.calls] == [f"c-{number}" for number in range(100, 0, -1)]


@pytest.mark.parametrize(
    ("changes", "ask", "reason"),
    [
        ({"status": "suspended"}, {}, RefusalReason.ACCOUNT_SUSPENDED),
        ({"staff": frozenset({"bob"})}, {}, RefusalReason.STAFF_UNKNOWN),
        ({}, {"channel": "other"}, RefusalReason.CHANNEL_UNKNOWN),
        ({"plan": None}, {}, RefusalReason.NO_CALLING_PLAN),
        ({"plan": a_plan(0)}, {}, RefusalReason.NO_CALLING_PLAN),
        ({}, {"destination_valid": False}, RefusalReason.DESTINATION_INVALID),
        ({"plan": a_plan(10, max_concurrent_calls=0)}, {}, RefusalReason.TOO_MANY_CALLS),
        ({"settled_seconds": 600}, {}, RefusalReason.MINUTES_EXHAUSTED),
    ],
)
def test_a_refusal_says_why_and_changes_nothing(
    changes: dict[str, Any], ask: dict[str, Any], reason: RefusalReason
) -> None:
    """R8, R10."""
    pool = a_pool(**changes)
    before = pool.read(T0 + 1)
    assert refusal(pool, "c-1", T0 + 1, **ask).reason is reason
    assert pool.read(T0 + 1) == before


def test_a_refusal_says_what_remains() -> None:
    assert refusal(a_pool(status="suspended"), "c-1", T0).remaining_seconds == 600
    assert refusal(a_pool(None), "c-1", T0).remaining_seconds == 0


def test_a_call_without_a_channel_is_not_asked_for_one() -> None:
    admit(a_pool(channels=frozenset()), "c-1", T0, channel=None)


def test_a_call_holds_the_last_minute_until_it_ends() -> None:
    """R7."""
    pool = a_pool(1)
    admit(pool, "c-1", T0)
    assert refusal(pool, "c-2", T0 + SECOND).reason is RefusalReason.MINUTES_HELD
    end(pool, "c-1", T0 + 2 * SECOND)
    admit(pool, "c-2", T0 + 3 * SECOND)


def test_a_call_limit_counts_calls_of_the_cycle_before_too() -> None:
    """R8: they are calls in progress all the same."""
    pool = a_pool(plan=a_plan(1000, max_concurrent_calls=1))
    admit(pool, "old", CYCLE_END - SECOND)
    assert refusal(pool, "new", CYCLE_END).reason is RefusalReason.TOO_MANY_CALLS
    end(pool, "old", CYCLE_END + SECOND)
    admit(pool, "new", CYCLE_END + SECOND)


def test_a_call_admitted_before_a_plan_with_a_limit_counts_against_it() -> None:
    pool = a_pool()
    admit(pool, "c-1", T0)
    pool.change_plan(a_plan(20, max_concurrent_calls=1), T0 + SECOND)
    assert refusal(pool, "c-2", T0 + SECOND).reason is RefusalReason.TOO_MANY_CALLS


def test_with_hold_0_only_what_was_used_counts() -> None:
    """R7."""
    pool = a_pool(1, policy=Policy(hold_seconds=0))
    for number in range(5):
        admit(pool, f"c-{number}", T0)
    assert refusal(pool, "late", T0 + 31 * SECOND).reason is RefusalReason.MINUTES_EXHAUSTED


# Asking twice (R9)


def test_asking_again_gets_the_same_admission_and_counts_nothing_twice() -> None:
    """R9: also when the account is by now exhausted, suspended, and the staff member gone."""
    pool = a_pool(1)
    admit(pool, "c-1", T0)
    pool.set_status("suspended", T0 + HOUR)
    pool.set_members(frozenset(), frozenset(), T0 + HOUR)
    version = pool.read(T0 + HOUR).version
    again = admit(pool, "c-1", T0 + HOUR)
    assert again == Admitted(
        "c-1", T0, remaining_seconds=0, replayed=True, emergency=False, cycle_start_ms=T0
    )
    view = pool.read(T0 + HOUR)
    assert (view.calls_in_progress, view.version) == (1, version)


@pytest.mark.parametrize(
    ("device", "ask"),
    [
        (ANA, {"to": "+14155550199"}),
        (ANA, {"channel": "main"}),
        ((ANA[0], "mobile"), {}),
        ((BOB[0], ANA[1]), {}),
    ],
)
def test_asking_for_another_call_under_the_same_id_is_a_conflict(
    device: tuple[str, str], ask: dict[str, Any]
) -> None:
    """R9."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    before = pool.read(T0)
    with pytest.raises(CallIdConflict):
        start(pool, "c-1", T0, device, **ask)
    assert pool.read(T0) == before


def test_the_id_of_an_ended_call_is_used_for_as_long_as_it_is_remembered() -> None:
    """R9: after that it is a new call with a record of its own."""
    pool = a_pool(call_id_memory_hours=48)
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0 + MINUTE)
    with pytest.raises(CallIdUsed):
        start(pool, "c-1", T0 + MINUTE + 48 * HOUR)
    admit(pool, "c-1", T0 + MINUTE + 48 * HOUR + 1)
    end(pool, "c-1", T0 + 50 * HOUR)
    assert [record.admitted_at_ms for record in pool.records] == [T0, T0 + MINUTE + 48 * HOUR + 1]


def test_a_refused_id_may_be_asked_again_and_is_decided_afresh() -> None:
    """R9."""
    pool = a_pool(status="suspended")
    refusal(pool, "c-1", T0)
    pool.set_status("active", T0 + SECOND)
    assert admit(pool, "c-1", T0 + SECOND).replayed is False


def test_a_start_that_its_end_overtook_is_refused_for_a_minute() -> None:
    """R17."""
    pool = a_pool()
    with pytest.raises(CallUnknown):
        end(pool, "c-1", T0)
    with pytest.raises(CallIdUsed):
        start(pool, "c-1", T0 + MINUTE)
    admit(pool, "c-1", T0 + MINUTE + 1)


# Emergencies (R30)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "suspended"},
        {"staff": frozenset(), "channels": frozenset()},
        {"plan": None},
        {"plan": a_plan(10, max_concurrent_calls=0)},
        {"settled_seconds": 600},
    ],
)
def test_an_emergency_is_admitted_whatever_stands_against_it(changes: dict[str, Any]) -> None:
    """R30."""
    answer = emergency(a_pool(**changes), "e-1", T0, "fresh")
    assert (answer.call_id, answer.emergency) == ("e-1", True)


def test_an_emergency_bills_nothing_holds_nothing_and_counts_against_no_limit() -> None:
    """R30."""
    pool = a_pool(plan=a_plan(1, max_concurrent_calls=1))
    emergency(pool, "e-1", T0, "fresh")
    view = pool.read(T0 + HOUR)
    assert (view.used_seconds, view.held_seconds, view.calls_in_progress) == (0, 0, 1)
    assert [(call.emergency, call.counts) for call in view.calls] == [(True, False)]
    admit(pool, "c-1", T0 + HOUR)
    settled = end(pool, "e-1", T0 + 2 * HOUR)
    assert (settled.duration_ms, settled.billed_seconds, settled.counted) == (2 * HOUR, 0, False)
    assert [(record.emergency, record.billed_seconds) for record in pool.records] == [(True, 0)]


def test_an_emergency_asked_again_is_the_same_call() -> None:
    """R9, R30."""
    pool = a_pool()
    emergency(pool, "e-1", T0, "fresh-1")
    again = emergency(pool, "e-1", T0 + SECOND, "fresh-2")
    assert (again.call_id, again.admitted_at_ms, again.replayed) == ("e-1", T0, True)
    assert pool.read(T0 + SECOND).calls_in_progress == 1


def test_an_emergency_under_a_used_id_is_recorded_under_a_fresh_one() -> None:
    """R30."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0 + SECOND)
    answer = emergency(pool, "c-1", T0 + 2 * SECOND, "fresh")
    assert (answer.call_id, answer.replayed) == ("fresh", False)
    again = emergency(pool, "c-1", T0 + 3 * SECOND, "fresh")
    assert again == replace(answer, replayed=True)


@pytest.mark.parametrize("device", [ANA, BOB])
def test_an_emergency_under_the_id_of_another_call_leaves_that_call_alone(device: tuple[str, str]) -> None:
    """R30."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    assert emergency(pool, "c-1", T0 + SECOND, "fresh", device).call_id == "fresh"
    assert {call.call_id: call.to for call in pool.read(T0 + SECOND).calls} == {"c-1": TO, "fresh": "112"}


def test_an_emergency_that_its_end_overtook_is_admitted_all_the_same() -> None:
    """R17, R30."""
    pool = a_pool()
    with pytest.raises(CallUnknown):
        end(pool, "e-1", T0)
    assert emergency(pool, "e-1", T0 + SECOND, "fresh").call_id == "fresh"


def test_an_emergency_let_through_without_the_engine_is_recorded_at_its_own_instant() -> None:
    """R30, R20."""
    pool = a_pool()
    ask = Start(
        *(ACCOUNT, *ANA, "e-1", "112", None, True, True, "fresh"),
        admitted_at_ms=CYCLE_END - MINUTE,
        cycle_start_ms=T0,
    )
    told = pool.start(ask, CYCLE_END + MINUTE)
    assert isinstance(told, Admitted)
    assert (told.call_id, told.admitted_at_ms, told.replayed) == ("e-1", CYCLE_END - MINUTE, False)
    assert pool.read(CYCLE_END + MINUTE).calls[0].cycle_start_ms == T0


def test_such_an_emergency_told_of_again_after_its_end_is_the_same_call() -> None:
    """R9, R26, R30."""
    pool = a_pool()
    ask = Start(ACCOUNT, *ANA, "e-1", "112", None, True, True, "fresh", admitted_at_ms=T0 - MINUTE)
    first = pool.start(ask, T0 + SECOND)
    end(pool, "e-1", T0 + MINUTE)
    assert isinstance(first, Admitted)
    assert pool.start(ask, T0 + HOUR) == replace(first, replayed=True)
    assert pool.read(T0 + HOUR).calls_in_progress == 0


def test_an_emergency_that_was_settled_before_its_gateway_tells_of_it_is_one_call() -> None:
    """R26, R30: the engine's answer was lost, and another gateway settled the call."""
    pool = a_pool()
    emergency(pool, "e-1", T0, "fresh")
    end(pool, "e-1", T0 + MINUTE)
    told = Start(ACCOUNT, *ANA, "e-1", "112", None, True, True, "fresh", admitted_at_ms=T0 + SECOND)
    answer = pool.start(told, T0 + HOUR)
    assert isinstance(answer, Admitted)
    assert (answer.call_id, answer.replayed) == ("e-1", True)
    late = replace(told, admitted_at_ms=T0 + MINUTE + UNHEARD_MS - 1)
    assert pool.start(late, T0 + HOUR) == answer, "its end was carried out before its gateway gave up waiting"
    later = replace(told, admitted_at_ms=T0 + MINUTE + UNHEARD_MS)
    answer = pool.start(later, T0 + HOUR)
    assert isinstance(answer, Admitted)
    assert (answer.call_id, answer.replayed) == ("fresh", False), "the device gave its id another time"
    assert len(pool.records) == 1


def test_a_gateways_clock_that_is_ahead_admits_nobody_in_the_future() -> None:
    pool = a_pool()
    ask = Start(ACCOUNT, *ANA, "e-1", "112", None, True, True, "fresh", admitted_at_ms=T0 + HOUR)
    told = pool.start(ask, T0)
    assert isinstance(told, Admitted)
    assert told.admitted_at_ms == T0
