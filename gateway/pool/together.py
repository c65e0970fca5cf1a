"""Tasks that live and die together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends or this is cancelled; then end the others, and raise what went wrong.

    Relies on nothing in them losing a cancellation (`gateway/pool/connections.py`).
    """
    tasks = {asyncio.create_task(each) for each in work}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()
