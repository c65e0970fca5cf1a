"""`callgate rebuild`: make all pools anew from SQL."""

from __future__ import annotations

import click

from gateway.cli.both_sides import explained, places, progress_bar, settings_options
from gateway.cli.remote import run_command
from gateway.service.rebuild import open_rebuild
from gateway.settings import Settings

_EXAMPLES = """\b
Examples:
  callgate rebuild
      the gateway on this machine that keeps its data in the usual place
  callgate rebuild --config /etc/callgate/callgate.toml
  callgate rebuild --redis-url redis://cache:6379/0 --database-url postgresql://callgate@db/callgate
"""


@click.command(epilog=_EXAMPLES, short_help="Make all pools anew from the database.")
@settings_options
def rebuild(settings: Settings) -> None:
    """Make the pools of all accounts anew from the database, while the gateways go on working.

    Gateways do this by themselves where they find that the engine has lost something. It is for an engine
    that was emptied or exchanged while none of them ran, and for what `callgate check` tells of.
    Calls in progress go on and are counted as before; gateways tell again what they answered. For as long as
    a lease and the grace no call is settled in its absence. It may be run at any time, and again.
    """
    accounts = run_command(_rebuild(settings), explained(settings))
    click.echo(f"The pools are made anew. Accounts: {accounts}.")


async def _rebuild(settings: Settings) -> int:
    bar = progress_bar("Making pools anew")
    async with open_rebuild(*places(settings)) as (work, policy):
        with bar:
            task = bar.add_task("", total=await work.count_accounts())
            return await work.run(policy, lambda done: bar.update(task, completed=done))
