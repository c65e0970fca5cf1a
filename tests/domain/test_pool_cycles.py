"""Cycles and plans as the pool lives them: R18-R25."""

from __future__ import annotations

from datetime import date

import pytest

from gateway.domain.calls import CycleOpened
from gateway.domain.cycles import boundary_ms, parse_rfc3339
from gateway.domain.errors import SeatLimit
from tests.support.pool_model import (
    ACCOUNT,
    CYCLE_END,
    HOUR,
    MINUTE,
    SECOND,
    T0,
    a_plan,
    a_pool,
    admit,
    end,
)

JANUARY = parse_rfc3339("2027-01-15T00:00:00Z")
FEBRUARY = parse_rfc3339("2027-02-15T00:00:00Z")


def test_a_new_pool_is_in_the_cycle_that_holds_its_making() -> None:
    pool = a_pool(now_ms=T0 + HOUR)
    assert (pool.cycle.index, pool.cycle.start_ms, pool.cycle.end_ms) == (0, T0, CYCLE_END)
    assert pool.cycles == [CycleOpened(ACCOUNT, T0, CYCLE_END, 0, "minutes-10", 600)]


def test_a_pool_without_a_plan_has_cycles_too() -> None:
    pool = a_pool(None)
    view = pool.read(CYCLE_END)
    assert (view.plan, view.allocated_seconds, view.seats_limit, view.channels_limit) == (None, 0, 0, 0)
    assert pool.cycles[-1] == CycleOpened(ACCOUNT, CYCLE_END, JANUARY, 1, None, 0)


def test_at_the_boundary_the_pool_starts_afresh() -> None:
    """R19."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0 + 5 * MINUTE)
    assert pool.read(CYCLE_END - 1).remaining_seconds == 300
    view = pool.read(CYCLE_END)
    assert (view.used_seconds, view.remaining_seconds, view.cycle.start_ms) == (0, 600, CYCLE_END)


def test_cycles_in_which_nobody_calls_open_one_by_one() -> None:
    """R19, R27: there is a statement for each."""
    pool = a_pool()
    pool.read(FEBRUARY)
    assert [(each.cycle_index, each.cycle_start_ms) for each in pool.cycles] == [
        (0, T0),
        (1, CYCLE_END),
        (2, JANUARY),
        (3, FEBRUARY),
    ]


def test_a_call_belongs_to_the_cycle_it_was_admitted_in() -> None:
    """R20."""
    pool = a_pool()
    admit(pool, "c-1", CYCLE_END - MINUTE)
    view = pool.read(CYCLE_END + HOUR)
    assert (view.used_seconds, view.held_seconds, view.calls_in_progress) == (0, 0, 1)
    assert [call.counts for call in view.calls] == [False]
    assert end(pool, "c-1", CYCLE_END + HOUR).billed_seconds == 3660
    assert pool.read(CYCLE_END + HOUR).used_seconds == 0
    assert [record.cycle_start_ms for record in pool.records] == [T0]


def test_a_call_admitted_at_the_very_boundary_belongs_to_the_new_cycle() -> None:
    """R20: a cycle is [start, end)."""
    pool = a_pool()
    admit(pool, "c-1", CYCLE_END)
    assert end(pool, "c-1", CYCLE_END + MINUTE).remaining_seconds == 540


def test_a_first_plan_gives_all_its_minutes_wherever_the_cycle_is() -> None:
    """R21."""
    pool = a_pool(None)
    assert pool.change_plan(a_plan(10), CYCLE_END - HOUR) == "now"
    assert pool.read(CYCLE_END - HOUR).remaining_seconds == 600
    assert pool.cycles[-1] == CycleOpened(ACCOUNT, T0, CYCLE_END, 0, "minutes-10", 600)


def test_an_upgrade_holds_at_once_and_what_was_used_stays() -> None:
    """R22."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0 + 5 * MINUTE)
    assert pool.change_plan(a_plan(20), T0 + 6 * MINUTE) == "now"
    view = pool.read(T0 + 6 * MINUTE)
    assert (view.allocated_seconds, view.used_seconds, view.remaining_seconds) == (1200, 300, 900)
    assert pool.cycles[-1] == CycleOpened(ACCOUNT, T0, CYCLE_END, 0, "minutes-20", 1200)


