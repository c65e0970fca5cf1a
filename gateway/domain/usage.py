"""How a cycle's minutes were used up over time: a running total at each of its hours or days."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Final, Literal, NamedTuple

from gateway.domain.cycles import Cycle, days_between

Step = Literal["hour", "day"]

SLOT_MS: Final = 900_000
"""What is summed at once: a quarter of an hour. Every time zone's days have begun on one since long ago."""

_HOUR_MS: Final = 3_600_000


class UsagePoint(NamedTuple):
    """What calls that had ended by an instant billed to the cycle, all together."""

    at_ms: int
    used_seconds: int


def usage_points(
    cycle: Cycle, step: Step, time_zone: str, slots: Mapping[int, int], until_ms: int
) -> list[UsagePoint]:
    """Return the running total of a cycle at its start, at each step from there, and at last at `until_ms`.

    Steps are hours from the cycle's start, or the days of the time zone. `slots` are the seconds billed by
    calls of the cycle, by the quarter of an hour (counted since 1970) in which they ended. The last point,
    which is at the cycle's end if that is over, has all of them: also a call that outlasted its cycle.

    Raises ValueError as `days_between` does.
    """
    until_ms = min(until_ms, cycle.end_ms)
    instants = [cycle.start_ms]
    if until_ms > cycle.start_ms:
        if step == "hour":
            instants += range(cycle.start_ms + _HOUR_MS, until_ms, _HOUR_MS)
        else:
            instants += days_between(time_zone, cycle.start_ms, until_ms)
        instants.append(until_ms)
    used = [0] * len(instants)
    for slot, seconds in slots.items():
        used[min(max(1, bisect_right(instants, slot * SLOT_MS)), len(used) - 1)] += seconds
    return [UsagePoint(*each) for each in zip(instants, accumulate(used), strict=True)]
