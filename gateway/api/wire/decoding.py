"""Reading JSON strictly: the whole shape at once, and if that fails, every field that is wrong, by name."""

from __future__ import annotations

import functools
import itertools
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from gateway.api.wire.fields import CHECK
from gateway.domain.errors import BadJson, FieldError, InvalidField

S = TypeVar("S", bound=Struct)

MAX_BYTES: Final = 64 * 1024
"""The largest body and frame that is read."""
MAX_DEPTH: Final = 32
"""How deep objects and arrays may lie in one another; the documented ones need three."""
MAX_ERRORS: Final = 100
"""How many wrong fields an answer names at most, so that it stays small."""

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|([\[{])|([\]}])', re.DOTALL)
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_NAMES: Final = {
    "`int`": "an integer",
    "`str`": "a string",
    "`bool`": "true or false",
    "`float`": "a number with a fraction",
    "`null`": "null",
    "`object`": "an object",
    "`array`": "an array",
    "`date`": "a date as in 2026-01-31",
}


def decode(data: bytes | str, shape: type[S]) -> S:
    """Read `data` as a JSON object of this shape.

    Raises BadJson if it is not a JSON object, or nested too deeply, and InvalidField naming every wrong
    field.
    """
    require_shallow(data)
    try:
        found: S = _decoder(shape).decode(data)
    except (msgspec.DecodeError, UnicodeError):
        raw = decode_object(data)
        require_fields(raw, shape)
        # Of a name that is there twice the last value counts; the decoder stumbled over an earlier one.
        last: S = msgspec.convert(raw, shape)
        return last
    require_checks(found)
    return found


def convert(values: Mapping[str, str], shape: type[S]) -> S:
    """Read the values of a query or a path, which are all text, as this shape. Raises InvalidField."""
    try:
        found = msgspec.convert(dict(values), shape, strict=False)
    except msgspec.ValidationError:
        require_fields(values, shape, strict=False)
        raise
    require_checks(found)
    return found


def decode_object(data: bytes | str) -> dict[str, Any]:
    """Read `data` as any JSON object. Raises BadJson. It must not be nested deeply (`require_shallow`)."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadJson(f"This is not JSON: {str(error)[:200]}.") from None
    if not isinstance(raw, dict):
        raise BadJson("This is JSON, but not an object.")
    return raw


def require_shallow(data: bytes | str) -> None:
    """Raise BadJson if this is nested deeper than `MAX_DEPTH`: the decoder recurses (msgspec#1033)."""
    if isinstance(data, bytes):
        if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
            return
        data = data.decode(errors="replace")
    elif data.count("{") + data.count("[") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKETS.finditer(data):
        if bracket[1]:
            depth += 1
            if depth > MAX_DEPTH:
                raise BadJson(f"This is nested more than {MAX_DEPTH} deep.")
        elif bracket[2]:
            depth -= 1


def field_errors(raw: Mapping[str, Any], shape: type[Struct], *, strict: bool = True) -> list[FieldError]:
    """Return what is wrong with each field of `raw`, read as `shape`: wrong, unknown and missing ones."""
    return list(itertools.islice(_object_errors(raw, shape, "", strict), MAX_ERRORS))


def require_fields(raw: Mapping[str, Any], shape: type[Struct], *, strict: bool = True) -> None:
    """Raise InvalidField naming every field of `raw` that is wrong, unknown or missing, read as `shape`."""
    errors = field_errors(raw, shape, strict=strict)
    if errors:
        raise InvalidField(errors=errors)


def require_checks(found: Struct) -> None:
    """Raise InvalidField for every field of `found` that its own check refuses."""
    checks = _checks(type(found))
    errors = [
        FieldError(name, f"must be {description}")
        for name, check, description in checks
        if isinstance(value := getattr(found, name), str) and not check(value)
    ]
    if errors:
        raise InvalidField(errors=errors)


@functools.cache
def _decoder(shape: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(shape)


def _object_errors(
    raw: Mapping[str, Any], shape: type[Struct], at: str, strict: bool
) -> Iterator[FieldError]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    if shape.__struct_config__.forbid_unknown_fields:
        for name in raw:
            if name not in fields:
                yield FieldError(at + name[:128], "unknown field")
    for name, field in fields.items():
        if name in raw:
            yield from _value_errors(raw[name], field.type, at + name, strict)
        elif field.required:
            yield FieldError(at + name, "is missing")


def _value_errors(value: Any, kind: Any, at: str, strict: bool) -> Iterator[FieldError]:
    for part in _parts(kind):
        if isinstance(value, dict) and isinstance(part, type) and issubclass(part, Struct):
            yield from _object_errors(value, part, at + ".", strict)
            return
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        text = str(error)
        path = _PATH.search(text)
        yield FieldError(at + (path["path"] if path else ""), _say(_PATH.sub("", text), kind, strict=strict))
        return
    for meta in _metas(kind):
        check = (meta.extra or {}).get(CHECK)
        if check is not None and isinstance(value, str) and not check(value):
            yield FieldError(at, f"must be {meta.description}")


def _say(text: str, kind: Any, *, strict: bool) -> str:
    """Turn msgspec's message into one that speaks JSON, not Python."""
    if "matching regex" in text:
        described = next(
            (meta.description for meta in _metas(kind) if meta.pattern and meta.description), None
        )
        if described:
            return f"must be {described}"
    if text.startswith("Invalid enum value"):
        return f"must be one of: {', '.join(map(str, _choices(kind)))}"
    if "RFC3339 encoded date" in text:
        return f"must be {_NAMES['`date`']}"
    if not strict:  # all values of a query are text: that is no news
        text = text.partition(", got ")[0]
    text = text.replace(" | ", "` or `").replace("Expected ", "must be ")
    for name, said in _NAMES.items():
        text = text.replace(name, said)
    return text[:1].lower() + text[1:]


def _choices(kind: Any) -> Iterator[Any]:
    for part in get_args(kind):
        if get_origin(kind) is Literal:
            yield part
        else:
            yield from _choices(part)


@functools.cache
def _checks(shape: type[Struct]) -> tuple[tuple[str, Callable[[str], bool], str], ...]:
    return tuple(
        (field.name, meta.extra[CHECK], meta.description or "")
        for field in msgspec.structs.fields(shape)
        for meta in _metas(field.type)
        if meta.extra and CHECK in meta.extra
    )


def _metas(kind: Any) -> Iterator[Meta]:
    if get_origin(kind) is Annotated:
        yield from (meta for meta in kind.__metadata__ if isinstance(meta, Meta))
    for part in get_args(kind):
        if not isinstance(part, Meta):
            yield from _metas(part)


def _parts(kind: Any) -> Iterator[Any]:
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _parts(get_args(kind)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(kind):
            yield from _parts(part)
    else:
        yield kind
