"""The text frames of the dashboard WebSocket, as a client reads them: leniently, as those of devices."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from gateway.client.frames import AuthRefreshed, Error, Pong
from gateway.client.resources import CycleSpan, Pool


class PoolShown(Pool, frozen=True, tag_field="type", tag="pool"):
    """The pool as it is now."""


class PoolNotice(Struct, frozen=True, tag_field="type", tag="notice"):
    """What happened to the pool: `threshold` (with `percent`), `minutes_exhausted`, `cycle_reset`,

    `plan_changed`; or to the connection: `going_away`. A newer gateway may know more kinds.
    """

    kind: str
    message: str
    at_ms: int | None = None
    percent: int | None = None
    plan: str | None = None
    cycle: CycleSpan | None = None


LiveHeard = PoolShown | PoolNotice | AuthRefreshed | Pong | Error

_decoder: Final = msgspec.json.Decoder(LiveHeard)


def decode(text: str | bytes) -> LiveHeard:
    """Read a frame. Raises msgspec.DecodeError for what is none, or of a type not known here."""
    heard: LiveHeard = _decoder.decode(text)
    return heard
