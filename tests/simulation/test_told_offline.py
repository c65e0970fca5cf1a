"""Calls that were let through without the engine, told step by step: what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.domain.answers import Admitted, Resumed, Settled
from gateway.domain.asks import End, Resume, Start
from gateway.domain.calls import CallRecord
from tests.simulation.database import MemoryDatabase
from tests.simulation.engine import ACCOUNT, SimulatedEngine
from tests.simulation.scripts import scripts_with
from tests.simulation.served import ServedHistory
from tests.simulation.service import simulated_time
from tests.support.engines import EngineServer
from tests.support.pool_model import CYCLE_END, MINUTE, SECOND, TO

ANA = ("ana", "d-0")


class Told(ServedHistory):
    """A history that a test tells; nobody's answer is lost in it by chance."""

    began_before_end_ms = (2 * MINUTE,)

    def is_answer_lost(self, name: str) -> bool:
        """Never."""
        return False

    def _may_crash(self) -> bool:
        return False

    def pass_to(self, at_ms: int) -> None:
        """Let time pass, in which gateways say that they are there."""
        while self.now_ms < at_ms:
            self.now_ms = min(at_ms, self.now_ms + 4 * SECOND)
            self.steps.now_ms = self.now_ms
            self._beat()

    def records(self) -> list[CallRecord]:
        """What SQL has in the end."""
        saved = [self._do(gateway.save()) for gateway in self.gateways]
        assert any(saved)
        found = self._records()
        assert all(isinstance(each, CallRecord) for each in found)
        return [each for each in found if isinstance(each, CallRecord)]

    def start(self, place: int, to: str = TO) -> tuple[Admitted, str]:
        """Start a call "c"; answers with its receipt."""
        is_emergency = to == "112"
        fresh = "c-fresh" if is_emergency else ""
        ask = Start(ACCOUNT, *ANA, "c", to, connection=1, emergency=is_emergency, fresh_call_id=fresh)
        answer = self._ask(ask, place)
        assert isinstance(answer, Admitted)
        return answer, self._issued

    def resume(self, place: int, receipt: str, connection: int) -> None:
        """The device comes back with its receipt."""
        self._has["c"] = receipt
        answer = self._ask(Resume(ACCOUNT, "c", ANA, connection), place)
        assert isinstance(answer, Resumed)

    def end(self, place: int, connection: int) -> Settled:
        """The device hangs up."""
        answer = self._ask(End(ACCOUNT, "c", ANA, 0, connection), place)
        assert isinstance(answer, Settled)
        return answer


@pytest.fixture
def told(valkey: EngineServer) -> Iterator[Told]:
    loop = asyncio.new_event_loop()
    with (
        closing(SimulatedEngine(valkey, scripts_with({}))) as engine,
        closing(MemoryDatabase()) as database,
        closing(loop),
        simulated_time() as time,
        closing(Told(engine, database, loop, time, 1)) as history,
    ):
        yield history


@pytest.mark.parametrize("to", [TO, "112"])
def test_a_call_that_its_receipt_brings_back_belongs_to_the_cycle_it_was_admitted_in(
    told: Told, to: str
) -> None:
    """R20: the gateway that let it through could not say which cycle that is, and is gone."""
    told.pass_to(CYCLE_END - 20 * SECOND)
    began_ms = told._config().running_cycle
    told.gateways[0].cut_until_ms = CYCLE_END + 3600 * SECOND
    admitted, receipt = told.start(0, to)
    assert admitted.remaining_seconds is None
    told.pass_to(CYCLE_END + 10 * SECOND)
    told.resume(1, receipt, connection=2)
    told.pass_to(CYCLE_END + 20 * SECOND)
    assert told.end(1, connection=2).duration_ms == 40 * SECOND
    (record,) = told.records()
    assert began_ms is not None
    assert record.cycle_start_ms == began_ms.start_ms
