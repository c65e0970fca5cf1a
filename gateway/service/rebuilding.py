"""Making pools anew from SQL after an engine has lost some (R28), so that they reset on time (R19)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Container, Iterable, Mapping, Set
from typing import Final, NoReturn

import structlog

from gateway import turns
from gateway.domain.errors import CallgateError
from gateway.pool.live_pool import LivePool
from gateway.records.exclusive import Exclusive
from gateway.records.store import Records

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

ACCOUNTS_AT_ONCE: Final = 200
RETRY_SECONDS: Final = 1.0
OTHERS_SECONDS: Final = (5.0, 15.0)
"""How long shards wait that others see to; no two gateways look after them in the same moment."""


class Rebuilder:
    """Makes the pools of shards anew that lost something: at once where this gateway found it out.

    The others are looked through some seconds later, and all of them after a start: whoever found it out may
    not have heard that it did, or have died before it was done. Only one gateway at a time does that, and not
    while one that found it out is at work. Whoever asks for a pool before has it made at once; what calls
    were in progress is told by devices and gateways.
    """

    def __init__(self, records: Records, pool: LivePool) -> None:
        self._records = records
        self._pool = pool
        self._found: set[int] = set()
        # When the others are to be looked through.
        self._others: dict[int, float] = {}
        self._woken = asyncio.Event()
        pool.on_new_epoch(self._hear)

    async def run(self) -> NoReturn:
        """Make anew whatever has to be, until cancelled; while SQL or the engine is away, again and again."""
        self._put_off(range(self._pool.shards))
        async with self._records.database.exclusive("rebuilder") as lock:
            while True:
                await turns.wait("rebuilder", self._woken, self._wait_seconds())
                self._woken.clear()
                found, self._found = self._found, set()
                now = time.monotonic()
                others = {shard for shard, at in self._others.items() if at <= now} - found
                for shard in found | others:
                    self._others.pop(shard, None)
                try:
                    await self._see_to(lock, found, others)
                except CallgateError as failure:
                    log.warning("pools.not_made_anew", code=failure.code)
                    self._found |= found
                    self._others |= dict.fromkeys(others - self._others.keys(), now)
                    self._woken.set()
                    await asyncio.sleep(RETRY_SECONDS)
                finally:
                    await lock.release()

    async def rebuild(self, shards: Container[int], progress: Callable[[int], None] = lambda _: None) -> int:
        """Make the pools of these shards anew where they are not; answers how many accounts there are.

        `progress` is told how many of them are done. What is there costs little: a page of ids from SQL, and
        a glance at each pool. Raises EngineUnavailable, DatabaseUnavailable.
        """
        found = 0
        after: str | None = None
        epochs = await self._pool.epochs()
        while True:
            page, after = await self._records.accounts.list_ids(None, after, ACCOUNTS_AT_ONCE)
            named = [account for account in page if self._pool.shard_of(account) in shards]
            # Reading a pool that is not there makes it.
            await self._pool.read_many(await self._pool.not_made(named, epochs))
            found += len(named)
            progress(found)
            if after is None:
                return found

    async def _see_to(self, lock: Exclusive, found: Set[int], others: Set[int]) -> None:
        if not (found or others):
            return
        if not await lock.acquire():
            self._put_off(others)
            if not found:
                return
            others = frozenset()
        shards = (found | others) & (await self._pool.epochs()).keys()
        # Those that are away in a Cluster hold up no others.
        self._put_off((found | others) - shards)
        accounts = await self.rebuild(shards, lambda _: turns.finished("rebuilder"))
        if found:
            log.info("pools.made_anew", shards=len(shards), accounts=accounts)

    def _wait_seconds(self) -> float | None:
        if not self._others:
            return None
        return max(0.0, min(self._others.values()) - time.monotonic())

    def _put_off(self, shards: Iterable[int]) -> None:
        at = time.monotonic() + random.uniform(*OTHERS_SECONDS)  # noqa: S311 - no secret
        self._others |= dict.fromkeys(shards, at)

    def _hear(self, changed: Mapping[int, bool]) -> None:
        found = {shard for shard, is_found_out_here in changed.items() if is_found_out_here}
        self._found |= found
        self._put_off(changed.keys() - found)
        self._woken.set()
