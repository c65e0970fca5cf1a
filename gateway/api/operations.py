"""An operation: one method of one address, with all that its handler, its route and its description need.

A handler is called with its identity checked, its path, query and body read, and returns what to answer. So
the description in `/openapi.json` and the code cannot drift: both are made from the same `Operation`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

from msgspec import Struct
from starlette.responses import Response

from gateway.api.auth import Identity
from gateway.api.context import Api
from gateway.api.wire.decoding import MAX_BYTES
from gateway.api.wire.fields import Id, Instant
from gateway.api.wire.requests import Nothing
from gateway.domain.errors import CallgateError

Q = TypeVar("Q", bound=Struct)
B = TypeVar("B", bound=Struct)

Access = Literal["open", "admin", "watch", "call", "start"]
"""Who may: anybody; the admin; who may read the path's account; who may place calls; the same, but with an
emergency call anybody whose token is signed (R30), which the handler sees to."""

PATH_KINDS: Final[Mapping[str, Any]] = {
    "plan": Id,
    "account": Id,
    "staff": Id,
    "channel": Id,
    "call_id": Id,
    "cycle_start": Instant,
}
"""What stands for each name in a path."""


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Q, B]):
    """One request, as its handler sees it.

    `refusal` is why the asker may not do this (only with access `start`: else the handler is not called);
    `raw` is the body as it came.
    """

    api: Api
    identity: Identity
    path: Mapping[str, str]
    query: Q
    body: B
    raw: bytes = b""
    refusal: CallgateError | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON answer; without content there is no body."""

    content: Struct | None = None
    status: int = 200


Handler = Callable[[Exchange[Q, B]], Awaitable[Reply | Response]]


@dataclass(frozen=True, slots=True)
class Plain:
    """The content of an answer that is no JSON of ours."""

    media_type: str
    description: str


Content = type[Struct] | tuple[type[Struct], ...] | Plain | None


@dataclass(frozen=True, slots=True)
class Operation(Generic[Q, B]):
    """One method of one address.

    `answers` are the contents by status; `errors` those that this operation can raise besides what follows
    from its access, its path, its query and its body. With `body_optional` no body is an empty object; with
    `raw_body` the handler reads the body itself; of more than `max_bytes` none is read.
    """

    method: Literal["GET", "PUT", "POST", "DELETE"]
    path: str
    handler: Handler[Q, B]
    access: Access
    tag: str
    summary: str
    answers: Mapping[int, Content]
    query: type[Q]
    body: type[B] | None = None
    body_optional: bool = False
    raw_body: bool = False
    max_bytes: int = MAX_BYTES
    errors: tuple[type[CallgateError], ...] = field(default=())
    description: str = ""


AnyOperation = Operation[Any, Any]
NO_QUERY: Final = Nothing
