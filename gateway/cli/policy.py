"""`callgate policy`: how lengths of calls turn into billed seconds, for the whole deployment."""

from __future__ import annotations

from typing import Literal

import click
from msgspec import UNSET

from gateway.cli.output import say_fields, say_json
from gateway.cli.remote import Remote, remote_options
from gateway.client.resources import Policy

_EXAMPLES = """\b
Examples:
  callgate policy show
  callgate policy set --increment-seconds 60
      bill in whole minutes from now on, for all gateways, calls in progress included
"""


@click.group(epilog=_EXAMPLES, short_help="Show or change the billing policy.")
def policy() -> None:
    """Show or change the billing policy of a running deployment. It is kept with the data."""


@policy.command("show", epilog="Example:  callgate policy show --json")
@remote_options
def show(remote: Remote) -> None:
    """Show the policy in force."""

    async def work() -> Policy:
        async with remote.admin() as admin:
            return await admin.policy()

    _say(remote, remote.run(work()))


@policy.command("set", epilog="Example:  callgate policy set --free-seconds 20 --hold-seconds 60")
@click.option("--free-seconds", type=click.IntRange(0), help="A call up to this long is free (R1).")
@click.option("--increment-seconds", type=click.IntRange(1), help="Longer calls bill in steps of this (R2).")
@click.option("--hold-seconds", type=click.IntRange(0), help="What a call in progress holds at least (R7).")
@click.option(
    "--count-from", type=click.Choice(["admission", "answer"]), help="Where a call's length begins (R3)."
)
@remote_options
def set_policy(
    remote: Remote,
    free_seconds: int | None,
    increment_seconds: int | None,
    hold_seconds: int | None,
    count_from: Literal["admission", "answer"] | None,
) -> None:
    """Change the policy for all gateways at once, calls in progress included.

    What is left out stays. Call records made before keep the policy they were billed under.
    """
    if (free_seconds, increment_seconds, hold_seconds, count_from) == (None, None, None, None):
        raise click.UsageError("Say what to change: see --help.")

    async def work() -> Policy:
        async with remote.admin() as admin:
            return await admin.set_policy(
                free_seconds=UNSET if free_seconds is None else free_seconds,
                increment_seconds=UNSET if increment_seconds is None else increment_seconds,
                hold_seconds=UNSET if hold_seconds is None else hold_seconds,
                count_from=UNSET if count_from is None else count_from,
            )

    _say(remote, remote.run(work()))


def _say(remote: Remote, found: Policy) -> None:
    if remote.as_json:
        say_json(found)
        return
    say_fields(
        [
            ("free_seconds", found.free_seconds),
            ("increment_seconds", found.increment_seconds),
            ("hold_seconds", found.hold_seconds),
            ("count_from", found.count_from),
        ]
    )
