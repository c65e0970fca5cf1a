"""Fields of a resource that is put: what is there, what is missing, and what can be kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.domain.errors import FieldError, InvalidField


def missing(fields: Mapping[str, Any], names: Iterable[str]) -> list[FieldError]:
    """Name the fields that a new resource must have and that are not there."""
    return [FieldError(name, "is required") for name in names if name not in fields]


def unkeepable(fields: Mapping[str, Any]) -> list[FieldError]:
    """Name the texts that neither database, or not PostgreSQL, can keep."""
    return [
        FieldError(name, "must not contain NUL or half a surrogate pair")
        for name, value in fields.items()
        if isinstance(value, str) and not _keepable(value)
    ]


def check(errors: Iterable[FieldError]) -> None:
    """Raise InvalidField if there is anything wrong."""
    found = list(errors)
    if found:
        raise InvalidField(errors=found)


def _keepable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
