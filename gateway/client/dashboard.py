"""A dashboard: an account's pool as it changes, over a connection that is kept up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from ssl import SSLContext
from types import TracebackType
from typing import Self

import anyio

from gateway.client import errors
from gateway.client.addresses import Address, parse_address
from gateway.client.elapsed import elapsed_ms
from gateway.client.link import Link
from gateway.client.live_frames import LiveHeard, PoolNotice, PoolShown, decode
from gateway.client.live_use import LiveUse
from gateway.client.resources import Pool
from gateway.client.timing import Timing
from gateway.client.tokens import Tokens, TokenSource
from gateway.domain.errors import CallgateError, EngineUnavailable


class Dashboard:
    """An account's pool, shown while its `async with` block runs, reconnecting by itself with growing delays.

    `url` is the gateway's, `token` one of the scope `watch`, or a function that gives one: called again when
    the gateway no longer takes the last. With the admin key in its place `account` says whose pool it is.
    `on_notice` hears what happened to the pool (thresholds, a new cycle, ...), each once.

    `async for pool in dashboard` gives the pool as it is, and again whenever another one came; one who is
    slow gets the newest. Between them it goes on by itself: `live` counts on.

    Entering waits for the first pool. It raises TokenRefused, Forbidden, NotFound, GatewayUnreachable,
    UnexpectedAnswer, and EngineUnavailable if a gateway is there and shows nothing.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        account: str | None = None,
        on_notice: Callable[[PoolNotice], None] | None = None,
        timing: Timing | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        self._timing = timing if timing is not None else Timing()
        self._on_notice = on_notice
        self._address = parse_address(url)
        self._link = _DashboardLink(self._address, account, Tokens(token), self._timing, tls, self)
        self._task: asyncio.Task[CallgateError] | None = None
        self._changed = asyncio.Event()
        self._count = 0
        self._heard_ms = elapsed_ms()
        self.live: LiveUse | None = None
        """The newest pool, counting on; None before the first."""
        self.ended_by: CallgateError | None = None
        """Why it connects no more; None while it does."""

    async def __aenter__(self) -> Self:
        """Connect, and wait for the first pool."""
        self._task = asyncio.create_task(self._link.run(), name="dashboard")
        self._task.add_done_callback(self._task_done)
        try:
            with anyio.fail_after(self._timing.connect_seconds):
                while self.live is None and self.ended_by is None:
                    await self.changed()
        except TimeoutError:
            is_there = self._link.connected
            await self._stop()
            seconds = f"{self._timing.connect_seconds:g} s"
            if is_there:
                raise EngineUnavailable(f"The gateway had no pool to show within {seconds}.") from None
            raise errors.GatewayUnreachable(
                self._link.trouble or f"{self._address.http} did not answer within {seconds}."
            ) from None
        except BaseException:
            await self._stop()
            raise
        if self.ended_by is not None:
            await self._stop()
            raise self.ended_by
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, within `close_seconds`."""
        try:
            with anyio.move_on_after(self._timing.close_seconds, shield=True):
                await self._link.close()
        finally:
            await self._stop()

    @property
    def pool(self) -> Pool:
        """The newest pool, as it was when it was sent."""
        assert self.live is not None, "not entered"
        return self.live.pool

    @property
    def connected(self) -> bool:
        """Whether there is a connection just now that has shown the pool: what is seen is what is."""
        return self._link.welcomed

    @property
    def stale_seconds(self) -> float | None:
        """For how long what is seen may not be what is any more; None while it is."""
        return None if self.connected else max(0, elapsed_ms() - self._heard_ms) / 1000

    @property
    def trouble(self) -> str:
        """Why it is stale, for people; empty while it is not."""
        return "" if self.connected else self._link.trouble

    def now_ms(self) -> int:
        """Return the billing time now, as far as the newest pool tells."""
        assert self.live is not None, "not entered"
        return self.live.now_ms(elapsed_ms())

    async def changed(self) -> None:
        """Wait until something changes: another pool, a connection lost or made, the end."""
        await self._changed.wait()

    async def __aiter__(self) -> AsyncIterator[Pool]:
        """Give the newest pool, whenever there is another one. Raises what the dashboard was ended by."""
        seen = 0
        while True:
            if self._count > seen and self.live is not None:
                seen = self._count
                yield self.live.pool
            elif self.ended_by is not None:
                raise self.ended_by
            else:
                await self.changed()

    # Inside

    def take(self, heard: LiveHeard) -> None:
        """Hear a frame."""
        if isinstance(heard, PoolShown):
            self._heard_ms = elapsed_ms()
            self.live = LiveUse(heard, self._heard_ms)
            self._count += 1
            self._link.welcome()
            self.notify()
        elif isinstance(heard, PoolNotice) and self._on_notice is not None:
            # What goes wrong in there is the loop's to tell, and no reason to drop the connection.
            asyncio.get_running_loop().call_soon(self._on_notice, heard)

    def heard(self) -> None:
        """Note that the gateway was heard."""
        if self.connected:
            self._heard_ms = elapsed_ms()

    def notify(self) -> None:
        """Wake all who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _task_done(self, task: asyncio.Task[CallgateError]) -> None:
        if not task.cancelled():
            failure = task.exception()
            self.ended_by = errors.PhoneEnded(str(failure)) if failure is not None else task.result()
        self.notify()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


class _DashboardLink(Link[LiveHeard]):
    """A dashboard's connections: the gateway speaks first, by showing the pool."""

    def __init__(
        self,
        address: Address,
        account: str | None,
        tokens: Tokens,
        timing: Timing,
        tls: SSLContext | None,
        dashboard: Dashboard,
    ) -> None:
        super().__init__(address, address.live(account), tokens, timing, tls, decode)
        self._dashboard = dashboard

    def take(self, heard: LiveHeard) -> None:
        """Hear a frame."""
        self._dashboard.take(heard)

    def heard_something(self) -> None:
        """Hear anything at all."""
        self._dashboard.heard()

    def lost(self) -> None:
        """The connection is gone."""
        self._dashboard.notify()
