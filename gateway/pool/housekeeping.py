"""What a gateway does for all pools with nobody asking: it is heard of, settles and forgets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from typing import Final, NoReturn

import structlog
from redis.exceptions import RedisError

from gateway import turns
from gateway.domain.answers import Answer, Settled
from gateway.domain.asks import Reap
from gateway.domain.errors import CallgateError
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace
from gateway.pool.leases import Leases
from gateway.pool.operations import Submit
from gateway.pool.scripts import script
from gateway.pool.shards import Shards
from gateway.pool.together import run_together

log = structlog.get_logger(__name__)

BEATS_A_LEASE: Final = 6
LONGEST_BEAT_SECONDS: Final = 5.0
LONGEST_LOOK_SECONDS: Final = 1.0
SHORTEST_LOOK_SECONDS: Final = 0.05
FORGET_SECONDS: Final = 10.0
FORGET_AT_ONCE: Final = 1000


class Housekeeping:
    """What has to be done again and again, by any number of gateways."""

    def __init__(
        self,
        engine: Engine,
        keys: KeySpace,
        shards: Shards,
        leases: Leases,
        submit: Submit,
        *,
        lease_ms: int,
        grace_ms: int,
        memory_ms: int,
    ) -> None:
        """`memory_ms` is how long the ids of ended calls are remembered."""
        self._engine = engine
        self._keys = keys
        self._shards = shards
        self._leases = leases
        self._submit = submit
        self._lease_ms = lease_ms
        self._grace_ms = grace_ms
        self._memory_ms = memory_ms

    async def run(self) -> None:
        """Do all of it, until cancelled."""
        await run_together(self._beat(), self._reap(), self._forget_old_calls())

    async def _beat(self) -> NoReturn:
        """Say to the shards that a gateway is there, so that they know that leases could be renewed (R14)."""
        while True:
            try:
                away = await self._shards.beat(self._lease_ms)
            except (RedisError, OSError, CallgateError) as failure:
                log.warning("shards.not_told", error=type(failure).__name__)
            else:
                turns.finished("beats")
                if away:
                    log.warning("shards.away", shards=len(away))
            # However long a lease is: this is also how a gateway hears that a shard has a new epoch.
            pause = min(self._lease_ms / 1000 / BEATS_A_LEASE, LONGEST_BEAT_SECONDS)
            await asyncio.sleep(pause * random.uniform(0.8, 1))  # noqa: S311 - no secret

    async def _reap(self) -> NoReturn:
        """Settle what nobody vouches for any more (R13, R14). The script decides whether it may be."""
        while True:
            wait_ms = 0
            try:
                due, wait_ms = await self._leases.due()
                for account, call_id in due:
                    self._submit(Reap(account, call_id), partial(_reaped, account))
            except (RedisError, OSError) as failure:
                log.warning("leases.not_looked_through", error=type(failure).__name__)
            else:
                turns.finished("reaper")
            # A lease given meanwhile by another gateway falls due later than this looks again.
            longest = min(LONGEST_LOOK_SECONDS, (self._lease_ms + self._grace_ms) / 1000)
            await asyncio.sleep(min(max(wait_ms / 1000, SHORTEST_LOOK_SECONDS), longest))

    async def _forget_old_calls(self) -> NoReturn:
        """Forget ended calls whose ids are free again (R9)."""
        while True:
            await asyncio.sleep(FORGET_SECONDS)
            try:
                await self._engine.ask_shards(range(self._keys.shards), self._forget)
            except (RedisError, OSError) as failure:
                log.warning("calls.not_forgotten", error=type(failure).__name__)
            else:
                turns.finished("forgetting")

    async def _forget(self, shards: Sequence[int]) -> None:
        names = ("meta", "calls", "ended", "overtaken")
        keys = [key for shard in shards for key in self._keys.named(shard, *names)]
        await script("calls_forget").run(
            self._engine.client, keys, [str(self._memory_ms), str(FORGET_AT_ONCE)]
        )


def _reaped(account: str, answer: Answer | CallgateError) -> None:
    if isinstance(answer, Settled):
        log.info(
            "call.settled",
            account=account,
            call_id=answer.call_id,
            duration_ms=answer.duration_ms,
            billed_seconds=answer.billed_seconds,
            ended_by=answer.ended_by,
            revision=answer.revision,
            replayed=answer.replayed,
        )
