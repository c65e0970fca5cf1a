"""Answers and ends told while the engine was away; one that cannot be delivered holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic

import pytest

from gateway.domain.answers import Answer, Noted
from gateway.domain.asks import Answered, Ask, End
from gateway.domain.errors import CallgateError, CallUnknown, DatabaseUnavailable, EngineUnavailable
from gateway.service import kept_ends
from gateway.service.kept_ends import KeptEnds
from tests.support.waiting import wait_until

DEVICE = ("ana", "desk")


class Engine:
    """An engine of which parts can be away: `failing` says of whose ends it fails, and how."""

    def __init__(self) -> None:
        self.failing: Callable[[Ask], CallgateError | None] = lambda _: None
        self.delivered: list[Ask] = []
        self.asked = 0

    async def ask(self, ask: Ask) -> Answer:
        """Take an end, or fail."""
        self.asked += 1
        await asyncio.sleep(0)
        failure = self.failing(ask)
        if failure is not None:
            raise failure
        self.delivered.append(ask)
        return Noted(ask.call_id)

    @property
    def calls(self) -> set[str]:
        """Whose ends were delivered."""
        return {ask.call_id for ask in self.delivered}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine that is there."""
    monkeypatch.setattr(kept_ends, "RETRY_SECONDS", 0.01)
    return Engine()


@pytest.fixture
async def kept(engine: Engine) -> AsyncIterator[KeptEnds]:
    """Ends that are to be delivered to it."""
    kept = KeptEnds(engine.ask)
    running = asyncio.create_task(kept.run())
    yield kept
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_one_that_can_not_be_delivered_holds_up_no_other(kept: KeptEnds, engine: Engine) -> None:
    """A shard of a Cluster may be away, or SQL, which alone knows of a call that the engine has forgotten."""

    def of_some(ask: Ask) -> CallgateError | None:
        if ask.account == "away":
            return EngineUnavailable()
        return DatabaseUnavailable() if ask.call_id == "forgotten" else None

    engine.failing = of_some
    for number in range(3 * kept_ends.AT_ONCE):
        kept.keep(End("away", f"away-{number}", DEVICE), monotonic())
    for call_id in ("forgotten", "a", "b"):
        kept.keep(End("acme", call_id, DEVICE), monotonic())
    await wait_until(lambda: engine.calls == {"a", "b"})
    engine.failing = lambda _: None
    await wait_until(lambda: len(engine.delivered) == 3 * kept_ends.AT_ONCE + 3)
    assert len(engine.calls) == len(engine.delivered)


async def test_an_engine_that_is_away_is_asked_little(
    kept: KeptEnds, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.failing = lambda _: EngineUnavailable()
    monkeypatch.setattr(kept_ends, "RETRY_SECONDS", 60)
    for number in range(3 * kept_ends.AT_ONCE):
        kept.keep(End("acme", f"c-{number}", DEVICE), monotonic())
    await wait_until(lambda: engine.asked)
    await _quiet(engine)
    assert engine.asked == kept_ends.AT_ONCE


async def test_its_moment_is_that_which_was_told(kept: KeptEnds, engine: Engine) -> None:
    """However long it was kept (R16)."""
    kept.keep(End("acme", "a", DEVICE, ended_ago_ms=500), monotonic() - 7)
    await wait_until(lambda: engine.calls == {"a"})
    (end,) = engine.delivered
    assert isinstance(end, End)
    assert 7500 <= end.ended_ago_ms < 9500


async def test_the_first_that_was_told_stands(kept: KeptEnds, engine: Engine) -> None:
    """R17."""
    engine.failing = lambda _: EngineUnavailable()
    kept.keep(End("acme", "a", DEVICE), monotonic() - 60)
    kept.keep(End("acme", "a", DEVICE), monotonic())
    await wait_until(lambda: engine.asked)
    engine.failing = lambda _: None
    await wait_until(lambda: engine.delivered)
    (end,) = engine.delivered
    assert isinstance(end, End)
    assert end.ended_ago_ms >= 60_000


async def test_one_that_is_refused_is_not_told_again(kept: KeptEnds, engine: Engine) -> None:
    engine.failing = lambda ask: CallUnknown() if ask.call_id == "a" else None
    kept.keep(End("acme", "a", DEVICE), monotonic())
    await wait_until(lambda: engine.asked == 1)
    kept.keep(End("acme", "b", DEVICE), monotonic())
    await wait_until(lambda: engine.calls == {"b"})
    assert engine.asked == 2


async def test_the_oldest_go_where_there_are_too_many(
    kept: KeptEnds, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their clients keep them, too."""
    monkeypatch.setattr(kept_ends, "MOST", 3)
    for number in range(5):
        kept.keep(End("acme", f"c-{number}", DEVICE), monotonic())
    await wait_until(lambda: engine.calls == {"c-2", "c-3", "c-4"})


async def test_an_answer_is_delivered_as_of_when_it_was_told(kept: KeptEnds, engine: Engine) -> None:
    """R3: the first one, for who pays by it and for the pool, also of a call that nobody has ended."""
    engine.failing = lambda _: EngineUnavailable()
    kept.keep(Answered("acme", "a", DEVICE, answered_ago_ms=500), monotonic() - 7)
    kept.keep(Answered("acme", "a", DEVICE), monotonic())
    await wait_until(lambda: engine.asked)
    engine.failing = lambda _: None
    await wait_until(lambda: engine.delivered)
    (answered,) = engine.delivered
    assert isinstance(answered, Answered)
    assert 7500 <= answered.answered_ago_ms < 9500
    assert kept.answered("acme", "a") is None


async def test_an_answer_is_told_for_as_long_as_the_end_of_its_call_is_kept(
    kept: KeptEnds, engine: Engine
) -> None:
    """Whoever tells the end has to tell it first."""
    engine.failing = lambda _: DatabaseUnavailable()
    kept.keep(Answered("acme", "a", DEVICE), monotonic() - 60)
    kept.keep(End("acme", "a", DEVICE), monotonic())
    await wait_until(lambda: engine.asked)
    answered = kept.answered("acme", "a")
    assert answered is not None
    assert answered.answered_ago_ms >= 60_000
    engine.failing = lambda _: None
    await wait_until(lambda: engine.delivered)
    assert [type(ask) for ask in engine.delivered] == [End]
    await wait_until(lambda: not len(kept))
    assert kept.answered("acme", "a") is None


async def test_an_answer_told_after_the_end_is_none(kept: KeptEnds, engine: Engine) -> None:
    """As of a call that has ended: it would move the end to itself."""
    engine.failing = lambda _: EngineUnavailable()
    kept.keep(End("acme", "a", DEVICE), monotonic() - 60)
    kept.keep(Answered("acme", "a", DEVICE), monotonic())
    assert kept.answered("acme", "a") is None


async def _quiet(engine: Engine) -> None:
    """Return once nothing has been asked for many turns of the loop."""
    quiet, asked = 0, engine.asked
    while quiet < 100:
        await asyncio.sleep(0)
        quiet = quiet + 1 if engine.asked == asked else 0
        asked = engine.asked
