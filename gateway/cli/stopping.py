"""Signals as a command of ours takes them, and how long stopping may last."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Final

STOPPING_SECONDS: Final = 25
"""What a gateway may take beside its drain: closing connections, the database, and the embedded engine."""

MOST_SERVING_ON_SECONDS: Final = 30.0
"""A gateway that is sent SIGTERM has HTTP served on while `/readyz` says that it is going, until balancers
have seen it: for half of its drain, and no longer than this."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def serving_on_seconds(number: signal.Signals, drain_seconds: int) -> float:
    """Return how long a gateway that was sent this signal serves HTTP at least.

    Ctrl-C (SIGINT) is a person's, who would rather not wait, at a gateway behind no balancer.
    """
    return 0.0 if number is signal.SIGINT else min(drain_seconds / 2, MOST_SERVING_ON_SECONDS)


@contextlib.contextmanager
def signals_to(take: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `take` on the event loop for each SIGTERM and SIGINT, in place of what they would do."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, take, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
