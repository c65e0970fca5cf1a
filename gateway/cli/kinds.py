"""The kinds of values that flags of commands take, beside click's own."""

from __future__ import annotations

import re
from typing import Final

import click

from gateway.domain.identifiers import valid_id

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[int]):
    """A length of time in whole seconds: `90`, `90s`, `15m`, `8h`, `30d`."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return seconds."""
        match = re.fullmatch(r"([0-9]{1,12})([smhd]?)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a length of time such as 90, 15m, 8h or 30d.", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


class Identifier(click.ParamType[str]):
    """An id, checked before anything is sent: it becomes part of an address."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it is."""
        if not valid_id(value):
            self.fail(f"{value!r} is not an id: 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ + -", param, ctx)
        return value


DURATION: Final = Duration()
ID: Final = Identifier()
