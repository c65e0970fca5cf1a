"""A deployment whose engine has no memory left: nothing new begins, and all else goes on, also anew."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.gateway.conftest import StartGateway
from tests.support.devices import connected
from tests.support.engines import EngineServer
from tests.support.gateways import CALLGATE
from tests.support.operators import Json, operating
from tests.support.waiting import wait_until


async def test_a_gateway_is_started_and_its_calls_end_and_are_recorded(
    start_engine: Callable[..., EngineServer], start_gateway: StartGateway, tmp_path: Path
) -> None:
    engine = start_engine()
    gateway = await asyncio.to_thread(start_gateway, data_dir=tmp_path, redis_url=engine.url)
    async with operating(gateway) as operator:
        await operator.account()
        token = await operator.token()
        async with connected(gateway, token) as device:
            assert (await device.start("c-1"))["type"] == "call.admitted"
            assert (await device.start("c-2"))["type"] == "call.admitted"
    engine.client.config_set("maxmemory", "100kb")
    await asyncio.to_thread(gateway.stop)

    gateway = await asyncio.to_thread(start_gateway, data_dir=tmp_path, redis_url=engine.url)
    async with operating(gateway) as operator, connected(gateway, token) as device:
        assert {call["call_id"] for call in (await device.welcome())["calls"]} == {"c-1", "c-2"}
        assert (await device.start("c-3"))["code"] == "engine_unavailable"
        assert (await device.start("c-4", to="112"))["type"] == "call.admitted"
        assert (await device.end("c-1"))["type"] == "call.settled"
        assert (await operator.call("c-2"))["call_id"] == "c-2"

        async def recorded() -> list[Json]:
            return await operator.calls()

        assert [record["call_id"] for record in await wait_until(recorded, 10)] == ["c-1"]

        async def is_there() -> bool:
            status = (await operator.http.get("/v1/status")).json()
            return len(status["gateways"]) == 1 and not [
                warning for warning in status["warnings"] if "cannot" in warning
            ]

        await wait_until(is_there, 10)
        check = [CALLGATE, "check", "--data-dir", tmp_path, "--redis-url", engine.url]
        checked = await asyncio.to_thread(partial(subprocess.run, check, capture_output=True, check=False))
        assert checked.returncode == 0, checked.stdout + checked.stderr
        engine.client.config_set("maxmemory", "0")
        assert (await device.start("c-3"))["type"] == "call.admitted"


async def test_none_is_let_through_unchecked(
    start_engine: Callable[..., EngineServer], start_gateway: StartGateway
) -> None:
    """The engine answers, and knows who may call: told of such a call a moment later, it would take it."""
    engine = start_engine()
    admits = {"CALLGATE_WHEN_ENGINE_DOWN": "admit"}
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url, environ=admits)
    async with operating(gateway) as operator:
        await operator.account()
        async with connected(gateway, await operator.token()) as device:
            await operator.suspend("acme")
            engine.client.config_set("maxmemory", "100kb")
            for number in range(4):
                assert (await device.start(f"c-{number}"))["code"] == "engine_unavailable"
            assert await operator.metric("callgate_emergency_journal_entries") == 0
            help_call = await device.start("help", to="112")
            assert (help_call["type"], help_call["emergency"]) == ("call.admitted", True)
            engine.client.config_set("maxmemory", "0")
            assert (await device.start("c-0"))["reason"] == "account_suspended"
        assert [call["call_id"] for call in (await operator.pool())["calls"]] == ["help"]
