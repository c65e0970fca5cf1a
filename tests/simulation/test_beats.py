"""R14: gateways that are heard of now and then keep a shard steady: what nobody vouches for is reaped."""

from __future__ import annotations

from contextlib import closing

import pytest

from gateway.domain.answers import Admitted, NotDue, Settled
from gateway.domain.asks import Reap, Start
from gateway.pool.housekeeping import BEATS_A_LEASE
from tests.simulation.engine import ACCOUNT, GRACE_MS, LEASE_MS, SimulatedEngine
from tests.simulation.losses import LossyHistory
from tests.simulation.scripts import scripts_with
from tests.support.engines import EngineServer
from tests.support.pool_model import TO

PAUSE_MS = LEASE_MS // BEATS_A_LEASE


@pytest.mark.parametrize(
    ("late_ms", "reaped"), [(0, Settled), (PAUSE_MS * 9 // 10, Settled), (PAUSE_MS * 11 // 10, NotDue)]
)
def test_one_gateway_that_is_late_by_less_than_a_beat_is_heard_of_without_a_gap(
    valkey: EngineServer, late_ms: int, reaped: type
) -> None:
    with closing(SimulatedEngine(valkey, scripts_with({}))) as engine:
        history = LossyHistory(engine, 1)
        gateway, steps = history.gateways[0], history.steps
        assert isinstance(gateway.ask(Start(ACCOUNT, "ana", "d-0", "c", TO, connection=1)), Admitted)
        lapses_ms = steps.now_ms + LEASE_MS + GRACE_MS
        beats = 0
        while steps.now_ms < lapses_ms + LEASE_MS:
            beats += 1
            steps.now_ms += PAUSE_MS + (late_ms if beats % 2 == 0 else 0) - 1
            gateway.beat()
        assert isinstance(gateway.ask(Reap(ACCOUNT, "c")), reaped)
