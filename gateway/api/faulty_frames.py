"""What is wrong with a frame that could not be read: the slow way, taken only then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from gateway.api.wire.decoding import decode_object, require_fields
from gateway.api.wire.fields import RequestId
from gateway.api.wire.frames import DeviceFrame, Re, ReaderFrame, frame_shape, reader_frame_shape
from gateway.domain.errors import CallgateError, FieldError, InvalidField, UnknownType


def read_re(raw: Mapping[str, Any]) -> Re:
    """Return the `id` of a frame, to be answered as `re`, or None if it has none that can be read."""
    try:
        re: Re = msgspec.convert(raw.get("id"), RequestId)
    except msgspec.ValidationError:
        return None
    return re


def read_again(text: str) -> tuple[Re, DeviceFrame | CallgateError, dict[str, Any]]:
    """Read a device's frame that its decoder refused: its `re`, the error to answer, what of it is JSON.

    In place of the error stands a frame if only an earlier one of two fields of the same name was wrong:
    the last one counts. It must not be nested deeply (`require_shallow`).
    """
    re, found, raw = _read_again(text, frame_shape)
    return re, cast("DeviceFrame | CallgateError", found), raw


def read_reader_frame_again(text: str) -> tuple[Re, ReaderFrame | CallgateError]:
    """The same for a dashboard's frame."""
    re, found, _ = _read_again(text, reader_frame_shape)
    return re, cast("ReaderFrame | CallgateError", found)


def _read_again(
    text: str, shape_of: Callable[[object], type[Struct] | None]
) -> tuple[Re, Struct | CallgateError, dict[str, Any]]:
    try:
        raw = decode_object(text)
    except CallgateError as error:
        return None, error, {}
    re = read_re(raw)
    kind = raw.get("type")
    if not isinstance(kind, str):
        problem = "must be a string" if "type" in raw else "is missing"
        return re, InvalidField(errors=[FieldError("type", problem)]), raw
    shape = shape_of(kind)
    if shape is None:
        return re, UnknownType(f"There is no message of type {kind[:64]!r}."), raw
    try:
        require_fields(raw, shape)
    except InvalidField as error:
        return re, error, raw
    return re, msgspec.convert(raw, shape), raw
