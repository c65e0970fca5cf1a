"""A bare loop that sends the same bytes to all sockets, four times a second.

It is what showing a pool costs at least. The frame is made once, nothing is awaited, and nothing is
read but the handshake.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from websockets.utils import accept_key

from tests.bench.live import BARE_BYTES, BETWEEN_SECONDS


def frame(number: int) -> bytes:
    """A text frame of so many bytes, with a version in it."""
    body = f'{{"type":"pool","version":{number},"filler":"'.encode()
    body += b"x" * (BARE_BYTES - len(body) - 2) + b'"}'
    return b"\x81\x7e" + len(body).to_bytes(2, "big") + body


class Socket(asyncio.Protocol):
    """One of those that are sent to."""

    def __init__(self, all_of_them: set[Any]) -> None:
        self._all = all_of_them

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            key = data.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0].decode()
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n" + frame(0)
            )
            self._all.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self._transport)


async def main(port: int) -> None:
    """Serve until killed."""
    sockets: set[Any] = set()
    await asyncio.get_running_loop().create_server(lambda: Socket(sockets), "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    number = 0
    while True:
        await asyncio.sleep(BETWEEN_SECONDS)
        number += 1
        made = frame(number)
        for socket in sockets:
            socket.write(made)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
