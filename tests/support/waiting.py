"""Waiting for something to become true, in place of sleeping and hoping."""

import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def wait_until(
    predicate: Callable[[], object],
    timeout: float = 10.0,  # noqa: ASYNC109 - seconds until the test fails; the polling below must be bounded by it
    *,
    interval: float = 0.01,
) -> Any:
    """Ask `predicate` (plain or async) until its answer is true, and return that answer.

    Raises AssertionError after `timeout` seconds, naming the predicate and its last answer. An
    AssertionError of the predicate's own counts as "not yet", so it may consist of assertions; the last
    one is shown as the cause.
    """
    deadline = time.monotonic() + timeout
    while True:
        refused: AssertionError | None = None
        try:
            asked = predicate()
            answer = await asked if inspect.isawaitable(asked) else asked
        except AssertionError as error:
            answer, refused = False, error
        if answer:
            return answer
        if time.monotonic() >= deadline:
            what = inspect.getsource(predicate).strip() if inspect.isfunction(predicate) else repr(predicate)
            raise AssertionError(f"not within {timeout} s: {what} (last answer: {answer!r})") from refused
        await anyio.sleep(interval)


def wait_until_sync(predicate: Callable[[], T], timeout: float = 10.0, *, interval: float = 0.01) -> T:
    """Do as `wait_until` does, for tests that run no event loop."""
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() >= deadline:
            what = inspect.getsource(predicate).strip() if inspect.isfunction(predicate) else repr(predicate)
            raise AssertionError(f"not within {timeout} s: {what} (last answer: {answer!r})")
        time.sleep(interval)
    return answer
