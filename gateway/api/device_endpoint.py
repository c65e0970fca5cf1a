"""The handshake of the device WebSocket: who may connect. A refusal is an HTTP answer with a problem."""

from __future__ import annotations

from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway import metrics
from gateway.api.auth import Identity, require_call
from gateway.api.context import Api
from gateway.api.credentials import SUBPROTOCOL, websocket_credential
from gateway.api.device_socket import DeviceSocket
from gateway.api.problems import GoingAway, problem_response
from gateway.api.sockets import require_subprotocol
from gateway.domain.calls import Caller
from gateway.domain.errors import CallgateError, Forbidden, Unauthorized
from gateway.sessions.close_codes import CloseCode
from gateway.sessions.heard import Heard

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_connections: Final = metrics.CONNECTIONS.labels("device")


def _heard(scope: Scope) -> Heard | None:
    """Return what our server knows of when the device was heard of; another server knows nothing."""
    ours: dict[str, Heard] = (scope.get("extensions") or {}).get("callgate", {})
    return ours.get("heard")


class DeviceEndpoint:
    """The ASGI application behind `/v1/device`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the device in and serve it, or refuse the handshake."""
        websocket = WebSocket(scope, receive, send)
        devices = self._api.service.devices
        if devices.draining:
            await websocket.send_denial_response(problem_response(GoingAway()))
            return
        try:
            identity, caller = self._admit(scope)
        except CallgateError as error:
            await websocket.send_denial_response(problem_response(error))
            return
        await websocket.accept(subprotocol=SUBPROTOCOL)
        # From here on ASGI's own receive and send: Starlette's add a check of its state to every frame.
        socket = DeviceSocket(self._api, identity, caller, receive, send, _heard(scope))
        devices.add(socket)
        self._catch_up(socket, identity)
        _connections.inc()
        log.info("device.connected", account=caller.account, staff=caller.staff, device=caller.device)
        try:
            await socket.run()
        finally:
            if socket.calls:
                self._api.service.lost(
                    caller.account, list(socket.calls), socket.number, socket.heard_ago_ms()
                )
            devices.remove(socket)
            _connections.dec()
            log.info("device.gone", account=caller.account, staff=caller.staff, device=caller.device)

    def _catch_up(self, socket: DeviceSocket, identity: Identity) -> None:
        """Close again if the token was revoked, or the drain began, while the handshake was under way."""
        try:
            self._api.authenticator.require_current(identity)
        except Unauthorized as error:
            socket.close(CloseCode.TOKEN_ENDED, error.message)
        if self._api.service.devices.draining:
            socket.drain()

    def _admit(self, scope: Scope) -> tuple[Identity, Caller]:
        headers = Headers(scope=scope)
        offered = scope["subprotocols"]
        self._api.origins.require(headers)
        identity = self._api.authenticator.identify(websocket_credential(headers, offered))
        if identity.admin:
            raise Forbidden("A device connects with a token of its own, not with the admin key.")
        require_call(identity)
        require_subprotocol(offered)
        assert identity.account is not None
        assert identity.staff is not None
        assert identity.device is not None
        return identity, Caller(identity.account, identity.staff, identity.device)
