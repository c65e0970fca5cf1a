from __future__ import annotations

import pytest

from gateway.domain.errors import ChannelLimit, SeatLimit
from gateway.domain.plans import (
    Plan,
    PlanChange,
    add_channel,
    add_seat,
    channels_limit,
    plan_change,
    seats_limit,
)
from tests.support.pool_model import a_plan

SMALL = a_plan(100, staff_seats=2, connected_channels=1)
TEAM = a_plan(1000, staff_seats=5, connected_channels=2)
ALSO_1000 = a_plan(1000, plan="also-1000")
LARGE = a_plan(5000)


def change(
    current: Plan | None, pending: Plan | None, asked: Plan, seats: int = 0, channels: int = 0
) -> PlanChange:
    return plan_change(current, pending, asked, seats_used=seats, channels_used=channels)


def test_a_plans_minutes_are_allocated_in_seconds() -> None:
    assert TEAM.allocated_seconds == 60_000


def test_a_first_plan_holds_at_once() -> None:
    """R21."""
    assert change(None, None, SMALL) == PlanChange("now", SMALL, None)


@pytest.mark.parametrize("asked", [ALSO_1000, LARGE])
def test_as_many_minutes_or_more_hold_at_once_and_withdraw_what_was_pending(asked: Plan) -> None:
    """R22."""
    assert change(TEAM, SMALL, asked) == PlanChange("now", asked, None)


def test_fewer_minutes_wait_for_the_next_cycle() -> None:
    """R23."""
    assert change(TEAM, None, SMALL) == PlanChange("next_cycle", TEAM, SMALL)


def test_a_pending_plan_can_be_replaced() -> None:
    """R23: compared is the plan in force, not the pending one."""
    nothing = a_plan(0)
    assert change(TEAM, nothing, SMALL) == PlanChange("next_cycle", TEAM, SMALL)


def test_asking_for_the_plan_in_force_withdraws_the_pending_one() -> None:
    assert change(TEAM, SMALL, TEAM) == PlanChange("now", TEAM, None)


@pytest.mark.parametrize("current", [None, a_plan(50), LARGE])
def test_a_change_up_or_down_is_refused_if_more_is_in_use_than_the_plan_allows(current: Plan | None) -> None:
    """R23."""
    with pytest.raises(SeatLimit) as seats:
        change(current, None, SMALL, seats=3)
    assert seats.value.members == {"limit": 2, "in_use": 3}
    with pytest.raises(ChannelLimit) as channels:
        change(current, None, SMALL, channels=2)
    assert channels.value.members == {"limit": 1, "in_use": 2}
    assert change(current, None, SMALL, seats=2, channels=1).pending in (None, SMALL)


def test_one_more_than_the_plan_allows_is_refused_with_the_limit_and_what_is_in_use() -> None:
    """R25."""
    add_seat(TEAM, None, 4)
    add_channel(TEAM, None, 1)
    with pytest.raises(SeatLimit) as seats:
        add_seat(TEAM, None, 5)
    assert seats.value.members == {"limit": 5, "in_use": 5}
    with pytest.raises(ChannelLimit) as channels:
        add_channel(TEAM, None, 2)
    assert channels.value.members == {"limit": 2, "in_use": 2}


def test_a_pending_smaller_plan_already_limits_what_can_be_added() -> None:
    """R23."""
    assert (seats_limit(TEAM, SMALL), channels_limit(TEAM, SMALL)) == (2, 1)
    with pytest.raises(SeatLimit):
        add_seat(TEAM, SMALL, 2)
    with pytest.raises(ChannelLimit):
        add_channel(TEAM, SMALL, 1)


def test_a_pending_plan_with_more_seats_allows_none_before_it_holds() -> None:
    assert seats_limit(TEAM, a_plan(10, staff_seats=50)) == 5


def test_without_a_plan_nothing_can_be_added() -> None:
    assert (seats_limit(None, None), channels_limit(None, None)) == (0, 0)
    with pytest.raises(SeatLimit):
        add_seat(None, None, 0)
    with pytest.raises(ChannelLimit):
        add_channel(None, None, 0)
