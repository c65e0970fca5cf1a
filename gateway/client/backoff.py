"""How long to wait before the next attempt: exponential backoff with full jitter.

A gateway that restarts loses all its devices in one moment. Were they to come back after fixed delays, they
would come back in one moment, too, again and again; drawn from the whole range they arrive evenly.
"""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds, each drawn from zero to a bound that doubles from `first` up to `most`."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._bound = first

    def next(self) -> float:
        """Return the next delay."""
        bound, self._bound = self._bound, min(self._bound * 2, self._most)
        return random.uniform(0, bound)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """Begin with short delays again."""
        self._bound = self._first
