"""Why a gateway closes a WebSocket.

The number tells the client whether to come back (RFC 6455, 7.4).
"""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """The close codes of docs/websocket.md. Clients don't come back by themselves after `REPLACED` and
    `STAFF_REMOVED`.

    After `TOKEN_ENDED` they come back with another token only.
    """

    BINARY = 1003
    """A binary frame; there are only text frames here."""
    TOO_LARGE = 1009
    """A frame over 64 KiB."""
    RESTARTING = 1012
    """This gateway is shutting down; another one, or this one in a moment, takes over."""
    TOKEN_ENDED = 4401
    """The token expired or was revoked."""
    STAFF_REMOVED = 4403
    """The staff member was removed, and may not watch any more."""
    REPLACED = 4409
    """The same device connected again; the newer connection stays."""
