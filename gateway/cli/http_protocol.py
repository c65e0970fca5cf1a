"""HTTP connections that may not keep the gateway waiting without limit."""

import asyncio
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE: Final = "The request's headers are too large."


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with two limits that it lacks: on a request's time to arrive, and on its headers.

    A connection that has sent no whole request within `request_seconds` of being made, or of the request's
    first byte, is closed; one whose headers exceed `header_bytes` is answered 400 and closed. Idle
    connections between requests are uvicorn's to close, and upgraded ones the WebSocket's.
    """

    request_seconds: ClassVar[float] = 30.0
    header_bytes: ClassVar[int] = 64 * 1024

    _arriving: asyncio.TimerHandle | None = None
    _in_headers = True
    _bytes_of_headers = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for a request."""
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """Take what arrived, unless it makes the headers too large."""
        if self._in_headers:
            self._bytes_of_headers += len(data)
        super().data_received(data)
        if (
            self._in_headers
            and self._bytes_of_headers > self.header_bytes
            and not self.transport.is_closing()
        ):
            self.send_400_response(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Start waiting for the rest of a request."""
        super().on_message_begin()
        self._in_headers = True
        if self._arriving is None:
            self._await_request()

    def on_headers_complete(self) -> None:
        """Count no more bytes."""
        self._in_headers = False
        self._bytes_of_headers = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait no more: the request is here."""
        self._stop_waiting()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Wait no more: the WebSocket has its own timers."""
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self._arriving = self.loop.call_later(self.request_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _give_up(self) -> None:
        self._arriving = None
        self.transport.abort()
