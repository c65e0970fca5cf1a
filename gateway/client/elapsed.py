"""How much time went by: a clock that nobody sets, and that counts on while the machine sleeps."""

from __future__ import annotations

import sys
import time

# What happened before a laptop's lid was shut was that much longer ago when it is opened again; Linux's
# CLOCK_MONOTONIC, which is Python's, stands still meanwhile. (Elsewhere it does not, or nothing better is
# there.)
if sys.platform == "linux":
    _CLOCK = time.CLOCK_BOOTTIME

    def elapsed_ms() -> int:
        """Return milliseconds since some instant in the past; only differences mean something."""
        return time.clock_gettime_ns(_CLOCK) // 1_000_000

else:

    def elapsed_ms() -> int:
        """Return milliseconds since some instant in the past; only differences mean something."""
        return time.monotonic_ns() // 1_000_000
