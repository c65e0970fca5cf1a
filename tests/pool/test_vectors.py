"""The scripts in real engines against the worked examples: every history, step by step."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from gateway.domain.answers import Answer, NotDue, Noted, Resumed
from gateway.domain.asks import Answered, End, Start
from gateway.domain.errors import CallgateError
from tests.support.engines import EngineServer
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.vectors import History, Step, histories, vector_fields


@pytest.mark.parametrize("history", histories(), ids=lambda history: history.name)
async def test_every_answer_is_the_one_of_the_history(history: History, engine: EngineServer) -> None:
    async with live_accounts(engine.url, history.policy) as accounts:
        await accounts.at(history.steps[0].at_ms)
        await accounts.make(
            "acme", billing_date=history.billing_date, time_zone=history.time_zone, plan=history.plan
        )
        for number, step in enumerate(history.steps):
            await accounts.at(step.at_ms)
            fields = await do(accounts, step)
            assert {name: fields[name] for name in step.expect} == step.expect, f"step {number}: {step}"


async def do(accounts: LiveAccounts, step: Step) -> dict[str, object]:
    """Carry out one step and return its answer's fields."""
    answer: Answer | CallgateError
    match step.do:
        case "start":
            try:
                answer = await accounts.pool.ask(Start("acme", "ana", "desk", step.call_id, "+14155550100"))
            except CallgateError as error:
                answer = error
        case "answered":
            answer = await accounts.pool.ask(Answered("acme", step.call_id, ("ana", "desk")))
            return asdict(answer)
        case "end":
            return vector_fields(await accounts.end(End("acme", step.call_id, ("ana", "desk"))))
        case "pool":
            return vector_fields(await accounts.pool.read("acme"))
        case "plan":
            assert step.plan is not None
            applies = await accounts.change_plan("acme", step.plan)
            view = await accounts.pool.read("acme")
            return {"applied": applies, "allocated_seconds": view.allocated_seconds}
        case "suspend":
            await accounts.change("acme", status="suspended" if step.suspended else "active")
            return {}
    assert not isinstance(answer, Noted | Resumed | NotDue)
    return vector_fields(answer)
