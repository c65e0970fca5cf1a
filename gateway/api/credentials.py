"""Where a request carries its credential."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers

SUBPROTOCOL: Final = "callgate.v1"
_TOKEN_SUBPROTOCOL: Final = "bearer."  # noqa: S105 - a prefix, not a secret


def bearer_credential(headers: Headers) -> str | None:
    """Return what follows ``Authorization: Bearer`` (RFC 6750, 2.1), or None."""
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    return credential.strip() or None if scheme.lower() == "bearer" else None


def websocket_credential(headers: Headers, subprotocols: Iterable[str]) -> str | None:
    """Return a handshake's credential: from the header, or for browsers from ``bearer.<token>``, or None."""
    credential = bearer_credential(headers)
    if credential is not None:
        return credential
    offered = (name for name in subprotocols if name.startswith(_TOKEN_SUBPROTOCOL))
    return next((name.removeprefix(_TOKEN_SUBPROTOCOL) for name in offered), None) or None
