"""`callgate call`: a softphone in the terminal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import click
import msgspec
from click.core import ParameterSource
from rich.live import Live
from rich.text import Text

from gateway.cli.kinds import DURATION, ID
from gateway.cli.output import console, minutes, say_json
from gateway.cli.remote import Remote, is_terminal, remote_options
from gateway.cli.stopping import signals_to
from gateway.client import (
    AdminClient,
    Call,
    CallRefused,
    Dashboard,
    LiveUse,
    PhoneEnded,
    Settlement,
    Softphone,
)
from gateway.client.elapsed import elapsed_ms
from gateway.client.frames import Notice
from gateway.domain.errors import CallgateError, Forbidden

_FRAME_SECONDS = 0.25
_AGAIN_SECONDS = 2.0
_EXAMPLES = """\b
Examples:
  callgate call +14155550100 --account acme --staff ana --device desk
      with the admin key, as Ana's desk phone; Ctrl-C hangs up
  CALLGATE_TOKEN=$(callgate token acme --staff ana --device desk) callgate call +14155550100
      with a device's token
  callgate call +14155550100 --channel main --ring 5 --talk 2m
      it rings for 5 s, is answered, and hangs up by itself after two minutes more
"""


@dataclass(frozen=True, slots=True)
class _Wish:
    to: str
    channel: str | None
    call_id: str | None
    ring_seconds: int
    talk_seconds: int | None
    is_answered: bool


@click.command(epilog=_EXAMPLES, short_help="Place a call from the terminal.")
@click.argument("to")
@click.option(
    "--token",
    envvar="CALLGATE_TOKEN",
    help="A device's token, in place of --account and --staff.  [CALLGATE_TOKEN]",
)
@click.option("--account", type=ID, help="Without --token (CALLGATE_TOKEN yields): whose call it is,")
@click.option("--staff", type=ID, help="which staff member places it,")
@click.option("--device", type=ID, default="terminal", show_default=True, help="and from which device.")
@click.option("--channel", type=ID, help="The channel that it goes out from; by default none is checked.")
@click.option("--call-id", type=ID, help="An id of your own; by default one is made.")
@click.option("--ring", type=DURATION, default=2, show_default=True, help="How long it rings: 5, 20s.")
@click.option("--no-answer", is_flag=True, help="It rings until you hang up: nobody answers.")
@click.option("--talk", type=DURATION, help="Hang up by itself after so long; by default Ctrl-C does.")
@remote_options
def call(
    remote: Remote,
    to: str,
    token: str | None,
    account: str | None,
    staff: str | None,
    device: str,
    channel: str | None,
    call_id: str | None,
    ring: int,
    no_answer: bool,
    talk: int | None,
) -> None:
    """Ask the gateway for a call TO a number, and hold it until Ctrl-C.

    No sound is carried: it is the softphone's side of the gateway alone. The minutes fall before your eyes as
    they do for everybody who shares the pool, and what was billed is said at the end.
    """
    wish = _Wish(to, channel, call_id, ring, talk, not no_answer)
    if account is not None or staff is not None:
        source = click.get_current_context().get_parameter_source("token")
        if token and source is ParameterSource.COMMANDLINE:
            raise click.UsageError("Give --token, or --account and --staff, not both.")
        if account is None or staff is None:
            raise click.UsageError("--account and --staff go together.")
        key = remote.admin_key()
        remote.run(_as_device(remote, key, account, staff, device, wish))
    elif token:
        remote.run(_place(remote, lambda: token, wish))
    else:
        raise click.UsageError("Give --token (or CALLGATE_TOKEN), or --account and --staff.")


async def _as_device(remote: Remote, key: str, account: str, staff: str, device: str, wish: _Wish) -> None:
    async with AdminClient(remote.url, key) as admin:

        async def issue() -> str:
            return (await admin.issue_token(account, staff=staff, device=device)).token

        await _place(remote, issue, wish)


async def _place(remote: Remote, token: Callable[[], str | Awaitable[str]], wish: _Wish) -> None:
    tell = _Teller(quiet=remote.as_json)
    hang_up = anyio.Event()
    with anyio.CancelScope() as scope:

        def take(_: object) -> None:
            if hang_up.is_set():
                scope.cancel()  # a second Ctrl-C waits for nothing
            hang_up.set()

        # A terminal that is closed hangs up, too.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, take, signal.SIGHUP)
        with signals_to(take):
            async with Softphone(remote.url, token, on_notice=tell.notice) as phone:
                started = await _start(phone, wish, hang_up, tell)
                if started is None:
                    return
                await _talk(remote, phone, started, wish, hang_up, tell)
                if started.elsewhere:
                    raise click.ClickException("Another program goes on with this call as the same device.")
                settlement = await started.end()
                _say_settlement(remote, started, settlement, tell)
    if scope.cancelled_caught:
        raise click.exceptions.Exit(130)


async def _start(phone: Softphone, wish: _Wish, hang_up: anyio.Event, tell: _Teller) -> Call | None:
    """Return the call, or None if it was hung up before the gateway answered."""
    assert phone.welcome is not None
    who = f"{phone.welcome.staff}/{phone.welcome.device} of {phone.welcome.account}"
    tell.line(f"Calling {wish.to} as {who} ...")
    found: Call | None = None
    refused: CallRefused | None = None
    async with anyio.create_task_group() as tasks:

        async def give_up() -> None:
            await hang_up.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(give_up)
        try:
            found = await phone.start(wish.to, channel=wish.channel, call_id=wish.call_id)
        except CallRefused as refusal:
            refused = refusal
        tasks.cancel_scope.cancel()
    if refused is not None:
        left = f"{minutes(refused.remaining_seconds)} min remaining."
        raise click.ClickException(f"Refused ({refused.reason}): {refused.message} {left}")
    if found is None:
        tell.line("Hung up before it was admitted.")
    elif found.remaining_seconds is not None:
        tell.line(f"Admitted. {minutes(found.remaining_seconds)} min remaining. Ctrl-C hangs up.")
    else:
        tell.line("Placed, whatever the gateway says of it. Ctrl-C hangs up.")
    return found


async def _talk(
    remote: Remote, phone: Softphone, call: Call, wish: _Wish, hang_up: anyio.Event, tell: _Teller
) -> None:
    """Hold the call until it is hung up."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_go_by_the_wish, call, wish, hang_up, tell)
        tasks.start_soon(_end_with_it, call, hang_up, tell)
        if is_terminal() and not remote.as_json:
            tasks.start_soon(_show, remote, phone, call, tell)
        await hang_up.wait()
        tasks.cancel_scope.cancel()
    if not call.ended and not call.elsewhere:
        tell.line("Hanging up ...")


