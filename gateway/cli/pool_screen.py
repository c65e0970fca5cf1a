"""A pool for the terminal, as it is at some instant: what is used and left, and the calls that use it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gateway.cli.output import instant, minutes
from gateway.client.live_use import LiveUse
from gateway.client.resources import PoolCall

MOST_CALLS = 12
"""How many calls are listed, the newest."""


def pool_screen(live: LiveUse, at_ms: int, note: str = "") -> RenderableType:
    """Return the pool as it is at a billing time; `note` is said below, for what went wrong meanwhile."""
    parts: list[RenderableType] = [_head(live), _bar(live, at_ms), _figures(live, at_ms)]
    if live.pool.calls:
        parts += [Text(), _calls(live, at_ms)]
    if note:
        parts += [Text(note, style="yellow")]
    return Group(*parts)


def pool_line(live: LiveUse, at_ms: int) -> str:
    """Return the same in one line, for where there is no terminal."""
    pool = live.pool
    line = (
        f"{instant(at_ms)}  {pool.account}  used {minutes(live.used_seconds(at_ms))} of "
        f"{minutes(pool.allocated_seconds)}, remaining {minutes(live.remaining_seconds(at_ms))}"
    )
    overrun = live.overrun_seconds(at_ms)
    return line + (f", overrun {minutes(overrun)}" if overrun else "") + f", calls {pool.calls_in_progress}"


def _head(live: LiveUse) -> Text:
    pool = live.pool
    head = Text.assemble(
        (pool.account, "bold"),
        "  ",
        pool.plan or "no plan",
        ("  cycle ", "dim"),
        pool.cycle.start,
        " – ",
        pool.cycle.end,
    )
    if pool.pending_plan is not None:
        head.append(f"  then {pool.pending_plan}", "dim")
    if pool.clock_speed != 1:
        head.append(f"  clock ×{pool.clock_speed}", "dim")
    return head


def _bar(live: LiveUse, at_ms: int) -> RenderableType:
    allocated, used = live.pool.allocated_seconds, live.used_seconds(at_ms)
    percent = 100 if not allocated else used * 100 // allocated
    style = "red" if percent >= 100 else "yellow" if percent >= 80 else "green"
    bar = ProgressBar(
        total=max(allocated, 1),
        completed=min(used, allocated) if allocated else 1,
        width=50,
        complete_style=style,
        finished_style=style,
    )
    line = Table.grid(padding=(0, 2))
    line.add_row(bar, Text(f"{percent}% used", style))
    return line


def _figures(live: LiveUse, at_ms: int) -> Text:
    pool = live.pool
    figures = Text.assemble(
        ("remaining ", "dim"),
        (minutes(live.remaining_seconds(at_ms)), "bold"),
        ("   used ", "dim"),
        minutes(live.used_seconds(at_ms)),
        ("   of ", "dim"),
        minutes(pool.allocated_seconds),
    )
    overrun = live.overrun_seconds(at_ms)
    if overrun:
        figures.append("   overrun ", "dim").append(minutes(overrun), "red")
    for name, in_use in (("seats", pool.seats), ("channels", pool.channels)):
        figures.append(f"   {name} ", "dim").append(f"{in_use.used}/{in_use.limit}")
    if pool.empty_at_ms is not None and pool.empty_at_ms > at_ms:
        left = minutes((pool.empty_at_ms - at_ms + 999) // 1000)
        figures.append("   empty in ", "dim").append(left)
    return figures


def _calls(live: LiveUse, at_ms: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("STAFF", "DEVICE", "CHANNEL", "TO", "SINCE", "", "BILLED"):
        table.add_column(name, justify="right" if name in ("SINCE", "BILLED") else "left")
    for call in live.pool.calls[:MOST_CALLS]:
        since = minutes(max(0, at_ms - call.admitted_at_ms) // 1000)
        table.add_row(
            Text(call.staff),
            Text(call.device),
            Text(call.channel or "-"),
            Text(call.to),
            since,
            _state(call),
            _billed(live, call, at_ms),
        )
    left_out = live.pool.calls_in_progress - min(len(live.pool.calls), MOST_CALLS)
    if left_out > 0:
        table.add_row(Text(f"and {left_out} more", "dim"))
    return table


def _state(call: PoolCall) -> Text:
    if call.emergency:
        return Text("emergency", "bold red")
    return Text("ringing", "dim") if call.answered_at_ms is None else Text("talking", "green")


def _billed(live: LiveUse, call: PoolCall, at_ms: int) -> Text:
    billed = live.billed_seconds(call, at_ms)
    if not call.counts:
        return Text("-" if call.emergency else f"{minutes(billed)} to the cycle before", "dim")
    return Text(minutes(billed)) if billed else Text("free so far", "dim")
