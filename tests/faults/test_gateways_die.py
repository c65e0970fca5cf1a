"""Gateways that are killed, stopped or replaced: no call is lost, none counted twice, none ended early."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from tests.faults.checkers import Report
from tests.faults.conftest import MakeFleet
from tests.faults.fleet import (
    ACCOUNTS,
    DEVICES,
    GRACE_SECONDS,
    LEASE_SECONDS,
    SECRETS,
    Fleet,
    at_work,
    goes_on,
    times,
)
from tests.faults.load import Habits
from tests.faults.pbx import Pbx
from tests.support.engines import EngineServer

KILLS = int(os.environ.get("KILLS", "1000"))
ROLLS = int(os.environ.get("ROLLS", "10"))
STOPS = int(os.environ.get("STOPS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)


async def _kills(fleet: Fleet, devices: int, kills: int, habits: Habits) -> Report:
    async with at_work(fleet, devices, habits, SEED) as load:
        for number in times(kills):
            await fleet.kill(fleet.gateways[number % len(fleet.gateways)])
            await goes_on(load, devices // 4)
        report = await fleet.check(load)
    assert report.reaped
    return report


@pytest.mark.slow
async def test_gateways_are_killed_under_load(make_fleet: MakeFleet, durable: EngineServer) -> None:
    await _kills(make_fleet(2, durable), 40, 3, Habits(leave=0.03, go_away=0.01))


@pytest.mark.soak
async def test_gateways_are_killed_many_times(make_fleet: MakeFleet, durable: EngineServer) -> None:
    habits = Habits(longest_seconds=10, leave=0.01, go_away=0.003)
    report = await _kills(make_fleet(2, durable), DEVICES or 500, KILLS, habits)
    assert report.late_returns


async def _rolls(fleet: Fleet, devices: int, rolls: int) -> None:
    """R11: a rolling restart ends no call and refuses none."""
    fleet.balancer.asks_readiness = True
    async with at_work(fleet, devices, Habits(shortest_seconds=1, longest_seconds=8), SEED) as load:
        for _ in times(rolls):
            for gateway in fleet.gateways:
                await fleet.roll(gateway)
        report = await fleet.check(load)
    assert (report.refused, report.unknown, report.reaped, report.late_returns) == ({}, 0, 0, 0)


@pytest.mark.slow
async def test_a_rolling_restart_ends_no_call_and_refuses_none(
    make_fleet: MakeFleet, durable: EngineServer
) -> None:
    await _rolls(make_fleet(3, durable), 40, 1)


@pytest.mark.soak
async def test_rolling_restarts_many_times(make_fleet: MakeFleet, durable: EngineServer) -> None:
    await _rolls(make_fleet(3, durable), DEVICES or 100, ROLLS)


async def _rolls_under_http(fleet: Fleet, lines: int, rolls: int) -> None:
    """Behind a balancer that asks `/readyz`, a rolling restart refuses no HTTP request either."""
    fleet.balancer.asks_readiness = True
    async with at_work(fleet, 6, Habits(shortest_seconds=1, longest_seconds=4), SEED) as load:
        key = SECRETS["CALLGATE_ADMIN_KEY"]
        async with Pbx(fleet.balancer, load.books, key, ACCOUNTS[0], lines, SEED) as pbx:
            for _ in times(rolls):
                for gateway in fleet.gateways:
                    await fleet.roll(gateway)
                    await goes_on(load, lines)
        print(f"\nrequests: {pbx.requests}, denied: {len(pbx.denied)}")
        assert pbx.denied == []
        report = await fleet.check(load)
    assert (report.refused, report.unknown, report.reaped, report.late_returns) == ({}, 0, 0, 0)


WORKERS = ("--workers", "2", "--drain-seconds", "6")


@pytest.mark.slow
async def test_a_rolling_restart_refuses_no_request_of_a_pbx(
    make_fleet: MakeFleet, durable: EngineServer
) -> None:
    await _rolls_under_http(make_fleet(2, durable, *WORKERS), 8, 1)


@pytest.mark.soak
async def test_rolling_restarts_refuse_no_request_of_a_pbx_many_times(
    make_fleet: MakeFleet, durable: EngineServer
) -> None:
    await _rolls_under_http(make_fleet(2, durable, *WORKERS), DEVICES or 40, ROLLS)


async def _stops(fleet: Fleet, devices: int, stops: int) -> None:
    """A gateway sleeps beyond lease and grace while its devices go elsewhere: one owner, nothing double."""
    async with at_work(fleet, devices, Habits(longest_seconds=15), SEED) as load:
        for number in times(stops):
            gateway = fleet.gateways[number % len(fleet.gateways)]
            with fleet.balancer.without(gateway.url):
                fleet.signal(gateway, signal.SIGSTOP)
                await asyncio.sleep(LEASE_SECONDS + GRACE_SECONDS + 3)
                fleet.signal(gateway, signal.SIGCONT)
                await goes_on(load, devices // 4)
        report = await fleet.check(load)
    assert report.reaped == 0


@pytest.mark.slow
async def test_a_gateway_that_sleeps_while_its_devices_go_elsewhere(
    make_fleet: MakeFleet, durable: EngineServer
) -> None:
    await _stops(make_fleet(2, durable), 20, 1)


@pytest.mark.soak
async def test_gateways_sleep_many_times(make_fleet: MakeFleet, durable: EngineServer) -> None:
    await _stops(make_fleet(2, durable), DEVICES or 100, STOPS)
