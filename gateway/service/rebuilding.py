"""Making pools anew from SQL after an engine has lost some (R28), so that they reset on time (R19)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping
from typing import Final, NoReturn

import structlog

from gateway import turns
from gateway.domain.errors import CallgateError
from gateway.pool.live_pool import LivePool
from gateway.records.store import Records

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

ACCOUNTS_AT_ONCE: Final = 200
RETRY_SECONDS: Final = 1.0
_ANY_TIME_MS: Final = 0


class Rebuilder:
    """Makes the pools of shards anew that this gateway found to have lost something.

    Whoever asks for one of them before has it made at once; what calls were in progress is told by devices
    and gateways.
    """

    def __init__(self, records: Records, pool: LivePool) -> None:
        self._records = records
        self._pool = pool
        self._waiting: set[int] = set()
        self._woken = asyncio.Event()
        pool.on_new_epoch(self._hear)

    async def run(self) -> NoReturn:
        """Make anew whatever has to be, until cancelled; while SQL or the engine is away, again and again."""
        while True:
            await turns.wait("rebuilder", self._woken)
            self._woken.clear()
            shards, self._waiting = self._waiting, set()
            try:
                made = await self.rebuild(shards)
            except CallgateError as failure:
                log.warning("pools.not_made_anew", code=failure.code)
                self._waiting |= shards
                self._woken.set()
                await asyncio.sleep(RETRY_SECONDS)
            else:
                log.info("pools.made_anew", shards=len(shards), accounts=made)

    async def rebuild(self, shards: Container[int], progress: Callable[[int], None] = lambda _: None) -> int:
        """Make the pools of these shards anew where they are not; answers how many accounts there are.

        `progress` is told how many of them are done. Raises EngineUnavailable, DatabaseUnavailable.
        """
        found = 0
        after: str | None = None
        while True:
            page, after = await self._records.accounts.list_accounts(
                None, after, ACCOUNTS_AT_ONCE, _ANY_TIME_MS
            )
            named = [each.account for each in page if self._pool.shard_of(each.account) in shards]
            # Reading a pool that is not there makes it.
            await self._pool.read_many(named)
            found += len(named)
            progress(found)
            if after is None:
                return found

    def _hear(self, changed: Mapping[int, bool]) -> None:
        self._waiting |= {shard for shard, is_found_out_here in changed.items() if is_found_out_here}
        if self._waiting:
            self._woken.set()
