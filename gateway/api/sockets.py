"""What the WebSockets of devices and of dashboards have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.api.credentials import SUBPROTOCOL
from gateway.api.wire import frames
from gateway.api.wire.decoding import MAX_BYTES
from gateway.domain.errors import CallgateError, FieldError, InvalidField
from gateway.sessions.close_codes import CloseCode

CLOSE_SECONDS: Final = 5.0
"""How long a client may take to read what waits for it before the closing."""
RESTARTING: Final = (CloseCode.RESTARTING, "the gateway is shutting down")
GOING_AWAY: Final = frames.encode_text(
    frames.Notice("going_away", "This gateway is shutting down; connect again.")
)

_A_DAY_SECONDS: Final = 86_400.0


class TokenEnd:
    """Calls `ended` when the token that a connection goes by expires. `now_ms` is the real time.

    Looked at once a day at least, as the host's clock may be set.
    """

    __slots__ = ("_ended", "_expires_at_ms", "_now_ms", "_timer")

    def __init__(self, now_ms: Callable[[], int], ended: Callable[[], None]) -> None:
        self._now_ms = now_ms
        self._ended = ended
        self._expires_at_ms = 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, expires_at_ms: int | None) -> None:
        """Go by a token that expires then, in place of the one before. None never does."""
        self.cancel()
        if expires_at_ms is not None:
            self._expires_at_ms = expires_at_ms
            self._look()

    def cancel(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        left_seconds = (self._expires_at_ms - self._now_ms()) / 1000
        if left_seconds <= 0:
            self._ended()
            return
        self._timer = asyncio.get_running_loop().call_later(min(left_seconds, _A_DAY_SECONDS), self._look)


def is_too_large(text: str) -> bool:
    """Tell whether a frame has more bytes than one may have."""
    return len(text) > MAX_BYTES or (len(text) * 4 > MAX_BYTES and len(text.encode()) > MAX_BYTES)


def error_frame(re: frames.Re, error: CallgateError) -> str:
    """Return the frame that answers a request with an error."""
    errors = error.members.get("errors", msgspec.UNSET)
    return frames.encode_text(frames.Error(re, error.code, error.message, errors))


def require_subprotocol(offered: Sequence[str]) -> None:
    """Raise InvalidField unless our subprotocol is among those that a handshake offers."""
    if SUBPROTOCOL not in offered:
        raise InvalidField(errors=[FieldError("Sec-WebSocket-Protocol", f"must offer {SUBPROTOCOL}")])
