"""How the deployment is, for operators: its gateways, its parts, what waits, and what they should look at."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError

from gateway import turns
from gateway.domain.cycles import rfc3339
from gateway.domain.errors import DatabaseUnavailable
from gateway.live.gateways import Gateways
from gateway.pool.live_pool import LivePool
from gateway.records.ingest import count_dead_letters
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from gateway.service.health import Health, Monitor, PartHealth

UNREADABLE_NAMED: Final = 5
"""So many accounts whose pools cannot be read are named."""

ASK_DATABASE_SECONDS: Final = 10
"""How long it is waited for the database when the status is asked for."""

STUCK_SECONDS: Final = 60
"""A background task that has not finished a turn for so long is told of, if engine and database are there."""


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """A gateway that is alive:

    its connected devices, the calls of which it has taken the start and not the end, and its dashboards.
    """

    gateway: str
    connections: int
    calls_in_progress: int
    dashboards: int


@dataclass(frozen=True, slots=True)
class RecorderLag:
    """Entries of the records stream that are not in SQL yet, and the age of the oldest."""

    entries: int
    seconds: int


@dataclass(frozen=True, slots=True)
class WebhooksStatus:
    """Events that wait to be sent, and since when (real time) their receiver fails, None if it does not."""

    waiting: int
    failing_since_ms: int | None


@dataclass(frozen=True, slots=True)
class TaskTurn:
    """A background task of this gateway, and how long ago it last finished a turn."""

    task: str
    last_turn_ms_ago: int


@dataclass(frozen=True, slots=True)
class Status:
    """How the deployment is."""

    gateways: list[GatewayStatus]
    engine: PartHealth
    database: PartHealth
    recorder_lag: RecorderLag
    webhooks: WebhooksStatus | None
    tasks: list[TaskTurn]
    warnings: list[str]


class StatusReader:
    """Asks all parts how they are. `sends_webhooks` tells whether there is anything to say of those."""

    def __init__(
        self,
        pool: LivePool,
        records: Records,
        recorder: Recorder,
        gateways: Gateways,
        monitor: Monitor,
        *,
        sends_webhooks: bool,
    ) -> None:
        self._pool = pool
        self._records = records
        self._recorder = recorder
        self._gateways = gateways
        self._monitor = monitor
        self._sends_webhooks = sends_webhooks

    async def read(self, health: Health) -> Status:
        """How the deployment is, as far as it can be asked, this gateway's health being so."""
        warnings = [*health.warnings, *self._monitor.warnings]
        gateways: list[GatewayStatus] = []
        try:
            gateways = [
                GatewayStatus(beat.gateway, beat.connections, beat.calls_in_progress, beat.dashboards)
                for beat in await self._gateways.alive(time.time_ns() // 1_000_000)
            ]
        except (RedisError, OSError):
            warnings.append("The engine cannot be asked which gateways are alive.")
        recorder = self._recorder.status()
        if recorder.failing:
            warnings.append(f"The recorder cannot save: {recorder.failing}")
        webhooks = None
        try:
            # SQLite on a disk that hangs is waited for without end.
            async with asyncio.timeout(ASK_DATABASE_SECONDS):
                refused = await self._records.database.read(count_dead_letters)
                if refused:
                    warnings.append(f"The database refused {refused} records: see its table dead_letters.")
                webhooks = await self._webhooks(warnings)
        except DatabaseUnavailable:
            pass
        except TimeoutError:
            warnings.append(
                f"The database has not answered for {ASK_DATABASE_SECONDS} s: refused records and waiting "
                "webhooks are not known."
            )
        if unreadable := sorted(self._pool.unreadable.lately()):
            more = f" and {len(unreadable) - UNREADABLE_NAMED} more" * (len(unreadable) > UNREADABLE_NAMED)
            warnings.append(
                f"What the engine holds of {', '.join(unreadable[:UNREADABLE_NAMED])}{more} cannot be read: "
                "see `callgate check`."
            )
        tasks = [TaskTurn(task, age_ms) for task, age_ms in turns.ages_ms().items()]
        if health.status == "ok":  # else it is no wonder
            warnings += [
                f"The task {each.task} of this gateway has not finished a turn for "
                f"{each.last_turn_ms_ago // 1000} s."
                for each in tasks
                if each.last_turn_ms_ago > STUCK_SECONDS * 1000
            ]
        return Status(
            gateways=gateways,
            engine=health.engine,
            database=health.database,
            recorder_lag=RecorderLag(recorder.waiting_entries, recorder.lag_ms // 1000),
            webhooks=webhooks,
            tasks=tasks,
            warnings=warnings,
        )

    async def _webhooks(self, warnings: list[str]) -> WebhooksStatus | None:
        """How sending goes, with what an operator should look at; None if nothing is sent.

        Raises DatabaseUnavailable.
        """
        if not self._sends_webhooks:
            return None
        state = await self._records.outbox.state()
        if state.gone:
            warnings.append(
                "The webhook receiver answered 410 Gone: it is sent nothing until a gateway is restarted."
            )
        elif state.failing_since_ms is not None:
            since = rfc3339(state.failing_since_ms // 1000 * 1000)
            warnings.append(
                f"The webhook receiver fails since {since} ({state.error}): {state.waiting:,} events wait."
            )
        return WebhooksStatus(state.waiting, state.failing_since_ms)
