"""An engine without memory left: nothing new begins, but what goes on can end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import date

import pytest

from gateway.domain.answers import Admitted, Settled
from gateway.domain.asks import End, Start
from gateway.domain.errors import EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.pool.leases import Vouching
from tests.support.engines import KINDS, EngineServer
from tests.support.pool_model import ANA, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, start_engine: Callable[..., EngineServer]) -> EngineServer:
    """An engine of the test's own, whose memory it can fill."""
    return start_engine(request.param)


@pytest.fixture
async def accounts(server: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(server.url, Policy()) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=date(2026, 11, 15), plan=a_plan(100))
        yield accounts


async def test_calls_end_and_are_vouched_for_without_memory_left_and_emergencies_pass(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    assert isinstance(await accounts.pool.ask(Start("acme", *ANA, "c-1", TO, connection=7)), Admitted)
    await accounts.at(T0 + 40 * SECOND)
    server.client.config_set("maxmemory", "1mb")
    assert await accounts.pool.renew([Vouching("acme", "c-1", 7, 0)]) == [Renewed.RENEWED]
    emergency = Start("acme", *ANA, "help", "112", emergency=True, fresh_call_id="fresh")
    refused, settled, admitted = await accounts.ask_all(
        [Start("acme", *ANA, "c-2", TO), End("acme", "c-1", ANA, connection=7), emergency]
    )
    assert isinstance(refused, EngineUnavailable)
    assert isinstance(settled, Settled)
    assert settled.billed_seconds == 40
    assert isinstance(admitted, Admitted)
    server.client.config_set("maxmemory", "0")
    assert isinstance(await accounts.pool.ask(Start("acme", *ANA, "c-2", TO)), Admitted)
