"""How long a call's id is remembered after it ended (R9), or after its end overtook its start (R17)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date

import pytest

from gateway.domain.answers import Admitted, Noted, Settled
from gateway.domain.asks import Answered, End, Retell, Start
from gateway.domain.calls import OVERTAKEN_MS, CallRecord
from gateway.domain.errors import CallIdUsed, CallUnknown
from gateway.domain.policy import Policy
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, CYCLE_END, HOUR, MINUTE, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts

MEMORY_MS = 48 * HOUR


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(engine.url, Policy()) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=date(2026, 11, 15), plan=a_plan(1_000_000))
        yield accounts


def start(call_id: str = "c-1") -> Start:
    return Start("acme", *ANA, call_id, TO)


async def records(accounts: LiveAccounts) -> list[CallRecord]:
    return [item for item in await accounts.recorded() if isinstance(item, CallRecord)]


async def test_a_settlement_that_was_told_again_is_forgotten_too(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R26: it is named under the instant at which it was told, which is later than it was settled."""
    await a_call(accounts)
    (record,) = await records(accounts)
    (calls,) = accounts.keys.named(accounts.keys.shard_of("acme"), "calls")
    engine.client.hdel(calls, "acme/c-1")
    await accounts.at(T0 + HOUR)
    assert await accounts.pool.ask(Retell(record, saved=True)) == Noted("c-1")
    await accounts.at(T0 + HOUR + MEMORY_MS + 1)
    await accounts.forget_old_calls()
    assert engine.client.hkeys(calls) == []


