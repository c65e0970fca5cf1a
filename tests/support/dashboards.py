"""A dashboard's WebSocket, frame by frame, with nothing of our client between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

WAIT_SECONDS = 15.0

Frame = dict[str, Any]


class Watcher:
    """A dashboard that is connected: `frames` are all that it was sent, oldest first."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[Frame] = []
        self.arrived_at: list[float] = []
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def send(self, frame: Frame | str | bytes) -> None:
        """Send a frame."""
        await self.connection.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def until(self, wanted: Callable[[Frame], object]) -> Frame:
        """Wait for a frame that `wanted` holds of, and return the first; it may have come before."""
        at = 0
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                for frame in self.frames[at:]:
                    if wanted(frame):
                        return frame
                at = len(self.frames)
                self._more.clear()
                if self._reading.done():
                    raise AssertionError(f"closed with {self.connection.close_code}: {self.frames[-3:]}")
                await self._more.wait()

    async def pool(self, **fields: Any) -> Frame:
        """Wait for a pool with these values."""
        return await self.until(lambda frame: frame["type"] == "pool" and fields.items() <= frame.items())

    async def notice(self, kind: str) -> Frame:
        """Wait for a notice of this kind."""
        return await self.until(lambda frame: frame["type"] == "notice" and frame["kind"] == kind)

    async def answer(self, frame: Frame) -> Frame:
        """Send a request, and wait for its answer."""
        await self.send(frame)
        return await self.until(lambda heard: heard.get("re") == frame["id"])

    def of(self, kind: str) -> list[Frame]:
        """The frames of this type that have come."""
        return [frame for frame in self.frames if frame["type"] == kind]

    async def closed(self) -> int | None:
        """Wait for the gateway to close, and return why."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self._reading
        return self.connection.close_code

    async def close(self) -> None:
        """Close in order."""
        await self.connection.close()
        await self._reading

    async def _read(self) -> None:
        try:
            async for text in self.connection:
                self.frames.append(json.loads(text))
                self.arrived_at.append(asyncio.get_running_loop().time())
                self._more.set()
        except ConnectionClosed:
            pass
        finally:
            self._more.set()


def handshake(
    websocket_url: str,
    token: str | None = None,
    *,
    query: str = "",
    headers: dict[str, str] | None = None,
    subprotocols: Sequence[str] = ("callgate.v1",),
    **options: Any,
) -> connect:
    """A handshake with `/v1/live`; enter it for the connection."""
    authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
    return connect(
        f"{websocket_url}/v1/live{query}",
        additional_headers=authorization | (headers or {}),
        subprotocols=[Subprotocol(name) for name in subprotocols],
        max_size=None,
        proxy=None,
        **options,
    )


@asynccontextmanager
async def watching(websocket_url: str, token: str, *, query: str = "") -> AsyncIterator[Watcher]:
    """A dashboard that is connected; closed in order at the end."""
    async with handshake(websocket_url, token, query=query) as connection:
        watcher = Watcher(connection)
        try:
            yield watcher
        finally:
            await watcher.close()
