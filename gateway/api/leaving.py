"""HTTP connections of a gateway that is going: each ends with its next answer, and its client is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from gateway.service import Callgate

_CLOSE: Final = (b"connection", b"close")


class LeavingMiddleware:
    """Answers with `Connection: close` once the service is leaving.

    So a client that keeps connections, or a balancer that does, makes a new one for its next request, to
    another gateway. Closed without a word, a connection would take with it the request that was just being
    sent.
    """

    def __init__(self, app: ASGIApp, service: Callgate) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def send_leaving(message: Message) -> None:
            if message["type"] == "http.response.start" and self._service.leaving:
                message["headers"] = [*message.get("headers", ()), _CLOSE]
            await send(message)

        await self._app(scope, receive, send_leaving if scope["type"] == "http" else send)
