"""Which web pages may talk to the gateway: its own, and those of the allowed origins (CORS)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.problems import problem_response
from gateway.domain.errors import Forbidden

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ONE_DAY_SECONDS: Final = 86_400


class Origins:
    """Tells a browser's pages apart by their `Origin` (RFC 6454). No `Origin` is no browser, and passes."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self.allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)

    def listed(self, headers: Headers) -> bool:
        """Tell whether the request comes from a page of an allowed foreign origin."""
        return headers.get("origin", "").lower() in self.allowed

    def require(self, headers: Headers) -> None:
        """Raise Forbidden if the request comes from a page that is neither the gateway's own nor allowed."""
        origin = headers.get("origin")
        if origin is None or self.listed(headers) or _same_host(origin, headers.get("host", "")):
            return
        raise Forbidden(
            f"Pages of the origin {origin[:200]} may not use this gateway (CALLGATE_ALLOWED_ORIGINS)."
        )


def _same_host(origin: str, host: str) -> bool:
    # The scheme is left out on purpose: behind a proxy that ends TLS the gateway sees http where the
    # browser saw https. A page of the same host on the other scheme's default port is another origin all
    # the same.
    try:
        page, own = urlsplit(origin), urlsplit(f"//{host}")
        port = _DEFAULT_PORTS.get(page.scheme)
        if port is None or page.hostname is None:
            return False
        return (page.hostname, page.port or port) == (own.hostname, own.port or port)
    except ValueError:  # a port that is no number
        return False


class OriginMiddleware:
    """Refuses `/v1` to pages of foreign origins, and speaks CORS with those that are allowed."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins
        self._cors = CORSMiddleware(
            app,
            allow_origins=tuple(origins.allowed),
            allow_methods=("GET", "HEAD", "PUT", "POST", "DELETE"),
            allow_headers=("authorization", "content-type"),
            expose_headers=("retry-after", "www-authenticate"),
            max_age=_ONE_DAY_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with a problem.

        The WebSocket checks at its handshake by itself.
        """
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._origins.listed(headers):
            await self._cors(scope, receive, send)
            return
        try:
            self._origins.require(headers)
        except Forbidden as error:
            await problem_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)
