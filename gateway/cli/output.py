"""How commands say what they found: tables and fields for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

_PIPED_COLUMNS = 1000
"""Wide enough that nothing is cut off on its way to another program."""


def console(*, stderr: bool = False) -> Console:
    """Return a console that writes text as it is: an account's name is not markup."""
    found = Console(markup=False, highlight=False, emoji=False, stderr=stderr)
    if not found.is_terminal:
        found = Console(markup=False, highlight=False, emoji=False, stderr=stderr, width=_PIPED_COLUMNS)
    return found


def say_json(value: Any) -> None:
    """Write a resource, or a list of them, as JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Write one thing, a field a line; what is None is said as a dash."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        click.echo(f"{name:<{width}}  {_text(value)}")


def say_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, nothing: str) -> None:
    """Write many things, one a line; `nothing` where there are none."""
    if not rows:
        click.echo(nothing, err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    console().print(table)


def minutes(seconds: int) -> str:
    """Return seconds as minutes and seconds: ``979:05``."""
    return f"{seconds // 60}:{seconds % 60:02}"


def instant(at_ms: int | None) -> str | None:
    """Return an instant as people read it, in UTC to the second."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _text(value: object) -> str:
    return "-" if value is None else str(value)
