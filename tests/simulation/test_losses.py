"""Engines that lose what they answered, SQL that forgets: no call is lost or has two records, sums agree.

SEED=… plays one history. The long run takes SECONDS or HISTORIES from the environment.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from itertools import count
from random import SystemRandom
from time import monotonic

import pytest

from gateway.domain.answers import Admitted, Settled
from gateway.domain.asks import Asker, End, Start
from gateway.domain.errors import EngineUnavailable
from tests.simulation.engine import ACCOUNT, InconsistentError, SimulatedEngine
from tests.simulation.losses import FAR_BACK, LOSSES, Client, Gateway, LossyHistory, finish
from tests.simulation.scripts import scripts_with
from tests.support.engines import EngineServer
from tests.support.pool_model import SECOND, TO

HISTORIES = 15
SEED = os.environ.get("SEED")
MOST = 100
"""So many histories a mistake may take to be found."""

MISTAKES = {
    "what another run has lost is not noticed": {
        "return seen_run ~= m.run_before or seen_seq > m.run_seq": "return false",
    },
    "what SQL has is billed again when it is told again": {
        "if counts and not is_saved then rebill(a, billed_before, billed) end\n    write_resettled": (
            "if counts then rebill(a, 0, billed) end\n    write_resettled"
        ),
    },
    "a call that SQL knows to have ended goes on": {
        "if c.admitted_at_ms == decode_call(value).admitted_at_ms": "if false",
    },
    "a pool made anew begins with nothing used": {
        "if p.cycle_start_ms == settled_cycle_start_ms then": "if false then",
    },
    "what a gateway tells of is never looked after": {
        "c.reap_at_ms = real_now_ms + lease_ms + grace_ms\n    c.alive_ms": (
            "c.reap_at_ms = real_now_ms + 1e12\n    c.alive_ms"
        ),
    },
    "an answer that is told again is not taken": {
        "if told and c.answered_at_ms == 0 and": "if false and",
    },
    "a settlement told again is not taken": {
        "if known >= revision and not is_first_end or": "if true or",
    },
}


pytestmark = pytest.mark.usefixtures("quiet")


def play(
    server: EngineServer,
    texts: Mapping[str, str],
    seeds: Iterable[int],
    losses: tuple[str, ...] = LOSSES,
    seconds: float = float("inf"),
) -> Counter[str]:
    """Play histories for so long; answers what happened."""
    happened, until = Counter[str](), monotonic() + seconds
    with closing(SimulatedEngine(server, texts)) as engine:
        for seed in seeds:
            try:
                history = LossyHistory(engine, seed, losses)
                history.run()
            except Exception as failure:
                failure.add_note(f"play it again: SEED={seed} make test ARGS=tests/simulation/test_losses.py")
                raise
            happened += Counter(history.happened)
            happened["histories"] += 1
            if monotonic() >= until:
                break
    return happened


@pytest.mark.slow
def test_nothing_is_lost_with_what_an_engine_or_sql_loses(engine: EngineServer) -> None:
    """R26, R28."""
    happened = play(engine, scripts_with({}), [int(SEED)] if SEED else range(1, HISTORIES + 1))
    rare = [*(f"lost: {each}" for each in LOSSES), "late return", "renewal unknown", "renewal undecided"]
    assert SEED or not [name for name in rare if not happened[name]], happened


def fail_over(history: LossyHistory, copy: str, run: int) -> None:
    """Have gateways ask another server from now on: what it has, and its run."""
    history.steps.go_back_to(copy)
    history.steps.run = run


def two_calls(gateway: Gateway) -> tuple[Asker, Asker]:
    """The devices of two calls that it has admitted, "c" and "d"."""
    devices = ("ana", "d-0"), ("ana", "d-1")
    for call_id, device in zip("cd", devices, strict=True):
        asked = Start(ACCOUNT, *device, call_id, TO, connection=1)
        assert isinstance(gateway.ask(asked), Admitted)
    return devices


def test_an_engine_goes_back_to_before_a_call_came_back(valkey: EngineServer) -> None:
    """R15: the call is in progress there, without a record; in SQL it has one, which was taken back."""
    play(valkey, scripts_with({}), [207], LOSSES + FAR_BACK)


def test_an_engine_goes_back_to_before_a_call_was_settled_again(valkey: EngineServer) -> None:
    """R15, R17: there it was settled in its absence, in SQL its device has ended it since."""
    play(valkey, scripts_with({}), [350900907946], LOSSES + FAR_BACK)


def test_what_a_deposed_primary_still_answered_is_told_again(valkey: EngineServer) -> None:
    """R26: a gateway may have compared the new primary already when the old one answers it a last time."""
    with closing(SimulatedEngine(valkey, scripts_with({}))) as engine:
        history = LossyHistory(engine, 1)
        gateway, steps = history.gateways[0], history.steps
        call = ("ana", "d-0")
        assert isinstance(gateway.ask(Start(ACCOUNT, *call, "c", TO, connection=1)), Admitted)
        steps.copy("old")
        steps.run = 2
        gateway.beat()
        steps.copy("new")
        fail_over(history, "old", run=1)
        assert isinstance(gateway.ask(End(ACCOUNT, "c", call, connection=1)), Settled)
        fail_over(history, "new", run=2)
        gateway.beat()
        again = gateway.ask_pool(End(ACCOUNT, "c", call, connection=1))
        assert isinstance(again, Settled)
        assert again.replayed


def test_what_a_deposed_primary_answered_is_kept_though_sql_is_further_on(valkey: EngineServer) -> None:
    """R26: another gateway has saved what the new primary says, later than what this one was answered."""
    with closing(SimulatedEngine(valkey, scripts_with({}))) as engine:
        history = LossyHistory(engine, 1)
        (gateway, other), steps = history.gateways, history.steps
        ana, bob = two_calls(gateway)
        steps.copy("new")
        assert isinstance(gateway.ask(End(ACCOUNT, "c", ana, connection=1)), Settled)
        steps.copy("old")
        fail_over(history, "new", run=2)
        steps.now_ms += SECOND
        other.beat()
        assert isinstance(other.ask(End(ACCOUNT, "d", bob, connection=1)), Settled)
        finish(history.load(ACCOUNT))
        steps.copy("new")
        fail_over(history, "old", run=1)
        gateway.beat()
        fail_over(history, "new", run=2)
        gateway.beat()
        again = gateway.ask_pool(End(ACCOUNT, "c", ana, connection=1))
        assert isinstance(again, Settled)
        assert again.replayed


def test_a_change_read_before_an_engine_lost_something_makes_no_pool(valkey: EngineServer) -> None:
    """R28: the new primary has a settlement that SQL had not yet when the account was read."""
    with closing(SimulatedEngine(valkey, scripts_with({}))) as engine:
        history = LossyHistory(engine, 1)
        (gateway, other), steps = history.gateways, history.steps
        ana, bob = two_calls(gateway)
        history.now_ms = steps.now_ms = history.now_ms + 100 * SECOND
        gateway.beat()
        changed = finish(history.load(ACCOUNT))
        assert changed is not None
        assert isinstance(gateway.ask(End(ACCOUNT, "c", ana, connection=1)), Settled)
        steps.copy("new")
        assert isinstance(other.ask(End(ACCOUNT, "d", bob, connection=1)), Settled)
        fail_over(history, "new", run=2)
        finish(other.accounts.apply(changed))
        gateway.beat()
        other.beat()
        finish(history.load(ACCOUNT))
        sums: list[tuple[int, int]] = []
        steps.pool(
            lambda pool: sums.append((pool.settled_seconds, history.sql.settled_seconds(pool.cycle_start_ms)))
        )
        engine.carry_out(steps)
        assert sums == [(200, 200)]


def test_what_is_emptied_just_when_it_is_written_is_away_for_a_moment(
    valkey: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not data of another deployment, which nobody may touch: a phone is to ask again."""

    async def emptied(*_: object) -> None:
        """It was written, and is not there."""

    with closing(SimulatedEngine(valkey, scripts_with({}))) as engine:
        gateway = LossyHistory(engine, 1).gateways[0]
        monkeypatch.setattr(Client, "hget", emptied)
        with pytest.raises(EngineUnavailable):
            finish(gateway.shards.confirm([0]))


@pytest.mark.soak
@pytest.mark.parametrize("losses", [LOSSES, LOSSES + FAR_BACK], ids=["recent", "any"])
def test_for_as_long_as_is_asked(engine: EngineServer, losses: tuple[str, ...]) -> None:
    first = int(SEED or SystemRandom().randrange(1 << 40))
    histories = int(os.environ.get("HISTORIES", 0))
    seconds = float(os.environ.get("SECONDS", 0 if histories else 60)) or float("inf")
    seeds = range(first, first + histories) if histories else count(first)
    happened = play(engine, scripts_with({}), seeds, losses, seconds)
    print(f"\n{happened['histories']} histories from SEED={first}:", dict(happened))


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(valkey: EngineServer, mistake: str) -> None:
    right, wrong = scripts_with({}), scripts_with(MISTAKES[mistake])
    for seed in range(1, MOST + 1):
        if not _is_consistent(valkey, wrong, seed) and _is_consistent(valkey, right, seed):
            return
    pytest.fail(f"not found in {MOST} histories")


def _is_consistent(server: EngineServer, texts: Mapping[str, str], seed: int) -> bool:
    try:
        play(server, texts, [seed], LOSSES + FAR_BACK)
    except InconsistentError:
        return False
    return True
