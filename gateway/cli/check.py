"""`callgate check`: compare Redis with SQL, and say what differs."""

from __future__ import annotations

import click

from gateway.cli.both_sides import explained, places, progress_bar, settings_options
from gateway.cli.output import say_json, say_table
from gateway.cli.remote import run_command
from gateway.service.check import open_comparison
from gateway.service.differences import Difference
from gateway.settings import Settings

_EXAMPLES = """\b
Examples:
  callgate check
      the gateway on this machine that keeps its data in the usual place
  callgate check --data-dir ./data
  callgate check --redis-url redis://cache:6379/0 --database-url postgresql://callgate@db/callgate
  callgate check --json || mail -s "Callgate differs" ops@example.com
"""


@click.command(epilog=_EXAMPLES, short_help="Compare Redis with SQL, and say what differs.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Say it in JSON, for programs.")
@click.pass_context
def check(context: click.Context, settings: Settings, as_json: bool) -> None:
    """Compare what Redis holds of each account with what SQL does, while the gateways go on working.

    It compares each pool's settled seconds with the sum of its cycle's call records and of those that wait
    to be saved; plans, members and cycles; calls in progress with records and with their leases; closed
    statements with their records; pools and all other keys with accounts; the policy.
    It tells as well of records that SQL refused (dead letters), and of those that have waited for a minute.
    The exit status is 0 if both agree, and 1 if they do not, or could not be asked. It changes nothing.
    """
    found, compared, waiting = run_command(_compare(settings, as_json), explained(settings))
    if as_json:
        say_json(found)
    elif found:
        rows = [(each.account, each.what, each.redis, each.sql) for each in found]
        say_table(("ACCOUNT", "WHAT", "REDIS", "SQL"), rows, nothing="")
    else:
        not_saved = f" Records not saved yet: {waiting}." if waiting else ""
        click.echo(f"Redis and SQL agree. Accounts compared: {compared}.{not_saved}")
    if found:
        context.exit(1)


async def _compare(settings: Settings, as_json: bool) -> tuple[list[Difference], int, int]:
    bar = progress_bar("Comparing accounts", disable=as_json)
    async with open_comparison(*places(settings)) as comparison:
        accounts = await comparison.accounts()
        with bar:
            task = bar.add_task("", total=len(accounts))
            found = [
                each
                async for each in comparison.differences(
                    accounts, lambda done: bar.update(task, completed=done)
                )
            ]
        return found, len(accounts), comparison.waiting_records
