"""Devices at a running gateway: welcome, order, tokens that end, connections that are replaced."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import jwt
import pytest
from websockets.exceptions import InvalidStatus

from tests.gateway.conftest import SECRETS, StartGateway
from tests.support.devices import Device, connect_device, connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.waiting import wait_until

REPLACED = 4409
TOKEN_ENDED = 4401

SPREAD = 8
"""Enough connections that two workers get some of them: the system deals them out."""


def token_for(account: str, seconds: int) -> str:
    """Sign a token of ana's desk phone that ends sooner than any that the gateway issues."""
    now = time.time()
    claims = {
        "iss": "callgate",
        "sub": account,
        "staff": "ana",
        "device": "desk",
        "scp": ["call"],
        "iat": int(now),
        "iat_ms": int(now * 1000),
        "exp": math.ceil(now) + seconds,
    }
    return jwt.encode(claims, SECRETS["CALLGATE_TOKEN_SECRET"], algorithm="HS256")


async def refused_status(gateway: GatewayProcess, token: str) -> int:
    """Connect, and return the status with which that is refused."""
    with pytest.raises(InvalidStatus) as refused:
        await connect_device(gateway, token)
    return refused.value.response.status_code


async def test_the_welcome_lists_the_calls_of_this_device_in_progress(
    gateway: GatewayProcess, operator: Operator, account: str
) -> None:
    await operator.account(account, minutes=100)
    async with connected(gateway, await operator.token(account, device="laptop")) as laptop:
        await laptop.start("c-laptop")
    async with connected(gateway, await operator.token(account)) as desk:
        await desk.start("c-ended")
        await desk.end("c-ended")
        admitted = await desk.start("c-1", channel=None)
        await desk.answered("c-1")
    await operator.start("c-http", account)
    await operator.pass_by(60)

    desk = await connect_device(gateway, await operator.token(account))
    welcome = await desk.welcome()
    await desk.close()
    assert {"account": account, "staff": "ana", "device": "desk"}.items() <= welcome.items()
    assert welcome["server_time_ms"] == await operator.now_ms()
    assert (welcome["grace_seconds"], welcome["remaining_seconds"]) == (30, 6000 - 3 * 60)
    calls = {call["call_id"]: call for call in welcome["calls"]}
    assert calls.keys() == {"c-1", "c-http"}
    assert calls["c-1"]["to"] == "+14155550100"
    assert calls["c-1"]["admitted_at_ms"] == calls["c-1"]["answered_at_ms"] == admitted["admitted_at_ms"]


async def test_requests_are_carried_out_in_the_order_sent(
    gateway: GatewayProcess, operator: Operator, account: str
) -> None:
    """R6: without waiting for any answer."""
    await operator.account(account)
    async with connected(gateway, await operator.token(account)) as device:
        answers = []
        for number in range(50):
            call_id = f"c-{number}"
            answers += [
                await device.ask("call.start", call_id=call_id, to="+14155550100"),
                await device.ask("call.answered", call_id=call_id),
                await device.ask("call.end", call_id=call_id),
                await device.ask("call.start", call_id=call_id, to="+14155550100"),
            ]
        frames = await asyncio.gather(*answers)
    kinds = [frame.get("code", frame["type"]) for frame in frames]
    assert kinds == ["call.admitted", "call.noted", "call.settled", "call_id_used"] * 50


async def test_a_call_of_another_device_is_unknown(
    gateway: GatewayProcess, operator: Operator, account: str
) -> None:
    await operator.account(account)
    await operator.start("c-1", account, device="laptop")
    async with connected(gateway, await operator.token(account)) as desk:
        assert (await desk.end("c-1"))["code"] == "call_unknown"
        assert (await desk.answered("c-1"))["code"] == "call_unknown"
        assert (await desk.start("c-1"))["code"] == "call_id_conflict"
    assert (await operator.pool(account))["calls_in_progress"] == 1


async def test_a_newer_connection_of_the_device_replaces_the_older(
    gateway: GatewayProcess, operator: Operator, account: str
) -> None:
    """Its calls go on, and the newer one ends them."""
    await operator.account(account)
    token = await operator.token(account)
    older = await connect_device(gateway, token)
    await older.start("c-1")
    async with connected(gateway, token) as newer:
        assert await older.closed() == REPLACED
        assert (await newer.end("c-1"))["type"] == "call.settled"
        async with connected(gateway, await operator.token(account, device="laptop")):
            assert newer.is_open


async def test_it_does_so_across_gateways(valkey: EngineServer, start_twin: StartGateway) -> None:
    """R14: a call is any gateway's."""
    gateways = await asyncio.gather(*(asyncio.to_thread(start_twin, valkey.url) for _ in range(2)))
    async with operating(gateways[0]) as operator, AsyncExitStack() as opened:
        await operator.account()
        token = await operator.token()
        older = await opened.enter_async_context(connected(gateways[0], token))
        await older.start("c-1")
        for number in range(1, 6):
            newer = await opened.enter_async_context(connected(gateways[number % 2], token))
            assert await older.closed() == REPLACED
            assert [call["call_id"] for call in (await newer.welcome())["calls"]] == ["c-1"]
            older = newer
        assert (await newer.start("c-1"))["replayed"]
        assert (await newer.end("c-1"))["type"] == "call.settled"


_IN_A_CONTAINER = """#!{python}
import os, socket

os.getpid = lambda: 1
socket.gethostname = lambda: "callgate"

from gateway.cli import main

main()
"""


