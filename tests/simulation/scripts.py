"""The scripts as the simulation runs them: at an instant that it says, and many of them in one call.

Most of what a script costs is not its work: each call makes all its functions anew. Here the functions are
made once for a whole list of steps (steps.lua); what stands outside of functions is carried out for each
step, in its order. That nothing else comes of it than from the scripts as they are, a test says
(test_scripts.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.pool.scripts import assemble

SCRIPTS: Final = (
    *("calls_decide", "calls_renew", "leases_due", "shards_open", "shards_beat", "account_apply"),
    *("policy_read", "clock_read", "pools_read", "policy_set", "alarms_due", "device_calls"),
    *("shards_renew", "records_trim"),
)
_CLOCK: Final = "server_time[1] * 1000 + floor(server_time[2] / 1000)"
_TIME: Final = "call('TIME')"
_RUN: Final = "tonumber(string.match(call('INFO', 'server'), 'run_id:(%x%x%x%x%x%x%x%x%x%x%x%x)'), 16)"
_MICROSECONDS: Final = "server_time[2] % 1000"
_GOES_ON: Final = ("end", "else", "until", ")", "}")
"""A line at the margin that begins like this belongs to the statement before it."""
_STATEMENTS: Final = 6
"""So many stand in one function: Lua lets it use 60 variables of those around it."""


def scripts_with(mistakes: Mapping[str, str]) -> dict[str, str]:
    """The texts of the scripts, each of these pieces replaced. Raises ValueError for one not there."""
    texts = {name: assemble(name) for name in SCRIPTS}
    for piece, mistake in mistakes.items():
        if not any(piece in text for text in texts.values()):
            raise ValueError(f"no script has {piece!r}")
        texts = {name: text.replace(piece, mistake) for name, text in texts.items()}
    return texts


def at_an_instant(text: str, ms: str, run: str) -> str:
    """A script that takes the time, and which process of an engine this is, from these expressions."""
    if not all(piece in text for piece in (_CLOCK, _TIME, _RUN)):
        raise ValueError("the scripts take the time, or the engine's run, in another way")
    text = text.replace(_CLOCK, ms).replace(_MICROSECONDS, "0")
    return text.replace(_TIME, "nil").replace(_RUN, run)


def all_in_one(texts: Mapping[str, str]) -> str:
    """The script that carries out steps with these."""
    scripts = "\n".join(
        f"scripts.{name} = {_hoisted(at_an_instant(text, 'simulated_ms', 'simulated_run'))}"
        for name, text in texts.items()
    )
    steps = Path(__file__).with_name("steps.lua").read_text(encoding="utf-8")
    return "#!lua flags=allow-oom\n" + steps.replace("-- @scripts", scripts)


def _hoisted(text: str) -> str:
    """An expression for a maker of a function that does what the script does, its own functions made before.

    The variables at the margin stay where they are, and get their values each time.
    """
    outer: list[str] = []
    parts: list[list[str]] = [[]]
    statements = 0
    in_function = False
    for line in text.split("\n")[1:]:
        if in_function or line.startswith("local function "):
            outer.append(line)
            in_function = line != "end" and (in_function or not line.endswith(" end"))
            continue
        if not line or line.startswith("--"):
            continue
        if not line.startswith((" ", *_GOES_ON)):
            statements += 1
            if statements % _STATEMENTS == 0:
                parts.append([])
        if line.startswith("local "):
            names, equals, _ = line.removeprefix("local ").partition("=")
            outer.append(f"local {names}")
            line = line.removeprefix("local ") if equals else f"{names} = nil"
        parts[-1].append(line)
    lines = ["function()", "local KEYS, ARGV, simulated_ms, simulated_run", *outer, "local parts = {}"]
    for part in parts:
        lines += ["parts[#parts + 1] = function()", *part, "end"]
    lines += [
        "return function(keys, arguments, ms, number)",
        "KEYS, ARGV, simulated_ms, simulated_run = keys, arguments, ms, number",
        "for i = 1, #parts do local reply = parts[i]() if reply ~= nil then return reply end end",
        "end end",
    ]
    return "\n".join(lines)
