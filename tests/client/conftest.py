from collections.abc import AsyncIterator, Iterator

import pytest

from tests.client.scripted import ScriptedGateway, scripted_gateway
from tests.support.gateways import GatewayProcess


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One for all tests of this module, each with an account of its own. Its billing clock stands still."""
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), "--simulate") as process:
        yield process
