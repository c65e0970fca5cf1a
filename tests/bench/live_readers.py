"""Dashboards in a process of their own: many WebSockets that note which version of the pool came when.

Reads one JSON line: where, the token, how many, for how long. Says `ready` once all have had a pool; then
reads for as long as it was told, and prints for each connection when which version arrived first.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
import time
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop

_VERSION: Final = re.compile(rb'"version":(\d+)')
_AT_ONCE: Final = 50


class Reader(asyncio.Protocol):
    """A WebSocket with as little to it as there can be, so that what is measured is the other side."""

    def __init__(self, request: bytes) -> None:
        self.arrived: list[tuple[float, int]] = []
        self.messages = 0
        self.shown = asyncio.Event()
        self.lost = False
        self._request = request
        self._buffer = bytearray()
        self._is_open = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._is_open:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            assert buffer.startswith(b"HTTP/1.1 101"), bytes(buffer[:200])
            del buffer[: end + 4]
            self._is_open = True
        while len(buffer) >= 2:
            length, head = buffer[1] & 127, 2
            if length >= 126:
                head = 4 if length == 126 else 10
                length = int.from_bytes(buffer[2:head], "big")
            if len(buffer) < head + length:
                return
            self._take(buffer[0] & 15, bytes(buffer[head : head + length]))
            del buffer[: head + length]

    def _take(self, opcode: int, body: bytes) -> None:
        if opcode == 9:
            self._transport.write(b"\x8a" + bytes([0x80 | len(body)]) + bytes(4) + body)
            return
        found = _VERSION.search(body)
        if found is not None:
            self.messages += 1
            self.arrived.append((time.time(), int(found[1])))
            self.shown.set()


def request_for(url: str, token: str) -> bytes:
    """The handshake."""
    parts = urlsplit(url)
    return (
        f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: callgate.v1\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


async def main(url: str, token: str, readers: int, seconds: float) -> None:
    """Connect all, read, and say what came."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or 80
    connected: list[Reader] = []
    for first in range(0, readers, _AT_ONCE):
        made = await asyncio.gather(
            *(
                loop.create_connection(lambda: Reader(request_for(url, token)), host, port)
                for _ in range(min(_AT_ONCE, readers - first))
            )
        )
        connected += [reader for _, reader in made]
        await asyncio.gather(*(reader.shown.wait() for _, reader in made))
    print("ready", flush=True)
    await asyncio.sleep(seconds)
    print(
        json.dumps(
            {
                "messages": sum(reader.messages for reader in connected),
                "lost": sum(reader.lost for reader in connected),
                "arrived": [reader.arrived for reader in connected],
            }
        )
    )


if __name__ == "__main__":
    uvloop.run(main(**json.loads(sys.stdin.readline())))