async def _end_with_it(call: Call, hang_up: anyio.Event, tell: _Teller) -> None:
    """Hang up what is up no more: the terminal was away too long to know, or slept (R15)."""
    await call.wait_over()
    if call.ended:
        tell.line("Away for too long: the call ended when it was last known up.")
    hang_up.set()


async def _go_by_the_wish(call: Call, wish: _Wish, hang_up: anyio.Event, tell: _Teller) -> None:
    if wish.is_answered:
        await anyio.sleep(wish.ring_seconds)
        call.answered()
        tell.answered = True
        tell.line("Answered.")
    if wish.talk_seconds is not None:
        await anyio.sleep(wish.talk_seconds)
        hang_up.set()


async def _show(remote: Remote, phone: Softphone, call: Call, tell: _Teller) -> None:
    """Show the minutes falling: the whole pool's where the token may watch it, else what it was at first."""
    seen = _Seen()
    began_ms = elapsed_ms()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, remote, phone, seen, tell)
        with Live(console=tell.console, auto_refresh=False, transient=True) as screen:
            tell.screen = screen
            while True:
                screen.update(_line(phone, call, seen, tell, elapsed_ms() - began_ms), refresh=True)
                await anyio.sleep(_FRAME_SECONDS)


@dataclass(slots=True)
class _Seen:
    """The pool, as far as it is shown; `trouble` is why not, for people."""

    dashboard: Dashboard | None = None
    trouble: str = ""

    @property
    def live(self) -> LiveUse | None:
        return None if self.dashboard is None else self.dashboard.live


