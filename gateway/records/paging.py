"""Pages of a list. The cursor is the key of the last item shown, so nothing is repeated or hidden."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from gateway.domain.errors import FieldError, InvalidField
from gateway.domain.identifiers import valid_id

Key = tuple[str | int, ...]
T = TypeVar("T")

_INT64: Final = range(-(2**63), 2**63)


def page_of(rows: Sequence[T], limit: int, key: Callable[[T], Key]) -> tuple[list[T], str | None]:
    """Make a page of up to `limit` items, and the cursor of the next one, from one row more than that."""
    items = list(rows[:limit])
    return items, _cursor(key(items[-1])) if len(rows) > limit else None


def after_id(after: str | None) -> str:
    """Read the cursor of a list in order of ids: the last one shown, "" to begin. Raises InvalidField."""
    return "" if after is None else str(_read(after, str)[0])


def after_instant(after: str | None) -> int | None:
    """Read the cursor of a list in order of instants. Raises InvalidField."""
    return None if after is None else int(_read(after, int)[0])


def after_instant_and_id(after: str | None) -> tuple[int, str] | None:
    """Read the cursor of a list in order of instants and then ids. Raises InvalidField."""
    if after is None:
        return None
    instant, name = _read(after, int, str)
    return int(instant), str(name)


def after_instant_and_place(after: str | None) -> tuple[int, int] | None:
    """Read the cursor of a list in an order that was taken at an instant. Raises InvalidField."""
    if after is None:
        return None
    instant, place = _read(after, int, int)
    return int(instant), max(0, int(place))


def _cursor(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).rstrip(b"=").decode()


def _read(after: str, *types: type[str] | type[int]) -> Key:
    try:
        key = json.loads(base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        key = None
    if isinstance(key, list) and [type(part) for part in key] == list(types) and all(map(_storable, key)):
        return tuple(key)
    raise InvalidField(errors=[FieldError("after", "must be the `next` of this list's page before")])


def _storable(part: str | int) -> bool:
    return valid_id(part) if isinstance(part, str) else part in _INT64
