"""Whole deployments for the tests of this directory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, instant, operating

StartGateway = Callable[..., GatewayProcess]

SECRETS = {
    "CALLGATE_ADMIN_KEY": "the-key-of-the-operator",
    "CALLGATE_TOKEN_SECRET": "what every gateway of the deployment signs by",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with its embedded engine, under a billing clock of its own, for the tests of one file."""
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), "--simulate", environ=SECRETS)
    try:
        yield gateway.start()
    finally:
        gateway.end()


@pytest.fixture
async def operator(gateway: GatewayProcess) -> AsyncIterator[Operator]:
    """Its operator."""
    async with operating(gateway) as operator:
        yield operator


@pytest.fixture
async def year(operator: Operator) -> int:
    """A year that begins right now by the billing clock, with all of it still to come."""
    year = datetime.fromtimestamp(await operator.now_ms() / 1000, UTC).year + 1
    await operator.at(instant(f"{year}-01-01T00:00:00Z"))
    return year


@pytest.fixture
def account(request: pytest.FixtureRequest) -> str:
    """The id of an account of the test's own."""
    return re.sub(r"[^a-z0-9_]+", "-", str(request.node.name))


@pytest.fixture
def start_twin(
    start_gateway: StartGateway, make_postgres: Callable[[], str]
) -> Callable[..., GatewayProcess]:
    """A factory `start_twin(redis_url, *flags)` for gateways of one deployment: one Redis, one PostgreSQL."""
    shared: dict[str, Any] = {"database_url": make_postgres(), "environ": SECRETS}

    def start(redis_url: str, *flags: str) -> GatewayProcess:
        return start_gateway(*flags, redis_url=redis_url, **shared)

    return start
