"""What a gateway does beside answering: it finishes changes, closes statements, hears of other gateways."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, NoReturn

import structlog
from redis.exceptions import RedisError

from gateway import metrics, turns
from gateway.domain.calls import Caller
from gateway.domain.errors import CallgateError
from gateway.live.control import Control, DeviceConnected, Message, PoolsMoved, StaffRemoved
from gateway.live.gateways import BEAT_SECONDS, Gateways, Heartbeat
from gateway.pool.live_pool import LivePool
from gateway.pool.seldom import Seldom
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from gateway.service.administration import Administration
from gateway.service.callgate import Callgate
from gateway.service.health import Monitor
from gateway.sessions.revocations import Revocation

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CATCH_UP_SECONDS: Final = 2.0
CLOSE_STATEMENTS_SECONDS: Final = 1.0
REVOCATIONS_SECONDS: Final = 2.0
READERS_SECONDS: Final = 2.0
"""How often it is looked for staff members who watch and were removed, in case nobody was heard to say so."""
COUNT_SECONDS: Final = 5.0

Work = Callable[[], Coroutine[Any, Any, NoReturn]]


class Upkeep:
    """The tasks that run as long as the gateway does."""

    def __init__(
        self,
        service: Callgate,
        pool: LivePool,
        records: Records,
        recorder: Recorder,
        administration: Administration,
        control: Control,
        gateways: Gateways,
        monitor: Monitor,
        background: Sequence[Work],
    ) -> None:
        self._service = service
        self._pool = pool
        self._records = records
        self._recorder = recorder
        self._administration = administration
        self._control = control
        self._gateways = gateways
        self._monitor = monitor
        self._background = background
        self._revocations_seen = 0
        self._failing = Seldom()
        self._look_for_revocations = asyncio.Event()

    async def run(self) -> None:
        """Run them all, until cancelled. One that dies ends the gateway, loudly."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._recorder.run())
            for work in self._background:
                tasks.create_task(work())
            tasks.create_task(self._monitor.run())
            tasks.create_task(self._control.listen(self._hear, self._listening))
            tasks.create_task(self._keep_revocations())
            tasks.create_task(self._every("changes", CATCH_UP_SECONDS, self._administration.catch_up))
            tasks.create_task(self._every("statements", CLOSE_STATEMENTS_SECONDS, self._close_statements))
            tasks.create_task(self._every("readers", READERS_SECONDS, self._service.close_removed_readers))
            tasks.create_task(self._every("presence", BEAT_SECONDS, self._beat))
            tasks.create_task(self._every("counting", COUNT_SECONDS, self._count))

    async def load_revocations(self) -> None:
        """Take in what was revoked since this was last asked. Raises DatabaseUnavailable."""
        for each in await self._records.revocations.since(self._revocations_seen):
            self._service.revocations.add(Revocation(each.account, each.staff, each.device, each.until_ms))
            self._revocations_seen = each.number

    async def _every(self, task: str, seconds: float, work: Callable[[], Awaitable[object]]) -> NoReturn:
        turns.finished(task)
        while True:
            # Gateways that were started together do not come all at once.
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
            try:
                await work()
            except (CallgateError, RedisError, OSError) as failure:
                if self._failing.is_time(task):
                    log.warning("upkeep.failed", work=task, error=type(failure).__name__)
            else:
                if self._failing.ended(task):
                    log.info("upkeep.works_again", work=task)
                turns.finished(task)

    async def _close_statements(self) -> None:
        # One gateway is enough, and the one that records has the least to wait for.
        if self._recorder.status().recording:
            await self._service.close_statements()

    async def _keep_revocations(self) -> NoReturn:
        while True:
            try:
                async with asyncio.timeout(REVOCATIONS_SECONDS):
                    await self._look_for_revocations.wait()
            except TimeoutError:
                pass
            self._look_for_revocations.clear()
            try:
                await self.load_revocations()
            except CallgateError as failure:
                log.warning("revocations.unknown", code=failure.code)
                await asyncio.sleep(REVOCATIONS_SECONDS)
            else:
                turns.finished("revocations")

    def _listening(self) -> None:
        """What others told before this may have been missed."""
        self._look_for_revocations.set()
        self._service.feeds.moved()

    def _hear(self, message: Message) -> None:
        if isinstance(message, DeviceConnected):
            caller = Caller(message.account, message.staff, message.device)
            self._service.devices.close_replaced(caller, message.number)
        elif isinstance(message, StaffRemoved):
            self._service.readers.close_removed([(message.account, message.staff)])
        elif isinstance(message, PoolsMoved):
            self._service.feeds.moved()
        else:
            self._look_for_revocations.set()

    async def _beat(self) -> None:
        await self._gateways.beat(
            Heartbeat(
                gateway=self._control.gateway,
                at_ms=time.time_ns() // 1_000_000,
                connections=len(self._service.devices),
                calls_in_progress=sum(len(each.calls) for each in self._service.devices),
                dashboards=self._service.dashboards,
            )
        )

    async def _count(self) -> None:
        metrics.CALLS_IN_PROGRESS.set(await self._pool.count_calls())
