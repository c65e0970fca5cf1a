"""The running total of a cycle at its hours and days, over changes of the clock too."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.cycles import Cycle, days_between, parse_rfc3339
from gateway.domain.usage import SLOT_MS, usage_points

HOUR_MS = 3_600_000


def at(text: str) -> int:
    return parse_rfc3339(f"{text}:00Z")


def slot(text: str) -> int:
    return at(text) // SLOT_MS


def test_days_are_those_of_the_time_zone_whatever_their_length() -> None:
    days = days_between("America/New_York", at("2026-03-06T05:00"), at("2026-03-11T04:00"))
    assert days == [at(f"2026-03-{day}") for day in ("07T05:00", "08T05:00", "09T04:00", "10T04:00")]


def test_a_midnight_that_does_not_exist_is_the_first_instant_after_the_gap() -> None:
    """R18."""
    days = days_between("America/Santiago", at("2026-09-05T04:00"), at("2026-09-07T03:00"))
    assert days == [at("2026-09-06T04:00")]


def test_a_day_that_a_zone_left_out_is_none() -> None:
    days = days_between("Pacific/Apia", at("2011-12-29T10:00"), at("2011-12-31T10:00"))
    assert days == [at("2011-12-30T10:00")]


CYCLE = Cycle(0, at("2026-11-15T05:00"), at("2026-12-15T05:00"))
NEW_YORK = "America/New_York"


def test_each_point_has_what_had_ended_before_it() -> None:
    slots = {slot("2026-11-15T05:00"): 30, slot("2026-11-16T04:45"): 60, slot("2026-11-16T05:00"): 7}
    points = usage_points(CYCLE, "day", NEW_YORK, slots, at("2026-11-17T12:00"))
    assert points == [
        (at("2026-11-15T05:00"), 0),
        (at("2026-11-16T05:00"), 90),
        (at("2026-11-17T05:00"), 97),
        (at("2026-11-17T12:00"), 97),
    ]


def test_hours_are_counted_from_the_start_of_the_cycle() -> None:
    cycle = Cycle(0, at("2026-11-14T18:15"), at("2026-12-14T18:15"))  # midnight in Kathmandu
    slots = {slot("2026-11-14T18:15"): 31, slot("2026-11-14T19:15"): 40}
    points = usage_points(cycle, "hour", "Asia/Kathmandu", slots, at("2026-11-14T19:45"))
    assert points == [
        (at("2026-11-14T18:15"), 0),
        (at("2026-11-14T19:15"), 31),
        (at("2026-11-14T19:45"), 71),
    ]


def test_a_call_that_outlasted_its_cycle_is_in_its_last_point() -> None:
    """R20: it bills to the cycle that it was admitted in."""
    points = usage_points(CYCLE, "day", NEW_YORK, {slot("2026-12-20T00:00"): 99}, at("2027-01-01T00:00"))
    assert points[-2:] == [(at("2026-12-14T05:00"), 0), (CYCLE.end_ms, 99)]
    assert len(points) == 31


@pytest.mark.parametrize("until_ms", [0, CYCLE.start_ms])
def test_of_a_cycle_that_nothing_is_known_of_there_is_its_start(until_ms: int) -> None:
    assert usage_points(CYCLE, "day", NEW_YORK, {}, until_ms) == [(CYCLE.start_ms, 0)]


ZONES = st.sampled_from([NEW_YORK, "UTC", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago"])


@given(
    zone=ZONES,
    step=st.sampled_from(["hour", "day"]),
    ends=st.dictionaries(st.integers(0, 40 * 96), st.integers(1, 10_000)),
    until_ms=st.integers(CYCLE.start_ms + 1, CYCLE.end_ms + 10 * HOUR_MS),
)
def test_nothing_is_left_out_and_time_goes_forward(
    zone: str, step: str, ends: dict[int, int], until_ms: int
) -> None:
    slots = {CYCLE.start_ms // SLOT_MS + each: seconds for each, seconds in ends.items()}
    points = usage_points(CYCLE, "hour" if step == "hour" else "day", zone, slots, until_ms)
    assert points[-1] == (min(until_ms, CYCLE.end_ms), sum(ends.values()))
    for before, after in pairwise(points):
        assert before.at_ms < after.at_ms
        assert before.used_seconds <= after.used_seconds
        assert after.at_ms - before.at_ms <= (1 if step == "hour" else 25) * HOUR_MS
