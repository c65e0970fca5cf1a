"""The engine is away, killed or hanging: dashboards stay, and see what is newest once it is back."""

from __future__ import annotations

from tests.gateway.outages.deployments import Deployment, ready_again
from tests.support.dashboards import watching
from tests.support.devices import Device
from tests.support.operators import Operator


async def test_a_dashboard_stays_and_is_shown_the_newest_when_the_engine_is_back(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    token = await operator.token(account, "ana", "desk", "watch")
    async with watching(deployment.gateway.websocket_url, token) as early:
        await early.pool(calls_in_progress=0)
        deployment.take_engine_away()
        async with watching(deployment.gateway.websocket_url, token) as late:
            for watcher in (early, late):
                assert (await watcher.answer({"type": "ping", "id": 1}))["type"] == "pong"
            deployment.give_engine_back()
            await ready_again(deployment.gateway)
            await late.pool(calls_in_progress=0)
            await device.start("c-1")
            for watcher in (early, late):
                await watcher.pool(calls_in_progress=1)
            await device.end("c-1")
