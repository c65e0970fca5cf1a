"""Failovers under load: what was lost in the window is brought back by gateways and devices."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable

import pytest

from gateway.pool.keys import KeySpace
from tests.faults.conftest import MakeFleet
from tests.faults.fleet import ACCOUNTS, DEVICES, Fleet, at_work, goes_on, times
from tests.faults.load import Habits, Load
from tests.support.topologies import Cluster, SentinelSetup, is_primary
from tests.support.waiting import wait_until

FAILOVERS = int(os.environ.get("FAILOVERS", "20"))
PARTITIONS = int(os.environ.get("PARTITIONS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)


async def _failovers(
    fleet: Fleet, setup: SentinelSetup | Cluster, devices: int, count: int, *, planned: bool = False
) -> None:
    async with at_work(fleet, devices, Habits(longest_seconds=10), SEED) as load:
        for number in times(count):
            if isinstance(setup, SentinelSetup):
                await _fail_over_sentinels(setup, load, planned=planned)
            else:
                await _fail_over_cluster(setup, load, ACCOUNTS[number % len(ACCOUNTS)], planned=planned)
            await goes_on(load, devices)
        report = await fleet.check(load)
    assert report.reaped == 0


async def _fail_over_sentinels(setup: SentinelSetup, load: Load, *, planned: bool) -> None:
    if planned:
        await asyncio.to_thread(setup.failover)
        return
    old = setup.primary
    await asyncio.to_thread(old.kill)
    await asyncio.to_thread(setup.wait_for_failover, old)
    await goes_on(load, 10)
    await asyncio.to_thread(old.start)
    # Until the Sentinels have made a replica of it, it is no candidate for the next time.
    await wait_until(lambda: not is_primary(old), 20)
    await wait_until(lambda: setup.is_followed(setup.named), 20)


async def _fail_over_cluster(setup: Cluster, load: Load, account: str, *, planned: bool) -> None:
    keys = KeySpace()
    old = setup.owner_of(keys.of_account(account, keys.shard_of(account))[0])
    if planned:
        await asyncio.to_thread(setup.failover, old)
    else:
        (replica,) = setup.replicas_of(old)
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(setup.wait_for_failover, replica)
        await goes_on(load, 10)
        await asyncio.to_thread(old.start)
    await wait_until(setup.is_whole, 30)


async def _partitions(fleet: Fleet, setup: SentinelSetup | Cluster, devices: int, count: int) -> None:
    """A primary is left in the minority, with gateways that reach it, until it is rejoined."""
    async with at_work(fleet, devices, Habits(longest_seconds=10), SEED) as load:
        for number in times(count):
            account = ACCOUNTS[number % len(ACCOUNTS)]
            await (
                _part_sentinels(setup) if isinstance(setup, SentinelSetup) else _part_cluster(setup, account)
            )
            await goes_on(load, devices)
        report = await fleet.check(load)
    assert report.reaped == 0


async def _part_sentinels(setup: SentinelSetup) -> None:
    old = setup.named
    await asyncio.to_thread(setup.isolate, old)
    await asyncio.to_thread(setup.wait_for_failover, old)
    await asyncio.sleep(2)
    setup.rejoin(old)
    await wait_until(lambda: not is_primary(old), 60)
    await wait_until(lambda: setup.is_followed(setup.named), 60)


async def _part_cluster(setup: Cluster, account: str) -> None:
    keys = KeySpace()
    old = setup.owner_of(keys.of_account(account, keys.shard_of(account))[0])
    (replica,) = setup.replicas_of(old)
    setup.isolate(old)
    await asyncio.to_thread(setup.wait_for_failover, replica)
    await asyncio.sleep(2)
    setup.rejoin(old)
    await wait_until(setup.is_whole, 30)


def _sentinels(make_fleet: MakeFleet, setup: SentinelSetup) -> Fleet:
    return make_fleet(2, lambda: [setup.named.client], redis_url=setup.url)


def _cluster(make_fleet: MakeFleet, setup: Cluster) -> Fleet:
    def primaries() -> list[object]:
        return [each.client for each in setup.servers if is_primary(each)]

    return make_fleet(2, primaries, redis_url=setup.url)


@pytest.mark.soak
@pytest.mark.parametrize(
    "planned", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["killed", "planned"]
)
async def test_sentinels_fail_over_under_load(
    make_fleet: MakeFleet, start_sentinels: Callable[..., SentinelSetup], planned: bool
) -> None:
    setup = await asyncio.to_thread(start_sentinels, replicas=2)
    await _failovers(_sentinels(make_fleet, setup), setup, 40, 1, planned=planned)


@pytest.mark.soak
async def test_sentinels_fail_over_many_times(
    make_fleet: MakeFleet, start_sentinels: Callable[..., SentinelSetup]
) -> None:
    setup = await asyncio.to_thread(start_sentinels, replicas=2)
    await _failovers(_sentinels(make_fleet, setup), setup, DEVICES or 100, FAILOVERS)


@pytest.mark.soak
@pytest.mark.parametrize(
    "planned", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["killed", "planned"]
)
async def test_a_cluster_fails_over_under_load(
    make_fleet: MakeFleet, start_cluster: Callable[..., Cluster], planned: bool
) -> None:
    setup = await asyncio.to_thread(start_cluster)
    await _failovers(_cluster(make_fleet, setup), setup, 40, 1, planned=planned)


@pytest.mark.soak
async def test_a_cluster_fails_over_many_times(
    make_fleet: MakeFleet, start_cluster: Callable[..., Cluster]
) -> None:
    setup = await asyncio.to_thread(start_cluster)
    await _failovers(_cluster(make_fleet, setup), setup, DEVICES or 100, FAILOVERS)


@pytest.mark.soak
async def test_a_primary_of_sentinels_is_left_in_the_minority(
    make_fleet: MakeFleet, start_sentinels: Callable[..., SentinelSetup]
) -> None:
    setup = await asyncio.to_thread(start_sentinels, replicas=2)
    await _partitions(_sentinels(make_fleet, setup), setup, DEVICES or 40, PARTITIONS)


@pytest.mark.soak
async def test_a_primary_of_a_cluster_is_left_in_the_minority(
    make_fleet: MakeFleet, start_cluster: Callable[..., Cluster]
) -> None:
    setup = await asyncio.to_thread(start_cluster)
    await _partitions(_cluster(make_fleet, setup), setup, DEVICES or 40, PARTITIONS)
