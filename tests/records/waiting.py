"""Waiting for what has to be asked of a database."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.support.waiting import wait_until

T = TypeVar("T")


async def eventually(predicate: Callable[[], Awaitable[T]]) -> T:
    """Ask `predicate` until its answer is true, and return that answer; AssertionError after 10 s."""
    answer: T = await wait_until(predicate)
    return answer
