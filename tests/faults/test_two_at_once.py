"""Two faults at once, of those that one of two gateways or an engine that keeps all is there for."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable

import pytest

from tests.faults.conftest import MakeFleet
from tests.faults.fleet import DEVICES, Fleet, at_work, goes_on, times
from tests.faults.load import Habits
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.topologies import SentinelSetup, is_primary
from tests.support.waiting import wait_until

DOUBLE_FAULTS = int(os.environ.get("DOUBLE_FAULTS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)


async def _kill_together(fleet: Fleet, engine: EngineServer, gateways: list[GatewayProcess]) -> None:
    for gateway in gateways:
        fleet.balancer.remove(gateway.url)
    kills = [engine.kill, *(gateway.kill for gateway in gateways)]
    await asyncio.gather(*(asyncio.to_thread(kill) for kill in kills))
    await asyncio.to_thread(engine.start)
    await asyncio.gather(*(asyncio.to_thread(gateway.start) for gateway in gateways))
    for gateway in gateways:
        fleet.balancer.add(gateway.url)


@pytest.mark.soak
@pytest.mark.parametrize("gateways", [1, 2])
async def test_gateways_and_an_engine_that_keeps_all_are_killed_together(
    make_fleet: MakeFleet, durable: EngineServer, gateways: int
) -> None:
    fleet = make_fleet(2, durable)
    async with at_work(fleet, DEVICES or 40, Habits(longest_seconds=10), SEED) as load:
        for number in times(DOUBLE_FAULTS):
            chosen = fleet.gateways if gateways == 2 else [fleet.gateways[number % 2]]
            await _kill_together(fleet, durable, chosen)
            await goes_on(load, 20)
        await fleet.check(load)


@pytest.mark.soak
async def test_an_engine_is_emptied_while_it_fails_over(
    make_fleet: MakeFleet, start_sentinels: Callable[..., SentinelSetup]
) -> None:
    """What nobody but the gateways and SQL knows any more comes back from there (R28)."""
    setup = await asyncio.to_thread(start_sentinels, replicas=2)
    fleet = make_fleet(2, lambda: [setup.named.client], redis_url=setup.url)
    async with at_work(fleet, DEVICES or 40, Habits(longest_seconds=10), SEED) as load:
        for _ in times(DOUBLE_FAULTS):
            old = setup.primary
            await asyncio.to_thread(old.kill)
            new = await asyncio.to_thread(setup.wait_for_failover, old)
            await asyncio.to_thread(new.flush)
            await goes_on(load, 20)
            await asyncio.to_thread(old.start)
            await wait_until(lambda old=old: not is_primary(old), 20)  # type: ignore[misc]
            await wait_until(lambda: setup.is_followed(setup.named), 20)
        report = await fleet.check(load)
    assert report.reaped == 0
