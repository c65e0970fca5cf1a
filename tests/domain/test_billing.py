from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.billing import (
    billed_seconds,
    duration_ms,
    held_seconds,
    overrun_seconds,
    remaining_seconds,
)
from gateway.domain.policy import Policy

DEFAULT = Policy()
BY_THE_MINUTE = Policy(increment_seconds=60)
FROM_ANSWER = Policy(count_from="answer")


@pytest.mark.parametrize(
    ("policy", "duration", "billed"),
    [
        (DEFAULT, 0, 0),
        (DEFAULT, 29_999, 0),
        (DEFAULT, 30_000, 0),
        (DEFAULT, 30_001, 31),
        (DEFAULT, 31_000, 31),
        (DEFAULT, 31_001, 32),
        (BY_THE_MINUTE, 30_000, 0),
        (BY_THE_MINUTE, 30_001, 60),
        (BY_THE_MINUTE, 60_000, 60),
        (BY_THE_MINUTE, 60_001, 120),
        (Policy(free_seconds=0), 0, 0),
        (Policy(free_seconds=0), 1, 1),
        (Policy(free_seconds=0, increment_seconds=6), 6_001, 12),
        (Policy(free_seconds=100, increment_seconds=60), 100_000, 0),
        (Policy(free_seconds=100, increment_seconds=60), 100_001, 120),
    ],
)
def test_a_call_past_the_free_length_bills_from_its_first_second(
    policy: Policy, duration: int, billed: int
) -> None:
    """R1, R2."""
    assert billed_seconds(duration, policy) == billed


@given(
    duration=st.integers(0, 2**53),
    policy=st.builds(
        Policy,
        free_seconds=st.integers(0, 3600),
        increment_seconds=st.integers(1, 3600),
        hold_seconds=st.just(0),
    ),
)
def test_billing_is_exact_however_long_the_call(duration: int, policy: Policy) -> None:
    """R2, in exact fractions."""
    increment = policy.increment_seconds
    expected = ceil(Fraction(duration, increment * 1000)) * increment
    assert billed_seconds(duration, policy) == (expected if duration > policy.free_seconds * 1000 else 0)


@given(
    st.integers(0, 10**9),
    st.integers(0, 10**6),
    st.integers(0, 3600),
    st.integers(1, 3600),
    st.integers(0, 100),
)
def test_a_longer_call_never_bills_less(
    duration: int, more: int, free: int, increment: int, hold: int
) -> None:
    policy = Policy(free_seconds=free, increment_seconds=increment, hold_seconds=hold)
    assert billed_seconds(duration + more, policy) >= billed_seconds(duration, policy)


def test_a_call_is_timed_from_its_admission() -> None:
    """R3."""
    assert duration_ms(DEFAULT, 1_000, None, 41_000) == 40_000
    assert duration_ms(DEFAULT, 1_000, 11_000, 41_000) == 40_000


def test_or_from_its_answer_if_the_deployment_counts_from_there() -> None:
    """R3."""
    assert duration_ms(FROM_ANSWER, 1_000, 11_000, 41_000) == 30_000
    assert duration_ms(FROM_ANSWER, 1_000, None, 41_000) == 0


def test_no_duration_is_negative() -> None:
    assert duration_ms(DEFAULT, 1_000, None, 0) == 0
    assert duration_ms(FROM_ANSWER, 1_000, 2_000, 1_500) == 0


def test_a_call_holds_the_hold_until_it_has_billed_more() -> None:
    """R7."""
    assert [held_seconds(billed, DEFAULT) for billed in (0, 31, 60, 61)] == [60, 60, 60, 61]
    assert held_seconds(0, Policy(hold_seconds=0)) == 0


def test_what_remains_and_what_is_overrun_are_never_negative() -> None:
    """R5."""
    assert [(remaining_seconds(600, used), overrun_seconds(600, used)) for used in (0, 599, 600, 700)] == [
        (600, 0),
        (1, 0),
        (0, 0),
        (0, 100),
    ]
