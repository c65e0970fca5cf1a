from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from gateway.domain.admission import MESSAGES, Facts, RefusalReason, decide

ALL_IS_WELL = Facts(allocated_seconds=600)

# For each reason of R8, in its order, what it takes.
AGAINST: dict[RefusalReason, dict[str, object]] = {
    RefusalReason.ACCOUNT_UNKNOWN: {"account_known": False},
    RefusalReason.ACCOUNT_SUSPENDED: {"account_active": False},
    RefusalReason.STAFF_UNKNOWN: {"staff_known": False},
    RefusalReason.CHANNEL_UNKNOWN: {"channel_known": False},
    RefusalReason.NO_CALLING_PLAN: {"allocated_seconds": 0},
    RefusalReason.DESTINATION_INVALID: {"destination_valid": False},
    RefusalReason.DESTINATION_BLOCKED: {"destination_blocked": True},
    RefusalReason.RATE_LIMITED: {"rate_limited": True},
    RefusalReason.TOO_MANY_CALLS: {"max_concurrent_calls": 2, "calls_in_progress": 2},
    RefusalReason.MINUTES_EXHAUSTED: {"used_seconds": 600, "settled_seconds": 600},
    RefusalReason.MINUTES_HELD: {"held_seconds": 600},
}


def facts(*reasons: RefusalReason) -> Facts:
    changes: dict[str, object] = {}
    for reason in reasons:
        changes |= AGAINST[reason]
    return replace(ALL_IS_WELL, **changes)  # type: ignore[arg-type]


def test_a_call_that_nothing_stands_against_is_admitted() -> None:
    assert decide(ALL_IS_WELL) is None


@pytest.mark.parametrize("reason", RefusalReason)
def test_each_reason_refuses_by_itself(reason: RefusalReason) -> None:
    """R8."""
    assert decide(facts(reason)) is reason


@pytest.mark.parametrize(("first", "second"), list(pairwise(RefusalReason)))
def test_the_first_that_applies_is_said(first: RefusalReason, second: RefusalReason) -> None:
    """R8: in the rulebook's order."""
    assert decide(facts(second, first)) is first
    assert decide(facts(*list(RefusalReason)[list(RefusalReason).index(first) :])) is first


def test_the_order_is_the_rulebooks() -> None:
    assert list(AGAINST) == list(RefusalReason)
    assert [str(reason) for reason in RefusalReason] == [
        "account_unknown",
        "account_suspended",
        "staff_unknown",
        "channel_unknown",
        "no_calling_plan",
        "destination_invalid",
        "destination_blocked",
        "rate_limited",
        "too_many_calls",
        "minutes_exhausted",
        "minutes_held",
    ]


def test_a_single_second_that_no_one_holds_is_enough() -> None:
    """R7."""
    assert (
        decide(Facts(allocated_seconds=600, settled_seconds=500, used_seconds=500, held_seconds=99)) is None
    )
    held = decide(Facts(allocated_seconds=600, settled_seconds=500, used_seconds=500, held_seconds=100))
    assert held is RefusalReason.MINUTES_HELD


def test_one_call_below_the_limit_is_enough() -> None:
    assert decide(Facts(allocated_seconds=600, calls_in_progress=1, max_concurrent_calls=2)) is None
    assert decide(Facts(allocated_seconds=600, calls_in_progress=10_000)) is None


def test_every_reason_has_a_sentence_for_people() -> None:
    assert list(MESSAGES) == list(RefusalReason)
    assert all(message[0].isupper() and message.endswith(".") for message in MESSAGES.values())
