"""Whole gateways: accounts change, calls are let through without the engine, and what can go wrong does.

SEED=… plays one history of each kind. The long run takes SECONDS or HISTORIES from the environment.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from itertools import count
from random import SystemRandom
from time import monotonic

import pytest

from tests.simulation.database import MemoryDatabase
from tests.simulation.engine import InconsistentError, SimulatedEngine
from tests.simulation.losses import FAR_BACK, LOSSES
from tests.simulation.scripts import scripts_with
from tests.simulation.served import ServedHistory
from tests.simulation.service import simulated_time
from tests.support.engines import EngineServer

HISTORIES = 5
MOST = 40
"""So many histories a mistake may take to be found."""
SEED = os.environ.get("SEED")
KINDS: dict[str, tuple[str, ...]] = {"crashes": (), "losses": LOSSES + FAR_BACK}
RARE = ("admitted offline", "plan", "change broken off", "engine away", "gateway cut off", "SQL away")
RARE_OF = {"crashes": ("gateway crashed",), "losses": ("lost: emptied",)}

MISTAKES = {
    "a smaller plan holds at once": ("crashes", {"p.pending_from_ms > p.cycle_start_ms": "false"}),
    "SQL is not told of another allocation": (
        "crashes",
        {
            "if p.made or p.plan ~= plan_before or p.allocated_seconds ~= allocated_before then": (
                "if p.made then"
            ),
        },
    ),
    "a change is not taken that is of the next revision": (
        "crashes",
        {"p.made or revision > p.revision": "p.made or revision > p.revision + 1"},
    ),
    "a call that was let through is taken for any other": (
        "crashes",
        {
            "c.reap_at_ms = real_now_ms + lease_ms + grace_ms\n    c.alive_ms": (
                "c.offline, c.reap_at_ms = 0, real_now_ms + lease_ms + grace_ms\n    c.alive_ms"
            ),
        },
    ),
    "an emergency that is told of once more after its end is another one": (
        "crashes",
        {" and is_another_emergency(blob, c, told_at_ms) then": " then"},
    ),
}


pytestmark = pytest.mark.usefixtures("quiet")


def play(
    server: EngineServer,
    texts: Mapping[str, str],
    seeds: Iterable[int],
    losses: tuple[str, ...],
    seconds: float = float("inf"),
) -> Counter[str]:
    """Play histories for so long; answers what happened."""
    happened, until = Counter[str](), monotonic() + seconds
    loop = asyncio.new_event_loop()
    with (
        closing(SimulatedEngine(server, texts)) as engine,
        closing(MemoryDatabase()) as database,
        closing(loop),
        simulated_time() as time,
    ):
        for seed in seeds:
            try:
                with closing(ServedHistory(engine, database, loop, time, seed, losses)) as history:
                    history.run()
            except Exception as failure:
                failure.add_note(f"play it again: SEED={seed} make test ARGS=tests/simulation/test_served.py")
                raise
            happened += Counter(history.happened)
            happened["histories"] += 1
            if monotonic() >= until:
                break
    return happened


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_changes_and_calls_survive_what_goes_wrong(valkey: EngineServer, kind: str) -> None:
    """R9, R11, R18-R23, R26, R28, R30."""
    seeds = [int(SEED)] if SEED else range(1, HISTORIES + 1)
    happened = play(valkey, scripts_with({}), seeds, KINDS[kind])
    assert SEED or not [name for name in RARE + RARE_OF[kind] if not happened[name]], happened


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_for_as_long_as_is_asked(engine: EngineServer, kind: str) -> None:
    first = int(SEED or SystemRandom().randrange(1 << 40))
    histories = int(os.environ.get("HISTORIES", 0))
    seconds = float(os.environ.get("SECONDS", 0 if histories else 60)) or float("inf")
    seeds = range(first, first + histories) if histories else count(first)
    happened = play(engine, scripts_with({}), seeds, KINDS[kind], seconds)
    print(f"\n{happened['histories']} histories from SEED={first}:", dict(happened))


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(valkey: EngineServer, mistake: str) -> None:
    """What no history without an administrator, or without calls let through, can find."""
    kind, text = MISTAKES[mistake]
    with pytest.raises(InconsistentError):
        play(valkey, scripts_with(text), range(1, MOST + 1), KINDS[kind])
