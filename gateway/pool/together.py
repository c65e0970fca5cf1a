"""Tasks that live and die together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

AGAIN_SECONDS: Final = 0.1


async def run_together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends or this is cancelled; then end the others, and raise what went wrong.

    They are cancelled until they are gone: redis-py can turn a cancellation that comes just as a reply does
    into an error of its own, which a loop that outlives such errors would take for one.
    """
    tasks = {asyncio.create_task(each) for each in work}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pending = {task for task in tasks if not task.done()}
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)
    for task in done:
        task.result()
