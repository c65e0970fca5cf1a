"""From an HTTP request to its operation: who asks, what is asked, and the answer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.auth import NOBODY, Identity, require_admin, require_call, require_watch
from gateway.api.context import Api
from gateway.api.credentials import bearer_credential
from gateway.api.operations import PATH_KINDS, AnyOperation, Exchange, Reply
from gateway.api.problems import MethodNotAllowed, problem_response
from gateway.api.wire.decoding import convert, decode
from gateway.api.wire.requests import Nothing
from gateway.domain.errors import BadJson, CallgateError, FieldError, InvalidField, TooLarge

Q = TypeVar("Q", bound=msgspec.Struct)

_NO_BODY: Final[msgspec.Struct] = Nothing()
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Address:
    """The ASGI application behind one path: answers each of its methods, and 405 to all others."""

    def __init__(self, api: Api, operations: Sequence[AnyOperation]) -> None:
        self._api = api
        self._operations: dict[str, AnyOperation] = {operation.method: operation for operation in operations}
        methods = {"OPTIONS", *self._operations}
        if "GET" in methods:
            methods.add("HEAD")
        self._allow = {"Allow": ", ".join(sorted(methods))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The server leaves out the body of an answer to HEAD."""
        request = Request(scope, receive, send)
        method = "GET" if request.method == "HEAD" else request.method
        operation = self._operations.get(method)
        if operation is not None:
            response = await self._answer(operation, request)
        elif method == "OPTIONS":
            response = Response(status_code=204, headers=self._allow)
        else:
            response = problem_response(MethodNotAllowed(), self._allow)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    async def _answer(self, operation: AnyOperation, request: Request) -> Response:
        identity, refusal = self._authorize(operation, request)
        path = dict(request.path_params)
        convert(path, _path_shape(tuple(path)))
        query = read_query(request.query_params, operation.query)
        raw, body = b"", _NO_BODY
        if operation.body is not None:
            raw = await read_body(request, operation.max_bytes)
            if not operation.raw_body:
                body = _read_body(operation, raw)
        reply = await operation.handler(Exchange(self._api, identity, path, query, body, raw, refusal))
        return reply if isinstance(reply, Response) else _render(reply)

    def _authorize(self, operation: AnyOperation, request: Request) -> tuple[Identity, CallgateError | None]:
        if operation.access == "open":
            return NOBODY, None
        authenticator = self._api.authenticator
        identity = authenticator.signed(bearer_credential(request.headers))
        try:
            authenticator.require_current(identity)
            if operation.access == "admin":
                require_admin(identity)
            elif operation.access == "watch":
                require_watch(identity, request.path_params["account"])
            else:
                require_call(identity)
        except CallgateError as error:
            if operation.access != "start":
                raise
            return identity, error
        return identity, None


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request. Raises TooLarge before more than `max_bytes` of it are held."""
    too_large = TooLarge(f"A body is at most {max_bytes // 1024} KiB here.")
    if _said_length(request.headers) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise too_large
        body += chunk
    return bytes(body)


def _said_length(headers: Headers) -> int:
    said = headers.get("content-length", "")
    return int(said) if said.isdecimal() and len(said) < 20 else 0


@functools.cache
def _path_shape(names: tuple[str, ...]) -> type[msgspec.Struct]:
    return msgspec.defstruct("Path", [(name, PATH_KINDS[name]) for name in names])


def read_query(params: QueryParams, shape: type[Q]) -> Q:
    """Read the query of an address. Raises InvalidField."""
    given: dict[str, str] = {}
    twice = []
    for name, value in params.multi_items():
        if name in given:
            twice.append(FieldError(name[:128], "is given twice"))
        given[name] = value
    if twice:
        raise InvalidField(errors=twice)
    return convert(given, shape)


def _read_body(operation: AnyOperation, raw: bytes) -> msgspec.Struct:
    assert operation.body is not None
    if not raw:
        if not operation.body_optional:
            raise BadJson("The body is empty; a JSON object is needed.")
        raw = b"{}"
    body: msgspec.Struct = decode(raw, operation.body)
    return body


def _render(reply: Reply) -> Response:
    if reply.content is None:
        return Response(status_code=reply.status)
    return Response(
        msgspec.json.encode(reply.content),
        status_code=reply.status,
        media_type="application/json",
    )
