"""Histories one after the other: while the engine follows one, the next is played."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from time import monotonic

from tests.simulation.engine import SimulatedEngine
from tests.simulation.history import History
from tests.support.engines import EngineServer


def play(
    server: EngineServer, texts: Mapping[str, str], seeds: Iterable[int], seconds: float = float("inf")
) -> Counter[str]:
    """Play histories for so long; answers how often each of the rare things happened.

    Raises InconsistentError for what must not be, with a note that says which seed it was.
    """
    happened, until = Counter[str](), monotonic() + seconds
    followed: tuple[int, History] | None = None
    # What a history leaves behind refers to itself: looking for that as often as usual takes a tenth of the
    # time.
    gc.set_threshold(100_000)
    with closing(SimulatedEngine(server, texts)) as engine:
        for seed in seeds:
            history = History(seed)
            with _named(seed):
                history.run()
            if followed is not None:
                _follow(engine, *followed)
            engine.send(history.steps)
            followed = seed, history
            happened += Counter(history.happened)
            happened["histories"] += 1
            if monotonic() >= until:
                break
        if followed is not None:
            _follow(engine, *followed)
    return happened


def _follow(engine: SimulatedEngine, seed: int, history: History) -> None:
    with _named(seed):
        history.steps.take(engine.receive())


@contextmanager
def _named(seed: int) -> Iterator[None]:
    try:
        yield
    except Exception as failure:
        failure.add_note(f"play it again: SEED={seed} make test ARGS=tests/simulation/test_simulation.py")
        raise
