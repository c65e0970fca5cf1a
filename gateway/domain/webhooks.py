"""Webhooks in the form of the Standard Webhooks specification: event types, signatures, when to try again.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, Literal, get_args

EventType = Literal[
    "threshold", "minutes_exhausted", "minutes_restored", "plan_changed", "cycle_closed", "call_recorded"
]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)
USUAL_EVENTS: Final[frozenset[str]] = frozenset(EVENT_TYPES) - {"call_recorded"}
"""Those that are sent unless others are asked for."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - no secret
SECRET_BYTES: Final = (24, 64)
"""How long a secret is at least and at most."""

RETRY_SECONDS: Final = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 43_200, 86_400)
"""How long to wait after each failure in a row; the last stands for all that follow."""
JITTER: Final = 0.2
"""By so much of itself a wait is longer at most."""
GIVE_UP_SECONDS: Final = 76 * 3600
"""How long after its first try an event is tried: three days and a little."""


def secret_key(secret: str) -> bytes:
    """Return the key of a secret, `whsec_` and base64 of 24 to 64 bytes. Raises ValueError for another."""
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    if not SECRET_BYTES[0] <= len(key) <= SECRET_BYTES[1]:
        raise ValueError(f"has {len(key)} bytes")
    return key


def signatures(keys: Iterable[bytes], event_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: a signature by each of the keys, for rotation.

    `timestamp` is when it is sent, in seconds since 1970.
    """
    content = f"{event_id}.{timestamp}.".encode() + body
    signed = (hmac.digest(key, content, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(each).decode()}" for each in signed)


def retry_seconds(failures: int, random_part: float) -> float:
    """Return how long to wait after so many failures of an event; `random_part` is from 0 to 1."""
    wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1]
    return wait * (1 + JITTER * random_part)
