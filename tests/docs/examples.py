"""Carrying out what the documentation shows: its shell commands, and its exchanges over the WebSocket.

Only blocks marked `sh` are carried out; `console` is for what a person types beside them, such as a gateway
started by hand.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.docs.pages import Block

PATIENCE_SECONDS: Final = 10.0
_END: Final = "--- end of block ---"


class Shell:
    """A bash that carries out block after block; variables stay."""

    def __init__(
        self, directory: Path, replacing: Mapping[str, str], environ: Mapping[str, str] | None = None
    ) -> None:
        self._replacing = replacing
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=directory,
            env={**os.environ, **(environ or {})},
            text=True,
        )

    def run(self, block: Block) -> str:
        """Carry out a block and return what it printed. AssertionError if its last command failed."""
        commands = block.text
        for shown, real in self._replacing.items():
            commands = commands.replace(shown, real)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{{\n{commands}\n}} </dev/null\nprintf '\\n%s %d\\n' '{_END}' $?\n")
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line.startswith(_END):
                assert line.split()[-1] == "0", f"status {line.split()[-1]}:\n{block.text}{''.join(printed)}"
                return "".join(printed).removesuffix("\n")
            printed.append(line)
        raise AssertionError(f"bash ended:\n{block.text}{''.join(printed)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def json_values(text: str) -> list[Any]:
    """All JSON values of a text, one after another."""
    decoder, values, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        values.append(value)
    return values


def require_same(shown: Any, got: Any, varying: Collection[str], at: str = "$") -> None:
    """Compare what is shown with what was answered. AssertionError names where they differ.

    The values of the fields `varying` need only be of the same type; `…` in a shown text stands for anything.
    """
    if isinstance(shown, dict) and isinstance(got, dict):
        assert list(shown) == list(got), (
            f"{at} shows the fields {list(shown)}, the gateway answers {list(got)}"
        )
        for name, value in shown.items():
            if name not in varying:
                require_same(value, got[name], varying, f"{at}.{name}")
            else:
                assert type(value) is type(got[name]), f"{at}.{name} shows {value!r}, it is {got[name]!r}"
    elif isinstance(shown, list) and isinstance(got, list):
        assert len(shown) == len(got), f"{at} shows {len(shown)} items, there are {len(got)}: {got}"
        for number, (one, other) in enumerate(zip(shown, got, strict=True)):
            require_same(one, other, varying, f"{at}[{number}]")
    elif isinstance(shown, str) and isinstance(got, str) and "…" in shown:
        pattern = ".*".join(map(re.escape, shown.split("…")))
        assert re.fullmatch(pattern, got, re.DOTALL), f"{at} shows {shown!r}, it is {got!r}"
    else:
        assert type(shown) is type(got), f"{at} shows {shown!r}, it is {got!r}"
        assert shown == got, f"{at} shows {shown!r}, it is {got!r}"


def carry_out(blocks: list[Block], shell: Shell, varying: Collection[str]) -> int:
    """Run every `sh` block, and compare with the `json` or `text` behind it; returns how many had one."""
    compared = 0
    for block, following in zip(blocks, [*blocks[1:], Block("", "")], strict=True):
        if block.language != "sh":
            continue
        printed = shell.run(block)
        if following.language not in ("json", "text"):
            continue
        # What was recorded a moment ago may still be on its way to SQL: reading is asked again.
        reads_only = not re.search(r" -(X|d) ", block.text)
        deadline = time.monotonic() + (PATIENCE_SECONDS if reads_only else 0)
        while True:
            try:
                _compare(following, printed, varying)
            except AssertionError as error:
                if time.monotonic() >= deadline:
                    raise AssertionError(f"{error}\nafter\n{block.text}which printed\n{printed}") from None
                time.sleep(0.1)
                printed = shell.run(block)
            else:
                compared += 1
                break
    return compared


def _compare(shown: Block, printed: str, varying: Collection[str]) -> None:
    if shown.language == "text":
        require_same(shown.text.split(), printed.split(), varying)
    else:
        require_same(json_values(shown.text), json_values(printed), varying)
