"""Tasks that live and die together, and work that is done once for all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


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


async def first_answers(
    asking: Iterable[Coroutine[Any, Any, T | str]], others_seconds: float
) -> tuple[list[T], list[str]]:
    """Ask several servers the same at once; answer what they say, and of those that failed why.

    Whoever has not answered `others_seconds` after the latest answer is waited for no more.
    """
    answers: list[T] = []
    failures: list[str] = []
    pending = {asyncio.create_task(each) for each in asking}
    limit: float | None = None
    try:
        while pending:
            done, pending = await asyncio.wait(pending, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                answer = task.result()
                if isinstance(answer, str):
                    failures.append(answer)
                else:
                    answers.append(answer)
                    limit = others_seconds
    finally:
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
    return answers, failures


class Shared(Generic[T]):
    """Work of which one run serves all who ask before it begins: they share what it answers, or raises.

    One run at a time; who asks while one is under way shares the next. So none waits for longer than two
    take, however many ask. A run goes on if all who asked were cancelled.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._one_run = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None

    async def ask(self) -> T:
        """Have it done, and answer what it says. Raises what it raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._in_turn())
            # If it fails when nobody waits any more, nobody asks how it did.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._next)

    async def _in_turn(self) -> T:
        async with self._one_run:
            self._next = None
            return await self._work()