async def _watch(remote: Remote, phone: Softphone, seen: _Seen, tell: _Teller) -> None:
    """Watch the pool beside the call. What cannot be shown is no reason to end the call."""
    while True:
        try:
            async with Dashboard(remote.url, phone.token) as dashboard:
                seen.dashboard, seen.trouble = dashboard, ""
                while dashboard.ended_by is None:
                    await dashboard.changed()
                raise dashboard.ended_by
        except Forbidden:
            tell.line("(The token lacks the scope `watch`: the minutes are shown as they were at first.)")
            return
        except PhoneEnded as error:
            seen.trouble = error.message
            return
        except CallgateError as error:
            seen.trouble = error.message
            await anyio.sleep(_AGAIN_SECONDS)


def _line(phone: Softphone, call: Call, seen: _Seen, tell: _Teller, passed_ms: int) -> Text:
    line = Text("● talking " if tell.answered else "○ ringing ", "green" if tell.answered else "yellow")
    if seen.dashboard is None or seen.live is None:
        line.append(minutes(passed_ms // 1000))
        if call.remaining_seconds is not None:
            line.append(f"   {minutes(call.remaining_seconds)} remaining when it began", "dim")
    else:
        live, at_ms = seen.live, seen.dashboard.now_ms()
        admitted_ms = call.admitted_at_ms if call.admitted_at_ms is not None else at_ms
        own = next((each for each in live.pool.calls if each.call_id == call.call_id), None)
        line.append(minutes(max(0, at_ms - admitted_ms) // 1000))
        if own is not None and own.counts:
            billed = live.billed_seconds(own, at_ms)
            line.append(f"   billed {minutes(billed)}" if billed else "   free so far", "dim")
        line.append("   remaining ").append(minutes(live.remaining_seconds(at_ms)), "bold")
        others = live.pool.calls_in_progress - 1
        if others > 0:
            line.append(f"   shared with {others} other call{'s' if others > 1 else ''}", "dim")
        if not live.remaining_seconds(at_ms) and live.pool.allocated_seconds:
            line.append("   all used: this call goes on as long as you like", "yellow")
    if not phone.connected:
        line.append("   (connecting again; the call goes on)", "yellow")
    elif seen.trouble:
        line.append(f"   ({seen.trouble})", "yellow")
    return line


def _say_settlement(remote: Remote, call: Call, settlement: Settlement, tell: _Teller) -> None:
    if remote.as_json:
        said = msgspec.to_builtins(settlement)
        say_json({**said, "to": call.to, "channel": call.channel, "admitted_at_ms": call.admitted_at_ms})
        return
    billed = settlement.billed_seconds
    what = f"billed {billed} s ({minutes(billed)} min)" if settlement.counted else "free: nothing was billed"
    remaining = settlement.remaining_seconds
    left = "" if remaining is None else f" {minutes(remaining)} min remaining."
    tell.line(f"Ended after {settlement.duration_ms / 1000:.3f} s, {what}.{left}")


class _Teller:
    """Says what happens, above the live line if there is one; for programs nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self.console = console()
        self.screen: Live | None = None
        self.answered = False
        self._quiet = quiet

    def line(self, text: str) -> None:
        if not self._quiet:
            self.console.print(text)
            sys.stdout.flush()

    def notice(self, notice: Notice) -> None:
        self.line(f"! {notice.message}")
