"""What goes into the log once a minute, however often it happens."""

from __future__ import annotations

from collections.abc import Hashable
from time import monotonic
from typing import Final, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

AGAIN_SECONDS: Final = 60.0
AT_MOST: Final = 1000
"""So many things are known at once; of more, those that were said longest ago are said again too soon."""


class Seldom:
    """When something was last said of each thing that goes on."""

    def __init__(self) -> None:
        self._said: dict[Hashable, float] = {}

    def is_time(self, thing: Hashable) -> bool:
        """Whether to say it, for the first time or again after a minute; then it counts as said."""
        now = monotonic()
        if now - self._said.get(thing, float("-inf")) < AGAIN_SECONDS:
            return False
        put_last(self._said, thing, now)
        return True

    def ended(self, thing: Hashable) -> bool:
        """Hear that it goes on no more; answers whether it had been said."""
        return self._said.pop(thing, None) is not None


def put_last(noted: dict[K, T], key: K, value: T) -> None:
    """Put it behind all others, and let go of the first where there are too many."""
    noted.pop(key, None)
    if len(noted) >= AT_MOST:
        del noted[next(iter(noted))]
    noted[key] = value
