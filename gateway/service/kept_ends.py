"""Ends of calls that were told while the engine was away: delivered when it is back, with their true moment.

The client that told it holds the end, too, until it is settled, and asks again; whichever is first, the
settlement is the same (R17).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Final, NoReturn

import structlog

from gateway import metrics, turns
from gateway.domain.answers import Answer
from gateway.domain.asks import Ask, End
from gateway.domain.errors import CallgateError, DatabaseUnavailable, EngineUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 1.0
AT_ONCE: Final = 500
"""Ends delivered at once. Where none of so many can be, the others wait for the next round."""
MOST: Final = 100_000
"""Ends kept at most: beyond that the clients' own keeping has to do."""


class KeptEnds:
    """The ends that one gateway still has to deliver."""

    def __init__(self, ask: Callable[[Ask], Awaitable[Answer]]) -> None:
        self._ask = ask
        self._ends: OrderedDict[tuple[str, str], tuple[End, float]] = OrderedDict()
        self._waiting = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ends)

    def keep(self, ask: End, asked_at: float) -> None:
        """Keep an end that nobody could be told, asked then (`monotonic`); the first told stands (R17)."""
        self._ends.setdefault((ask.account, ask.call_id), (ask, asked_at))
        if len(self._ends) > MOST:
            self._ends.popitem(last=False)
        metrics.ENDS_KEPT.set(len(self._ends))
        self._waiting.set()

    async def run(self) -> NoReturn:
        """Deliver what is kept, as soon as the engine can be asked, until cancelled."""
        while True:
            if not self._ends:
                self._waiting.clear()
                await turns.wait("kept_ends", self._waiting)
            await self.deliver()
            if self._ends:
                await asyncio.sleep(RETRY_SECONDS)

    async def deliver(self) -> None:
        """Deliver what can be now.

        A shard of a Cluster may be away, or SQL, which alone knows of a call that the engine has forgotten:
        what fails holds up no other end, and comes last in the next round.
        """
        keys = list(self._ends)
        for first in range(0, len(keys), AT_ONCE):
            together = [key for key in keys[first : first + AT_ONCE] if key in self._ends]
            delivered = await asyncio.gather(*(self._deliver(key) for key in together))
            for key, is_delivered in zip(together, delivered, strict=True):
                if not is_delivered and key in self._ends:
                    self._ends.move_to_end(key)
            if not any(delivered):
                break
        metrics.ENDS_KEPT.set(len(self._ends))

    async def _deliver(self, key: tuple[str, str]) -> bool:
        kept = self._ends.get(key)
        if kept is None:
            return True  # let go of meanwhile, as there are too many
        ask, kept_at = kept
        ago_ms = ask.ended_ago_ms + int((monotonic() - kept_at) * 1000)
        try:
            await self._ask(replace(ask, ended_ago_ms=ago_ms))
        except (EngineUnavailable, DatabaseUnavailable):
            return False
        except CallgateError as refusal:
            log.info("end.not_taken", account=ask.account, call_id=ask.call_id, code=refusal.code)
        else:
            log.info("end.delivered", account=ask.account, call_id=ask.call_id, ago_ms=ago_ms)
        if self._ends.get(key) is kept:
            del self._ends[key]
        return True
