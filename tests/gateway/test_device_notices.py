"""Devices are told that minutes ran out, or are there again (R11)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from gateway.pool.keys import KeySpace
from tests.gateway.conftest import StartGateway
from tests.support.devices import Device, connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import operating
from tests.support.waiting import wait_until

MINUTE_SECONDS = 60


def publish(engine: EngineServer, message: str, account: str = "acme") -> None:
    """Say on the channel of an account's shard what its scripts say there."""
    keys = KeySpace()
    engine.ask("SPUBLISH", keys.notices(keys.shard_of(account)), message)


def lose_subscriptions(engine: EngineServer) -> None:
    """Close all connections that listen; who listens joins anew, and has missed what was said meanwhile."""
    engine.ask("CLIENT", "KILL", "TYPE", "PUBSUB")


def kinds(device: Device) -> list[str]:
    return [notice["kind"] for notice in device.notices]


async def test_devices_of_all_gateways_are_told(valkey: EngineServer, start_twin: StartGateway) -> None:
    one, other = await asyncio.gather(*(asyncio.to_thread(start_twin, valkey.url) for _ in range(2)))
    async with operating(one) as operator, AsyncExitStack() as opened:
        await operator.account(people=("ana", "bob"))
        await operator.account("other")

        async def connect(gateway: GatewayProcess, *whose: str) -> Device:
            return await opened.enter_async_context(connected(gateway, await operator.token(*whose)))

        calling, idle = await connect(one, "acme", "ana"), await connect(one, "acme", "bob")
        elsewhere = await connect(other, "acme", "ana", "laptop")
        foreign = await connect(other, "other", "ana")
        for device, call_id in ((calling, "c-1"), (elsewhere, "c-2"), (foreign, "c-3")):
            await device.start(call_id)
        for _ in range(2):
            publish(valkey, "minutes_exhausted acme")
        publish(valkey, "something_new acme")
        for device in (calling, elsewhere):
            await wait_until(lambda device=device: kinds(device) == ["minutes_exhausted"])  # type: ignore[misc]
        publish(valkey, "minutes_restored acme")
        for device in (calling, elsewhere):
            await wait_until(lambda device=device: kinds(device)[1:] == ["minutes_restored"])  # type: ignore[misc]
        await wait_until(lambda: kinds(idle) == ["minutes_restored"])
        assert not foreign.notices


async def test_what_was_missed_is_told_once(valkey: EngineServer, start_twin: StartGateway) -> None:
    gateway = await asyncio.to_thread(start_twin, valkey.url, "--simulate")
    async with operating(gateway) as operator, AsyncExitStack() as opened:
        await operator.account(minutes=2)
        device = await opened.enter_async_context(connected(gateway, await operator.token()))
        await device.start("c-1")
        await operator.pass_by(3 * MINUTE_SECONDS)
        lose_subscriptions(valkey)
        await wait_until(lambda: kinds(device) == ["minutes_exhausted"])
        for _ in range(2):
            publish(valkey, "minutes_exhausted acme")
            lose_subscriptions(valkey)
            await asyncio.sleep(1.5)
        assert kinds(device) == ["minutes_exhausted"]
        await operator.plan("more", minutes=10)
        await operator.move_to("acme", "more")
        lose_subscriptions(valkey)
        await wait_until(lambda: kinds(device) == ["minutes_exhausted", "minutes_restored"])
        publish(valkey, "minutes_restored acme")
        await device.end("c-1")
        assert kinds(device) == ["minutes_exhausted", "minutes_restored"]
