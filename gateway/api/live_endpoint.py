"""The handshake of the dashboard WebSocket: who may watch which pool. A refusal is an HTTP answer."""

from __future__ import annotations

from typing import Final

import structlog
from msgspec import UnsetType
from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway import metrics
from gateway.api.auth import Identity, require_watch
from gateway.api.context import Api
from gateway.api.credentials import SUBPROTOCOL, websocket_credential
from gateway.api.dispatch import read_query
from gateway.api.live_socket import LiveSocket
from gateway.api.problems import GoingAway, problem_response
from gateway.api.sockets import require_subprotocol
from gateway.api.wire.requests import OfAccount
from gateway.domain.errors import (
    CallgateError,
    DatabaseUnavailable,
    FieldError,
    InvalidField,
    Unauthorized,
)
from gateway.sessions.close_codes import CloseCode
from gateway.sessions.direct import Direct

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_connections: Final = metrics.CONNECTIONS.labels("dashboard")


def _direct(scope: Scope) -> Direct | None:
    """Return what our server has for sending one frame to many; another server has nothing like it."""
    ours: dict[str, Direct] = (scope.get("extensions") or {}).get("callgate", {})
    return ours.get("direct")


class LiveEndpoint:
    """The ASGI application behind `/v1/live`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the dashboard in and serve it, or refuse the handshake."""
        websocket = WebSocket(scope, receive, send)
        service = self._api.service
        if service.readers.draining:
            await websocket.send_denial_response(problem_response(GoingAway()))
            return
        try:
            identity, account = self._admit(scope)
            await self._require_watchable(identity, account)
        except CallgateError as error:
            await websocket.send_denial_response(problem_response(error))
            return
        await websocket.accept(subprotocol=SUBPROTOCOL)
        # From here on ASGI's own receive and send: Starlette's add a check of its state to every frame.
        socket = LiveSocket(self._api, identity, account, receive, send, _direct(scope))
        service.readers.add(socket)
        self._catch_up(socket, identity)
        _connections.inc()
        log.info("dashboard.connected", account=account, staff=identity.staff, admin=identity.admin)
        try:
            await socket.run()
        finally:
            service.readers.remove(socket)
            _connections.dec()
            log.info("dashboard.gone", account=account, staff=identity.staff, admin=identity.admin)

    def _catch_up(self, socket: LiveSocket, identity: Identity) -> None:
        """Close again if the token was revoked, or the drain began, while the handshake was under way."""
        try:
            self._api.authenticator.require_current(identity)
        except Unauthorized as error:
            socket.close(CloseCode.TOKEN_ENDED, error.message)
        if self._api.service.readers.draining:
            socket.drain()

    def _admit(self, scope: Scope) -> tuple[Identity, str]:
        headers = Headers(scope=scope)
        offered = scope["subprotocols"]
        self._api.origins.require(headers)
        identity = self._api.authenticator.identify(websocket_credential(headers, offered))
        asked = read_query(QueryParams(scope["query_string"]), OfAccount).account
        account = identity.account if isinstance(asked, UnsetType) else asked
        if account is None:
            raise InvalidField(errors=[FieldError("account", "is missing; the admin key needs ?account=")])
        require_watch(identity, account)
        require_subprotocol(offered)
        return identity, account

    async def _require_watchable(self, identity: Identity, account: str) -> None:
        try:
            await self._api.service.require_watchable(account, identity.staff)
        except DatabaseUnavailable:
            if identity.admin:
                raise
            # The token names an account that there was. Whether its staff member is still there is looked at
            # again and again while it is connected, so that it is found out as soon as SQL is back.
            log.warning("dashboard.admitted_blindly", account=account, staff=identity.staff)
