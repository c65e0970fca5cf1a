"""The text frames of the device WebSocket, as a client sends and reads them.

Read leniently: fields and types that a newer gateway adds are passed over.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from gateway.client.resources import PoolCall
from gateway.domain.calls import EndedBy

NoticeKind = Literal["minutes_exhausted", "minutes_restored", "going_away"]


class CallStart(Struct, frozen=True, tag_field="type", tag="call.start"):
    """Asks for admission (R7-R9)."""

    id: int
    call_id: str
    to: str
    channel: str | None


class CallAnswered(Struct, frozen=True, tag_field="type", tag="call.answered"):
    """Notes that a call was answered (R3)."""

    id: int
    call_id: str
    answered_ago_ms: int


class CallEnd(Struct, frozen=True, tag_field="type", tag="call.end"):
    """Ends a call (R16, R17)."""

    id: int
    call_id: str
    ended_ago_ms: int


class CallResume(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="call.resume"):
    """Vouches for a call again (R13, R15); with its receipt also where the live state was lost (R28)."""

    id: int
    call_id: str
    receipt: str | None = None


class AuthRefresh(Struct, frozen=True, tag_field="type", tag="auth.refresh"):
    """Goes on by a newer token."""

    id: int
    token: str


class Ping(Struct, frozen=True, tag_field="type", tag="ping"):
    """Asks whether anybody is there, and for the time."""

    id: int


Asking = CallStart | CallAnswered | CallEnd | CallResume | AuthRefresh | Ping


class Welcome(Struct, frozen=True, tag_field="type", tag="welcome"):
    """The first frame. Without its engine a gateway knows no `remaining_seconds` and no `calls`."""

    account: str
    staff: str
    device: str
    server_time_ms: int
    grace_seconds: int
    remaining_seconds: int | None
    calls: list[PoolCall]


class CallAdmitted(Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="call.admitted"):
    """The call may be placed. Let through without the engine it is `admitted_offline`."""

    re: int | str | None
    call_id: str
    admitted_at_ms: int
    remaining_seconds: int | None
    replayed: bool
    emergency: bool = False
    receipt: str | None = None
    admitted_offline: bool = False


class CallRefused(Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="call.refused"):
    """The call may not be placed (R8)."""

    re: int | str | None
    call_id: str
    reason: str
    message: str
    remaining_seconds: int


class CallNoted(Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="call.noted"):
    """The answer of the call is known."""

    re: int | str | None
    call_id: str


class CallSettled(Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="call.settled"):
    """What the call came to."""

    re: int | str | None
    call_id: str
    duration_ms: int
    billed_seconds: int
    counted: bool
    ended_by: EndedBy
    revision: int
    replayed: bool
    remaining_seconds: int | None


class CallResumed(Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag="call.resumed"):
    """The call goes on, and this connection vouches for it."""

    re: int | str | None
    call_id: str
    admitted_at_ms: int
    receipt: str | None = None


class AuthRefreshed(Struct, frozen=True, kw_only=True, tag_field="type", tag="auth.refreshed"):
    """The connection goes by the newer token."""

    re: int | str | None
    expires_at_ms: int


class Pong(Struct, frozen=True, kw_only=True, tag_field="type", tag="pong"):
    """Somebody is there."""

    re: int | str | None
    server_time_ms: int


class Error(Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """The request was not carried out."""

    re: int | str | None
    code: str
    message: str
    errors: list[dict[str, Any]] = []


class Notice(Struct, frozen=True, tag_field="type", tag="notice"):
    """Something nobody asked for. `kind` is a `NoticeKind`, or one that a newer gateway knows."""

    kind: str
    message: str


Answer = CallAdmitted | CallRefused | CallNoted | CallSettled | CallResumed | AuthRefreshed | Pong
Heard = Welcome | Answer | Error | Notice

_decoder: Final = msgspec.json.Decoder(Heard)
_encoder: Final = msgspec.json.Encoder()


def decode(text: str | bytes) -> Heard:
    """Read a frame. Raises msgspec.DecodeError for what is none, or of a type not known here."""
    heard: Heard = _decoder.decode(text)
    return heard


def encode(frame: Asking) -> str:
    """Return a frame as the text that is sent."""
    return _encoder.encode(frame).decode()
