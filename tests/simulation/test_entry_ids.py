"""R26: no two processes of an engine give the same id to an entry of a shard's stream, and ids only grow.

By its id it is told whether the entry that SQL has is one of a stream: a primary that was deposed and its
successor go on from the same data, and may both write in one millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any

import pytest

from gateway.domain.asks import End, Start
from tests.simulation.engine import ACCOUNT, META, RECORDS, SimulatedEngine, Steps
from tests.simulation.history import History
from tests.simulation.scripts import scripts_with
from tests.simulation.sql import order
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, TO

COMPARED = ("0", "30", "1", "60", "0", "0", "", "0", "0", "0", "0", "0", "0")
"""What `shards_open` is given by a gateway that has seen nothing yet."""
IDS_OF_RUN = 2**20


@pytest.fixture
def steps(valkey: EngineServer) -> Steps:
    """Steps in a shard with one account, of which a copy is kept."""
    steps = History(1).steps
    steps.copy("deposed")
    return steps


@pytest.fixture
def simulated(valkey: EngineServer) -> Iterator[SimulatedEngine]:
    """What carries them out."""
    engine = SimulatedEngine(valkey, scripts_with({}))
    yield engine
    engine.close()


def end_calls(steps: Steps, calls: int) -> None:
    for _, number in zip(range(calls), count(len(steps.then)), strict=False):
        steps.ask(Start(ACCOUNT, *ANA, f"c-{number}", TO), lambda _: None)
        steps.ask(End(ACCOUNT, f"c-{number}", ANA), lambda _: None)


def fail_over(steps: Steps) -> None:
    """Have another process go on with the copy."""
    steps.go_back_to("deposed")
    steps.run += 1
    steps.add("shards_open", META, COMPARED, lambda _: None)


def ids(steps: Steps) -> list[str]:
    """Those in the stream, once the steps are carried out."""
    found: list[str] = []

    def read(entries: list[Any]) -> None:
        found.extend(entry_id.decode() for entry_id, _ in entries)

    steps.add("XRANGE", RECORDS, ("-", "+"), read)
    return found


def told_later(*streams: list[str]) -> list[str]:
    """What was told since the copy, by all."""
    before = set(streams[0]).intersection(*streams)
    assert all(order(one) < order(next_one) for stream in streams for one, next_one in pairwise(stream))
    return [each for stream in streams for each in stream if each not in before]


def test_two_that_write_in_the_same_millisecond_give_no_id_twice(
    steps: Steps, simulated: SimulatedEngine
) -> None:
    end_calls(steps, 3)
    of_deposed = ids(steps)
    fail_over(steps)
    end_calls(steps, 4)
    of_successor = ids(steps)
    simulated.carry_out(steps)

    later = told_later(of_deposed, of_successor)
    assert len(set(later)) == len(later) == 7
    assert {order(each)[1] // IDS_OF_RUN for each in later} == {1, 2}


@pytest.mark.parametrize("behind_ms", [0, 1, 3_600_000])
def test_a_successor_whose_clock_is_behind_gives_no_id_of_the_deposed_one(
    steps: Steps, simulated: SimulatedEngine, behind_ms: int
) -> None:
    end_calls(steps, 2)
    steps.copy("deposed")
    end_calls(steps, 3)
    of_deposed = ids(steps)
    fail_over(steps)
    steps.now_ms -= behind_ms
    end_calls(steps, 3)
    of_successor = ids(steps)
    steps.now_ms += behind_ms
    end_calls(steps, 3)
    of_both_clocks = ids(steps)
    simulated.carry_out(steps)

    later = told_later(of_deposed, of_both_clocks)
    assert len(set(later)) == len(later) == 9
    assert of_both_clocks[: len(of_successor)] == of_successor


def test_ids_grow_though_the_clock_is_set_back(steps: Steps, simulated: SimulatedEngine) -> None:
    end_calls(steps, 2)
    before = ids(steps)
    steps.now_ms -= 3_600_000
    end_calls(steps, 3)
    after = ids(steps)
    simulated.carry_out(steps)

    assert len(told_later(before, after)) == 3
    assert len({order(each)[0] for each in after[-5:]}) == 1


def test_a_run_that_has_given_all_its_ids_of_a_millisecond_takes_the_next_one(
    steps: Steps, simulated: SimulatedEngine
) -> None:
    last = (f"{steps.now_ms}-{2 * IDS_OF_RUN - 1}", "n", "1", "p", "30/1/60/0", "d", "")
    steps.add("XADD", RECORDS, last, lambda _: None)
    end_calls(steps, 2)
    found = ids(steps)
    simulated.carry_out(steps)

    first = IDS_OF_RUN
    assert found[-2:] == [f"{steps.now_ms + 1}-{first}", f"{steps.now_ms + 1}-{first + 1}"]
