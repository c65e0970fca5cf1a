"""The kinds of fields that bodies, frames and queries are made of, each with what it accepts."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from gateway.domain.cycles import parse_rfc3339, valid_time_zone
from gateway.domain.destinations import MAX_DESTINATION_LENGTH
from gateway.domain.identifiers import ID_PATTERN

CHECK: Final = "check"
"""The key of `Meta.extra` under which a field's check lies: a function that tells whether a value is good."""

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259, 6)."""
_INT64: Final = 2**63
MAX_RECEIPT_LENGTH: Final = 4096
"""More than the longest receipt has, and room for those of a newer gateway."""

# Python's `$` also matches before a newline at the end; `openapi` writes these anchors as `^` and `$` again.
START: Final = r"\A"
END: Final = r"\Z"


def _is_instant(text: str) -> bool:
    try:
        parse_rfc3339(text)
    except ValueError:
        return False
    return True


_PRINTABLE: Final = rf"{START}[^\x00-\x1f\x7f]*{END}"

Id = Annotated[
    str,
    Meta(
        pattern=START + ID_PATTERN.removeprefix("^").removesuffix("$") + END,
        description="1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ + -",
    ),
]
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        pattern=_PRINTABLE,
        description="1 to 256 characters, none of them a control character",
    ),
]
Text = Annotated[
    str,
    Meta(
        max_length=256,
        pattern=_PRINTABLE,
        description="up to 256 characters, none of them a control character",
    ),
]
To = Annotated[
    str,
    Meta(
        max_length=MAX_DESTINATION_LENGTH,
        description="where the call goes: E.164 (`+` and 5 to 15 digits), a short code (2 to 6 digits), "
        "or a sip:, sips: or tel: URI",
    ),
]
Receipt = Annotated[
    str,
    Meta(max_length=MAX_RECEIPT_LENGTH, description="the receipt of the call's admission, as it came (R28)"),
]
AgoMs = Annotated[int, Meta(description="how many milliseconds ago; clamped to what can be (R16)")]
RequestId = (
    Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)]
    | Annotated[str, Meta(max_length=64, description="a string of up to 64 characters")]
)
Minutes = Annotated[int, Meta(ge=0, le=1_000_000_000, description="calling minutes a cycle")]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Amount = Annotated[
    str,
    Meta(
        pattern=rf"{START}[0-9]{{1,12}}(\.[0-9]{{1,4}})?{END}",
        description='an amount of money in decimal, as in "49.00"',
    ),
]
Currency = Annotated[
    str, Meta(pattern=rf"{START}[A-Z]{{3}}{END}", description='an ISO 4217 currency code, as in "USD"')
]
TimeZone = Annotated[
    str,
    Meta(
        max_length=64,
        description="a time zone of the IANA database, as in America/New_York",
        extra={CHECK: valid_time_zone},
    ),
]
Instant = Annotated[
    str,
    Meta(
        max_length=64,
        description="an instant in RFC 3339, in UTC with Z, as in 2026-11-15T05:00:00Z",
        extra={CHECK: _is_instant},
        extra_json_schema={"format": "date-time"},
    ),
]
Cursor = Annotated[str, Meta(max_length=1024, pattern=_PRINTABLE, description="`next` of the page before")]
Limit = Annotated[int, Meta(ge=1, le=1000, description="how many items at most")]
AccountStatus = Literal["active", "suspended"]


def clamped_ago_ms(ago_ms: int) -> int:
    """Return how long ago something was, as the pool takes it: not in the future (R16), and not too large."""
    return min(max(ago_ms, 0), MAX_SAFE_INTEGER)
