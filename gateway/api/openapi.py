"""The description of the HTTP API (OpenAPI 3.1), made from the operations themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway import __version__
from gateway.api.operations import PATH_KINDS, AnyOperation, Content, Plain
from gateway.api.problems import MEDIA_TYPE, STATUS, InternalError, MethodNotAllowed
from gateway.api.wire.fields import END, START
from gateway.api.wire.requests import Nothing
from gateway.api.wire.resources import Problem
from gateway.domain.errors import (
    BadJson,
    CallgateError,
    Forbidden,
    InvalidField,
    NotFound,
    TooLarge,
    Unauthorized,
)

_REF: Final = "#/components/schemas/{name}"
_PATH_NAME = re.compile(r"\{(\w+)\}")
_SECURITY: Final[Mapping[str, list[dict[str, list[str]]]]] = {
    "open": [],
    "admin": [{"adminKey": []}],
    "watch": [{"adminKey": []}, {"token": []}],
    "call": [{"adminKey": []}, {"token": []}],
    "start": [{"adminKey": []}, {"token": []}],
}
_SECURITY_SCHEMES: Final = {
    "adminKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "The deployment's admin key (`CALLGATE_ADMIN_KEY`).",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token made by `POST /v1/tokens`. Placing calls needs its scope `call`, reading the "
        "account's pool, calls and statements its scope `watch`.",
    },
}
_HEADERS: Final = {
    401: {"WWW-Authenticate": "How to authenticate."},
    405: {"Allow": "The methods that this address takes."},
    503: {"Retry-After": "After how many seconds to ask again."},
}
_INTRODUCTION: Final = """\
Callgate decides, in one atomic step, whether a call may be placed against its account's shared pool of
minutes, and settles it when it ends. Rules (R1, R2 ...) are those of the documentation.

Errors are RFC 9457 problems with a stable `code`. On an existing resource a field left out keeps its value;
an unknown field, in a body or a query, is refused (422). A JSON body is read whatever its content type.
Devices use the WebSocket at `/v1/device`, which is described in the documentation.
"""


def openapi_document(operations: Sequence[AnyOperation]) -> dict[str, Any]:
    """Return the description of these operations, and of the problems each can answer with."""
    shapes = list(dict.fromkeys(_shapes(operations)))
    _, components = msgspec.json.schema_components([Problem, *shapes], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Callgate",
            "version": __version__,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY_SCHEMES},
    }
    described: dict[str, Any] = _ecma_patterns(document)
    return described


def operation_errors(operation: AnyOperation) -> list[type[CallgateError]]:
    """Return every error this operation can answer with, also those that follow from what it takes."""
    errors: list[type[CallgateError]] = list(operation.errors)
    if operation.access != "open":
        errors += [Unauthorized, Forbidden]
    if operation.body is not None:
        errors += [BadJson, TooLarge]
    if _PATH_NAME.search(operation.path):
        errors.append(NotFound)
    # Every address refuses unknown parameters, and most have fields to be wrong.
    errors += [InvalidField, MethodNotAllowed, InternalError]
    return list(dict.fromkeys(errors))


def _shapes(operations: Iterable[AnyOperation]) -> Iterator[type[Struct]]:
    for operation in operations:
        if operation.body is not None:
            yield operation.body
        for content in operation.answers.values():
            yield from _structs(content)


def _structs(content: Content) -> tuple[type[Struct], ...]:
    if content is None or isinstance(content, Plain):
        return ()
    return content if isinstance(content, tuple) else (content,)


def _describe(operation: AnyOperation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.handler.__name__,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation.path), *_query_parameters(operation.query)],
        "responses": {
            **{str(status): _answer(status, content) for status, content in operation.answers.items()},
            **_problems(operation),
        },
        "security": _SECURITY[operation.access],
    }
    if operation.description:
        described["description"] = operation.description
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.body_optional,
            "content": {"application/json": {"schema": _ref(operation.body)}},
        }
    return described


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": msgspec.json.schema(PATH_KINDS[name]),
        }
        for name in _PATH_NAME.findall(path)
    ]


def _query_parameters(query: type[Struct]) -> list[dict[str, Any]]:
    if query is Nothing:
        return []
    _, components = msgspec.json.schema_components([query], ref_template=_REF)
    properties = components[query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


def _answer(status: int, content: Content) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if isinstance(content, Plain):
        answer["description"] = content.description
        answer["content"] = {content.media_type: {"schema": {"type": "string"}}}
    elif content is not None:
        schemas = [_ref(shape) for shape in _structs(content)]
        schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
        answer["content"] = {"application/json": {"schema": schema}}
    if status in _HEADERS:
        answer["headers"] = _headers(status)
    return answer


def _problems(operation: AnyOperation) -> dict[str, Any]:
    by_status: dict[int, list[type[CallgateError]]] = {}
    for error in operation_errors(operation):
        by_status.setdefault(STATUS[error], []).append(error)
    problems = {}
    for status, errors in sorted(by_status.items()):
        problem: dict[str, Any] = {
            "description": " ".join(f"`{error.code}`: {error.summary}" for error in errors),
            "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
        }
        if status in _HEADERS:
            problem["headers"] = _headers(status)
        problems[str(status)] = problem
    return problems


def _headers(status: int) -> dict[str, Any]:
    return {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in _HEADERS[status].items()
    }


def _ref(shape: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=shape.__name__)}


def _ecma_patterns(value: Any) -> Any:
    """Write the anchors of Python's patterns as those of JSON Schema's (ECMA-262)."""
    if isinstance(value, dict):
        return {
            key: inner.replace(START, "^").replace(END, "$")
            if key == "pattern" and isinstance(inner, str)
            else _ecma_patterns(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_ecma_patterns(inner) for inner in value]
    return value
