"""Calls of which engine, SQL, receipt and gateways know different things: each ends as one right record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest

from gateway.domain.answers import Admitted, Resumed, Settled
from gateway.domain.asks import End, Reap, Resume, Start
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.pool.packed import PackedPool
from tests.simulation.engine import ACCOUNT, CALLS, LEASES, META, SimulatedEngine
from tests.simulation.losses import Gateway, LossyHistory, finish
from tests.simulation.scripts import scripts_with
from tests.support.engines import EngineServer
from tests.support.pool_model import SECOND, TO

ANA = ("ana", "d-0")


class Told(LossyHistory):
    """A history that a test tells, with one call "c"."""

    meanwhile: tuple[Callable[[], None], ...] = ()
    """What happens as a gateway has asked SQL of what it is to tell again, the next time."""

    def tell_again(self, meanwhile: Callable[[], None]) -> None:
        """Have a gateway do so, and that happen between its words with SQL and those with the engine."""
        self.meanwhile = (meanwhile,)
        self.gateways[0].beat()
        assert not self.meanwhile

    async def find_known(
        self, account: str, calls: Sequence[tuple[str, int]]
    ) -> Sequence[CallRecord | CallInProgress]:
        """Which of these calls have ended, or came back since."""
        known = await super().find_known(account, calls)
        meanwhile, self.meanwhile = self.meanwhile, ()
        for each in meanwhile:
            each()
        return known

    def start(self, connection: int = 1) -> int:
        """Start the call; answers when it was admitted."""
        answer = self.gateways[0].ask(Start(ACCOUNT, *ANA, "c", TO, connection=connection))
        assert isinstance(answer, Admitted)
        assert not answer.replayed
        return answer.admitted_at_ms

    def end(self, gateway: int = 0, ago_ms: int = 0, connection: int = 1) -> Settled:
        """End the call."""
        answer = self.gateways[gateway].ask(End(ACCOUNT, "c", ANA, ago_ms, connection))
        assert isinstance(answer, Settled)
        return answer

    def wait(self, seconds: int, *gateways: int) -> None:
        """Let time pass, in which these gateways beat (else both), and what nobody vouches for is reaped."""
        until_ms = self.now_ms + seconds * SECOND
        while self.now_ms < until_ms:
            self.pass_by(min(4 * SECOND, until_ms - self.now_ms))
            for number in gateways or (0, 1):
                self.gateways[number].beat()
            _, _, *due = self.run_step("leases_due", f"{META},{CALLS},{LEASES}", (1000,))
            for each in due:
                self.gateways[gateways[0] if gateways else 0].ask(
                    Reap(ACCOUNT, each.decode().partition("/")[2])
                )

    def pass_by(self, ms: int) -> None:
        """Let time pass in which nothing happens."""
        self.now_ms += ms
        self.steps.now_ms = self.now_ms

    def save(self) -> None:
        """Have SQL save all that waits."""
        finish(self.load(ACCOUNT))

    def lose(self, copy: str = "") -> None:
        """Have another engine, with what that copy had, or with nothing."""
        if copy:
            self.steps.go_back_to(copy)
        else:
            self.steps.empty()
        self.steps.run += 1

    def records(self) -> list[CallRecord]:
        """What SQL has in the end, which is what the pool has in its sum."""
        finish(self.gateways[0].bring_up(ACCOUNT))
        assert not self._drain()
        pools: list[PackedPool] = []
        self.steps.pool(pools.append)
        self._engine.carry_out(self.steps)
        assert pools[0].settled_seconds == self.sql.settled_seconds(pools[0].cycle_start_ms)
        assert not any(is_back for _, is_back in self.sql.records.values())
        return [record for record, _ in self.sql.records.values()]


@pytest.fixture
def told(valkey: EngineServer) -> Iterator[Told]:
    with closing(SimulatedEngine(valkey, scripts_with({}))) as engine:
        yield Told(engine, 1)


@pytest.fixture
def used_again(told: Told) -> tuple[Told, CallInProgress]:
    """R9: SQL has a call, the engine has forgotten it, its id is another call's since; and that is lost."""
    told.start()
    told.wait(40)
    told.end()
    told.save()
    told.wait(30)
    told.steps.add("HDEL", "2", (f"{ACCOUNT}/c",), lambda _: None)
    told.start(connection=2)
    told.wait(40)
    told.lose()
    told.pass_by(SECOND)
    kept = told.gateways[0].kept.call_in_progress(ACCOUNT, "c")
    assert kept is not None
    return told, kept


