"""Billing cycles: where their boundaries lie (R18); instants as text. Only here is a calendar known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Final

from whenever import Date, Instant, PlainDateTime, available_timezones

EARLIEST_MS: Final = 946_684_800_000
"""2000-01-01T00:00:00Z: no clock is set back further; every cycle then begins at a positive instant."""
LATEST_MS: Final = 253_370_764_800_000
"""9999-01-01T00:00:00Z: no clock is set further, for the calendar of a cycle ends with that year."""

# Zones that a tz database has besides places: what this host happens to be set to, and other ways to count
# seconds.
_NO_PLACES: Final = ("localtime", "Factory", "posixrules", "posix/", "right/")

_RFC3339 = re.compile(
    r"(?P<second>\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2})(?:\.(?P<fraction>\d{1,9}))?[Zz]", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Cycle:
    """One billing cycle, `[start_ms, end_ms)`. Cycle 0 begins on the billing date; some come before it."""

    index: int
    start_ms: int
    end_ms: int


def boundary_ms(billing_date: date, time_zone: str, k: int) -> int:
    """Return the instant of the k-th cycle boundary (R18).

    It is the local midnight of the billing date plus k months, counted from the billing date itself and with
    the day clamped to the month's length. A midnight that does not exist becomes the first instant after the
    gap; one that happens twice is its first.

    Raises ValueError for an unknown time zone, or a boundary outside the years 1 to 9999.
    """
    return _midnight_ms(Date(billing_date).add(months=k), time_zone)


def days_between(time_zone: str, start_ms: int, end_ms: int) -> list[int]:
    """Return the local midnights after `start_ms` and before `end_ms`, found as `boundary_ms` finds them.

    Raises ValueError as `boundary_ms` does.
    """
    day = Date(today_in(time_zone, start_ms))
    midnights: list[int] = []
    while True:
        day = day.add(days=1)
        midnight_ms = _midnight_ms(day, time_zone)
        if midnight_ms >= end_ms:
            return midnights
        # Where a zone left out a day, two days begin at one instant.
        if midnight_ms > max([start_ms, *midnights[-1:]]):
            midnights.append(midnight_ms)


def index_at(billing_date: date, time_zone: str, now_ms: int) -> int:
    """Return k of the cycle that holds `now_ms`: the last boundary at or before it (R18).

    Raises ValueError as `boundary_ms` does.
    """
    today = today_in(time_zone, now_ms)
    # Months between the dates: right, or one too many where the day of the month is yet to come.
    k = (today.year - billing_date.year) * 12 + today.month - billing_date.month
    while boundary_ms(billing_date, time_zone, k) > now_ms:
        k -= 1
    while boundary_ms(billing_date, time_zone, k + 1) <= now_ms:
        k += 1
    return k


def cycle_at(billing_date: date, time_zone: str, now_ms: int) -> Cycle:
    """Return the cycle that holds `now_ms` (R18). Raises ValueError as `boundary_ms` does."""
    k = index_at(billing_date, time_zone, now_ms)
    return Cycle(k, boundary_ms(billing_date, time_zone, k), boundary_ms(billing_date, time_zone, k + 1))


def cycle_after(cycle: Cycle, billing_date: date, time_zone: str) -> Cycle:
    """Return the cycle that follows `cycle`, beginning where it ends.

    That end was fixed when the cycle began, so a time zone that was changed meanwhile first shows in the
    boundary after it (R18). Raises ValueError as `boundary_ms` does.
    """
    index = cycle.index + 1
    return Cycle(index, cycle.end_ms, boundary_ms(billing_date, time_zone, index + 1))


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(name for name in available_timezones() if not name.startswith(_NO_PLACES))


def valid_time_zone(name: str) -> bool:
    """Tell whether `name` is an IANA time zone, spelt as the tz database spells it."""
    return name in _time_zones()


def _midnight_ms(day: Date, time_zone: str) -> int:
    midnight = PlainDateTime(day.year, day.month, day.day)
    instant = midnight.assume_tz(time_zone, disambiguation="earlier")
    if instant.to_plain() != midnight:
        # In a gap "earlier" is as far before it as midnight is past its beginning: the next transition is
        # the gap.
        transition = instant.next_transition()
        assert transition is not None
        instant = transition
    return instant.timestamp(unit="millisecond")


def today_in(time_zone: str, now_ms: int) -> date:
    """Return the local date at `now_ms`. Raises ValueError for an unknown time zone."""
    return Instant.from_timestamp(now_ms, unit="millisecond").to_tz(time_zone).date().to_stdlib()


def rfc3339(at_ms: int) -> str:
    """Write an instant in UTC with ``Z``: ``2026-11-15T05:00:00Z``, with milliseconds only if there are any.

    Raises ValueError outside the years 1 to 9999.
    """
    seconds, ms = divmod(at_ms, 1000)
    text = Instant.from_timestamp(seconds).format_iso().removesuffix("Z")
    return f"{text}.{ms:03}Z" if ms else f"{text}Z"


def parse_rfc3339(text: str) -> int:
    """Read an instant as `rfc3339` writes it, to the millisecond.

    Raises ValueError for anything else: another offset than ``Z``, no such date, or a fraction below a
    millisecond.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an instant in UTC like 2026-11-15T05:00:00Z")
    fraction = (match["fraction"] or "").ljust(9, "0")
    if fraction[3:].strip("0"):
        raise ValueError(f"{text!r} is finer than a millisecond")
    try:
        second = Instant.parse_iso(match["second"].upper() + "Z")
    except ValueError:
        raise ValueError(f"{text!r} is no date and time that exists") from None
    return second.timestamp() * 1000 + int(fraction[:3])
