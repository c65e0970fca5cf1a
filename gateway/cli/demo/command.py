"""The command itself: start the gateway, set up the business, let its people call, and stop it all again."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from gateway.cli.demo import company, past
from gateway.cli.demo.director import direct
from gateway.cli.demo.events import Story
from gateway.cli.demo.gateway import DemoGateway, demo_gateway
from gateway.cli.demo.phones import DemoPhone
from gateway.cli.kinds import DURATION
from gateway.cli.output import console, minutes
from gateway.cli.pool_screen import pool_line, pool_screen
from gateway.cli.remote import run_command
from gateway.cli.stopping import signals_to
from gateway.client import AdminClient, CallsClient, Dashboard
from gateway.secrets import ADMIN_KEY_FILE
from gateway.setting_kinds import Directory

_FRAME_SECONDS: Final = 0.25
_LINE_SECONDS: Final = 5.0
_NEXT_PHONE_SECONDS: Final = 3.0
_EXAMPLES = """\b
Examples:
  callgate demo
      at real pace; the minutes begin to fall after half a minute, for shorter calls are free
  callgate demo --speed 20
      twenty times as fast
  callgate demo --data-dir ./demo --port 9000
      keep the data, to look at it afterwards
"""


@click.command(epilog=_EXAMPLES, short_help="Run a gateway with simulated softphones.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port to listen on. (default: 8080, or any if in use)"
)
@click.option("--data-dir", metavar="DIR", help="Keep the data here. (default: a temporary directory)")
@click.option(
    "--speed",
    type=click.IntRange(1, 600),
    default=1,
    show_default=True,
    help="How fast billing time passes.",
)
@click.option("--for", "lasting", type=DURATION, help="Stop by itself after so long, in real time: 90, 5m.")
def demo(port: int | None, data_dir: str | None, speed: int, lasting: int | None) -> None:
    """Run a gateway with a made-up business, whose people place calls through the real WebSocket API.

    You see one pool of minutes fall, run out and refuse new calls while those in progress go on; then the
    business upgrades, and calls are admitted again; after the biggest plan a new cycle begins. It goes on so
    until Ctrl-C, in the browser and in the terminal. Nothing is kept, and nothing of your own settings is
    used.
    """
    with _directory(data_dir) as directory:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        run_command(_run(directory, port, speed, lasting))


@contextlib.contextmanager
def _directory(given: str | None) -> Iterator[Path]:
    if given is not None:
        try:
            yield Directory().read(given)
        except ValueError as error:
            raise click.BadParameter(f"{error}.", param_hint="--data-dir") from None
        return
    with tempfile.TemporaryDirectory(prefix="callgate-demo-") as temporary:
        yield Path(temporary)


async def _run(directory: Path, port: int | None, speed: int, lasting: int | None) -> None:
    out = console()
    with anyio.CancelScope() as scope, signals_to(lambda _: scope.cancel()):
        out.print("Starting the gateway ...")
        async with (
            demo_gateway(directory, port) as gateway,
            AdminClient(gateway.url, gateway.admin_key) as admin,
        ):
            await _set_up(gateway, admin)
            await admin.move_clock(speed=speed)
            await _introduce(out, gateway, admin, directory)
            story = Story(say=out.print)
            async with Dashboard(gateway.url, gateway.admin_key, account=company.ACCOUNT) as dashboard:
                try:
                    with anyio.move_on_after(lasting):
                        await _play(gateway, admin, dashboard, story, out, speed)
                finally:
                    _conclude(out, story)


async def _set_up(gateway: DemoGateway, admin: AdminClient) -> None:
    await admin.move_clock(speed=0)
    if not [account async for account in admin.accounts()]:
        await past.begin_in_the_past(admin)
    if await company.set_up(admin):
        async with CallsClient(gateway.url, gateway.admin_key, account=company.ACCOUNT) as calls:
            await past.live_through(admin, calls)


async def _introduce(out: Console, gateway: DemoGateway, admin: AdminClient, directory: Path) -> None:
    watching = await admin.issue_token(company.ACCOUNT, scopes=("watch",))
    calling = await admin.issue_token(company.ACCOUNT, staff=company.YOU, device="terminal")
    said = f"""\
Callgate runs on {gateway.url}, with the made-up account "{company.ACCOUNT}" ({company.ACCOUNT_NAME}).

Open its dashboard in a browser:
  {gateway.url}/#token={watching.token}

and the operator's view, with the admin key that is in {directory / ADMIN_KEY_FILE}:
  {gateway.url}/operator

Watch its pool from another terminal:
  callgate watch {company.ACCOUNT} --url {gateway.url} --token {watching.token}

or as the API has it:
  curl -H "Authorization: Bearer {watching.token}" {gateway.url}/v1/accounts/{company.ACCOUNT}/pool

Place a call yourself:
  callgate call +12125550199 --url {gateway.url} --token {calling.token}

The gateway's log is in {directory / "gateway.log"}. Ctrl-C stops it all.
"""
    out.print(said, soft_wrap=True)


async def _play(
    gateway: DemoGateway, admin: AdminClient, dashboard: Dashboard, story: Story, out: Console, speed: int
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateway.wait_ended)
        for number, (staff, device) in enumerate(company.PHONES):
            phone = DemoPhone(gateway.url, admin, staff, device, speed, story)
            tasks.start_soon(phone.run, number * _NEXT_PHONE_SECONDS)
        tasks.start_soon(lambda: direct(admin, story, speed))
        await _show(out, dashboard)


async def _show(out: Console, dashboard: Dashboard) -> None:
    if not out.is_terminal:
        while True:
            assert dashboard.live is not None
            out.print(Text(pool_line(dashboard.live, dashboard.now_ms())))
            await anyio.sleep(_LINE_SECONDS)
    with Live(console=out, auto_refresh=False, transient=True) as screen:
        while True:
            assert dashboard.live is not None
            screen.update(pool_screen(dashboard.live, dashboard.now_ms(), dashboard.trouble), refresh=True)
            await anyio.sleep(_FRAME_SECONDS)


def _conclude(out: Console, story: Story) -> None:
    out.print(
        f"\n{story.admitted_calls} calls admitted, {story.refused_calls} refused, "
        f"{story.settled_calls} settled, {minutes(story.billed_seconds)} min billed. Stopping the gateway ..."
    )