def test_the_end_of_a_lost_call_is_not_that_of_an_earlier_one_of_its_id(
    used_again: tuple[Told, CallInProgress],
) -> None:
    told, kept = used_again
    assert told.end(connection=2).admitted_at_ms == kept.admitted_at_ms
    assert [each.billed_seconds for each in told.records()] == [40, 41]


def test_a_device_comes_back_with_the_receipt_of_its_own_call_and_not_of_an_earlier_one(
    used_again: tuple[Told, CallInProgress],
) -> None:
    told, receipt = used_again
    answer = told.gateways[1].ask(Resume(ACCOUNT, "c", ANA, 3, receipt))
    assert isinstance(answer, Resumed)
    assert answer.call.admitted_at_ms == receipt.admitted_at_ms


def test_a_call_that_was_admitted_anew_after_a_loss_is_that_one_after_the_next_loss(told: Told) -> None:
    told.start()
    told.wait(64)
    told.save()
    told.wait(30)
    assert told.sql.records
    told.lose()
    told.wait(20)
    admitted_at_ms = told.start(connection=2)
    told.wait(40)
    told.lose()
    told.pass_by(SECOND)
    kept = told.gateways[0].kept.call_in_progress(ACCOUNT, "c")
    assert isinstance(told.gateways[0].ask(Resume(ACCOUNT, "c", ANA, 2, kept)), Resumed)
    told.wait(4)
    assert told.end(connection=2).admitted_at_ms == admitted_at_ms
    assert [each.billed_seconds for each in told.records()] == [0, 45]


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_call_whose_id_was_given_again_after_a_loss_has_its_record_all_the_same(
    told: Told, losses: int
) -> None:
    """R9, R26: the start that meets the loss is there before what was lost is told again."""
    told.start()
    told.wait(40)
    told.end()
    told.lose()
    told.pass_by(SECOND)
    told.start(connection=2)
    told.wait(40)
    told.end(connection=2)
    for _ in range(losses - 1):
        told.lose()
        told.wait(8)
    told.wait(8)
    assert [each.billed_seconds for each in told.records()] == [40, 40]


def _ended_twice(told: Told) -> Settled:
    """One gateway reaps the call; an engine that has lost that hears another one tell of its end."""
    told.start()
    told.wait(8)
    told.steps.copy("replica")
    told.wait(80, 0)
    assert len(told.gateways[0].kept) == 1
    assert not told.sql.records
    told.steps.copy("deposed")
    told.lose("replica")
    told.gateways[1].beat()
    ended = told.end(1)
    assert ended.billed_seconds == 88
    told.save()
    return ended


def test_what_one_gateway_settled_takes_nothing_from_another_end_of_that_revision(told: Told) -> None:
    _ended_twice(told)
    told.lose()
    told.wait(8)
    told.end(1, ago_ms=30 * SECOND)
    assert [each.billed_seconds for each in told.records()] == [88]


def test_a_deposed_primary_that_returns_does_not_settle_again_what_sql_has(told: Told) -> None:
    ended = _ended_twice(told)
    told.lose("deposed")
    told.wait(8)
    told.end(1, ago_ms=told.now_ms - ended.ended_at_ms)
    assert [each.billed_seconds for each in told.records()] == [88]


