"""Of its calls in progress a pool shows the newest, newest first; all of them can be found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date

import pytest

from gateway.domain.answers import MAX_CALLS_SHOWN
from gateway.domain.asks import Answered, Start
from gateway.domain.calls import CallInProgress
from gateway.domain.policy import Policy
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, BOB, CYCLE_END, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts

CALLS = MAX_CALLS_SHOWN + 50


@pytest.fixture(params=["admission", "answer"])
async def accounts(engine: EngineServer, request: pytest.FixtureRequest) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(engine.url, Policy(count_from=request.param)) as accounts:
        await accounts.at(T0)
        await accounts.make(
            "acme",
            billing_date=date(2026, 11, 15),
            plan=a_plan(100_000),
            staff=frozenset({"ana", "bob"}),
        )
        yield accounts


def a_call(number: int) -> Start:
    """Every tenth is Bob's, every seventh an emergency."""
    device = ANA if number % 10 else BOB
    if number % 7:
        return Start("acme", *device, f"c-{number:03}", TO)
    return Start("acme", *device, f"c-{number:03}", "112", None, True, True, f"f-{number}")


async def newest(accounts: LiveAccounts) -> list[str]:
    view = await accounts.pool.read("acme")
    assert view.calls_in_progress == CALLS
    return [call.call_id for call in view.calls]


async def test_the_newest_are_shown_newest_first(accounts: LiveAccounts) -> None:
    """Those of one instant by their ids, the last first."""
    for first in range(0, CALLS, 5):
        await accounts.at(T0 + first * SECOND)
        await accounts.ask_all([a_call(number) for number in range(first, first + 5)])
    expected = [f"c-{number:03}" for number in reversed(range(CALLS))][:MAX_CALLS_SHOWN]
    assert await newest(accounts) == expected


async def test_they_stay_the_newest_when_most_of_them_are_answered(accounts: LiveAccounts) -> None:
    await accounts.ask_all([a_call(number) for number in range(30)])
    for number in range(30, CALLS):
        await accounts.at(T0 + number * SECOND)
        await accounts.ask_all([a_call(number), Answered("acme", f"c-{number - 20:03}")])
    expected = [f"c-{number:03}" for number in reversed(range(CALLS))][:MAX_CALLS_SHOWN]
    assert await newest(accounts) == expected


async def test_every_call_of_a_device_is_found_however_many_there_are(accounts: LiveAccounts) -> None:
    """Also those of an older cycle, and many of one instant."""
    # A few at a time: an emergency is not waited for long (R30).
    for first in range(0, 2500, 100):
        if first == 2000:
            await accounts.at(CYCLE_END)
        await accounts.ask_all(a_call(number) for number in range(first, first + 100))
    found = await accounts.pool.calls_of_device("acme", *BOB)
    assert sorted(call.call_id for call in found) == sorted(f"c-{number:03}" for number in range(0, 2500, 10))
    assert {call.staff for call in found} == {"bob"}
    assert await accounts.pool.count_calls() == 2500
    assert (await accounts.pool.oldest_calls(["acme"]))["acme"] == T0
    for number in (0, 7, 2498):
        each = await accounts.pool.find_call("acme", f"c-{number:03}")
        assert each is not None
        assert isinstance(each.call, CallInProgress)
        assert (each.call.emergency, each.call.counts) == (number % 7 == 0, number == 2498)
