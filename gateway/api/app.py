"""The ASGI application: all addresses, and what is the same for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Lifespan, Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway.api.auth import Authenticator
from gateway.api.context import Api
from gateway.api.device_endpoint import DeviceEndpoint
from gateway.api.dispatch import Address
from gateway.api.leaving import LeavingMiddleware
from gateway.api.live_endpoint import LiveEndpoint
from gateway.api.openapi import openapi_document
from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation
from gateway.api.origins import OriginMiddleware, Origins
from gateway.api.pages import page_routes
from gateway.api.problems import (
    UpgradeRequired,
    answer_broken_off,
    answer_callgate_error,
    answer_http_exception,
    answer_unexpected_error,
    problem_response,
)
from gateway.api.receipts import Receipts
from gateway.api.routes import ALL_OPERATIONS
from gateway.api.starts import Numbering
from gateway.api.wire.requests import Nothing
from gateway.domain.errors import CallgateError, NotFound

if TYPE_CHECKING:
    from gateway.service import Callgate
    from gateway.settings import Settings


def create_app(
    service: Callgate, settings: Settings, lifespan: Lifespan[Starlette] | None = None
) -> Starlette:
    """Return the application in front of `service`. Starting and stopping the service is the lifespan's.

    `settings` must hold the admin key and at least one token secret. Tokens that the service hears are
    revoked close the connections that go by them from now on.
    """
    api = Api(
        service=service,
        authenticator=Authenticator(settings.token_secrets, settings.admin_key, service.revocations),
        origins=Origins(settings.allowed_origins),
        numbering=Numbering(settings.emergency_numbers, settings.sip_domains),
        receipts=Receipts(settings.token_secrets),
        grace_seconds=settings.grace_seconds,
        lease_seconds=settings.lease_seconds,
    )
    service.revocations.on_revoked(service.devices.close_revoked)
    service.revocations.on_revoked(service.readers.close_revoked)
    app = Starlette(
        routes=_routes(api),
        middleware=[
            Middleware(LeavingMiddleware, service=service),
            Middleware(OriginMiddleware, origins=api.origins),
        ],
        exception_handlers={
            CallgateError: answer_callgate_error,
            HTTPException: answer_http_exception,
            ClientDisconnect: answer_broken_off,
            Exception: answer_unexpected_error,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _routes(api: Api) -> list[BaseRoute]:
    description = msgspec.json.encode(openapi_document(ALL_OPERATIONS))

    async def openapi(_: Exchange[Nothing, Nothing]) -> Response:
        return Response(description, media_type="application/json")

    described = Operation(
        method="GET",
        path="/openapi.json",
        handler=openapi,
        access="open",
        tag="Deployment",
        summary="Read this description",
        query=NO_QUERY,
        answers={200: None},
    )
    by_path: dict[str, list[AnyOperation]] = {}
    for operation in ALL_OPERATIONS:
        by_path.setdefault(operation.path, []).append(operation)
    return [
        WebSocketRoute("/v1/device", DeviceEndpoint(api)),
        Route("/v1/device", _UpgradeRequired()),
        WebSocketRoute("/v1/live", LiveEndpoint(api)),
        Route("/v1/live", _UpgradeRequired()),
        *(Route(path, Address(api, operations)) for path, operations in by_path.items()),
        Route(described.path, Address(api, [described])),
        *page_routes(),
        WebSocketRoute("/{path:path}", _no_such_websocket),
    ]


class _UpgradeRequired:
    """What answers whatever is sent to a WebSocket's address without an upgrade, by any method."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = problem_response(
            UpgradeRequired("This address is a WebSocket's; ask for an upgrade to it.")
        )
        await refusal(scope, receive, send)


class _NoSuchWebSocket:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = problem_response(NotFound(f"There is no WebSocket at {scope['path'][:200]}."))
        await WebSocket(scope, receive, send).send_denial_response(refusal)


_no_such_websocket = _NoSuchWebSocket()
