"""When a device was last heard of (R12)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# What also counts the time that a suspended host slept: a device is not alive for having been asleep with us.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def running_seconds() -> float:
    """Seconds by a clock that nobody sets, and that does not stop with the host."""
    return time.clock_gettime(_CLOCK)


class Heard:
    """The instant at which the last byte of a device arrived, whatever it belonged to.

    `at` is by `now`, seconds of a clock that only goes forward.
    """

    __slots__ = ("at", "now")

    def __init__(self, now: Callable[[], float] = running_seconds) -> None:
        self.now = now
        self.at = now()

    def note(self) -> None:
        """Hear something, now."""
        self.at = self.now()

    def ago_ms(self) -> int:
        """Return for how long nothing was heard."""
        return max(0, int((self.now() - self.at) * 1000))
