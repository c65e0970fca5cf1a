"""When each background task of this process last finished a turn: one that hangs is seen by that.

One that dies is not left to this: it ends the process (`gateway.service.opening`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Final

from gateway import metrics

IDLE_SECONDS: Final = 5.0
"""How often a task that has nothing to do is seen to be there."""

_last: Final[dict[str, float]] = {}


def finished(task: str) -> None:
    """Note that a task has finished a turn, or begins its first one. A turn that failed does not count."""
    _last[task] = time.monotonic()
    metrics.TASK_LAST_TURN.labels(task=task).set(time.time())


async def wait(task: str, woken: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until there is something to do, or for so long. To have nothing to do is a turn, too."""
    until = None if seconds is None else time.monotonic() + seconds
    while not woken.is_set():
        finished(task)
        left = IDLE_SECONDS if until is None else min(IDLE_SECONDS, until - time.monotonic())
        if left <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await woken.wait()


def ages_ms() -> Mapping[str, int]:
    """How long ago each task last finished a turn, by its name."""
    now = time.monotonic()
    return {task: int((now - at) * 1000) for task, at in sorted(_last.items())}
