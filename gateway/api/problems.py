"""Errors as problem documents (RFC 9457).

To the codes of `gateway.domain.errors` HTTP adds four of its own (docs/http.md, "Errors")::

    CallgateError
    ├── MethodNotAllowed    method_not_allowed   405  `Allow` names the methods the address takes
    ├── UpgradeRequired     upgrade_required     426  the address is a WebSocket's
    ├── InternalError       internal_error       500  a fault of the gateway; logged
    └── GoingAway           going_away           503  the gateway shuts down, and takes no more connections
"""

# ruff: noqa: N818 - they are named as their codes; "Error" after each would say nothing more

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.domain.errors import (
    BadJson,
    CallgateError,
    CallIdConflict,
    CallIdUsed,
    CallUnknown,
    ChannelLimit,
    DatabaseUnavailable,
    EngineUnavailable,
    Forbidden,
    ImmutableField,
    InvalidField,
    NotFound,
    PlanInUse,
    SeatLimit,
    TooFast,
    TooLarge,
    Unauthorized,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 1


class MethodNotAllowed(CallgateError):
    """The address does not take this method (405)."""

    code = "method_not_allowed"
    summary = "This address does not take that method."


class UpgradeRequired(CallgateError):
    """The address is a WebSocket's (426)."""

    code = "upgrade_required"
    summary = "This address is a WebSocket's."


class InternalError(CallgateError):
    """A fault of the gateway itself (500)."""

    code = "internal_error"
    summary = "Something went wrong in the gateway."


class GoingAway(CallgateError):
    """The gateway is shutting down and takes no more connections (503)."""

    code = "going_away"
    summary = "This gateway is shutting down; connect again."


STATUS: Final[Mapping[type[CallgateError], int]] = MappingProxyType(
    {
        BadJson: 400,
        Unauthorized: 401,
        Forbidden: 403,
        NotFound: 404,
        CallUnknown: 404,
        MethodNotAllowed: 405,
        CallIdUsed: 409,
        CallIdConflict: 409,
        PlanInUse: 409,
        SeatLimit: 409,
        ChannelLimit: 409,
        ImmutableField: 409,
        TooLarge: 413,
        InvalidField: 422,
        UpgradeRequired: 426,
        TooFast: 429,
        InternalError: 500,
        EngineUnavailable: 503,
        DatabaseUnavailable: 503,
        GoingAway: 503,
    }
)
"""The HTTP status of every error a client is told of."""

_RETRY = {"Retry-After": str(RETRY_AFTER_SECONDS)}
_HEADERS: Final[Mapping[type[CallgateError], Mapping[str, str]]] = MappingProxyType(
    {
        Unauthorized: {"WWW-Authenticate": "Bearer"},
        UpgradeRequired: {"Upgrade": "websocket", "Connection": "Upgrade"},
        TooFast: _RETRY,
        EngineUnavailable: _RETRY,
        DatabaseUnavailable: _RETRY,
        GoingAway: _RETRY,
    }
)


def problem_type(code: str) -> str:
    """Return the URI that names this kind of problem; the documentation lists them by their codes."""
    return f"urn:callgate:problem:{code}"


def problem_document(error: CallgateError) -> dict[str, Any]:
    """Return the problem that tells of `error`: the RFC's members, `code`, and the error's own members."""
    return {
        "type": problem_type(error.code),
        "title": error.summary,
        "status": STATUS[_kind(error)],
        "detail": error.message,
        "code": error.code,
        **error.members,
    }


def problem_response(error: CallgateError, headers: Mapping[str, str] | None = None) -> Response:
    """Return `error` as an HTTP response. One that is not for clients (`SettingsError`) becomes a 500."""
    if _kind(error) not in STATUS:
        log.error("error.not_for_clients", code=error.code, message=error.message)
        error = InternalError()
    return Response(
        msgspec.json.encode(problem_document(error)),
        status_code=STATUS[_kind(error)],
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **_HEADERS.get(_kind(error), {}), **(headers or {})},
    )


async def answer_callgate_error(_: Request, error: Exception) -> Response:
    """Answer an error that was raised on purpose."""
    assert isinstance(error, CallgateError)
    return problem_response(error)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer what Starlette raises by itself: an address that does not exist, or does not take the method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return problem_response(MethodNotAllowed(), error.headers)
    return problem_response(NotFound(f"There is nothing at {request.url.path[:200]}."))


async def answer_broken_off(_: Request, error: Exception) -> Response:
    """Close the matter of a client that went away while it was sending its body; nobody reads this."""
    assert isinstance(error, ClientDisconnect)
    return problem_response(BadJson("The body broke off."))


async def answer_unexpected_error(request: Request, error: Exception) -> Response:
    """Answer a fault of our own, and log it whole. The client is told nothing of the inside."""
    log.error("request.failed", method=request.method, path=request.url.path, exc_info=error)
    return problem_response(InternalError())


def _kind(error: CallgateError) -> type[CallgateError]:
    """What a client is told of: an error may be of a narrower kind inside."""
    return next((each for each in type(error).__mro__ if each in STATUS), type(error))
