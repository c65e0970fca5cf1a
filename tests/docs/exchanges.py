"""Carrying out the exchanges that docs/websocket.md shows, frame by frame, with a standing billing clock."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from websockets.asyncio.client import ClientConnection

from tests.docs.examples import require_same
from tests.docs.pages import Block

_PAUSE: Final = re.compile(r"\((\d+) seconds later\)")


@dataclass(frozen=True, slots=True)
class Step:
    """The device sends a text, the gateway sends a frame, or so many seconds pass."""

    what: Literal[">", "<", "pause"]
    text: str


def steps_of(blocks: Iterable[Block]) -> Iterator[Step]:
    """All steps of the exchanges (`text` blocks that begin with `<` or `>`), in order."""
    for block in blocks:
        if block.language != "text" or block.text[0] not in "<>":
            continue
        # What is indented goes on with the frame before it.
        for line in re.split(r"\n(?=[<>(]|  \()", block.text.rstrip("\n")):
            pause = _PAUSE.fullmatch(line.strip())
            if pause:
                yield Step("pause", pause[1])
            else:
                assert line[:2] in ("> ", "< "), f"neither sent nor received: {line}"
                yield Step(">" if line[0] == ">" else "<", line[2:])


async def exchange(
    steps: Iterable[Step],
    connection: ClientConnection,
    pass_by: Callable[[int], Awaitable[object]],
    varying: Collection[str],
) -> int:
    """Send what the device sends, compare what the gateway sends. Returns how many frames were compared."""
    compared = 0
    for step in steps:
        if step.what == "pause":
            await pass_by(int(step.text))
        elif step.what == ">":
            await connection.send(" ".join(step.text.split()))
        else:
            got = await connection.recv()
            require_same(json.loads(step.text), json.loads(got), varying, f"the answer {got!r}")
            compared += 1
    return compared