def test_a_downgrade_waits_for_the_boundary() -> None:
    """R23."""
    pool = a_pool()
    assert pool.change_plan(a_plan(5, staff_seats=3, connected_channels=1), T0) == "next_cycle"
    view = pool.read(CYCLE_END - 1)
    assert (view.plan, view.pending_plan, view.allocated_seconds) == ("minutes-10", "minutes-5", 600)
    assert (view.seats_limit, view.channels_limit) == (3, 1)
    view = pool.read(CYCLE_END)
    assert (view.plan, view.pending_plan, view.allocated_seconds) == ("minutes-5", None, 300)
    assert pool.cycles[-1] == CycleOpened(ACCOUNT, CYCLE_END, JANUARY, 1, "minutes-5", 300)


def test_a_pending_downgrade_can_be_replaced_and_withdrawn() -> None:
    """R23."""
    pool = a_pool()
    pool.change_plan(a_plan(0), T0)
    assert pool.change_plan(a_plan(5), T0) == "next_cycle"
    assert pool.read(T0).pending_plan == "minutes-5"
    pool.withdraw_pending(T0)
    assert pool.read(T0).pending_plan is None
    assert pool.read(CYCLE_END).plan == "minutes-10"


def test_an_upgrade_withdraws_what_was_pending() -> None:
    """R22."""
    pool = a_pool()
    pool.change_plan(a_plan(5), T0)
    pool.change_plan(a_plan(20), T0)
    assert pool.read(CYCLE_END).plan == "minutes-20"


def test_another_plan_of_as_many_minutes_is_in_the_statement_at_once() -> None:
    """R22."""
    pool = a_pool()
    assert pool.change_plan(a_plan(10, plan="other"), T0) == "now"
    assert pool.cycles[-1].plan == "other"


def test_a_plan_with_fewer_seats_than_are_in_use_is_refused_and_changes_nothing() -> None:
    """R23."""
    pool = a_pool()
    before = pool.read(T0)
    with pytest.raises(SeatLimit):
        pool.change_plan(a_plan(20, staff_seats=1), T0)
    assert pool.read(T0) == before


def test_cancelling_is_moving_to_no_minutes() -> None:
    """R23."""
    pool = a_pool()
    assert pool.change_plan(a_plan(0), T0) == "next_cycle"
    assert pool.read(CYCLE_END).allocated_seconds == 0


def test_seats_and_channels_are_counted_in_the_pool() -> None:
    view = a_pool().read(T0)
    assert (view.seats_used, view.seats_limit, view.channels_used, view.channels_limit) == (2, 10, 1, 10)


def test_a_changed_time_zone_leaves_the_running_cycles_end_as_it_is() -> None:
    """R18."""
    pool = a_pool()
    pool.set_time_zone("Asia/Tokyo", T0 + SECOND)
    assert pool.read(T0 + SECOND).cycle.end_ms == CYCLE_END
    cycle = pool.read(CYCLE_END).cycle
    assert (cycle.index, cycle.start_ms) == (1, CYCLE_END)
    assert cycle.end_ms == boundary_ms(date(2026, 11, 15), "Asia/Tokyo", 2) == JANUARY - 9 * HOUR


def test_a_pool_made_anew_goes_on_from_what_its_records_sum_up_to() -> None:
    """R28."""
    view = a_pool(now_ms=T0 + HOUR, settled_seconds=500, pending_plan=a_plan(5)).read(T0 + HOUR)
    assert (view.settled_seconds, view.remaining_seconds) == (500, 100)
    assert [threshold.percent for threshold in view.thresholds] == [50, 80]
    assert view.version >= T0 + HOUR
