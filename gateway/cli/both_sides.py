"""What commands have in common that work on the engine and the database themselves, and ask no gateway."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gateway.cli.output import console
from gateway.domain.errors import CallgateError, EngineUnavailable
from gateway.embedded import engine_url
from gateway.service.opening import DATABASE_FILE
from gateway.settings import Settings, load_settings

P = ParamSpec("P")
T = TypeVar("T")


def settings_options(command: Callable[Concatenate[Settings, P], T]) -> Callable[..., T]:
    """Add the flags that say where engine and database are; the command gets `Settings` first."""

    @click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="CALLGATE_CONFIG",
        help="TOML file with the gateway's settings.  [CALLGATE_CONFIG]",
    )
    @click.option("--redis-url", metavar="URL", help="As the gateway has it.  [CALLGATE_REDIS_URL]")
    @click.option("--database-url", metavar="URL", help="As the gateway has it.  [CALLGATE_DATABASE_URL]")
    @click.option("--data-dir", metavar="DIR", help="As the gateway has it.  [CALLGATE_DATA_DIR]")
    @functools.wraps(command)
    def with_settings(
        config: Path | None,
        redis_url: str | None,
        database_url: str | None,
        data_dir: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        flags = {"redis_url": redis_url, "database_url": database_url, "data_dir": data_dir}
        return command(load_settings(flags, os.environ, config), *args, **kwargs)

    return with_settings


def places(settings: Settings) -> tuple[str, str | Path]:
    """Where the engine and the database of a gateway with these settings are."""
    redis_url = settings.redis_url or engine_url(settings.data_dir)
    return redis_url, settings.database_url or settings.data_dir / DATABASE_FILE


def progress_bar(text: str, *, disable: bool = False) -> Progress:
    """A bar on standard error, if a person looks at it."""
    errors = console(stderr=True)
    return Progress(
        TextColumn(text),
        BarColumn(),
        MofNCompleteColumn(),
        console=errors,
        transient=True,
        disable=disable or not errors.is_terminal,
    )


def explained(settings: Settings) -> Callable[[CallgateError], str]:
    """How errors are said to a person."""

    def said(error: CallgateError) -> str:
        if isinstance(error, EngineUnavailable) and settings.redis_url is None:
            where = f"of the data directory {settings.data_dir}"
            return (
                f"The embedded engine {where} cannot be reached: it runs only while `callgate serve` does. "
                "--data-dir or --redis-url names another."
            )
        return error.message

    return said
