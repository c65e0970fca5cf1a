"""How an account's minutes were used up over a cycle, for charts.

Summing a cycle of many calls takes a while, and many pages may ask for the same one at once: those who ask
while it is summed share it, and what took long is good for a little longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.domain.cycles import Cycle
from gateway.domain.usage import Step, UsagePoint, usage_points
from gateway.records.store import Records
from gateway.records.usage import CycleUsage

FRESH_SECONDS: Final = 5.0
"""How old sums may be at most."""
CHEAP_SECONDS: Final = 0.05
"""Sums that took no longer are not kept."""
TIMES_ITS_COST: Final = 10
"""For how many times as long as they took the others are."""


@dataclass(frozen=True, slots=True)
class UsageOfCycle:
    """The running total of a cycle, and as of when it is; what its reader has to know of the account."""

    account: str
    name: str
    time_zone: str
    cycle: Cycle
    points: list[UsagePoint]
    as_of_ms: int


@dataclass(slots=True)
class _Summing:
    sums: asyncio.Task[tuple[CycleUsage, int]]
    fresh_until: float


class UsageReader:
    """Reads and shares what was used."""

    def __init__(self, records: Records, as_of_ms: Callable[[], Awaitable[int]]) -> None:
        self._records = records
        self._as_of_ms = as_of_ms
        self._summing: dict[tuple[str, int | None], _Summing] = {}

    async def read(self, account: str, cycle_start_ms: int | None, step: Step, now_ms: int) -> UsageOfCycle:
        """Return the running total of the cycle that begins then, by default of the running one.

        Raises NotFound, DatabaseUnavailable.
        """
        found, as_of_ms = await self._sums(account, cycle_start_ms, now_ms)
        of = found.account
        points = usage_points(found.cycle, step, of.time_zone, found.slots, as_of_ms)
        return UsageOfCycle(of.account, of.name, of.time_zone, found.cycle, points, as_of_ms)

    async def _sums(self, account: str, cycle_start_ms: int | None, now_ms: int) -> tuple[CycleUsage, int]:
        now = time.monotonic()
        for key in [key for key, each in self._summing.items() if each.fresh_until < now]:
            del self._summing[key]
        key = account, cycle_start_ms
        summing = self._summing.get(key)
        if summing is None:
            sums = asyncio.create_task(self._sum(account, cycle_start_ms, now_ms))
            self._summing[key] = summing = _Summing(sums, now + FRESH_SECONDS)
            sums.add_done_callback(lambda done: self._done(summing, done, now))
        # Who gives up waiting must not take it away from the others.
        return await asyncio.shield(summing.sums)

    async def _sum(self, account: str, cycle_start_ms: int | None, now_ms: int) -> tuple[CycleUsage, int]:
        as_of_ms = await self._as_of_ms()
        return await self._records.usage.of_cycle(account, cycle_start_ms, now_ms), as_of_ms

    def _done(self, summing: _Summing, done: asyncio.Task[tuple[CycleUsage, int]], began: float) -> None:
        cost = time.monotonic() - began
        if done.cancelled() or done.exception() is not None or cost <= CHEAP_SECONDS:
            summing.fresh_until = 0.0
        else:
            summing.fresh_until = min(summing.fresh_until, began + cost * (1 + TIMES_ITS_COST))
