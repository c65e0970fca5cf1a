"""A gateway whose engine fails over goes on without a restart, and its devices with it (R11)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.pool.keys import KeySpace
from tests.gateway.conftest import StartGateway
from tests.support.devices import connected
from tests.support.engines import EngineServer
from tests.support.operators import operating
from tests.support.topologies import Cluster, SentinelSetup
from tests.support.waiting import wait_until

FAILED_OVER_WITHIN = 15.0

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["sentinels", "cluster"])
async def test_calls_go_on_after_a_failover_of_the_engine(
    request: pytest.FixtureRequest, start_gateway: StartGateway, kind: str
) -> None:
    start: Callable[..., SentinelSetup | Cluster] = request.getfixturevalue(f"start_{kind}")
    setup = await asyncio.to_thread(start)
    gateway = await asyncio.to_thread(start_gateway, redis_url=setup.url)
    async with operating(gateway) as operator:
        await operator.account()
        token = await operator.token()
        async with connected(gateway, token) as device:
            assert (await device.start("c-1"))["type"] == "call.admitted"
            await asyncio.to_thread(_kill_a_primary, setup)

            async def is_admitted() -> bool:
                frame = await device.start("c-2")
                assert frame["type"] in ("call.admitted", "error"), frame
                return bool(frame["type"] == "call.admitted")

            await wait_until(is_admitted, FAILED_OVER_WITHIN)
            assert device.is_open
            assert (await device.end("c-2"))["type"] == "call.settled"

            async def is_recorded() -> bool:
                return (await operator.call("c-2"))["state"] == "ended" and "c-2" in {
                    call["call_id"] for call in await operator.calls()
                }

            await wait_until(is_recorded, FAILED_OVER_WITHIN)

        async def is_well() -> bool:
            return bool((await operator.http.get("/v1/status")).json()["engine"] == "ok")

        await wait_until(is_well, FAILED_OVER_WITHIN)


def _kill_a_primary(setup: SentinelSetup | Cluster) -> None:
    old: EngineServer
    if isinstance(setup, SentinelSetup):
        old = setup.primary
        old.kill()
        setup.wait_for_failover(old)
    else:
        keys = KeySpace()
        old = setup.owner_of(keys.of_account("acme", keys.shard_of("acme"))[0])
        (replica,) = setup.replicas_of(old)
        old.kill()
        setup.wait_for_failover(replica)
