"""The text frames of the WebSockets: what devices and dashboards send, and what they are answered.

Unknown fields of a frame are passed over, so that a client newer than its gateway still works while a
deployment is being upgraded; an HTTP body, written by hand or by a program of its own time, is refused for
them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from gateway.api.wire.fields import AgoMs, Id, Receipt, RequestId, To
from gateway.api.wire.resources import FieldProblem, PoolCall
from gateway.domain.calls import EndedBy

Re = int | str | None
"""The `id` of the request that is answered, or None where it could not be read."""


class CallStart(Struct, frozen=True, gc=False, tag_field="type", tag="call.start"):
    """Asks for admission (R7-R9)."""

    id: RequestId
    call_id: Id
    to: To
    channel: Id | None = None


class CallAnswered(Struct, frozen=True, gc=False, tag_field="type", tag="call.answered"):
    """Notes that a call was answered (R3)."""

    id: RequestId
    call_id: Id
    answered_ago_ms: AgoMs = 0


class CallEnd(Struct, frozen=True, gc=False, tag_field="type", tag="call.end"):
    """Ends a call (R16, R17)."""

    id: RequestId
    call_id: Id
    ended_ago_ms: AgoMs = 0


class CallResume(Struct, frozen=True, gc=False, tag_field="type", tag="call.resume"):
    """Vouches for a call again, also for one that was settled in its absence (R13, R15)."""

    id: RequestId
    call_id: Id
    receipt: Receipt | None = None


class AuthRefresh(Struct, frozen=True, gc=False, tag_field="type", tag="auth.refresh"):
    """Goes on by a newer token of the same device."""

    id: RequestId
    token: str


class Ping(Struct, frozen=True, gc=False, tag_field="type", tag="ping"):
    """Asks whether anybody is there."""

    id: RequestId


DeviceFrame = CallStart | CallAnswered | CallEnd | CallResume | AuthRefresh | Ping

ReaderFrame = AuthRefresh | Ping
"""What a dashboard sends."""

_SHAPES: Final[dict[str, type[DeviceFrame]]] = {
    shape.__struct_config__.tag: shape  # type: ignore[misc]  # every tag here is a string
    for shape in (CallStart, CallAnswered, CallEnd, CallResume, AuthRefresh, Ping)
}
_READER_SHAPES: Final[dict[str, type[ReaderFrame]]] = {"auth.refresh": AuthRefresh, "ping": Ping}

decode_frame: Final = msgspec.json.Decoder(DeviceFrame).decode
"""Read a frame; raises msgspec.DecodeError without saying all that is wrong:

`gateway.api.faulty_frames` does.
"""

decode_reader_frame: Final = msgspec.json.Decoder(ReaderFrame).decode
"""The same for what a dashboard sends."""


def frame_shape(kind: object) -> type[DeviceFrame] | None:
    """Return the shape of the frames of this `type`, or None if there is no such type."""
    return _SHAPES.get(kind) if isinstance(kind, str) else None


def reader_frame_shape(kind: object) -> type[ReaderFrame] | None:
    """The same for what a dashboard sends."""
    return _READER_SHAPES.get(kind) if isinstance(kind, str) else None


class Welcome(Struct, frozen=True, tag_field="type", tag="welcome"):
    """The first frame. While the engine cannot be asked `remaining_seconds` is null and `calls` empty.

    It is null, too, where the account's pool cannot be read.
    """

    account: str
    staff: str
    device: str
    server_time_ms: int
    grace_seconds: int
    remaining_seconds: int | None
    calls: list[PoolCall]


class CallAdmitted(
    Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="call.admitted"
):
    """The call may be placed.

    `emergency` is there, and true, for an emergency call only (R30), `admitted_offline` for one that was let
    through without asking the engine.
    """

    re: Re | UnsetType = UNSET
    call_id: str
    admitted_at_ms: int
    remaining_seconds: int | None
    receipt: str
    replayed: bool
    emergency: bool = False
    admitted_offline: bool = False


class CallRefused(Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="call.refused"):
    """The call may not be placed: the first reason of R8 that applies, and a sentence for people."""

    re: Re | UnsetType = UNSET
    call_id: str
    reason: str
    message: str
    remaining_seconds: int


class CallNoted(Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="call.noted"):
    """The answer of the call is known."""

    re: Re | UnsetType = UNSET
    call_id: str


class CallSettled(Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="call.settled"):
    """What the call came to; `replayed` if it had been settled before (R17)."""

    re: Re | UnsetType = UNSET
    call_id: str
    duration_ms: int
    billed_seconds: int
    counted: bool
    ended_by: EndedBy
    revision: int
    replayed: bool
    remaining_seconds: int | None


class CallResumed(Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="call.resumed"):
    """The call goes on, from its original admission (R13, R15)."""

    re: Re | UnsetType = UNSET
    call_id: str
    admitted_at_ms: int
    receipt: str


class AuthRefreshed(Struct, frozen=True, tag_field="type", tag="auth.refreshed"):
    """The connection now goes by the newer token."""

    re: Re
    expires_at_ms: int


class Pong(Struct, frozen=True, tag_field="type", tag="pong"):
    """Somebody is there."""

    re: Re
    server_time_ms: int


class Error(Struct, frozen=True, tag_field="type", tag="error"):
    """The request was not carried out; the connection stays. `errors` comes with `invalid_field`."""

    re: Re
    code: str
    message: str
    errors: list[FieldProblem] | UnsetType = UNSET


class Notice(Struct, frozen=True, tag_field="type", tag="notice"):
    """Something nobody asked for."""

    kind: str
    message: str


encode: Final = msgspec.json.Encoder().encode


def encode_text(frame: Any) -> str:
    """Return a frame as the text that goes over the WebSocket."""
    return encode(frame).decode()
