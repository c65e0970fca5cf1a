"""Signals as a command of ours takes them, and how long stopping may last."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Final

STOPPING_SECONDS: Final = 25
"""What a gateway may take beside its drain: closing connections, the database, and the embedded engine."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


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
