"""What commands that talk to a running gateway have in common: where it is, the key, and how errors end."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from gateway.client import AdminClient, GatewayUnreachable, UnexpectedAnswer
from gateway.client.addresses import Address, parse_address
from gateway.domain.errors import CallgateError, Unauthorized
from gateway.secrets import kept_admin_key
from gateway.setting_kinds import Directory
from gateway.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8080"
_OTHER_GATEWAY: Final = "--url or CALLGATE_URL names another gateway."


@dataclass(frozen=True, slots=True)
class Remote:
    """The gateway that a command was pointed at. `as_json` is how it shall say what it found."""

    address: Address
    given_key: str | None
    data_dir: Path
    as_json: bool

    @property
    def url(self) -> str:
        """Its URL."""
        return self.address.http

    def admin(self) -> AdminClient:
        """Return a client with the admin key. Raises click.UsageError if there is none."""
        return AdminClient(self.url, self.admin_key())

    def admin_key(self) -> str:
        """Return the key that was given, or the one that a gateway on this machine made and kept.

        Raises click.UsageError if there is neither.
        """
        if self.given_key is not None:
            return self.given_key
        if not self.address.loopback:
            # The kept one is this machine's gateway's, and nobody else's to see.
            raise click.UsageError("For a gateway on another machine give --admin-key or CALLGATE_ADMIN_KEY.")
        key = kept_admin_key(self.data_dir)
        if key is None:
            raise click.UsageError(
                f"There is no admin key in {self.data_dir}: name the gateway's --data-dir, or give the key "
                "with --admin-key or CALLGATE_ADMIN_KEY."
            )
        return key

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a command's work; what the gateway answers with, or does not, becomes one line and status 1."""
        return run_command(work, self.said)

    def said(self, error: CallgateError) -> str:
        """Return an error as a person at the command line needs it said."""
        message = error.message
        if isinstance(error, GatewayUnreachable):
            return f"{message} Is `callgate serve` running there? {_OTHER_GATEWAY}"
        if isinstance(error, UnexpectedAnswer) and "code" not in error.members:
            return f"{message} {_OTHER_GATEWAY}"
        if isinstance(error, Unauthorized) and self.given_key is None:
            return f"{message} (The key is the one in {self.data_dir}; --data-dir names another place.)"
        return message


def remote_options(
    command: Callable[Concatenate[Remote, P], T],
) -> Callable[..., T]:
    """Add the flags that name the gateway, the key and the output; the command gets a `Remote` first."""

    @click.option(
        "--url",
        default=DEFAULT_URL,
        envvar="CALLGATE_URL",
        help=f"Where the gateway is (default: {DEFAULT_URL}).  [CALLGATE_URL]",
    )
    @click.option(
        "--admin-key",
        metavar="KEY",
        envvar="CALLGATE_ADMIN_KEY",
        help="The admin key; for a gateway on this machine the one it keeps is found by itself.  "
        "[CALLGATE_ADMIN_KEY]",
    )
    @click.option(
        "--data-dir",
        metavar="DIR",
        envvar="CALLGATE_DATA_DIR",
        help="Where that gateway keeps its data, and the key.  [CALLGATE_DATA_DIR]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Say it in JSON, for programs.")
    @functools.wraps(command)
    def with_remote(
        url: str, admin_key: str | None, data_dir: str | None, as_json: bool, *args: Any, **kwargs: Any
    ) -> T:
        return command(_remote(url, admin_key, data_dir, as_json), *args, **kwargs)

    return with_remote


def run_command(work: Coroutine[Any, Any, T], said: Callable[[CallgateError], str] = str) -> T:
    """Run a command's work; an error of ours, also one out of a task group, becomes one line and status 1."""
    try:
        return asyncio.run(work)
    except CallgateError as error:
        raise click.ClickException(said(error)) from error
    except ExceptionGroup as group:
        meant = _meant_for_people(group)
        if meant is None:
            raise
        if isinstance(meant, CallgateError):
            raise click.ClickException(said(meant)) from group
        raise meant from group


def _meant_for_people(group: ExceptionGroup[Exception]) -> CallgateError | click.ClickException | None:
    """Return the first error for people, if all that went wrong in a task group is such."""
    mine, others = group.split((CallgateError, click.ClickException))
    if mine is None or others is not None:
        return None
    first: Exception = mine
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, CallgateError | click.ClickException)
    return first


def _remote(url: str, admin_key: str | None, data_dir: str | None, as_json: bool) -> Remote:
    try:
        address = parse_address(url)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--url") from None
    try:
        directory = Settings().data_dir if not data_dir else Directory().read(data_dir)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--data-dir") from None
    return Remote(address, admin_key or None, directory, as_json)


def is_terminal() -> bool:
    """Tell whether a person is looking at what is written."""
    return sys.stdout.isatty()
