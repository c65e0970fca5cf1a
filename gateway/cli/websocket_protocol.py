"""WebSocket connections that let their application do two things more than ASGI does.

It can tell when the peer was last heard of, and can send one frame to many without framing it for each.
"""

from asyncio.transports import BaseTransport
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State

from gateway.sessions.heard import Heard


class HeardWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, noting when anything arrived: it keeps pings and pongs to itself.

    The application finds it as ``scope["extensions"]["callgate"]["heard"]``, a `Heard`. The end of the
    peer's stream counts as well: a dead peer sends none, as its connection is given up before any proxy does.

    It finds the connection itself as ``["direct"]``, a `Direct`.
    """

    heard: Heard

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin to listen."""
        self.heard = Heard()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        self.heard.note()
        super().data_received(data)

    def eof_received(self) -> None:
        """Hear the peer close."""
        self.heard.note()
        super().eof_received()

    def handle_connect(self, event: Request) -> None:
        """Hand over what was heard to the application, which does not run before this returns."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = self.scope["extensions"] or {}
            extensions["callgate"] = {"heard": self.heard, "direct": self}

    def framed(self, text: str) -> bytes:
        """Return the bytes of a frame with this text; no extension is ever negotiated."""
        return Frame(Opcode.TEXT, text.encode()).serialize(mask=False)

    def send_now(self, frame: bytes) -> bool:
        """Send a frame's bytes, unless what was sent before still waits, or the connection is closing."""
        if (
            not self.writable.is_set()
            or self.close_sent
            or self.transport.is_closing()
            or self.conn.state is not State.OPEN
        ):
            return False
        self.transport.write(frame)
        return True
