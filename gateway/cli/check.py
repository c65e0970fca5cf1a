"""`callgate check`: compare Redis with SQL, and say what differs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gateway.cli.output import console, say_json, say_table
from gateway.cli.remote import run_command
from gateway.domain.errors import CallgateError, EngineUnavailable
from gateway.embedded import engine_url
from gateway.service.check import Difference, open_comparison
from gateway.service.opening import DATABASE_FILE
from gateway.settings import Settings, load_settings

_EXAMPLES = """\b
Examples:
  callgate check
      the gateway on this machine that keeps its data in the usual place
  callgate check --data-dir ./data
  callgate check --redis-url redis://cache:6379/0 --database-url postgresql://callgate@db/callgate
  callgate check --json || mail -s "Callgate differs" ops@example.com
"""


@click.command(epilog=_EXAMPLES, short_help="Compare Redis with SQL, and say what differs.")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="CALLGATE_CONFIG",
    help="TOML file with the gateway's settings.  [CALLGATE_CONFIG]",
)
@click.option("--redis-url", metavar="URL", help="As the gateway has it.  [CALLGATE_REDIS_URL]")
@click.option("--database-url", metavar="URL", help="As the gateway has it.  [CALLGATE_DATABASE_URL]")
@click.option("--data-dir", metavar="DIR", help="As the gateway has it.  [CALLGATE_DATA_DIR]")
@click.option("--json", "as_json", is_flag=True, help="Say it in JSON, for programs.")
@click.pass_context
def check(context: click.Context, /, config: Path | None, as_json: bool, **flags: str | None) -> None:
    """Compare what Redis holds of each account with what SQL does, while the gateways go on working.

    It compares each pool's settled seconds with the sum of its cycle's call records and of those that wait
    to be saved; plans, members and cycles; calls in progress with records; pools with accounts; the policy.
    It tells as well of records that SQL refused (dead letters), and of those that have waited for a minute.
    The exit status is 0 if both agree, and 1 if they do not, or could not be asked. It changes nothing.
    """
    settings = load_settings(flags, os.environ, config)
    found, compared, waiting = run_command(_compare(settings, as_json), _explained(settings))
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
    redis_url = settings.redis_url or engine_url(settings.data_dir)
    database = settings.database_url or settings.data_dir / DATABASE_FILE
    bar = Progress(
        TextColumn("Comparing accounts"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console(stderr=True),
        transient=True,
        disable=as_json or not console(stderr=True).is_terminal,
    )
    async with open_comparison(redis_url, database) as comparison:
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


def _explained(settings: Settings) -> Callable[[CallgateError], str]:
    def said(error: CallgateError) -> str:
        if isinstance(error, EngineUnavailable) and settings.redis_url is None:
            where = f"of the data directory {settings.data_dir}"
            return (
                f"The embedded engine {where} cannot be reached: it runs only while `callgate serve` does. "
                "--data-dir or --redis-url names another."
            )
        return error.message

    return said
