"""WebSocket connections whose application can tell when the peer was last heard of."""

from asyncio.transports import BaseTransport
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from gateway.sessions.heard import Heard


class HeardWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, noting when anything arrived: it keeps pings and pongs to itself.

    The application finds it as ``scope["extensions"]["callgate"]["heard"]``, a `Heard`. The end of the
    peer's stream counts as well: a dead peer sends none, as its connection is given up before any proxy does.
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
            extensions["callgate"] = {"heard": self.heard}
