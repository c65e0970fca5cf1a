"""A gateway whose engine, and one whose database, can be taken away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import get_args

import pytest

from tests.gateway.outages.deployments import Deployment, How, ready_again
from tests.support.devices import Device, connected
from tests.support.engines import EngineServer, engine_binary
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating


@pytest.fixture(scope="module", params=get_args(How))
def deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A gateway, and an engine that the tests take away."""
    engine = EngineServer(engine_binary("valkey"), persistent=True)
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), environ={"CALLGATE_REDIS_URL": engine.url})
    try:
        engine.start()
        yield Deployment(gateway.start(), engine, request.param)
    finally:
        gateway.end()
        engine.discard()


@pytest.fixture
async def operator(deployment: Deployment) -> AsyncIterator[Operator]:
    """An operator of a gateway that has its engine; it has it back when the test is over."""
    async with operating(deployment.gateway) as operator:
        yield operator
        deployment.give_engine_back()
        await ready_again(deployment.gateway)


@pytest.fixture
async def device(deployment: Deployment, operator: Operator, account: str) -> AsyncIterator[Device]:
    """Ana's desk phone, of that account."""
    await operator.account(account)
    async with connected(deployment.gateway, await operator.token(account)) as device:
        yield device
