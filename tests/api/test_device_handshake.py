"""Who may connect a device, and what is said to who may not."""

from __future__ import annotations

import json

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.api.conftest import ALLOWED_ORIGIN, SECRET, Acme, end, refusal, start
from tests.support.gateways import GatewayProcess


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_device_is_welcomed_by_name(acme: Acme) -> None:
    async with acme.device() as device:
        assert device.connection.subprotocol == "callgate.v1"
        server_time_ms = device.welcome.pop("server_time_ms")
        assert isinstance(server_time_ms, int)
        assert device.welcome == {
            "type": "welcome",
            "account": acme.id,
            "staff": "ana",
            "device": "desk",
            "grace_seconds": 30,
            "remaining_seconds": 6000,
            "calls": [],
        }


async def test_a_browser_s_token_comes_as_a_subprotocol(acme: Acme) -> None:
    async with acme.connect(subprotocols=["callgate.v1", f"bearer.{acme.token()}"]) as connection:
        assert connection.subprotocol == "callgate.v1"
        assert json.loads(await connection.recv())["type"] == "welcome"


async def test_its_calls_in_progress_are_in_the_welcome_and_nobody_else_s(acme: Acme) -> None:
    async with acme.device() as desk, acme.device(acme.token(device="mobile")) as mobile:
        await desk.ask(start("of-desk", channel="main"))
        await mobile.ask(start("of-mobile"))

    async with acme.device() as desk:
        (call,) = desk.welcome["calls"]
        assert (call["call_id"], call["channel"], call["to"]) == ("of-desk", "main", "+14155550100")
        await desk.ask(end("of-desk"))


async def test_without_a_token_it_is_401(acme: Acme) -> None:
    assert (await refusal(acme.connect()))["code"] == "unauthorized"


@pytest.mark.parametrize("credential", ["nonsense", "a.b.c", ""])
async def test_with_a_token_that_is_none_it_is_401(acme: Acme, credential: str) -> None:
    assert (await refusal(acme.connect(bearer(credential))))["status"] == 401


async def test_with_an_expired_a_foreign_or_a_revoked_token_it_is_401(acme: Acme) -> None:
    expired = acme.token(ttl_seconds=-1)
    foreign = acme.token(secret=SECRET[::-1])
    revoked = acme.token()
    acme.admin.post("/v1/tokens/revoke", json={"account": acme.id}).raise_for_status()

    for token in (expired, foreign, revoked):
        assert (await refusal(acme.connect(bearer(token))))["status"] == 401


async def test_without_the_scope_call_it_is_403(acme: Acme) -> None:
    assert (await refusal(acme.connect(bearer(acme.token("watch", "numbers")))))["code"] == "forbidden"


async def test_with_the_admin_key_it_is_403(acme: Acme, gateway: GatewayProcess) -> None:
    assert (await refusal(acme.connect(bearer(gateway.admin_key))))["code"] == "forbidden"


async def test_a_client_that_does_not_speak_the_subprotocol_is_told_so(acme: Acme) -> None:
    problem = await refusal(acme.connect(bearer(acme.token()), subprotocols=["another.v1"]))

    assert problem["code"] == "invalid_field"
    assert problem["errors"][0]["field"] == "Sec-WebSocket-Protocol"


async def test_a_foreign_page_is_refused_and_an_allowed_one_is_not(acme: Acme) -> None:
    evil = bearer(acme.token()) | {"Origin": "https://evil.example"}
    assert (await refusal(acme.connect(evil)))["code"] == "forbidden"

    async with acme.connect(bearer(acme.token()) | {"Origin": ALLOWED_ORIGIN}) as connection:
        assert json.loads(await connection.recv())["type"] == "welcome"
    async with acme.connect(bearer(acme.token()) | {"Origin": acme.gateway.url}) as connection:
        assert json.loads(await connection.recv())["type"] == "welcome"


async def test_there_is_no_other_websocket(acme: Acme) -> None:
    handshake = connect(f"{acme.gateway.websocket_url}/v1/devices")
    assert (await refusal(handshake))["code"] == "not_found"


def test_asked_by_plain_http_it_says_what_it_is(admin: httpx.Client) -> None:
    answer = admin.get("/v1/device")

    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


async def test_the_same_device_connecting_again_replaces_its_older_connection(acme: Acme) -> None:
    async with acme.device() as older, acme.device() as newer:
        assert await older.close_code() == 4409
        assert (await newer.ask({"type": "ping", "id": 1}))["type"] == "pong"


async def test_other_devices_and_other_people_s_stay(acme: Acme) -> None:
    others = (acme.token(device="mobile"), acme.token(staff="bob"))
    async with acme.device() as desk, acme.device(others[0]) as mobile, acme.device(others[1]) as bob:
        for device in (desk, mobile, bob):
            assert (await device.ask({"type": "ping", "id": 1}))["type"] == "pong"


async def test_a_token_that_expires_ends_its_connection(acme: Acme) -> None:
    async with acme.device(acme.token(ttl_seconds=1)) as device:
        assert await device.close_code() == 4401


async def test_a_token_that_is_revoked_ends_its_connection_and_its_calls_go_on(acme: Acme) -> None:
    async with acme.device() as device, acme.device(acme.token(staff="bob")) as bob:
        await device.ask(start())
        acme.admin.post("/v1/tokens/revoke", json={"account": acme.id, "staff": "ana"}).raise_for_status()

        assert await device.close_code() == 4401
        assert (await bob.ask({"type": "ping", "id": 1}))["type"] == "pong"

    renewed = acme.admin.post(
        "/v1/tokens", json={"account": acme.id, "staff": "ana", "device": "desk", "scopes": ["call"]}
    )
    async with acme.device(renewed.json()["token"]) as device:
        assert [call["call_id"] for call in device.welcome["calls"]] == ["c-1"]
