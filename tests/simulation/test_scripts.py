"""What is made of the scripts for the simulation does what they do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.engine import KEYS, SimulatedEngine, Steps
from tests.simulation.history import History
from tests.simulation.scripts import at_an_instant, scripts_with
from tests.support.engines import EngineServer

MS, RUN = "tonumber(ARGV[#ARGV - 1])", "tonumber(ARGV[#ARGV])"


def one_by_one(server: EngineServer, steps: Steps) -> list[Any]:
    """The same steps, each by a call of the script as it is, but for the instant and the run it takes."""
    texts = {name: at_an_instant(text, MS, RUN) for name, text in scripts_with({}).items()}
    replies, at, sent = [], 0, steps.sent
    while at < len(sent):
        name, ms, run, numbers, count = sent[at : at + 5]
        keys = [KEYS[int(number) - 1] for number in str(numbers).split(",")]
        arguments = sent[at + 5 : at + 5 + int(count)]
        at += 5 + int(count)
        if name in texts:
            # They stand behind the arguments, where no script looks that knows how many it has.
            replies.append(server.client.eval(texts[str(name)], len(keys), *keys, *arguments, ms, run))
        else:
            replies.append(server.ask(str(name), *keys, *arguments))
    return replies


@pytest.mark.parametrize("seed", range(1, 6))
def test_steps_in_one_call_are_the_scripts_one_by_one(valkey: EngineServer, seed: int) -> None:
    history = History(seed)
    history.run()
    engine = SimulatedEngine(valkey, scripts_with({}))
    engine.send(history.steps)
    at_once = engine.receive()
    engine.close()
    valkey.flush()
    each = one_by_one(valkey, history.steps)
    assert len(at_once) == len(each) > 100
    for number, (one, other) in enumerate(zip(at_once, each, strict=True)):
        assert plain(one) == plain(other), number


def plain(reply: Any) -> Any:
    """A reply without the shape that the client gives those of commands."""
    if isinstance(reply, dict):
        reply = [part for pair in reply.items() for part in pair]
    return [plain(part) for part in reply] if isinstance(reply, (list, tuple)) else reply
