"""Accounts by how near they are to exhaustion: an order that moves while it is read.

It is taken at a moment, of all accounts that match, and kept for a while: the pages of one reader come from
one order, so that nothing is repeated or hidden in them, and readers who ask at about the same time share it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from gateway.pool.live_pool import LivePool
from gateway.pool.packed import PackedPool
from gateway.records.paging import after_instant_and_place, page_of
from gateway.records.store import Records

FRESH_SECONDS: Final = 5.0
"""How old an order may be for a reader who begins with it; twice as old as it took, if that is more: else a
deployment of very many accounts would do nothing but rank them."""
KEPT_SECONDS: Final = 60.0
"""How long an order is kept for its readers; who comes for a page later goes on in a newer one."""
READ_AT_ONCE: Final = 1000
MADE_AT_MOST: Final = 200
"""How many pools that are not there are made for an order. More are missing only where the engine was lost
just now: they are being made, and come last until then."""
_PARTS: Final = 1_000_000
_UNKNOWN: Final = -1
_PLACE_BITS: Final = 30
_MOST: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class _Order:
    number: int
    taken_at: float
    fresh_until: float
    accounts: list[str]


class Ranking:
    """The orders that are kept, by what they were searched for."""

    def __init__(self, records: Records, pool: LivePool) -> None:
        self._records = records
        self._pool = pool
        self._orders: dict[str | None, list[_Order]] = {}
        self._taking = asyncio.Lock()
        self._number = 0

    async def page(self, q: str | None, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Ids of a page of accounts, the nearest to exhaustion first, and where the next page begins.

        Raises InvalidField for a cursor that is none, EngineUnavailable, DatabaseUnavailable.
        """
        began = after_instant_and_place(after)
        number, place = began if began is not None else (None, 0)
        async with self._taking:
            order = self._find(q, number) or await self._take(q)
        rest = list(enumerate(order.accounts[place : place + limit + 1], place + 1))
        page, following = page_of(rest, limit, lambda row: (order.number, row[0]))
        return [account for _, account in page], following

    def _find(self, q: str | None, number: int | None) -> _Order | None:
        now = time.monotonic()
        for name, orders in list(self._orders.items()):
            self._orders[name] = [order for order in orders if now - order.taken_at < KEPT_SECONDS]
            if not self._orders[name]:
                del self._orders[name]
        for order in reversed(self._orders.get(q, [])):
            if order.number == number or (number is None and now < order.fresh_until):
                return order
        return None

    async def _take(self, q: str | None) -> _Order:
        taken_at, now_ms = time.monotonic(), (await self._pool.clock()).now_ms
        accounts: list[str] = []
        keys: list[int] = []
        after: str | None = None
        to_make = MADE_AT_MOST
        while True:
            page, after = await self._records.accounts.list_ids(q, after, READ_AT_ONCE)
            pools = await self._pool.glance(page)
            # Most pools have no call in progress: what they have used is written in them.
            moving = [each for each, pool in pools.items() if pool is not None and _moves(pool, now_ms)]
            missing = [each for each, pool in pools.items() if pool is None][:to_make]
            to_make -= len(missing)
            views = await self._pool.read_many([*moving, *missing])
            for account in page:
                view, pool = views.get(account), pools[account]
                if view is not None:
                    part = _part(view.used_seconds, view.allocated_seconds)
                else:
                    part = _UNKNOWN if pool is None else _part(pool.settled_seconds, pool.allocated_seconds)
                # An integer, the most used first and then by id: a hundred thousand of them sort in no time,
                # where tuples would hold up the whole gateway.
                keys.append((-part << _PLACE_BITS) + len(accounts))
                accounts.append(account)
            if after is None:
                break
        self._number = max(self._number + 1, time.time_ns() // 1_000_000)
        keys.sort()
        place = (1 << _PLACE_BITS) - 1
        fresh_until = taken_at + max(FRESH_SECONDS, 2 * (time.monotonic() - taken_at))
        order = _Order(self._number, taken_at, fresh_until, [accounts[key & place] for key in keys])
        self._orders.setdefault(q, []).append(order)
        return order


def _moves(pool: PackedPool, now_ms: int) -> bool:
    """Whether what a pool has used is not what was last written of it."""
    return pool.calls > 0 or pool.cycle_end_ms <= now_ms


def _part(used_seconds: int, allocated_seconds: int) -> int:
    """What part of its allocation a pool has used, in millionths; those without one come last."""
    if not allocated_seconds:
        return _UNKNOWN
    return min(used_seconds * _PARTS // allocated_seconds, _MOST)
