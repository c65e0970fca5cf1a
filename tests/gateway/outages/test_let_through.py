"""`CALLGATE_WHEN_ENGINE_DOWN=admit`: calls are let through unchecked, and join their pools afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import get_args

import pytest

from tests.gateway.outages.deployments import Deployment, How, problem, ready_again, real_time_ms, timed
from tests.gateway.outages.test_emergency_calls import CLOCKS_APART_MS, in_progress, no_journal, recorded
from tests.gateway.outages.test_engine_down import ANSWERED_WITHIN_SECONDS
from tests.support.devices import Device, connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Json, Operator, operating
from tests.support.waiting import wait_until

A_DEVICE = 2
"""As many calls of one device are let through and in progress at most."""

ADMITS = {
    "CALLGATE_WHEN_ENGINE_DOWN": "admit",
    "CALLGATE_FREE_SECONDS": "1",  # so that what is told afterwards bills
}


@pytest.fixture(params=get_args(How))
def deployment(
    request: pytest.FixtureRequest,
    start_engine: Callable[..., EngineServer],
    start_gateway: Callable[..., GatewayProcess],
) -> Iterator[Deployment]:
    """A gateway that lets calls through, and an engine that the tests take away."""
    engine = start_engine(persistent=True)
    yield Deployment(start_gateway(redis_url=engine.url, environ=ADMITS), engine, request.param)
    if engine.process.poll() is None:
        engine.resume()


@pytest.fixture
async def operator(deployment: Deployment) -> AsyncIterator[Operator]:
    """Its operator, with the account `acme`."""
    async with operating(deployment.gateway) as operator:
        await operator.account()
        yield operator


@pytest.fixture
async def device(deployment: Deployment, operator: Operator) -> AsyncIterator[Device]:
    """Ana's desk phone."""
    async with connected(deployment.gateway, await operator.token()) as device:
        yield device


