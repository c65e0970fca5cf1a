"""Devices, gateways and a bad network over the real scripts: histories drawn from seeds.

SEED=… plays one history. The long run takes SECONDS or HISTORIES from the environment.
"""

from __future__ import annotations

import os
from itertools import count
from random import SystemRandom
from time import monotonic

import pytest

from tests.simulation.playing import play
from tests.simulation.scripts import scripts_with
from tests.support.engines import EngineServer

HISTORIES = 200
SEED = os.environ.get("SEED")
RARE = (
    *("gateway crashed", "no gateway", "device died", "connection_lost", "lease_expired", "late return"),
    *("late return and end in one", "ended again", "replayed", "call_id_used", "call_id_conflict"),
    *("renewal newer_owner", "renewal absent", "renewal ended", "call_unknown"),
)


@pytest.mark.slow
def test_every_call_is_settled_once_whatever_the_network_does(engine: EngineServer) -> None:
    """R9, R12-R17, R20, R26: one record for each call, and nothing is settled that somebody vouches for."""
    if SEED:
        play(engine, scripts_with({}), [int(SEED)])
        return
    happened = play(engine, scripts_with({}), range(1, HISTORIES + 1))
    assert not [name for name in RARE if not happened[name]], happened


@pytest.mark.soak
def test_for_as_long_as_is_asked(engine: EngineServer) -> None:
    first = int(SEED or SystemRandom().randrange(1 << 40))
    histories = int(os.environ.get("HISTORIES", 0))
    seconds = float(os.environ.get("SECONDS", 0 if histories else 60))
    seeds = range(first, first + histories) if histories else count(first)
    started = monotonic()
    happened = play(engine, scripts_with({}), seeds, float("inf") if histories and not seconds else seconds)
    took = monotonic() - started
    print(f"\n{happened['histories']} histories from SEED={first} in {took:.1f} s:", dict(happened))
