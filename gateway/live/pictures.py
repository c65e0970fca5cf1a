"""A pool as readers are shown it, and what happened between two of them (R29)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

from gateway.domain.answers import ALL_PERCENT, PoolView

T = TypeVar("T")

HappeningKind = Literal["threshold", "minutes_exhausted", "cycle_reset", "plan_changed"]


@dataclass(frozen=True, slots=True)
class Happening:
    """What a dashboard is told of beside the pool itself: a threshold has its `percent`, and its instant."""

    kind: HappeningKind
    at_ms: int
    percent: int | None = None


class Picture:
    """A pool at one moment, and what is made of it for its readers, each thing once for all of them."""

    def __init__(self, view: PoolView) -> None:
        self.view = view
        self._made: dict[Hashable, Any] = {}

    def once(self, what: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` made when this was first asked for."""
        if what not in self._made:
            self._made[what] = make()
        return cast(T, self._made[what])

    @cached_property
    def callers(self) -> frozenset[tuple[str, str]]:
        """The staff members and devices whose calls are listed."""
        return frozenset((call.staff, call.device) for call in self.view.calls)

    def since(self, seen: PoolView | None) -> tuple[Happening, ...]:
        """What happened after a reader was shown `seen`: nothing for one who has not been shown any."""
        if seen is None or seen is self.view:
            return ()
        # With what it was made of, which thereby stays what it is as long as its name is used.
        return self.once(id(seen), lambda: (happened(seen, self.view), seen))[0]


def happened(before: PoolView, after: PoolView) -> tuple[Happening, ...]:
    """What happened between two pools of an account, in its order. What fell away is told by the pool."""
    found: list[Happening] = []
    is_reset = after.cycle.start_ms != before.cycle.start_ms
    if is_reset:
        found.append(Happening("cycle_reset", after.cycle.start_ms))
    if after.plan != before.plan:
        found.append(Happening("plan_changed", after.cycle.start_ms if is_reset else after.at_ms))
    known = () if is_reset else before.thresholds
    for passed in after.thresholds:
        if passed not in known:
            found.append(Happening("threshold", passed.at_ms, passed.percent))
            if passed.percent == ALL_PERCENT:
                found.append(Happening("minutes_exhausted", passed.at_ms))
    return tuple(found)
