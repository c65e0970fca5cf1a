"""The policy is the database's: an engine that goes back to before it was set is given it again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree

from tests.gateway.conftest import StartGateway
from tests.support.engines import EngineServer
from tests.support.operators import operating
from tests.support.waiting import wait_until

AOF = "appendonlydir"


async def test_an_engine_goes_back_to_before_the_policy_was_set(
    start_gateway: StartGateway, start_engine: Callable[..., EngineServer], tmp_path: Path
) -> None:
    """R26, R28."""
    engine = await asyncio.to_thread(start_engine, persistent=True)
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url)
    async with operating(gateway) as operator:
        await operator.account()
        copytree(engine.directory / AOF, tmp_path / AOF)
        answer = await operator.http.put("/v1/policy", json={"free_seconds": 0, "increment_seconds": 60})
        assert answer.status_code == 200
        engine.kill()
        rmtree(engine.directory / AOF)
        copytree(tmp_path / AOF, engine.directory / AOF)
        engine.start()

        async def is_ready() -> bool:
            return bool((await operator.start("c-1"))["type"] == "call.admitted")

        await wait_until(is_ready, 10)
        assert (await operator.end("c-1"))["billed_seconds"] == 60
        assert (await operator.http.get("/v1/policy")).json() == answer.json()
