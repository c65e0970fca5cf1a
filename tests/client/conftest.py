from collections.abc import AsyncIterator

import pytest

from tests.client.scripted import ScriptedGateway, scripted_gateway


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway() as gateway:
        yield gateway
