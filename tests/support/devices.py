"""A softphone's WebSocket, frame by frame: what a device sends and gets, with nothing of our client between.

`async with connected(gateway, token) as device` opens `/v1/device`. `request` sends a frame and waits for its
answer; `ask` only sends, and gives what to await for the answer, so that many can be under way.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.support.gateways import GatewayProcess

ANSWER_SECONDS = 10.0

Frame = dict[str, Any]


class Device:
    """One connection of a device. `notices` are the frames that it did not ask for, after the welcome."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Frame]] = {}
        self._welcomed: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self.notices: list[Frame] = []
        self._reading = asyncio.create_task(self._read())

    async def welcome(self) -> Frame:
        """Wait for the first frame."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asyncio.shield(self._welcomed)

    async def ask(self, kind: str, **fields: Any) -> asyncio.Future[Frame]:
        """Send a request of this `type`; the answer comes in what this returns.

        Raises ConnectionError if the gateway is gone, as the answer does if it goes before that.
        """
        number = next(self._ids)
        self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            await self._connection.send(json.dumps({"type": kind, "id": number, **fields}))
        except ConnectionClosed as closed:
            raise self._gone() from closed
        return self._asked[number]

    async def request(self, kind: str, **fields: Any) -> Frame:
        """Send a request of this `type` and wait for its answer."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await (await self.ask(kind, **fields))

    async def start(self, call_id: str, to: str = "+14155550100", **fields: Any) -> Frame:
        """Ask for admission of a call."""
        return await self.request("call.start", call_id=call_id, to=to, **fields)

    async def answered(self, call_id: str, **fields: Any) -> Frame:
        """Tell that a call was answered."""
        return await self.request("call.answered", call_id=call_id, **fields)

    async def end(self, call_id: str, **fields: Any) -> Frame:
        """End a call."""
        return await self.request("call.end", call_id=call_id, **fields)

    async def closed(self) -> int | None:
        """Wait until the gateway closes, and return its close code; None if the connection just broke."""
        async with asyncio.timeout(3 * ANSWER_SECONDS):
            await self._connection.wait_closed()
            await self._reading
        return self._connection.close_code if self._connection.close_code != 1006 else None

    @property
    def is_open(self) -> bool:
        """Whether the connection is there."""
        return not self._reading.done()

    async def close(self) -> None:
        """Close in order."""
        await self._connection.close()
        await self._reading

    async def _read(self) -> None:
        try:
            async for text in self._connection:
                self._take(json.loads(text))
        except ConnectionClosed:
            pass
        gone = self._gone()
        for waiting in (self._welcomed, *self._asked.values()):
            if not waiting.done():
                waiting.set_exception(gone)
                waiting.exception()  # nobody may be waiting

    def _gone(self) -> ConnectionError:
        return ConnectionError(f"closed with {self._connection.close_code} before it was answered")

    def _take(self, frame: Frame) -> None:
        if not self._welcomed.done():
            assert frame["type"] == "welcome", frame
            self._welcomed.set_result(frame)
        elif "re" not in frame:
            self.notices.append(frame)
        else:
            waiting = self._asked.pop(frame["re"])
            if not waiting.done():
                waiting.set_result(frame)


async def connect_device(gateway: GatewayProcess, token: str) -> Device:
    """Connect a device, without waiting for its welcome. Raises InvalidStatus if the handshake is refused."""
    return Device(
        await connect(
            f"{gateway.websocket_url}/v1/device",
            subprotocols=[Subprotocol("callgate.v1")],
            additional_headers={"Authorization": f"Bearer {token}"},
            proxy=None,
        )
    )


@asynccontextmanager
async def connected(gateway: GatewayProcess, token: str) -> AsyncIterator[Device]:
    """A connected device that has been welcomed; closed in order at the end."""
    device = await connect_device(gateway, token)
    try:
        await device.welcome()
        yield device
    finally:
        await device.close()
