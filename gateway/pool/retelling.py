"""An engine that has lost something is told it again, and what is safe is let go of (R26)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Set
from typing import Final, NoReturn

import structlog
from redis.exceptions import RedisError

from gateway import turns
from gateway.domain.asks import Ask
from gateway.domain.errors import CallgateError, EngineUnavailable
from gateway.pool.kept_answers import KeptAnswers
from gateway.pool.keys import KeySpace
from gateway.pool.pool_reading import PoolReader
from gateway.pool.shards import Shards
from gateway.pool.unreadable import Unreadable

log = structlog.get_logger(__name__)

KEPT_SECONDS: Final = 2.0
"""How often it is looked for what is safe, and what could not be told is tried again."""

SavedBeforeMs = Callable[[Set[int]], Awaitable[int]]
"""Asks SQL before which instant (ms) it has all that was settled, but of these shards, which are away.

Raises DatabaseUnavailable, EngineUnavailable.
"""


class Retelling:
    """Sees to the answers that are kept."""

    def __init__(
        self,
        kept: KeptAnswers,
        keys: KeySpace,
        shards: Shards,
        reader: PoolReader,
        ask: Callable[[Ask], Awaitable[object]],
        unreadable: Unreadable,
        saved_before_ms: SavedBeforeMs | None,
        *,
        lease_ms: int,
    ) -> None:
        self._kept = kept
        self._keys = keys
        self._shards = shards
        self._reader = reader
        self._ask = ask
        self._unreadable = unreadable
        self._saved_before_ms = saved_before_ms
        self._lease_ms = lease_ms
        self._has_to_tell = asyncio.Event()
        shards.on_new_epoch(self._lost)

    async def run(self) -> NoReturn:
        """Do so for ever: at once after a loss, and every 2 s."""
        while True:
            try:
                async with asyncio.timeout(KEPT_SECONDS):
                    await self._has_to_tell.wait()
            except TimeoutError:
                pass
            self._has_to_tell.clear()
            await self.tell()
            try:
                await self.release()
            except (CallgateError, RedisError, OSError) as failure:
                log.debug("answers.kept", error=type(failure).__name__)
            else:
                turns.finished("answers")

    async def tell(self) -> None:
        """Tell again what was lost; what can't be told now stays to be told."""
        if self._kept.has_to_tell:
            await self._kept.tell(self._bring_up, self._ask, self._shards.policies.known, self._shards.away)

    async def release(self) -> None:
        """Have shards be as SQL has them, and let go of what it has.

        Raises DatabaseUnavailable, EngineUnavailable, RedisError.
        """
        failure: Exception | None = None
        for see_to in (self._shards.confirm_blind, self._shards.policies.keep_all):
            try:
                await see_to()
            except (EngineUnavailable, RedisError, OSError) as error:
                # That may be one shard of many; without SQL there is nothing to let go of.
                failure = error
        if self._saved_before_ms is not None and len(self._kept):
            await self._release_before(self._saved_before_ms)
        if failure is not None:
            raise failure

    def _lost(self, changed: Mapping[int, bool]) -> None:
        self._kept.lost(changed)
        self._has_to_tell.set()

    async def _bring_up(self, account: str) -> int:
        # Before the pool: then it is of this epoch, or of one in which nothing is told that SQL said in this.
        epoch = await self._shards.epoch(self._keys.shard_of(account))
        await self._reader.read([account], 0, must_exist=False)
        return epoch

    async def _release_before(self, ask_saved_before_ms: SavedBeforeMs) -> None:
        # What was answered of shards that are away stays.
        away = self._shards.away
        saved_before_ms = await ask_saved_before_ms(away)
        # Only if nothing was lost up to now is what SQL has got all that was answered before that.
        away_now = await self._shards.beat(self._lease_ms)
        if away_now <= away and not self._kept.has_to_tell_but_of(away, self._unreadable.lately()):
            # What SQL may have more of than the engine is compared first.
            await self._kept.release(saved_before_ms, away | self._shards.blind)