def test_a_first_end_that_came_late_takes_nothing_from_one_that_was_heard(told: Told) -> None:
    """R17: what comes late ends later than it should have, never earlier."""
    told.start()
    told.wait(40)
    told.steps.copy("replica")
    told.pass_by(9 * SECOND)
    assert told.end().billed_seconds == 49
    told.lose("replica")
    told.pass_by(SECOND)
    assert told.end(1, ago_ms=10 * SECOND).billed_seconds == 40
    told.wait(30)
    assert [each.billed_seconds for each in told.records()] == [40]


def test_a_first_end_that_was_lost_stands_before_its_late_repetition(told: Told) -> None:
    told.start()
    told.wait(40)
    told.steps.copy("replica")
    assert told.end().billed_seconds == 40
    told.lose("replica")
    told.pass_by(9 * SECOND)
    assert told.end(1).billed_seconds == 49
    told.wait(30)
    assert [(each.billed_seconds, each.revision) for each in told.records()] == [(40, 2)]


def test_what_is_saved_and_lost_again_while_it_is_told_is_billed_once(told: Told) -> None:
    """R26: what one gateway heard of SQL before is not true of the pool that is made with it."""
    told.start()
    told.wait(40)
    told.end()
    assert told.gateways[1].ask(End(ACCOUNT, "c", ANA)) is not None
    told.lose()
    told.pass_by(SECOND)

    def lost_again() -> None:
        told.gateways[1].beat()
        told.save()
        assert len(told.sql.records) == 1
        told.lose()
        finish(told.gateways[1].bring_up(ACCOUNT))

    told.tell_again(lost_again)
    told.wait(8)
    assert [each.billed_seconds for each in told.records()] == [40]


def test_a_call_that_has_ended_before_the_engine_was_lost_again_does_not_go_on(told: Told) -> None:
    """R26: the one that would tell of it is the one that did not hear of its end."""
    told.start()
    told.wait(40)
    receipt = told.gateways[0].kept.call_in_progress(ACCOUNT, "c")
    told.lose()
    told.pass_by(SECOND)

    def ended_and_lost_again() -> None:
        assert isinstance(told.gateways[1].ask(Resume(ACCOUNT, "c", ANA, 2, receipt)), Resumed)
        told.end(1, connection=2)
        told.save()
        told.lose()

    told.tell_again(ended_and_lost_again)
    told.gateways[0].beat()
    pools: list[PackedPool] = []
    told.steps.pool(pools.append)
    told._engine.carry_out(told.steps)
    assert pools[0].calls == 0
    assert [each.billed_seconds for each in told.records()] == [41]


def test_a_call_that_came_back_goes_on_though_an_older_copy_has_an_earlier_one_of_its_id(told: Told) -> None:
    """R9, R15: with no gateway left that knows of it. Else its record would wait for its end for ever."""
    told.start()
    told.wait(40)
    told.end()
    told.save()
    told.steps.copy("older")
    told.wait(30)
    told.steps.add("HDEL", "2", (f"{ACCOUNT}/c",), lambda _: None)
    admitted_at_ms = told.start(connection=2)
    told.wait(80)
    answer = told.gateways[0].ask(Resume(ACCOUNT, "c", ANA, 3))
    assert isinstance(answer, Resumed)
    assert (answer.late, answer.call.admitted_at_ms) == (True, admitted_at_ms)
    told.save()
    told.lose("older")
    told.gateways[:] = [Gateway(told), Gateway(told)]
    for gateway in told.gateways:
        finish(gateway.shards.open())
    told.wait(4)
    ended = told.gateways[0].ask(End(ACCOUNT, "c", ANA))
    assert isinstance(ended, Settled)
    assert ended.admitted_at_ms == admitted_at_ms
    assert [(each.billed_seconds, each.revision) for each in told.records()] == [(40, 1), (84, 2)]
    # The earlier one is known by its admission still.
    assert told.run_step("HLEN", CALLS, ()) == 2
