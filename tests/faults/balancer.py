"""What stands between devices and gateways: one address, whichever of them are there.

It runs in the test's own event loop. It passes over a gateway that takes no connection, as a balancer does;
one that hangs it finds out about by no health check, so a test says so (`without`). With health checks
(`asks_readiness`) it goes by them alone: whoever is sent to a gateway that takes no connection is refused.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import httpx

_PIECE = 65536
_CHECK_SECONDS = 0.25
_FAILURES = 2


class _Pair:
    """A device's connection and the one to its gateway."""

    def __init__(self, device: asyncio.StreamWriter, gateway: asyncio.StreamWriter, at: str) -> None:
        self.device = device
        self.gateway = gateway
        self.at = at
        self.port = int(device.get_extra_info("peername")[1])
        self.silent = False

    def abort(self) -> None:
        self.device.transport.abort()
        self.gateway.transport.abort()


class Balancer:
    """Listens on 127.0.0.1 and passes connections on to gateways in turn. `url` is what devices are given."""

    def __init__(self) -> None:
        self.asks_readiness = False
        """Whether it asks `/readyz`, and goes by that; set before `start`."""
        self._urls: list[str] = []
        self._out: set[str] = set()
        self._turn = itertools.count()
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        if self.asks_readiness:
            self._tasks.add(asyncio.create_task(self._check()))

    async def stop(self) -> None:
        """End all connections and listen no more."""
        assert self._server is not None
        self._server.close()
        for pair in list(self._pairs):
            pair.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def add(self, url: str) -> None:
        """Have a gateway take its turn."""
        self._urls.append(url)

    def remove(self, url: str) -> None:
        """Send nobody there any more; what is connected stays."""
        self._urls.remove(url)
        self._out.discard(url)

    @contextmanager
    def without(self, url: str) -> Iterator[None]:
        """Send nobody to a gateway that hangs, and break off what is connected to it, on the devices' side.

        The gateway's side stays as it is: it hears nothing.
        """
        self._out.add(url)
        for pair in [each for each in self._pairs if each.at == url]:
            pair.silent = True
            pair.device.transport.abort()
        yield
        self._out.discard(url)

    def silence(self, port: int) -> None:
        """Pass nothing on any more of the device that has this port, both sides believing to be connected."""
        for pair in self._pairs:
            if pair.port == port:
                pair.silent = True

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            writer.transport.abort()

        task.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, device: asyncio.StreamWriter) -> None:
        first = next(self._turn)
        there = [each for each in self._urls if each not in self._out]
        for number in range(len(there)):
            at = there[(first + number) % len(there)]
            parts = urlsplit(at)
            try:
                answers, gateway = await asyncio.open_connection(parts.hostname, parts.port)
            except OSError:
                if self.asks_readiness:
                    return
                continue
            break
        else:
            return
        pair = _Pair(device, gateway, at)
        self._pairs.add(pair)
        pumps = [
            asyncio.create_task(self._pump(pair, reader, gateway)),
            asyncio.create_task(self._pump(pair, answers, device)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # What was sent before the end still arrives.
            with suppress(OSError):
                async with asyncio.timeout(2):
                    await asyncio.gather(device.drain(), gateway.drain())
            if pair.silent:
                await asyncio.sleep(3600)
            device.close()
            gateway.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await device.wait_closed()
        finally:
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._pairs.discard(pair)
            pair.abort()

    async def _check(self) -> None:
        failures: dict[str, int] = {}
        async with httpx.AsyncClient(timeout=5) as http:
            while True:
                await asyncio.sleep(_CHECK_SECONDS)
                for url in list(self._urls):
                    try:
                        is_ready = (await http.get(f"{url}/readyz")).status_code == 200
                    except httpx.TransportError:
                        is_ready = False
                    failures[url] = 0 if is_ready else failures.get(url, 0) + 1
                    if is_ready:
                        self._out.discard(url)
                    elif failures[url] >= _FAILURES and url in self._urls:
                        self._out.add(url)

    async def _pump(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                if not pair.silent:
                    writer.write(data)
                    await writer.drain()
