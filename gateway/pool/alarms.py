"""What happens to pools with nobody asking: they reset on time (R19), and pass thresholds (R29)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from gateway import turns
from gateway.domain.errors import CallgateError, FieldError, InvalidField
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace
from gateway.pool.scripts import script
from gateway.pool.shards import Clock, Shards
from gateway.pool.unreadable import PoolUnreadable

log = structlog.get_logger(__name__)

MOST_DUE: Final = 64
"""How many accounts of one shard are seen to in one round."""
MOST_PASSED_OVER: Final = 1000
"""How many of a shard that could not be seen to are looked past in one round, for others behind them."""
LONGEST_WAIT_SECONDS: Final = 0.25
"""An alarm set meanwhile by another gateway is met this late at the most (R29: within half a second)."""
AFTER_FAILURE_SECONDS: Final = 1.0
SHORTEST_WAIT_SECONDS: Final = 0.01

Fire = Callable[[Iterable[str]], Awaitable[Mapping[str, Exception]]]
"""Sees to the accounts that are due, once each; a second time does nothing. Answers those that could not be
seen to, which stay due, each with why: PoolUnreadable for one that is not what it should be."""


class Alarms:
    """Sees to every account at the instant at which something is due for it.

    Any number of gateways may do so.
    """

    def __init__(self, engine: Engine, keys: KeySpace, shards: Shards, fire: Fire) -> None:
        self._engine = engine
        self._keys = keys
        self._shards = shards
        self._fire = fire

    async def run(self) -> None:
        """See to what is due, for ever; while the engine or SQL is away, again and again."""
        while True:
            try:
                clock, next_ms = await self.fire_due()
            except (CallgateError, RedisError, OSError) as failure:
                log.warning("alarms.failed", error=type(failure).__name__)
                await asyncio.sleep(AFTER_FAILURE_SECONDS)
                continue
            turns.finished("alarms")
            wait = LONGEST_WAIT_SECONDS
            if next_ms and clock.speed:
                wait = min(wait, (next_ms - clock.now_ms) / clock.speed / 1000)
            await asyncio.sleep(max(wait, SHORTEST_WAIT_SECONDS))

    async def fire_due(self) -> tuple[Clock, int]:
        """See to all that is due now.

        Answers the clock, and the next instant at which something is (0 none). Raises EngineUnavailable,
        RedisError; and once all others were seen to, what kept any account from that, unless it is not what
        it should be.
        """
        failed: dict[str, Exception] = {}
        while True:
            stuck = max(Counter(map(self._keys.shard_of, failed)).values(), default=0)
            most = MOST_DUE + min(stuck, MOST_PASSED_OVER)
            clock, next_ms, found = await self._find_due(most)
            due = [account for account in found if account not in failed]
            if not due:
                break
            failed.update(await self._fire(due))
        failures = [each for each in failed.values() if not isinstance(each, PoolUnreadable)]
        if failures:
            log.warning("alarms.not_all_seen_to", failed=len(failures))
            raise failures[0]
        # Behind so many nothing is found: "at once" would be said again and again.
        return clock, 0 if stuck >= most else next_ms

    async def move_clock(
        self, to_ms: int | None, speed: int | None, *, by_ms: int = 0, anywhere: bool = False
    ) -> Clock:
        """Move the simulated clock to an instant, or else by a span, and set its speed (None: as it was).

        What falls due on the way is seen to in order, each at its very instant. `anywhere` allows an instant
        behind the clock. Raises InvalidField for that otherwise, and then the clock goes on as it was;
        RedisError.
        """
        was = await self._shards.clock()
        # It stands still meanwhile, or it would be later than the instant it is to be set to.
        stopped = await self._shards.stop_clock()
        speed = was.speed if speed is None else speed
        to_ms = stopped.now_ms + by_ms if to_ms is None else to_ms
        if to_ms < stopped.now_ms:
            if anywhere:
                return await self._shards.set_clock(to_ms, speed, anywhere=True)
            await self._shards.set_clock(stopped.now_ms, was.speed)
            message = f"is before {stopped.now_ms}, which the clock shows; it only moves forward"
            raise InvalidField(errors=[FieldError("at_ms", message)])
        try:
            await self._pass_time(to_ms)
        except (CallgateError, RedisError, OSError):
            # It stands where it came to, and goes on from there.
            reached = await self._shards.clock()
            await self._shards.set_clock(reached.now_ms, was.speed)
            raise
        return await self._shards.set_clock(to_ms, speed)

    async def _pass_time(self, to_ms: int) -> None:
        while True:
            _, next_ms = await self.fire_due()
            if not next_ms or next_ms > to_ms:
                return
            await self._shards.set_clock(next_ms, 0)

    async def _find_due(self, most: int) -> tuple[Clock, int, list[str]]:
        clock: Clock | None = None
        next_ms = 0
        due: list[str] = []

        async def look(shards: Sequence[int]) -> Any:
            keys = [key for shard in shards for key in self._keys.named(shard, "meta", "alarms")]
            return await script("alarms_due").run(self._engine.client, keys, [str(most)])

        asked = await self._engine.ask_shards(range(self._keys.shards), look)
        for _, (now_ms, speed, later_ms, *accounts) in asked.said:
            if now_ms:
                clock = Clock(now_ms, speed)
            due.extend(account.decode() for account in accounts)
            if later_ms and (not next_ms or later_ms < next_ms):
                next_ms = later_ms
        if clock is None:
            # No shard is there, so there is no clock to be seen: the one that was seen last goes on.
            return Clock(self._shards.estimated_now_ms(), 0), 0, []
        return self._shards.saw_clock(clock), next_ms, due
