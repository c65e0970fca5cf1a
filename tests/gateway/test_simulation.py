"""The billing clock of a simulation, and what of a deployment is kept with its data."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.gateway.conftest import StartGateway
from tests.support.devices import connected
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, instant, operating
from tests.support.waiting import wait_until

CLOCK = "/v1/simulation/clock"
A_DAY = 86_400


async def start(start_gateway: StartGateway, *flags: str, **given: object) -> GatewayProcess:
    return await asyncio.to_thread(start_gateway, *flags, **given)


async def test_it_stands_still_and_is_exact(operator: Operator, account: str, year: int) -> None:
    now_ms = instant(f"{year}-01-01T00:00:00Z")
    await operator.account(account)
    assert (await operator.start("c-1", account))["admitted_at_ms"] == now_ms
    assert await operator.pass_by(30.001) == now_ms + 30_001
    assert (await operator.end("c-1", account))["duration_ms"] == 30_001
    assert (await operator.pool(account))["at_ms"] == now_ms + 30_001


async def test_it_only_moves_forward(operator: Operator, account: str, year: int) -> None:
    await operator.account(account)
    now_ms = await operator.now_ms()
    for wrong, field in (
        ({"at_ms": now_ms - 1}, "at_ms"),
        ({"advance_ms": -1}, "advance_ms"),
        ({"at_ms": now_ms, "advance_ms": 1}, "advance_ms"),
        ({"speed": -1}, "speed"),
        ({"speed": 100_001}, "speed"),
        ({}, "at_ms"),
    ):
        answer = await operator.http.post(CLOCK, json=wrong)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), wrong
    assert await operator.now_ms() == now_ms
    await operator.at(now_ms)


async def test_moving_it_ends_no_call_and_no_connection(
    gateway: GatewayProcess, operator: Operator, account: str, year: int
) -> None:
    """Leases and tokens stay on real time."""
    await operator.account(account, billing_date=f"{year}-01-01")
    async with connected(gateway, await operator.token(account)) as device:
        await device.start("c-1")
        await operator.pass_by(20 * A_DAY)
        assert (await operator.pool(account))["used_seconds"] == 20 * A_DAY
        await operator.pass_by(400 * A_DAY)
        assert (await operator.pool(account))["calls_in_progress"] == 1
        assert (await device.end("c-1"))["billed_seconds"] == 420 * A_DAY
    async with connected(gateway, await operator.token(account)) as device:
        assert (await device.welcome())["server_time_ms"] == await operator.now_ms()


async def test_without_simulate_there_is_no_such_clock(start_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = await start(start_gateway, data_dir=tmp_path)
    async with operating(gateway) as operator:
        for answer in (await operator.http.get(CLOCK), await operator.http.post(CLOCK, json={"speed": 1})):
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    gateway.stop()
    with pytest.raises(RuntimeError, match="made without --simulate"):
        await start(start_gateway, "--simulate", data_dir=tmp_path)


async def test_a_simulation_goes_on_where_it_was_and_stays_one(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start(start_gateway, "--simulate", data_dir=tmp_path)
    async with operating(gateway) as operator:
        long_ago_ms = instant("2001-02-03T04:05:06Z")
        await operator.at(long_ago_ms)  # anywhere, as long as there is no account
        await operator.account(billing_date="2001-01-31")
        await operator.start("c-1")
        await operator.pass_by(100)
    gateway.stop()
    with pytest.raises(RuntimeError, match="made with --simulate"):
        await start(start_gateway, data_dir=tmp_path)
    gateway = await start(start_gateway, "--simulate", data_dir=tmp_path)
    async with operating(gateway) as operator:
        assert await operator.now_ms() == long_ago_ms + 100_000
        assert (await operator.pool())["cycle"]["start"] == "2001-01-31T00:00:00Z"
        assert (await operator.end("c-1"))["duration_ms"] == 100_000


async def test_the_policy_is_kept_with_the_data(start_gateway: StartGateway, tmp_path: Path) -> None:
    """A gateway set up otherwise does not start; one that is not told goes by the data's."""
    changed = {"free_seconds": 6, "increment_seconds": 6, "hold_seconds": 60, "count_from": "admission"}
    gateway = await start(start_gateway, "--simulate", data_dir=tmp_path)
    async with operating(gateway) as operator:
        await operator.account()
        await operator.start("c-1")
        await operator.pass_by(10)
        assert (await operator.pool())["used_seconds"] == 0
        answer = await operator.http.put("/v1/policy", json={"free_seconds": 6, "increment_seconds": 6})
        assert (answer.status_code, answer.json()) == (200, changed)
        pool = await operator.pool()
        assert (pool["used_seconds"], pool["policy"]) == (12, changed)  # calls in progress included
        wrong = await operator.http.put("/v1/policy", json={"free_seconds": -1, "count_from": "dial"})
        assert {error["field"] for error in wrong.json()["errors"]} == {"free_seconds", "count_from"}
    gateway.stop()
    with pytest.raises(RuntimeError, match="free_seconds 6, but the settings say 30"):
        await start(start_gateway, "--simulate", data_dir=tmp_path, environ={"CALLGATE_FREE_SECONDS": "30"})
    gateway = await start(
        start_gateway, "--simulate", data_dir=tmp_path, environ={"CALLGATE_FREE_SECONDS": "6"}
    )
    async with operating(gateway) as operator:
        assert (await operator.http.get("/v1/policy")).json() == changed
        assert (await operator.end("c-1"))["billed_seconds"] == 12


async def test_it_can_run_and_be_stopped(start_gateway: StartGateway) -> None:
    """R19: pools reset on time while it runs."""
    gateway = await start(start_gateway, "--simulate")
    async with operating(gateway) as operator:
        await operator.at(instant("2027-01-31T23:00:00Z"))
        await operator.account(billing_date="2027-02-01")
        running = await operator.http.post(CLOCK, json={"speed": 7200})
        assert running.json()["speed"] == 7200

        async def turned() -> bool:
            starts = [statement["cycle"]["start"] for statement in await operator.statements()]
            return starts[:1] == ["2027-02-01T00:00:00Z"]

        await wait_until(turned)
        for _ in range(10):
            stopped = await operator.http.post(CLOCK, json={"speed": 0})
            assert (stopped.status_code, stopped.json()["speed"]) == (200, 0)
            assert stopped.json()["now_ms"] == await operator.now_ms()
            on = await operator.http.post(CLOCK, json={"advance_ms": 1000, "speed": 100_000})
            assert (on.status_code, on.json()["now_ms"]) == (200, stopped.json()["now_ms"] + 1000)
