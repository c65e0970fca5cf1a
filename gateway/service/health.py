"""Whether engine and database can be asked: watched all the time, so that nobody has to wait to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import structlog
from redis.exceptions import RedisError

from gateway import turns
from gateway.domain.errors import DatabaseUnavailable
from gateway.pool.live_pool import LivePool
from gateway.records.store import Records

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

WATCH_SECONDS: Final = 1.0
SAFETY_SECONDS: Final = 30.0
"""How often it is seen whether the engine is set up safely: memory fills, and primaries change."""

PartHealth = Literal["ok", "down"]


@dataclass(frozen=True, slots=True)
class Health:
    """`ready` is False while starting and draining;

    with a part away later it stays True (docs/http.md, /readyz). `warnings` is what may take engine and calls
    with it if nobody sees to it.
    """

    ready: bool
    status: Literal["ok", "degraded", "starting", "draining"]
    engine: PartHealth
    database: PartHealth
    warnings: tuple[str, ...] = ()


class Monitor:
    """Watches the engine and the database."""

    def __init__(
        self, pool: LivePool, records: Records, see_to_safety: Callable[[], Awaitable[Sequence[str]]]
    ) -> None:
        self._pool = pool
        self._records = records
        self._see_to_safety = see_to_safety
        self._engine: PartHealth = "down"
        self._database: PartHealth = "down"
        self._started = False
        self.warnings: tuple[str, ...] = ()
        """What is not set up safely."""

    def started(self) -> None:
        """Both have been reached once, and the data is this gateway's."""
        self._engine = self._database = "ok"
        self._started = True

    def health(self, *, draining: bool) -> Health:
        """How it stands."""
        if draining:
            return Health(False, "draining", self._engine, self._database)
        if not self._started:
            return Health(False, "starting", self._engine, self._database)
        is_ok = self._engine == self._database == "ok"
        return Health(True, "ok" if is_ok else "degraded", self._engine, self._database)

    async def look_at_safety(self) -> None:
        """Find out what is not set up safely; what is new goes to the log."""
        try:
            warnings = tuple(await self._see_to_safety())
        except (RedisError, OSError) as failure:
            log.warning("engine.not_checked", error=type(failure).__name__)
            return
        for warning in warnings:
            if warning not in self.warnings:
                log.warning("engine.unsafe", warning=warning)
        self.warnings = warnings

    async def run(self) -> None:
        """Watch, for ever."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if time.monotonic() - looked_at >= SAFETY_SECONDS:
                await self.look_at_safety()
                looked_at = time.monotonic()
            engine: PartHealth = "ok" if await self._pool.ping() else "down"
            try:
                await self._records.database.ping()
            except DatabaseUnavailable:
                database: PartHealth = "down"
            else:
                database = "ok"
            if (engine, database) != (self._engine, self._database):
                log.warning("health.changed", engine=engine, database=database)
            self._engine, self._database = engine, database
            turns.finished("health")
