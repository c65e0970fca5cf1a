"""A TCP proxy that does to connections what networks do.

Fixture
    `start_proxy`   a factory `start_proxy(port, host="127.0.0.1")` or `start_proxy(path=…)` for a unix socket

It runs on a thread of its own, so that a test's event loop that is held up holds up nothing else. Each proxy
has its own faults; they hold for the connections that are open and for those to come, until `heal`.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

Way = Literal["to_server", "to_client"]
BOTH: tuple[Way, Way] = ("to_server", "to_client")
_PIECE = 65536


@dataclass(slots=True)
class Counters:
    """What has passed. Bytes that were swallowed are not among those delivered."""

    connections: int = 0
    refused: int = 0
    resets: int = 0
    to_server: int = 0
    to_client: int = 0
    swallowed: int = 0


class _Link:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.lost_bytes = False
        self.is_lost = False

    def reset(self) -> None:
        """End both with RST, what is unsent unsent."""
        for writer in (self.client, self.server):
            peer: socket.socket | None = writer.get_extra_info("socket")
            if peer is not None and not writer.transport.is_closing():
                with suppress(OSError):
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class FaultyProxy:
    """Listens on 127.0.0.1 and passes all on to one server, with the faults asked for."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1", *, path: Path | str | None = None) -> None:
        self.counters = Counters()
        self.port = 0
        self._target = (host, port)
        self._path = path
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = dict.fromkeys(BOTH, True)
        self._swallowing = dict.fromkeys(BOTH, False)
        self._delay = dict.fromkeys(BOTH, 0.0)
        self._refusing = False
        self._reset_after: int | None = None
        self._changed: asyncio.Event
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="faulty proxy")

    # Running

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._do(self._listen())

    def stop(self) -> None:
        """End all connections and listen no more."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # Faults

    def cut(self) -> None:
        """Reset all connections that are open; new ones are let through."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Reset new connections as soon as they are made."""
        self._do(self._set(refusing=True))

    def stall(self, *ways: Way) -> None:
        """Hold what is sent, ends of connections too, until `heal`: a partition, in one direction or both."""
        self._do(self._set(stall=ways or BOTH))

    def swallow(self, *ways: Way) -> None:
        """Lose what is sent, ends of connections too, both sides believing them open: half-open.

        Connections that lost something are reset at `heal`.
        """
        self._do(self._set(swallow=ways or BOTH))

    def lose_open_connections(self) -> None:
        """Lose all that is sent on the connections open now, both sides believing them open; for good."""
        self._do(self._lose_open())

    def slow(self, seconds: float, *ways: Way) -> None:
        """Deliver every piece so much later, in order."""
        self._do(self._set(slow=(seconds, ways or BOTH)))

    def reset_in_reply(self, after_bytes: int = 1) -> None:
        """Of what a server says next, deliver so many bytes, and reset the connection then. Once."""
        self._do(self._set(reset_after=after_bytes))

    def heal(self) -> None:
        """Let everything through again."""
        self._do(self._heal())

    # Inside, on the proxy's thread

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._changed = asyncio.Event()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        # Connections that asyncio has accepted and not yet told of are taken while the others end.
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._serving:
                task.cancel()
            await asyncio.wait(left, timeout=0.1)
            await asyncio.sleep(0)
        # Transports that were aborted close on the next turn.
        await asyncio.sleep(0)

    async def _cut(self) -> None:
        for link in self._links:
            link.reset()
            self.counters.resets += 1
        self._links.clear()

    async def _lose_open(self) -> None:
        for link in self._links:
            link.is_lost = True

    async def _set(
        self,
        *,
        refusing: bool = False,
        stall: tuple[Way, ...] = (),
        swallow: tuple[Way, ...] = (),
        slow: tuple[float, tuple[Way, ...]] = (0.0, ()),
        reset_after: int | None = None,
    ) -> None:
        self._refusing |= refusing
        for way in stall:
            self._flowing[way] = False
        for way in swallow:
            self._swallowing[way] = True
        for way in slow[1]:
            self._delay[way] = slow[0]
        if reset_after is not None:
            self._reset_after = reset_after
        self._tell()

    async def _heal(self) -> None:
        self._refusing = False
        self._reset_after = None
        for way in BOTH:
            self._flowing[way], self._swallowing[way], self._delay[way] = True, False, 0.0
        for link in [each for each in self._links if each.lost_bytes]:
            link.reset()
            self.counters.resets += 1
            self._links.discard(link)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # As a task of our own: asyncio's logs a cancellation as an error.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._serving.discard(task)
            # It may have been cancelled before it began.
            writer.transport.abort()

        task.add_done_callback(ended)

    async def _serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.counters.connections += 1
        try:
            if self._refusing:
                raise ConnectionRefusedError
            if self._path is not None:
                server_reader, server = await asyncio.open_unix_connection(self._path)
            else:
                server_reader, server = await asyncio.open_connection(*self._target)
        except OSError:
            self.counters.refused += 1
            _Link(client, client).reset()
            return
        link = _Link(client, server)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(link, "to_server", client_reader, server),
                self._pump(link, "to_client", server_reader, client),
            )
        finally:
            self._links.discard(link)
            server.close()
            client.close()
            # What is still to be sent to the client is not to be lost: the task's end aborts.
            with suppress(OSError):
                await client.wait_closed()

    async def _pump(
        self, link: _Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._carry(link, way, reader, writer)
        except OSError:  # one side is gone, and so the other way ends, too
            link.reset()

    async def _carry(
        self, link: _Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            data = await reader.read(_PIECE)
            if self._delay[way]:
                await asyncio.sleep(self._delay[way])
            while not self._flowing[way]:
                await self._changed.wait()
            if self._swallowing[way] or link.is_lost:
                link.lost_bytes = True
                self.counters.swallowed += len(data)
                if data:
                    continue
                # The end of the connection is lost, too.
                while self._swallowing[way] or link.is_lost:
                    await self._changed.wait()
            if not data:
                if not writer.transport.is_closing() and writer.can_write_eof():
                    writer.write_eof()
                return
            if way == "to_client" and self._reset_after is not None:
                data, self._reset_after = data[: self._reset_after], None
                writer.write(data)
                await writer.drain()
                self._links.discard(link)
                self.counters.resets += 1
                self.counters.to_client += len(data)
                link.reset()
                return
            if way == "to_server":
                self.counters.to_server += len(data)
            else:
                self.counters.to_client += len(data)
            writer.write(data)
            await writer.drain()


@pytest.fixture
def start_proxy() -> Iterator[Callable[..., FaultyProxy]]:
    """A factory `start_proxy(port, host="127.0.0.1")` or `start_proxy(path=…)`; they end with the test."""
    proxies: list[FaultyProxy] = []

    def start(port: int = 0, host: str = "127.0.0.1", *, path: Path | str | None = None) -> FaultyProxy:
        proxy = FaultyProxy(port, host, path=path)
        proxies.append(proxy)
        proxy.start()
        return proxy

    yield start
    for proxy in proxies:
        proxy.stop()
