"""Reading a pool again and again, and counting on in between."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from gateway.client import AdminClient, ClientError
from gateway.client.elapsed import elapsed_ms
from gateway.client.live_use import LiveUse
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable, TooFast

PASSING = (ClientError, EngineUnavailable, DatabaseUnavailable, TooFast)
"""What one failed reading may be; the next one tells. Anything else (a wrong token, for one) stays wrong."""


class PoolWatch:
    """An account's pool, read every `interval_seconds` while `run` is under way."""

    def __init__(self, client: AdminClient, account: str, interval_seconds: float) -> None:
        self.account = account
        self.live: LiveUse | None = None
        self.trouble = ""
        """What kept the last reading from succeeding, for people; empty if nothing did."""
        self._client = client
        self._interval_seconds = interval_seconds
        self._soon = anyio.Event()

    async def read(self) -> LiveUse:
        """Read it now. Raises CallgateError."""
        began_ms = elapsed_ms()
        pool = await self._client.pool(self.account)
        # Somewhere on the way the pool was as it says: in the middle, for all that is known.
        self.live = LiveUse(pool, (began_ms + elapsed_ms()) // 2)
        self.trouble = ""
        return self.live

    def now_ms(self) -> int:
        """Return the billing time now; a pool must have been read."""
        assert self.live is not None
        return self.live.now_ms(elapsed_ms())

    def look_soon(self) -> None:
        """Read it again without waiting: something happened."""
        self._soon.set()

    async def run(self, changed: Callable[[], None] | None = None) -> None:
        """Read it for ever, and call `changed` after each reading; what passes by itself is waited out.

        Raises CallgateError for what does not pass.
        """
        while True:
            try:
                await self.read()
            except PASSING as error:
                self.trouble = error.message
            if changed is not None:
                changed()
            with anyio.move_on_after(self._interval_seconds):
                await self._soon.wait()
            self._soon = anyio.Event()
