"""Putting a gateway together, and taking it apart again."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import anyio
import structlog
from redis.exceptions import RedisError

from gateway.domain.asks import AccountConfig
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable, StartRefused
from gateway.embedded import EmbeddedEngine
from gateway.live.control import Control
from gateway.live.gateways import Gateways
from gateway.live.subscriptions import Subscriptions
from gateway.pool.engine import Engine, connect
from gateway.pool.live_pool import LivePool
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from gateway.service.administration import Administration
from gateway.service.callgate import Callgate
from gateway.service.engine_safety import engine_warnings
from gateway.service.health import Monitor
from gateway.service.upkeep import Upkeep
from gateway.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

DATABASE_FILE: Final = "callgate.db"
RETRY_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 5.0
"""How long starting waits for engine and database, before it serves without them and goes on trying."""

_POLICY_FIELDS: Final = ("free_seconds", "increment_seconds", "hold_seconds", "count_from")


@asynccontextmanager
async def open_callgate(settings: Settings) -> AsyncIterator[Callgate]:
    """A gateway that takes requests as soon as engine and database have been reached, and until this is left.

    Raises StartRefused if the data was made under other settings, or is another gateway's.
    """
    async with AsyncExitStack() as stack:
        embedded = None
        if settings.redis_url is None:
            embedded = await stack.enter_async_context(EmbeddedEngine(settings.data_dir))
        engine = connect(embedded.url if embedded else str(settings.redis_url))
        stack.push_async_callback(engine.close)
        parts = _Parts(settings, engine)
        stack.push_async_callback(parts.records.close)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(parts.run())]
            if embedded is not None:
                running.append(tasks.create_task(embedded.keep_running()))
            with anyio.move_on_after(PATIENCE_SECONDS):
                await parts.reached.wait()
            try:
                yield parts.service
            finally:
                for task in running:
                    task.cancel()
                with anyio.CancelScope(shield=True), anyio.move_on_after(PATIENCE_SECONDS):
                    await parts.leave()


class _Parts:
    """What a gateway is made of."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        # In containers all may be process 1 of hosts of one name.
        name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self.records = Records(settings.database_url or settings.data_dir / DATABASE_FILE)
        self._pool = LivePool(
            engine,
            self._load,
            settings.policy,
            simulate=settings.simulate,
            call_id_memory_hours=settings.call_id_memory_hours,
            lease_ms=settings.lease_seconds * 1000,
            grace_ms=settings.grace_seconds * 1000,
            late_resume_hours=settings.late_resume_hours,
            saved_numbers=self._saved_numbers,
            saved_policy=self.records.policy.require,
            find_known=self._find_known,
            find_resettled=self._find_resettled,
            saved_before_ms=self._saved_before_ms,
            replicas=settings.wait_replicas,
        )
        self._recorder = recorder = Recorder(
            self.records.database,
            self._pool.records,
            self._now_ms,
            kept_ms=settings.records_kept_hours * 3_600_000,
        )
        self._control = Control(engine.client, name)
        self._gateways = Gateways(engine.client)
        self._administration = Administration(self.records, self._pool, recorder)
        self._monitor = Monitor(
            self._pool, self.records, lambda: engine_warnings(engine, settings.wait_replicas)
        )
        self.service = Callgate(
            settings,
            self._pool,
            self.records,
            recorder,
            self._control,
            Subscriptions(engine.client),
            self._gateways,
            self._administration,
            self._monitor,
        )
        background = self.service.background
        if settings.webhook_url is not None:
            # Imported by who sends: an HTTP client is a matter of megabytes.
            from gateway.service.webhooks import Receiver, WebhookSender

            receiver = Receiver(settings.webhook_url, settings.webhook_secrets)
            background = (*background, WebhookSender(self.records, receiver).run)
        self._upkeep = Upkeep(
            self.service,
            self._pool,
            self.records,
            recorder,
            self._administration,
            self._control,
            self._gateways,
            self._monitor,
            background,
        )
        self.reached = asyncio.Event()

    async def run(self) -> None:
        """Reach engine and database, then do what a gateway does beside answering."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pool.run())
            # Calls that were admitted without the engine can be ended without it, also after a restart.
            await self.service.adopt_journals()
            await self._reach()
            await self._monitor.look_at_safety()
            self._monitor.started()
            self.reached.set()
            tasks.create_task(self._upkeep.run())

    async def leave(self) -> None:
        """Leave nothing unwritten, and say to the others that this gateway is going."""
        try:
            await self.service.save_journal()
        except OSError as failure:
            log.error("journal.not_written", error=str(failure))
        try:
            await self._gateways.leave(self._control.gateway)
        except (RedisError, OSError) as failure:
            log.warning("gateway.left_quietly", error=type(failure).__name__)

    async def _reach(self) -> None:
        while True:
            try:
                await self.records.open()
                await self._check_data()
                await self._upkeep.load_revocations()
            except (EngineUnavailable, DatabaseUnavailable) as failure:
                log.warning(
                    "gateway.waits", code=failure.code, because=str(failure.__cause__ or failure)[:200]
                )
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _check_data(self) -> None:
        """The policy and the kind of clock are kept with the data; this gateway must be set up like that."""
        kept = await self.records.deployment.settle("simulate", str(self._settings.simulate).lower())
        if (kept == "true") != self._settings.simulate:
            way = "with" if kept == "true" else "without"
            raise StartRefused(f"The data was made {way} --simulate and can only be used {way} it.")
        policy = await self.records.policy.settle(self._settings.policy)
        wanted = () if self._settings.webhook_url is None else self._settings.webhook_events
        await self.records.outbox.want(wanted)
        coming = await self.records.policy.coming()
        if coming is not None:
            policy = coming
        for field in _POLICY_FIELDS:
            if field in self._settings.given and getattr(self._settings, field) != getattr(policy, field):
                raise StartRefused(
                    f"The data is kept under {field} {getattr(policy, field)}, but the settings say "
                    f"{getattr(self._settings, field)}. Set the same, or change the data's with "
                    "`callgate policy set` on a running gateway."
                )
        await self._pool.open(policy, replace_policy=coming is not None)
        if coming is not None:
            await self.service.set_policy(policy)

    async def _load(self, account: str) -> AccountConfig | None:
        return await self._administration.load(account)

    async def _saved_numbers(self) -> Mapping[int, int]:
        return await self._recorder.saved_numbers()

    async def _find_known(
        self, account: str, calls: Sequence[tuple[str, int]]
    ) -> Sequence[CallRecord | CallInProgress]:
        return await self.records.calls.find_known(account, calls)

    async def _find_resettled(self, account: str) -> Sequence[CallRecord]:
        return await self.records.calls.find_resettled(account)

    async def _saved_before_ms(self, away: Set[int]) -> int:
        return await self._recorder.saved_here_before_ms(away)

    async def _now_ms(self) -> int:
        return (await self._pool.clock()).now_ms
