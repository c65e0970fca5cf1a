"""The model against the worked examples: every history, step by step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from gateway.domain.answers import Admitted, PoolView, Refused, Settled
from gateway.domain.asks import Answered, End, Start
from gateway.domain.cycles import boundary_ms, index_at
from gateway.domain.errors import CallgateError
from gateway.domain.pool import PoolModel
from tests.support.vectors import VECTORS, History, Step, histories, vector_fields

HISTORIES = histories()
ORIGINALS = VECTORS.parents[2] / "shared" / "vectors"


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.name)
def test_every_answer_is_the_one_of_the_history(history: History) -> None:
    pool = PoolModel(
        "acme",
        billing_date=history.billing_date,
        time_zone=history.time_zone,
        policy=history.policy,
        now_ms=history.steps[0].at_ms,
        plan=history.plan,
        staff=frozenset({"ana"}),
    )
    for number, step in enumerate(history.steps):
        fields = do(pool, step)
        assert {name: fields[name] for name in step.expect} == step.expect, f"step {number}: {step}"


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.name)
def test_the_boundaries_around_a_history_are_its_cycles(history: History) -> None:
    first = index_at(history.billing_date, history.time_zone, history.cycle_boundaries_ms[0])
    assert history.cycle_boundaries_ms == tuple(
        boundary_ms(history.billing_date, history.time_zone, first + number)
        for number in range(len(history.cycle_boundaries_ms))
    )


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.name)
def test_the_records_of_a_cycle_sum_up_to_what_it_settled(history: History) -> None:
    """R27."""
    pool = PoolModel(
        "acme",
        billing_date=history.billing_date,
        time_zone=history.time_zone,
        policy=history.policy,
        now_ms=history.steps[0].at_ms,
        plan=history.plan,
        staff=frozenset({"ana"}),
    )
    for step in history.steps:
        do(pool, step)
        of_this_cycle = [r.billed_seconds for r in pool.records if r.cycle_start_ms == pool.cycle.start_ms]
        assert sum(of_this_cycle) == pool.settled_seconds


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="the checkout has no originals of the vectors beside it")
def test_the_vectors_are_the_originals_byte_for_byte() -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert contents(VECTORS) == contents(ORIGINALS)


def do(pool: PoolModel, step: Step) -> dict[str, object]:
    """Carry out one step and return its answer's fields."""
    answer: Admitted | Refused | Settled | PoolView | CallgateError
    match step.do:
        case "start":
            try:
                answer = pool.start(Start("acme", "ana", "desk", step.call_id, "+14155550100"), step.at_ms)
            except CallgateError as error:
                answer = error
            return vector_fields(answer)
        case "answered":
            return asdict(pool.answered(Answered("acme", step.call_id, ("ana", "desk")), step.at_ms))
        case "end":
            return vector_fields(pool.end(End("acme", step.call_id, ("ana", "desk")), step.at_ms))
        case "pool":
            return vector_fields(pool.read(step.at_ms))
        case "plan":
            assert step.plan is not None
            applies = pool.change_plan(step.plan, step.at_ms)
            return {"applied": applies, "allocated_seconds": pool.read(step.at_ms).allocated_seconds}
        case "suspend":
            pool.set_status("suspended" if step.suspended else "active", step.at_ms)
            return {}
