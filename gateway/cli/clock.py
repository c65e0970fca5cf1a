"""`callgate clock`: the billing clock of a gateway that runs with `--simulate`."""

from __future__ import annotations

import click
from msgspec import UNSET

from gateway.cli.kinds import DURATION
from gateway.cli.output import instant, say_fields, say_json
from gateway.cli.remote import Remote, remote_options
from gateway.client.resources import Clock
from gateway.domain.cycles import parse_rfc3339

_EXAMPLES = """\b
Examples:
  callgate clock
  callgate clock --advance 30d
      what falls due on the way happens, in order, before this is done
  callgate clock --at 2026-12-15T05:00:00Z --speed 60
      set it, and from then on a minute passes each second
"""


@click.command(epilog=_EXAMPLES, short_help="Show or move the clock of a simulation.")
@click.option("--at", metavar="INSTANT", help="Set it to this instant, in UTC; only forward.")
@click.option("--advance", type=DURATION, help="Move it forward by so much: 90, 15m, 8h, 30d.")
@click.option(
    "--speed", type=click.IntRange(0, 100_000), help="How fast it goes from then on; 0 stands still."
)
@remote_options
def clock(remote: Remote, at: str | None, advance: int | None, speed: int | None) -> None:
    """Show or move the billing clock of a gateway that runs with --simulate."""
    if at is not None and advance is not None:
        raise click.UsageError("--at and --advance exclude each other.")
    try:
        at_ms = None if at is None else parse_rfc3339(at)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--at") from None

    async def work() -> Clock:
        async with remote.admin() as admin:
            if (at_ms, advance, speed) == (None, None, None):
                return await admin.clock()
            return await admin.move_clock(
                at_ms=UNSET if at_ms is None else at_ms,
                advance_ms=UNSET if advance is None else advance * 1000,
                speed=UNSET if speed is None else speed,
            )

    found = remote.run(work())
    if remote.as_json:
        say_json(found)
    else:
        say_fields([("now", instant(found.now_ms)), ("speed", found.speed)])
