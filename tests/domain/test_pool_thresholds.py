"""Thresholds, and when a pool will be empty: R29."""

from __future__ import annotations

from gateway.domain.answers import PoolView
from gateway.domain.policy import Policy
from gateway.domain.pool import PoolModel
from tests.support.pool_model import (
    CYCLE_END,
    HOUR,
    MINUTE,
    SECOND,
    T0,
    a_plan,
    a_pool,
    admit,
    answered,
    emergency,
    end,
)


def passed(view: PoolView) -> list[tuple[int, int]]:
    """Return percentages and how many ms after `T0` each was passed."""
    return [(threshold.percent, threshold.at_ms - T0) for threshold in view.thresholds]


def test_thresholds_are_passed_in_mid_call_at_their_very_instant_with_nobody_asking() -> None:
    """R4, R29: the 300th second is begun 299,001 ms into the call."""
    pool = a_pool(10)
    admit(pool, "c-1", T0)
    assert passed(pool.read(T0 + 299_000)) == []
    assert passed(pool.read(T0 + HOUR)) == [(50, 299_001), (80, 479_001), (100, 599_001)]


def test_a_short_call_that_passes_the_free_length_can_pass_them_all_at_once() -> None:
    """R2, R29."""
    pool = a_pool(1)
    admit(pool, "c-1", T0)
    pool.set_policy(Policy(increment_seconds=60), T0)
    assert passed(pool.read(T0 + HOUR)) == [(50, 30_001), (80, 30_001), (100, 30_001)]


def test_a_threshold_is_passed_once_though_use_falls_and_rises_again() -> None:
    """R29."""
    pool = a_pool(10)
    admit(pool, "c-1", T0)
    pool.read(T0 + 6 * MINUTE)
    end(pool, "c-1", T0 + 6 * MINUTE, ago_ms=5 * MINUTE)
    admit(pool, "c-2", T0 + 6 * MINUTE)
    assert passed(pool.read(T0 + 11 * MINUTE)) == [(50, 299_001)]


def test_a_late_report_passes_it_when_the_pool_hears_of_it() -> None:
    """R3, R29."""
    pool = a_pool(10, policy=Policy(count_from="answer"))
    admit(pool, "c-1", T0)
    answered(pool, "c-1", T0 + HOUR, ago_ms=6 * MINUTE)
    assert passed(pool.read(T0 + HOUR)) == [(50, HOUR)]


def test_an_upgrade_re_arms_those_that_use_is_below_again() -> None:
    """R29."""
    pool = a_pool(10)
    admit(pool, "c-1", T0)
    pool.change_plan(a_plan(11), T0 + 9 * MINUTE)
    assert passed(pool.read(T0 + 9 * MINUTE)) == [(50, 299_001), (80, 479_001)]
    pool.change_plan(a_plan(16), T0 + 9 * MINUTE)
    assert passed(pool.read(T0 + 9 * MINUTE)) == [(50, 299_001)]
    pool.change_plan(a_plan(40), T0 + 9 * MINUTE)
    assert passed(pool.read(T0 + 9 * MINUTE)) == []
    assert passed(pool.read(T0 + HOUR)) == [(50, 1_199_001), (80, 1_919_001), (100, 2_399_001)]


def test_a_plan_of_as_many_minutes_is_the_same_allocation_and_re_arms_nothing() -> None:
    """R29: once for each allocation."""
    pool = a_pool(10)
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0 + 6 * MINUTE)
    pool.change_plan(a_plan(10, plan="other"), T0 + 7 * MINUTE)
    assert passed(pool.read(T0 + 7 * MINUTE)) == [(50, 299_001)]


def test_a_new_cycle_has_passed_none() -> None:
    """R29: and those of a cycle that is over are not passed in the next."""
    pool = a_pool(10)
    admit(pool, "c-1", CYCLE_END - 6 * MINUTE)
    assert passed(pool.read(CYCLE_END - 1)) == [(50, CYCLE_END - 6 * MINUTE + 299_001 - T0)]
    assert passed(pool.read(CYCLE_END + HOUR)) == []


def test_an_allocation_of_0_has_none() -> None:
    """R29."""
    view = a_pool(0).read(T0)
    assert (view.thresholds, view.empty_at_ms) == ((), None)
    assert a_pool(None).read(T0).thresholds == ()


def test_a_policy_that_makes_calls_dearer_can_pass_one() -> None:
    pool = a_pool(10)
    admit(pool, "c-1", T0)
    pool.set_policy(Policy(increment_seconds=600), T0 + MINUTE)
    assert passed(pool.read(T0 + MINUTE)) == [(50, MINUTE), (80, MINUTE), (100, MINUTE)]


# empty_at_ms


def assert_empty_then(pool: PoolModel, at_ms: int, empty_at_ms: int) -> None:
    assert pool.read(at_ms).empty_at_ms == empty_at_ms
    assert pool.read(empty_at_ms - 1).remaining_seconds > 0
    assert pool.read(empty_at_ms).remaining_seconds == 0


def test_a_pool_will_be_empty_when_the_calls_in_progress_have_used_it_up() -> None:
    pool = a_pool(10)
    admit(pool, "c-1", T0)
    admit(pool, "c-2", T0 + MINUTE)
    # 330 s and 270 s: each of the two begins its last second at the same instant.
    assert_empty_then(pool, T0 + MINUTE, T0 + 329_001)


def test_it_is_known_when_it_ran_empty() -> None:
    pool = a_pool(10)
    admit(pool, "c-1", T0)
    assert pool.read(T0 + HOUR).empty_at_ms == T0 + 599_001


def test_without_calls_that_count_it_is_never_empty() -> None:
    pool = a_pool(10, policy=Policy(count_from="answer"))
    assert pool.read(T0).empty_at_ms is None
    admit(pool, "unanswered", T0)
    emergency(pool, "e-1", T0, "fresh")
    assert pool.read(T0 + HOUR).empty_at_ms is None


def test_the_reset_comes_before_it() -> None:
    pool = a_pool(10)
    admit(pool, "c-1", CYCLE_END - 599 * SECOND - 1)
    assert pool.read(CYCLE_END - MINUTE).empty_at_ms is None
    other = a_pool(10)
    admit(other, "c-1", CYCLE_END - 599 * SECOND - 2)
    assert other.read(CYCLE_END - MINUTE).empty_at_ms == CYCLE_END - 1
