from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.cycles import (
    Cycle,
    boundary_ms,
    cycle_after,
    cycle_at,
    index_at,
    parse_rfc3339,
    rfc3339,
    today_in,
    valid_time_zone,
)
from tests.support.vectors import Boundary, boundaries

ZONES = sorted(
    {line.time_zone for line in boundaries()} | {"Pacific/Kiritimati", "Etc/GMT+12", "Africa/Cairo"}
)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, id=f"{number}-{line.billing_date}-{line.time_zone}-{line.k}")
        for number, line in enumerate(boundaries())
    ],
)
def test_boundaries_are_those_of_the_worked_examples(line: Boundary) -> None:
    """R18."""
    at_ms = boundary_ms(line.billing_date, line.time_zone, line.k)
    assert rfc3339(at_ms) == line.at
    assert parse_rfc3339(line.at) == at_ms
    assert index_at(line.billing_date, line.time_zone, at_ms) == line.k
    assert index_at(line.billing_date, line.time_zone, at_ms - 1) == line.k - 1


def test_the_day_is_clamped_to_the_month_from_the_anchor_each_time() -> None:
    """R18: 31 Jan, 28 Feb, 31 Mar, 30 Apr; and before the anchor."""
    starts = [rfc3339(boundary_ms(date(2026, 1, 31), "UTC", k))[:10] for k in range(-3, 4)]
    assert starts == [
        "2025-10-31",
        "2025-11-30",
        "2025-12-31",
        "2026-01-31",
        "2026-02-28",
        "2026-03-31",
        "2026-04-30",
    ]
    assert rfc3339(boundary_ms(date(2024, 1, 31), "UTC", 1))[:10] == "2024-02-29"


def test_daylight_saving_moves_the_instant_not_the_date() -> None:
    """R18."""
    assert [rfc3339(boundary_ms(date(2026, 10, 15), "America/New_York", k)) for k in (0, 1)] == [
        "2026-10-15T04:00:00Z",
        "2026-11-15T05:00:00Z",
    ]


@pytest.mark.parametrize(
    ("time_zone", "day", "at"),
    [
        ("America/Havana", date(2024, 3, 10), "2024-03-10T05:00:00Z"),  # 00:00 to 01:00
        ("America/Toronto", date(1919, 3, 31), "1919-03-31T04:30:00Z"),  # 23:30 to 00:30: midnight is within
        ("Pacific/Apia", date(2011, 12, 30), "2011-12-30T10:00:00Z"),  # that whole day
    ],
)
def test_a_midnight_that_does_not_exist_is_the_first_instant_after_the_gap(
    time_zone: str, day: date, at: str
) -> None:
    """R18."""
    assert rfc3339(boundary_ms(day, time_zone, 0)) == at


def test_a_midnight_that_happens_twice_is_its_first() -> None:
    """R18: in Havana 01:00 became 00:00 again."""
    assert rfc3339(boundary_ms(date(2024, 11, 3), "America/Havana", 0)) == "2024-11-03T04:00:00Z"


def test_a_billing_date_ahead_is_in_a_cycle_before_it() -> None:
    """R18: k may be negative."""
    now_ms = parse_rfc3339("2026-11-20T00:00:00Z")
    assert cycle_at(date(2027, 1, 15), "UTC", now_ms) == Cycle(
        index=-2, start_ms=parse_rfc3339("2026-11-15T00:00:00Z"), end_ms=parse_rfc3339("2026-12-15T00:00:00Z")
    )


