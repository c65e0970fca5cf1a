"""How much time went by: a clock that nobody sets, and that counts on while the machine sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# What happened before a laptop's lid was shut was that much longer ago when it is opened again. Linux's
# CLOCK_MONOTONIC, which is Python's, stands still meanwhile, and so does what Python takes on macOS, whose
# CLOCK_MONOTONIC does not. Elsewhere Python's own counts on.
_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def elapsed_ms() -> int:
    """Return milliseconds since some instant in the past; only differences mean something."""
    if _CLOCK is None:
        return time.monotonic_ns() // 1_000_000
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


def wall_ms() -> int:
    """Return the time of day, which people set; it alone means something to the next run of a program."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """What a phone reads the time from."""

    elapsed_ms: Callable[[], int] = elapsed_ms
    wall_ms: Callable[[], int] = wall_ms

    def wall_at(self, at_ms: int) -> int:
        """Return what time of day it was at an instant of `elapsed_ms`."""
        return self.wall_ms() - (self.elapsed_ms() - at_ms)

    def elapsed_at(self, wall_at_ms: int) -> int:
        """Return the instant of `elapsed_ms` at a time of day; never one to come."""
        return self.elapsed_ms() - max(0, self.wall_ms() - wall_at_ms)
