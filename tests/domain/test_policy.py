from __future__ import annotations

from typing import Any

import pytest

from gateway.domain.policy import Policy


def test_the_default_policy_is_the_rulebooks() -> None:
    assert Policy() == Policy(free_seconds=30, increment_seconds=1, hold_seconds=60, count_from="admission")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"free_seconds": -1}, "free_seconds"),
        ({"free_seconds": 3601}, "free_seconds"),
        ({"increment_seconds": 0}, "increment_seconds"),
        ({"increment_seconds": 3601}, "increment_seconds"),
        ({"hold_seconds": -1}, "hold_seconds"),
        ({"hold_seconds": 3601, "increment_seconds": 60}, "hold_seconds"),
        ({"hold_seconds": 60.0}, "hold_seconds"),
        ({"hold_seconds": "60"}, "hold_seconds"),
        ({"free_seconds": True}, "free_seconds"),
        ({"count_from": "ringing"}, "count_from"),
        ({"hold_seconds": 631}, "hold_seconds"),
    ],
)
def test_a_wrong_policy_is_refused_naming_the_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} "):
        Policy(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"free_seconds": 0, "hold_seconds": 0},
        {"free_seconds": 3600, "increment_seconds": 3600, "hold_seconds": 3600},
        {"hold_seconds": 630},
        {"hold_seconds": 3600, "increment_seconds": 6},
        {"count_from": "answer"},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(fields: dict[str, Any]) -> None:
    Policy(**fields)