@given(
    billing_date=st.dates(date(1980, 1, 1), date(2100, 12, 31)),
    time_zone=st.sampled_from(ZONES),
    now=st.datetimes(datetime(1980, 1, 1), datetime(2100, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_every_instant_is_in_the_cycle_between_two_boundaries(
    billing_date: date, time_zone: str, now: datetime
) -> None:
    now_ms = (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    cycle = cycle_at(billing_date, time_zone, now_ms)
    assert cycle.start_ms <= now_ms < cycle.end_ms
    assert cycle.index == index_at(billing_date, time_zone, now_ms)
    assert cycle.start_ms == boundary_ms(billing_date, time_zone, cycle.index)
    assert cycle.end_ms == boundary_ms(billing_date, time_zone, cycle.index + 1)
    assert index_at(billing_date, time_zone, cycle.end_ms) == cycle.index + 1
    assert index_at(billing_date, time_zone, cycle.end_ms - 1) == cycle.index


@given(
    billing_date=st.dates(date(1980, 1, 1), date(2100, 12, 31)),
    time_zone=st.sampled_from(ZONES),
    k=st.integers(-400, 400),
)
def test_a_boundary_is_the_first_instant_of_its_local_day(billing_date: date, time_zone: str, k: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=boundary_ms(billing_date, time_zone, k))
    zone = ZoneInfo(time_zone)
    day = at.astimezone(zone).date()
    assert (at - timedelta(milliseconds=1)).astimezone(zone).date() < day
    months = billing_date.year * 12 + billing_date.month - 1 + k
    if (time_zone, day) != ("Pacific/Apia", date(2011, 12, 31)):  # may stand for the day that was left out
        assert (day.year, day.month) == (months // 12, months % 12 + 1)


def test_a_changed_time_zone_shows_in_the_boundary_after_the_running_cycles_end() -> None:
    """R18."""
    running = cycle_at(date(2026, 1, 15), "UTC", parse_rfc3339("2026-11-20T00:00:00Z"))
    after = cycle_after(running, date(2026, 1, 15), "Asia/Tokyo")
    assert (after.index, after.start_ms) == (running.index + 1, running.end_ms)
    assert rfc3339(after.end_ms) == "2027-01-14T15:00:00Z"


def test_without_a_change_the_cycle_after_is_the_next() -> None:
    now_ms = parse_rfc3339("2026-11-20T00:00:00Z")
    running = cycle_at(date(2026, 1, 31), "Europe/Berlin", now_ms)
    assert cycle_after(running, date(2026, 1, 31), "Europe/Berlin") == cycle_at(
        date(2026, 1, 31), "Europe/Berlin", running.end_ms
    )


def test_today_is_the_local_date() -> None:
    at_ms = parse_rfc3339("2026-11-15T04:59:59.999Z")
    assert today_in("America/New_York", at_ms) == date(2026, 11, 14)
    assert today_in("America/New_York", at_ms + 1) == date(2026, 11, 15)
    assert today_in("UTC", at_ms) == date(2026, 11, 15)


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_iana_time_zones_are_valid(name: str) -> None:
    assert valid_time_zone(name)


@pytest.mark.parametrize(
    "name",
    ["", "Mars/Olympus", "europe/berlin", "GMT+3", "localtime", "posix/UTC", "right/UTC", "../UTC", "Europe"],
)
def test_other_names_are_not(name: str) -> None:
    assert not valid_time_zone(name)


def test_an_unknown_time_zone_is_an_error() -> None:
    with pytest.raises(ValueError, match="Mars/Olympus"):
        boundary_ms(date(2026, 1, 31), "Mars/Olympus", 0)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-15T05:00:00Z", 1_794_718_800_000),
        ("2026-11-15T05:00:00.007Z", 1_794_718_800_007),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_instants_are_written_in_utc_to_the_millisecond(text: str, at_ms: int) -> None:
    assert rfc3339(at_ms) == text
    assert parse_rfc3339(text) == at_ms


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_what_is_written_is_read_again(at_ms: int) -> None:
    assert parse_rfc3339(rfc3339(at_ms)) == at_ms


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-11-15t05:00:00z", "2026-11-15T05:00:00Z"),
        ("2026-11-15T05:00:00.5Z", "2026-11-15T05:00:00.500Z"),
        ("2026-11-15T05:00:00.120000Z", "2026-11-15T05:00:00.120Z"),
    ],
)
def test_what_rfc_3339_allows_besides_is_read_too(text: str, same: str) -> None:
    assert rfc3339(parse_rfc3339(text)) == same


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-15",
        "2026-11-15T05:00:00",
        "2026-11-15T05:00:00+00:00",
        "2026-11-15 05:00:00Z",
        "2026-11-15T05:00Z",
        "2026-02-29T00:00:00Z",
        "2026-11-15T24:00:00Z",
        "2026-11-15T05:00:61Z",
        "2026-11-15T05:00:00.0001Z",
        "2026-11-15T05:00:00.Z",
        "1795392000000",
        "٢٠٢٦-11-15T05:00:00Z",
    ],
)
def test_anything_else_is_no_instant(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        parse_rfc3339(text)
