"""One WebSocket connection to a gateway: the handshake, reading, writing, and noticing that it is dead."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Final, Generic, TypeVar

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from gateway.client import frames
from gateway.client.addresses import Address
from gateway.client.errors import GatewayUnreachable, UnexpectedAnswer
from gateway.client.problems import problem_error
from gateway.client.timing import Timing
from gateway.domain.errors import CallgateError

F = TypeVar("F")
"""What is heard on it."""
Decode = Callable[[str | bytes], F]
"""Reads a frame. Raises msgspec.DecodeError for what is none, or of a type not known here."""

log: Final = logging.getLogger("gateway.client")

SUBPROTOCOL: Final = Subprotocol("callgate.v1")
_LARGEST_HEARD_BYTES: Final = 4 * 1024 * 1024
"""A welcome lists all of a device's calls, a pool a hundred: they may be larger than what is sent."""
_ABNORMAL: Final = 1006


class HandshakeRefused(Exception):  # noqa: N818 - what happened; it does not leave this package
    """The gateway answered the handshake with an HTTP status and a problem."""

    def __init__(self, status: int, error: CallgateError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


@dataclass(frozen=True, slots=True)
class Closed:
    """How a connection ended: the close code (1006: without one) and the reason."""

    code: int
    reason: str


class _Heard(ClientConnection):
    """A connection that notes when it last heard anything at all, a byte of a frame or of a pong.

    The library's own keepalive waits for the peer's reading before it looks at the clock, and so can wait
    for ever on a dead line (websockets#1527).
    """

    heard_at = 0.0
    on_heard: Callable[[], None] | None = None

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        if self.on_heard is not None:
            self.on_heard()
        super().data_received(data)


class Connection(Generic[F]):
    """An open connection. `run` reads it until it ends; `send` never waits."""

    def __init__(self, socket: _Heard, timing: Timing, decode: Decode[F]) -> None:
        self._socket = socket
        self._timing = timing
        self._decode = decode
        self._unsent: deque[str] = deque()
        self._wake = asyncio.Event()

    def send(self, frame: frames.Asking) -> None:
        """Send a frame, after those given before. If the connection breaks it may never arrive."""
        self._unsent.append(frames.encode(frame))
        self._wake.set()

    async def run(self, take: Callable[[F], None], on_heard: Callable[[], None]) -> Closed:
        """Give each frame heard to `take`, until the connection ends by either side; say how it ended.

        `on_heard` is called whenever anything at all is heard.
        """
        self._socket.on_heard = on_heard
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(self._write()), tasks.create_task(self._watch())]
            await self._read(take)
            for task in beside:
                task.cancel()
        code = self._socket.close_code
        return Closed(_ABNORMAL if code is None else code, self._socket.close_reason or "")

    async def close(self) -> None:
        """Close in order. It takes as long as the other side does, or `close_seconds`."""
        await self._socket.close()

    def abort(self) -> None:
        """End the connection without a word."""
        self._socket.transport.abort()

    async def _read(self, take: Callable[[F], None]) -> None:
        while True:
            try:
                message = await self._socket.recv()
            except ConnectionClosed:
                return
            try:
                heard = self._decode(message)
            except msgspec.DecodeError as error:
                log.debug("passed over a frame: %s", error)
            else:
                take(heard)

    async def _write(self) -> None:
        while True:
            try:
                while self._unsent:
                    await self._socket.send(self._unsent.popleft())
            except ConnectionClosed:
                return
            self._wake.clear()
            await self._wake.wait()

    async def _watch(self) -> None:
        loop, timing = asyncio.get_running_loop(), self._timing
        async with asyncio.TaskGroup() as pings:
            while True:
                silence = loop.time() - self._socket.heard_at
                if silence >= timing.dead_after_seconds:
                    log.info("nothing heard for %.1f s: connecting anew", silence)
                    self.abort()
                    return
                if silence >= timing.ping_after_seconds:
                    # Beside, for it waits as long as the peer does not read.
                    pings.create_task(self._ping())
                    await asyncio.sleep(min(timing.dead_after_seconds - silence, timing.ping_after_seconds))
                else:
                    await asyncio.sleep(timing.ping_after_seconds - silence)

    async def _ping(self) -> None:
        try:
            await self._socket.ping()
        except ConnectionClosed:
            return


async def open_connection(
    address: Address, url: str, token: str, timing: Timing, tls: SSLContext | None, decode: Decode[F]
) -> Connection[F]:
    """Connect to one of the gateway's WebSockets, by its URL.

    Raises HandshakeRefused (the gateway said no), GatewayUnreachable, UnexpectedAnswer (something else
    answered).
    """
    options: dict[str, Any] = {}
    if address.secure and tls is not None:
        options["ssl"] = tls
    if address.loopback:
        options["proxy"] = None
    try:
        socket = await connect(
            url,
            subprotocols=[SUBPROTOCOL],
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            open_timeout=timing.connect_seconds,
            close_timeout=timing.close_seconds,
            ping_interval=None,
            max_size=_LARGEST_HEARD_BYTES,
            create_connection=_Heard,
            **options,
        )
    except InvalidStatus as refused:
        answer = refused.response
        raise HandshakeRefused(
            answer.status_code, problem_error(answer.status_code, bytes(answer.body))
        ) from refused
    except TimeoutError as failure:
        raise GatewayUnreachable(
            f"{address.http} did not answer within {timing.connect_seconds:g} s."
        ) from failure
    except (OSError, InvalidURI) as failure:
        raise GatewayUnreachable(f"{address.http} cannot be reached: {failure}.") from failure
    except InvalidHandshake as failure:
        if isinstance(failure.__cause__, EOFError):
            # It went while it was asked.
            raise GatewayUnreachable(f"{address.http} closed the connection without an answer.") from failure
        raise UnexpectedAnswer(f"{address.http} is not a Callgate gateway: {failure}.") from failure
    assert isinstance(socket, _Heard)
    if socket.subprotocol != SUBPROTOCOL:
        socket.transport.abort()
        raise UnexpectedAnswer(f"{address.http} does not speak {SUBPROTOCOL}.")
    return Connection(socket, timing, decode)
