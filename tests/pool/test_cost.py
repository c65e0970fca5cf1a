"""What a call costs does not grow with the calls in progress in its pool (design:

cost that does not grow).
"""

from __future__ import annotations

import pytest

from tests.bench.engine_cost import PoolLoad, commands_run
from tests.support.engines import EngineServer


@pytest.mark.slow
def test_starts_and_ends_issue_as_many_commands_with_100_000_calls_in_progress_as_with_100(
    engine: EngineServer,
) -> None:
    assert commands_of_a_batch(engine, 100) == commands_of_a_batch(engine, 100_000)


def commands_of_a_batch(engine: EngineServer, calls: int) -> int:
    """Commands for 32 starts and 32 ends in one batch, in a pool whose sums are up to date."""
    engine.flush()
    load = PoolLoad(engine.client, calls)
    load.decide(load.next_batch())
    load.move_clock(1)  # off the whole second, where the sums need one count less
    before = commands_run(engine.client)
    load.decide(load.next_batch())
    info = 1
    return commands_run(engine.client) - before - info