async def test_gateways_in_containers_that_are_all_alike_are_told_apart(
    valkey: EngineServer, make_postgres: Callable[[], str], tmp_path: Path
) -> None:
    """Each is process 1 of a host of the same name."""
    program = tmp_path / "callgate"
    program.write_text(_IN_A_CONTAINER.format(python=sys.executable))
    program.chmod(0o700)
    environ = {**SECRETS, "CALLGATE_REDIS_URL": valkey.url, "CALLGATE_DATABASE_URL": make_postgres()}
    gateways = [
        GatewayProcess(tmp_path / f"data-{number}", environ=environ, program=program) for number in range(2)
    ]
    try:
        await asyncio.gather(*(asyncio.to_thread(gateway.start) for gateway in gateways))
        async with operating(gateways[0]) as operator:
            await operator.account()
            token = await operator.token()

            async def names() -> set[str]:
                return {
                    each["gateway"] for each in (await operator.http.get("/v1/status")).json()["gateways"]
                }

            async def both() -> bool:
                return len(await names()) == 2

            await wait_until(both, 10)
            assert all(name.startswith("callgate-1-") for name in await names())
            async with connected(gateways[0], token) as older, connected(gateways[1], token):
                assert await older.closed() == REPLACED
            await asyncio.to_thread(gateways[1].stop)
            assert len(await names()) == 1
    finally:
        for gateway in gateways:
            gateway.end()


async def test_a_revoked_token_closes_its_connection_and_is_refused(
    gateway: GatewayProcess, operator: Operator, account: str
) -> None:
    """The call goes on; a new token ends it."""
    await operator.account(account)
    token = await operator.token(account)
    revoked = {"account": account, "staff": "ana", "device": "desk"}
    async with connected(gateway, await operator.token(account, device="laptop")) as laptop:
        desk = await connect_device(gateway, token)
        await desk.start("c-1")
        assert (await operator.http.post("/v1/tokens/revoke", json=revoked)).status_code == 204
        assert await desk.closed() == TOKEN_ENDED
        assert laptop.is_open
    assert await refused_status(gateway, token) == 401
    async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {token}"}) as http:
        answer = await http.post("/v1/calls", json={"call_id": "c-2", "to": "+14155550100"})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    async with connected(gateway, await operator.token(account)) as desk:
        assert (await desk.end("c-1"))["type"] == "call.settled"


async def test_revoking_reaches_every_gateway_and_every_worker(
    valkey: EngineServer, start_twin: Callable[..., GatewayProcess]
) -> None:
    one, other = await asyncio.gather(
        asyncio.to_thread(start_twin, valkey.url), asyncio.to_thread(start_twin, valkey.url, "--workers", "2")
    )
    async with operating(one) as operator:
        await operator.account()
        tokens = [await operator.token("acme", "ana", f"device-{number}") for number in range(SPREAD)]
        devices: list[Device] = [await connect_device(other, token) for token in tokens]
        await asyncio.gather(*(device.welcome() for device in devices))
        await operator.http.post("/v1/tokens/revoke", json={"account": "acme"})
        codes = await asyncio.gather(*(device.closed() for device in devices))
        assert codes == [TOKEN_ENDED] * SPREAD
        assert [await refused_status(other, token) for token in tokens] == [401] * SPREAD
        async with connected(other, await operator.token("acme", "ana", "device-0")) as device:
            assert (await device.start("c-1"))["type"] == "call.admitted"


async def test_a_device_that_connects_to_another_worker_is_replaced_as_well(
    start_gateway: Callable[..., GatewayProcess],
) -> None:
    gateway = await asyncio.to_thread(start_gateway, "--workers", "2")
    async with operating(gateway) as operator, AsyncExitStack() as opened:
        await operator.account()
        token = await operator.token()
        older = await opened.enter_async_context(connected(gateway, token))
        for _ in range(SPREAD):
            newer = await opened.enter_async_context(connected(gateway, token))
            assert await older.closed() == REPLACED
            older = newer
        assert (await newer.start("c-1"))["type"] == "call.admitted"


async def test_a_token_that_expires_closes_its_connection(
    gateway: GatewayProcess, operator: Operator, account: str
) -> None:
    """And no emergency is worth less for it (R30)."""
    await operator.account(account)
    token = token_for(account, 1)
    device = await connect_device(gateway, token)
    await device.start("c-1")
    assert await device.closed() == TOKEN_ENDED
    assert await refused_status(gateway, token) == 401
    assert (await operator.pool(account))["calls_in_progress"] == 1
    async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {token}"}) as http:
        helped = await http.post("/v1/calls", json={"call_id": "help", "to": "112"})
        assert helped.json()["type"] == "call.admitted"


async def test_a_connection_goes_on_by_a_newer_token(
    gateway: GatewayProcess, operator: Operator, account: str
) -> None:
    await operator.account(account)
    async with connected(gateway, token_for(account, 1)) as device:
        wrong = await device.request("auth.refresh", token=await operator.token(account, device="laptop"))
        assert wrong["code"] == "forbidden"
        refreshed = await device.request("auth.refresh", token=await operator.token(account))
        assert refreshed["type"] == "auth.refreshed"
        expired_ms = (time.time() + 2) * 1000
        assert refreshed["expires_at_ms"] > expired_ms
        await wait_until(lambda: time.time() * 1000 > expired_ms)
        assert (await device.start("c-1"))["type"] == "call.admitted"