async def test_they_are_let_through_and_join_their_pool_flagged(
    deployment: Deployment, operator: Operator, device: Device
) -> None:
    """Their times are those that the gateway told and heard, and they bill by them."""
    before_ms = real_time_ms()
    deployment.take_engine_away()
    admitted, seconds = await timed(device.start("ends"))
    assert (admitted["type"], admitted["admitted_offline"]) == ("call.admitted", True)
    assert (admitted["remaining_seconds"], admitted["replayed"]) == (None, False)
    assert admitted["receipt"]
    assert seconds < ANSWERED_WITHIN_SECONDS + 0.3
    goes_on = await device.start("goes-on")
    assert before_ms - CLOCKS_APART_MS < admitted["admitted_at_ms"] < real_time_ms() + CLOCKS_APART_MS

    again = await device.start("ends")
    assert (again["replayed"], again["admitted_at_ms"]) == (True, admitted["admitted_at_ms"])
    assert (await device.answered("ends"))["type"] == "call.noted"
    resumed = await device.request("call.resume", call_id="goes-on")
    assert (resumed["type"], resumed["admitted_at_ms"]) == ("call.resumed", goes_on["admitted_at_ms"])
    await wait_until(lambda: real_time_ms() > admitted["admitted_at_ms"] + 2_000)
    ended_ms = real_time_ms()
    # What it comes to is known when the engine has been told of it.
    assert (await device.end("ends"))["code"] == "engine_unavailable"

    deployment.give_engine_back()
    await ready_again(deployment.gateway)
    record = await recorded(operator, "acme", "ends")
    assert record["admitted_offline"]
    assert record["admitted_at_ms"] == admitted["admitted_at_ms"]
    assert record["admitted_at_ms"] <= record["answered_at_ms"] <= record["ended_at_ms"]
    assert abs(record["ended_at_ms"] - ended_ms) < CLOCKS_APART_MS
    assert (record["ended_by"], record["revision"], record["emergency"]) == ("hangup", 1, False)
    assert record["billed_seconds"] == -(-record["duration_ms"] // 1000) > 0
    assert (await device.end("ends"))["billed_seconds"] == record["billed_seconds"]

    await wait_until(lambda: in_progress(operator, "acme", "goes-on"))
    pool = await operator.pool()
    assert [(call["call_id"], call["counts"]) for call in pool["calls"]] == [("goes-on", True)]
    assert pool["settled_seconds"] == record["billed_seconds"]
    settled = await device.end("goes-on")
    assert settled["billed_seconds"] > 0
    later = await recorded(operator, "acme", "goes-on")
    assert (later["admitted_offline"], later["admitted_at_ms"]) == (True, goes_on["admitted_at_ms"])
    assert len(await operator.calls()) == 2
    await wait_until(lambda: no_journal(deployment.gateway))


async def test_one_whose_device_is_gone_before_the_engine_is_back_ends_as_of_when_it_went(
    start_engine: Callable[..., EngineServer], start_gateway: Callable[..., GatewayProcess]
) -> None:
    """R14: it is settled by when it was last heard of, not by its admission, whoever asks first."""
    engine = start_engine(persistent=True)
    flags = ("--lease-seconds", "1", "--grace-seconds", "1")
    gateway = await asyncio.to_thread(start_gateway, *flags, redis_url=engine.url, environ=ADMITS)
    async with operating(gateway) as operator:
        await operator.account()
        async with connected(gateway, await operator.token()) as device:
            await asyncio.to_thread(engine.kill)
            admitted_ms = (await device.start("c-1"))["admitted_at_ms"]
            await wait_until(lambda: real_time_ms() > admitted_ms + 3_000)
        engine.start()
        record = await recorded(operator, "acme", "c-1")
        assert (record["ended_by"], record["admitted_offline"]) == ("connection_lost", True)
        assert record["duration_ms"] > 3_000 - CLOCKS_APART_MS


async def test_a_device_has_at_most_two_of_them_in_progress(
    deployment: Deployment, operator: Operator, device: Device
) -> None:
    """Also where it asks for many at once; another device has as many of its own."""
    token = await operator.token("acme", "ana", "laptop")
    deployment.take_engine_away()
    asked = [await device.ask("call.start", call_id=f"c-{n}", to="+14155550100") for n in range(5)]
    answers = [await answer for answer in asked]
    let_through = [answer["call_id"] for answer in answers if answer["type"] == "call.admitted"]
    assert len(let_through) == A_DEVICE
    refused = [answer["code"] for answer in answers if answer["type"] == "error"]
    assert refused == ["engine_unavailable"] * (5 - A_DEVICE)

    async with connected(deployment.gateway, token) as laptop:
        assert (await laptop.start("of-another"))["type"] == "call.admitted"
    assert (await device.start("help", "112"))["type"] == "call.admitted"
    assert (await device.start("one-more"))["code"] == "engine_unavailable"
    await device.end(let_through[0])
    assert (await device.start("one-more"))["type"] == "call.admitted"
    assert (await device.start("and-another"))["code"] == "engine_unavailable"


async def test_what_is_no_destination_is_refused(deployment: Deployment, device: Device) -> None:
    deployment.take_engine_away()
    answer = await device.start("c-1", "nowhere")
    assert (answer["type"], answer["reason"]) == ("call.refused", "destination_invalid")


async def test_what_would_have_been_refused_is_in_the_books_all_the_same(
    deployment: Deployment, operator: Operator, device: Device
) -> None:
    """It is unchecked, and once let through it is a call as any other (R11)."""
    await operator.suspend("acme")
    assert (await device.start("c-0"))["reason"] == "account_suspended"
    deployment.take_engine_away()
    assert (await device.start("c-1"))["admitted_offline"]
    deployment.give_engine_back()
    await ready_again(deployment.gateway)
    await wait_until(lambda: in_progress(operator, "acme", "c-1"))
    assert (await device.start("c-2"))["reason"] == "account_suspended"
    assert (await device.end("c-1"))["type"] == "call.settled"
    assert (await recorded(operator, "acme", "c-1"))["admitted_offline"]


async def test_a_gateway_that_is_killed_meanwhile_forgets_none(
    deployment: Deployment, operator: Operator
) -> None:
    """Whoever is started on its data directory goes on from it, and each call leaves one record."""
    gateway = deployment.gateway
    deployment.take_engine_away()
    admitted = {call_id: await operator.start(call_id) for call_id in ("ends-early", "ends-late")}
    assert all(answer["admitted_offline"] for answer in admitted.values())
    await wait_until(lambda: real_time_ms() > admitted["ends-late"]["admitted_at_ms"] + 2_000)
    ended = {"ends-early": await unsettled_end(operator, "ends-early")}
    gateway.kill()
    await asyncio.to_thread(gateway.start)
    async with operating(gateway) as again:
        replayed = await again.start("ends-late")
        assert (replayed["replayed"], replayed["admitted_offline"]) == (True, True)
        assert replayed["admitted_at_ms"] == admitted["ends-late"]["admitted_at_ms"]
        assert (await again.start("c-2"))["type"] == "call.admitted"
        refused = {
            "account": "acme",
            "staff": "ana",
            "device": "desk",
            "call_id": "c-3",
            "to": "+14155550100",
        }
        assert problem(await again.http.post("/v1/calls", json=refused)) == (503, "engine_unavailable")
        ended["ends-late"] = await unsettled_end(again, "ends-late")
        deployment.give_engine_back()
        await ready_again(gateway)
        for call_id, ended_ms in ended.items():
            record = await recorded(again, "acme", call_id)
            assert record["admitted_at_ms"] == admitted[call_id]["admitted_at_ms"]
            assert abs(record["ended_at_ms"] - ended_ms) < CLOCKS_APART_MS
            assert (record["admitted_offline"], record["ended_by"]) == (True, "hangup")
            assert record["billed_seconds"] > 0
        await wait_until(lambda: in_progress(again, "acme", "c-2"))
        going_on = {call["call_id"] for call in (await again.pool())["calls"]}
        # An engine that hung may have carried out after all what nobody was told of.
        assert going_on - ({"c-3"} if deployment.how == "paused" else set()) == {"c-2"}
        assert {call["call_id"] for call in await again.calls()} == set(ended)
        await wait_until(lambda: no_journal(gateway))
        assert len(await again.calls()) == len(ended)


async def unsettled_end(operator: Operator, call_id: str) -> int:
    """End a call whose end nobody can settle yet, and return when that was."""
    ended_ms = real_time_ms()
    answer: Json = (await operator.http.post(f"/v1/calls/{call_id}/end?account=acme")).json()
    assert answer["code"] == "engine_unavailable"
    return ended_ms
