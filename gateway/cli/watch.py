"""`callgate watch`: an account's pool, live in the terminal."""

from __future__ import annotations

import anyio
import click
import msgspec
from rich.live import Live

from gateway.cli.kinds import ID
from gateway.cli.output import console, say_json
from gateway.cli.pool_screen import pool_line, pool_screen
from gateway.cli.remote import Remote, is_terminal, remote_options
from gateway.cli.stopping import signals_to
from gateway.cli.watching import PoolWatch
from gateway.client import AdminClient

_FRAME_SECONDS = 0.25
_EXAMPLES = """\b
Examples:
  callgate watch acme
      until Ctrl-C; the minutes fall as they are used
  callgate watch acme --once
  callgate watch acme --token "$(callgate token acme --scope watch)"
      without the admin key; the numbers called are masked
  callgate watch acme --json | jq .remaining_seconds
      the pool as the API has it, a line each time it is read
"""


@click.command(epilog=_EXAMPLES, short_help="Watch a pool live in the terminal.")
@click.argument("account", type=ID)
@click.option(
    "--token",
    envvar="CALLGATE_TOKEN",
    help="A token with the scope `watch`, in place of the admin key.  [CALLGATE_TOKEN]",
)
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two readings; in between it is counted on.",
)
@remote_options
def watch(remote: Remote, account: str, token: str | None, once: bool, interval: float) -> None:
    """Watch an account's pool of minutes: what is used, what is left, and the calls in progress.

    Ends with Ctrl-C. Without a terminal it writes a line whenever something changed.
    """
    credential = token or remote.admin_key()
    remote.run(_watch(remote, account, credential, once, interval))


async def _watch(remote: Remote, account: str, credential: str, once: bool, interval: float) -> None:
    async with AdminClient(remote.url, credential) as client:
        pool = PoolWatch(client, account, interval)
        await pool.read()  # what is wrong at the first look is said, and ends it
        if once:
            _say_once(remote, pool)
            return
        with anyio.CancelScope() as scope, signals_to(lambda _: scope.cancel()):
            if remote.as_json:
                await pool.run(lambda: _say_json_line(pool))
            elif is_terminal():
                await _show(pool)
            else:
                await _write_lines(pool)


def _say_once(remote: Remote, pool: PoolWatch) -> None:
    assert pool.live is not None
    if remote.as_json:
        say_json(pool.live.pool)
    else:
        console().print(pool_screen(pool.live, pool.now_ms()))


def _say_json_line(pool: PoolWatch) -> None:
    if pool.live is not None and not pool.trouble:
        click.echo(msgspec.json.encode(pool.live.pool).decode())


async def _show(pool: PoolWatch) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.run)
        with Live(console=console(), auto_refresh=False) as screen:
            while True:
                if pool.live is not None:
                    screen.update(pool_screen(pool.live, pool.now_ms(), pool.trouble), refresh=True)
                await anyio.sleep(_FRAME_SECONDS)


async def _write_lines(pool: PoolWatch) -> None:
    said: object = None

    def changed() -> None:
        nonlocal said
        if pool.trouble:
            news: object = pool.trouble
            line = pool.trouble
        else:
            assert pool.live is not None
            read = pool.live.pool
            news = (read.used_seconds, read.allocated_seconds, read.calls_in_progress, read.cycle.start)
            line = pool_line(pool.live, read.at_ms)
        if news != said:
            said = news
            click.echo(line)

    await pool.run(changed)