async def test_a_call_settled_anew_is_remembered_from_then_on(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R17: it is named twice, and forgotten by the second."""
    await a_call(accounts)
    (record,) = await records(accounts)
    await accounts.at(T0 + HOUR)
    again = replace(record, revision=2, settled_at_ms=T0 + HOUR)
    assert await accounts.pool.ask(Retell(again, saved=True)) == Noted("c-1")
    await accounts.at(T0 + HOUR + MEMORY_MS)
    assert await accounts.forget_old_calls() == 0
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(start())
    await accounts.at(T0 + HOUR + MEMORY_MS + 1)
    assert await accounts.forget_old_calls() == 1


def emergency(call_id: str, fresh: str, told_at_ms: int | None = None) -> Start:
    return Start("acme", *ANA, call_id, "112", None, True, True, fresh, told_at_ms)


async def admitted(accounts: LiveAccounts, ask: Start) -> Admitted:
    answer = await accounts.pool.ask(ask)
    assert isinstance(answer, Admitted)
    return answer


async def a_call(accounts: LiveAccounts, length_ms: int = MINUTE) -> int:
    """Make a call and say when it ended."""
    began_ms = (await admitted(accounts, start())).admitted_at_ms
    await accounts.at(began_ms + length_ms)
    await accounts.pool.ask(End("acme", "c-1"))
    return began_ms + length_ms


@pytest.mark.parametrize("sweeps", [False, True])
async def test_a_used_id_is_refused_for_48_hours_and_is_a_new_call_after_that(
    accounts: LiveAccounts, sweeps: bool
) -> None:
    """R9. It does not matter whether the sweeper has come by already."""
    ended_ms = await a_call(accounts)
    await accounts.at(ended_ms + MEMORY_MS)
    if sweeps:
        assert await accounts.forget_old_calls() == 0
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(start())
    await accounts.at(ended_ms + MEMORY_MS + 1)
    if sweeps:
        assert await accounts.forget_old_calls() == 1
    again = await admitted(accounts, start())
    assert (again.admitted_at_ms, again.replayed) == (ended_ms + MEMORY_MS + 1, False)
    await accounts.pool.ask(End("acme", "c-1"))
    records = [item for item in await accounts.recorded() if isinstance(item, CallRecord)]
    assert [(record.call_id, record.admitted_at_ms) for record in records] == [
        ("c-1", T0),
        ("c-1", ended_ms + MEMORY_MS + 1),
    ]


async def test_the_sweeper_takes_what_is_over_and_nothing_else(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    ended_ms = await a_call(accounts)
    await admitted(accounts, start("in-progress"))
    await accounts.at(ended_ms + MEMORY_MS + 1)
    await admitted(accounts, start())
    await admitted(accounts, start("c-2"))
    await accounts.pool.ask(End("acme", "c-2"))
    assert await accounts.forget_old_calls() == 0, "the id is in use again"
    assert [call.call_id for call in (await accounts.pool.read("acme")).calls] == ["c-1", "in-progress"]
    await accounts.pool.ask(End("acme", "c-1"))
    assert await accounts.forget_old_calls() == 0, "it has ended anew"
    await accounts.at(ended_ms + 2 * MEMORY_MS + 2)
    assert await accounts.forget_old_calls() == 2
    key = accounts.keys.named(accounts.keys.shard_of("acme"), "calls")[0]
    assert engine.client.hkeys(key) == [b"acme/in-progress"]


async def test_an_end_that_is_repeated_when_the_engine_has_forgotten_comes_from_the_records(
    accounts: LiveAccounts,
) -> None:
    """R17."""
    ended_ms = await a_call(accounts)
    first = await accounts.end(End("acme", "c-1", ANA))
    await accounts.at(ended_ms + MEMORY_MS + 1)
    await accounts.forget_old_calls()
    assert await accounts.end(End("acme", "c-1", ANA)) == first
    assert (first.billed_seconds, first.replayed) == (60, True)
    with pytest.raises(CallUnknown):
        await accounts.end(End("acme", "c-1", ("bob", "mobile")))


@pytest.mark.parametrize("sweeps", [False, True])
async def test_a_start_that_its_end_has_overtaken_is_refused_for_60_s(
    accounts: LiveAccounts, sweeps: bool
) -> None:
    """R17."""
    with pytest.raises(CallUnknown):
        await accounts.pool.ask(End("acme", "c-1", ANA))
    await accounts.at(T0 + OVERTAKEN_MS)
    if sweeps:
        assert await accounts.forget_old_calls() == 0
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(start())
    await accounts.at(T0 + OVERTAKEN_MS + 1)
    if sweeps:
        assert await accounts.forget_old_calls() == 1
    assert (await admitted(accounts, start())).admitted_at_ms == T0 + OVERTAKEN_MS + 1


async def test_an_end_that_is_repeated_before_its_start_is_overtaken_anew(accounts: LiveAccounts) -> None:
    for second in (0, 40):
        await accounts.at(T0 + second * SECOND)
        with pytest.raises(CallUnknown):
            await accounts.pool.ask(End("acme", "c-1", ANA))
    await accounts.at(T0 + 100 * SECOND)
    assert await accounts.forget_old_calls() == 0
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(start())
    with pytest.raises(CallUnknown):
        await accounts.pool.ask(Answered("acme", "c-1", ANA))
    await accounts.at(T0 + 100 * SECOND + 1)
    assert await accounts.forget_old_calls() == 1
    await admitted(accounts, start())


# Emergencies (R30)


async def test_a_used_id_does_not_refuse_an_emergency(accounts: LiveAccounts) -> None:
    """It is recorded under a fresh one, and under its own again once that is forgotten."""
    ended_ms = await a_call(accounts)
    first = await admitted(accounts, emergency("c-1", "fresh-1"))
    assert (first.call_id, first.replayed) == ("fresh-1", False)
    again = await admitted(accounts, emergency("c-1", "fresh-1"))
    assert (again.call_id, again.replayed) == ("fresh-1", True)
    assert await accounts.pool.ask(Answered("acme", "fresh-1", ANA)) == Noted("fresh-1")
    settled = await accounts.pool.ask(End("acme", "fresh-1", ANA))
    assert isinstance(settled, Settled)
    assert (settled.billed_seconds, settled.emergency) == (0, True)
    await accounts.at(ended_ms + MEMORY_MS + 1)
    assert (await admitted(accounts, emergency("c-1", "fresh-2"))).call_id == "c-1"


async def test_an_emergency_that_is_told_of_late_and_twice_is_one_call(accounts: LiveAccounts) -> None:
    await accounts.at(T0 + HOUR)
    told = emergency("c-1", "fresh-1", T0 + MINUTE)
    first = await admitted(accounts, told)
    assert (first.call_id, first.admitted_at_ms, first.replayed) == ("c-1", T0 + MINUTE, False)
    await accounts.pool.ask(End("acme", "c-1", ANA, ended_ago_ms=50 * MINUTE))
    again = await admitted(accounts, told)
    assert (again.call_id, again.admitted_at_ms, again.replayed) == ("c-1", T0 + MINUTE, True)
    records = [item for item in await accounts.recorded() if isinstance(item, CallRecord)]
    assert [(record.admitted_at_ms, record.ended_at_ms) for record in records] == [
        (T0 + MINUTE, T0 + 10 * MINUTE)
    ]


async def test_an_emergency_is_as_old_as_its_caller_was_told_though_the_engine_admitted_it_later(
    accounts: LiveAccounts,
) -> None:
    """A start that an engine carried out after its gateway had let the call through without it."""
    await accounts.at(T0 + HOUR)
    await admitted(accounts, emergency("c-1", "fresh-1"))
    told = await admitted(accounts, emergency("c-1", "fresh-1", T0 + MINUTE))
    assert (told.call_id, told.admitted_at_ms, told.replayed) == ("c-1", T0 + MINUTE, True)
    later = await admitted(accounts, emergency("c-1", "fresh-1", T0 + 2 * MINUTE))
    assert later.admitted_at_ms == T0 + MINUTE
    ended = await accounts.pool.ask(End("acme", "c-1", ANA))
    assert isinstance(ended, Settled)
    assert ended.duration_ms == HOUR - MINUTE
    assert (await accounts.pool.read("acme")).calls_in_progress == 0


async def test_an_emergency_that_is_told_of_late_belongs_to_the_cycle_it_was_admitted_in(
    accounts: LiveAccounts,
) -> None:
    """R20."""
    await accounts.at(CYCLE_END + MINUTE)
    told = emergency("c-1", "fresh-1", CYCLE_END - MINUTE)
    assert (await admitted(accounts, replace(told, cycle_start_ms=T0))).cycle_start_ms == T0
    await accounts.pool.ask(End("acme", "c-1"))
    record = (await accounts.recorded())[-1]
    assert isinstance(record, CallRecord)
    assert (record.admitted_at_ms, record.cycle_start_ms) == (CYCLE_END - MINUTE, T0)
