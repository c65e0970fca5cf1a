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
    take, however many ask. Where whoever runs it is cancelled, the next who waits runs it anew.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._one_run = asyncio.Lock()
        self._begun = self._done = 0
        self._answer: T
        self._failure: Exception | None = None

    async def ask(self) -> T:
        """Have it done, and answer what it says. Raises what it raises."""
        wanted = self._begun + 1
        async with self._one_run:
            if self._done < wanted:
                self._begun += 1
                self._failure = None
                try:
                    self._answer = await self._work()
                except Exception as failure:  # noqa: BLE001 - raised to all who asked
                    self._failure = failure
                self._done = self._begun
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            return self._answer
