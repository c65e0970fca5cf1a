"""Answers and ends of calls that were told while the engine was away: delivered when it is back, as of then.

The client that told one holds it, too, until it is taken, and asks again; whichever is first, what becomes of
it is the same (R3, R17).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, NoReturn

import structlog

from gateway import metrics, turns
from gateway.domain.answers import Answer
from gateway.domain.asks import Answered, Ask, End, Told, as_of_earlier
from gateway.domain.errors import CallgateError, DatabaseUnavailable, EngineUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 1.0
AT_ONCE: Final = 500
"""Calls of which something is delivered at once. Where nothing can be of so many, the others wait for the
next round."""
MOST: Final = 100_000
"""Calls of which something is kept at most: beyond that the clients' own keeping has to do."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was told of a call, and when (`monotonic`)."""

    answered: tuple[Answered, float] | None = None
    end: tuple[End, float] | None = None

    def answered_as_of_now(self) -> Answered | None:
        return None if self.answered is None else _as_of_now(*self.answered)

    def end_as_of_now(self) -> End | None:
        return None if self.end is None else _as_of_now(*self.end)


class KeptEnds:
    """The ends, and answers, that one gateway still has to deliver.

    `ask` tells the answer of a call (`answered`) before its end, which would bill without it.
    """

    def __init__(self, ask: Callable[[Ask], Awaitable[Answer]]) -> None:
        self._ask = ask
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._waiting = asyncio.Event()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, ask: Answered | End, asked_at: float) -> None:
        """Keep what nobody could be told, asked then (`monotonic`); the first told stands (R3, R17).

        An answer that is told after the end changes nothing, as of any call that has ended.
        """
        key = (ask.account, ask.call_id)
        kept = self._kept.get(key, _Kept())
        if kept.end is not None:
            return
        if isinstance(ask, End):
            kept = replace(kept, end=(ask, asked_at))
        elif kept.answered is None:
            kept = replace(kept, answered=(ask, asked_at))
        self._kept[key] = kept
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)
        metrics.ENDS_KEPT.set(len(self._kept))
        self._waiting.set()

    def answered(self, account: str, call_id: str) -> Answered | None:
        """The answer of a call that is still to be delivered, as of now."""
        kept = self._kept.get((account, call_id))
        return None if kept is None else kept.answered_as_of_now()

    async def run(self) -> NoReturn:
        """Deliver what is kept, as soon as the engine can be asked, until cancelled."""
        while True:
            if not self._kept:
                self._waiting.clear()
                await turns.wait("kept_ends", self._waiting)
            await self.deliver()
            if self._kept:
                await asyncio.sleep(RETRY_SECONDS)

    async def deliver(self) -> None:
        """Deliver what can be now.

        A shard of a Cluster may be away, or SQL, which alone knows of a call that the engine has forgotten:
        what fails holds up nothing else, and comes last in the next round.
        """
        keys = list(self._kept)
        for first in range(0, len(keys), AT_ONCE):
            together = [key for key in keys[first : first + AT_ONCE] if key in self._kept]
            delivered = await asyncio.gather(*(self._deliver(key) for key in together))
            for key, is_delivered in zip(together, delivered, strict=True):
                if not is_delivered and key in self._kept:
                    self._kept.move_to_end(key)
            if not any(delivered):
                break
        metrics.ENDS_KEPT.set(len(self._kept))

    async def _deliver(self, key: tuple[str, str]) -> bool:
        kept = self._kept.get(key)
        if kept is None:
            return True  # let go of meanwhile, as there are too many
        ask = kept.end_as_of_now() or kept.answered_as_of_now()
        assert ask is not None
        is_end = isinstance(ask, End)
        try:
            await self._ask(ask)
        except (EngineUnavailable, DatabaseUnavailable):
            return False
        except CallgateError as refusal:
            event = "end.not_taken" if is_end else "answer.not_taken"
            log.info(event, account=ask.account, call_id=ask.call_id, code=refusal.code)
        else:
            event = "end.delivered" if is_end else "answer.delivered"
            ago_ms = ask.ended_ago_ms if isinstance(ask, End) else ask.answered_ago_ms
            log.info(event, account=ask.account, call_id=ask.call_id, ago_ms=ago_ms)
        # The end may have been told meanwhile.
        if self._kept.get(key) is kept:
            del self._kept[key]
        return True


def _as_of_now(ask: Told, asked_at: float) -> Told:
    return as_of_earlier(ask, int((monotonic() - asked_at) * 1000))
