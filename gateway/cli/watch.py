"""`callgate watch`: an account's pool, live in the terminal."""

from __future__ import annotations

import anyio
import click
import msgspec
from rich.console import Group
from rich.live import Live
from rich.text import Text

from gateway.cli.kinds import ID
from gateway.cli.output import console, say_json
from gateway.cli.pool_screen import pool_line, pool_screen
from gateway.cli.remote import Remote, is_terminal, remote_options
from gateway.cli.stopping import signals_to
from gateway.client import Dashboard, LiveUse, PoolNotice

_FRAME_SECONDS = 0.25
_MOST_NOTICES = 3
_EXAMPLES = """\b
Examples:
  callgate watch acme
      until Ctrl-C; the minutes fall as they are used
  callgate watch acme --once
  callgate watch acme --token "$(callgate token acme --scope watch)"
      without the admin key; the numbers called are masked
  callgate watch acme --json | jq .remaining_seconds
      the pool as the API has it, a line each time it changed
"""


@click.command(epilog=_EXAMPLES, short_help="Watch a pool live in the terminal.")
@click.argument("account", type=ID)
@click.option(
    "--token",
    envvar="CALLGATE_TOKEN",
    help="A token with the scope `watch`, in place of the admin key.  [CALLGATE_TOKEN]",
)
@click.option("--once", is_flag=True, help="Show it once, and end.")
@remote_options
def watch(remote: Remote, account: str, token: str | None, once: bool) -> None:
    """Watch an account's pool of minutes: what is used, what is left, and the calls in progress.

    The gateway tells of every change, and in between it is counted on. Ends with Ctrl-C. Without a terminal
    it writes a line whenever something changed.
    """
    credential = token or remote.admin_key()
    remote.run(_watch(remote, account, credential, once))


async def _watch(remote: Remote, account: str, credential: str, once: bool) -> None:
    notices: list[PoolNotice] = []
    async with Dashboard(remote.url, credential, account=account, on_notice=notices.append) as dashboard:
        if once:
            _say_once(remote, dashboard)
            return
        with anyio.CancelScope() as scope, signals_to(lambda _: scope.cancel()):
            if remote.as_json:
                async for pool in dashboard:
                    click.echo(msgspec.json.encode(pool).decode())
            elif is_terminal():
                await _show(dashboard, notices)
            else:
                await _write_lines(dashboard)


def _live(dashboard: Dashboard) -> LiveUse:
    assert dashboard.live is not None
    return dashboard.live


def _say_once(remote: Remote, dashboard: Dashboard) -> None:
    if remote.as_json:
        say_json(dashboard.pool)
    else:
        console().print(pool_screen(_live(dashboard), dashboard.now_ms()))


def _stale(dashboard: Dashboard) -> str:
    """Say that what is shown may not be what is any more; empty while it is."""
    seconds = dashboard.stale_seconds
    if seconds is None:
        return ""
    return f"Not live for {seconds:.0f} s, connecting again. {dashboard.trouble}"


async def _show(dashboard: Dashboard, notices: list[PoolNotice]) -> None:
    with Live(console=console(), auto_refresh=False) as screen:
        while dashboard.ended_by is None:
            del notices[:-_MOST_NOTICES]
            shown = pool_screen(_live(dashboard), dashboard.now_ms(), _stale(dashboard))
            told = (Text(f"! {notice.message}", "cyan") for notice in notices)
            screen.update(Group(shown, *told), refresh=True)
            await anyio.sleep(_FRAME_SECONDS)
    raise dashboard.ended_by


async def _write_lines(dashboard: Dashboard) -> None:
    said: object = None
    while dashboard.ended_by is None:
        pool, is_live = dashboard.pool, dashboard.connected
        news = (pool.used_seconds, pool.allocated_seconds, pool.calls_in_progress, pool.cycle.start, is_live)
        if news != said:
            said = news
            click.echo(pool_line(_live(dashboard), pool.at_ms) if is_live else _stale(dashboard))
        await dashboard.changed()
    raise dashboard.ended_by
