"""An account that the engine holds in a way that cannot be read: it is named, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from gateway.pool.keys import KeySpace
from tests.support.devices import connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess

KEYS = KeySpace()


def make_accounts(http: httpx.Client) -> None:
    """Make two accounts with ana."""
    plan = {"name": "Ten", "minutes": 10, "connected_channels": 1, "staff_seats": 1}
    http.put("/v1/plans/ten", json=plan).raise_for_status()
    for account in ("acme", "globex"):
        http.put(f"/v1/accounts/{account}", json={"name": account, "plan": "ten"}).raise_for_status()
        http.put(f"/v1/accounts/{account}/staff/ana").raise_for_status()


@contextmanager
def serving(
    start_gateway: Callable[..., GatewayProcess], engine: EngineServer, **environ: str
) -> Iterator[tuple[GatewayProcess, httpx.Client]]:
    """A gateway with these accounts, and a client of its operator."""
    gateway = start_gateway(redis_url=engine.url, environ=environ)
    with gateway.client() as http:
        make_accounts(http)
        yield gateway, http


def damage(engine: EngineServer, account: str) -> None:
    """Have its pool be of no known layout."""
    engine.client.setrange(KEYS.of_account(account, KEYS.shard_of(account))[0], 0, b"\x63")


def start(http: httpx.Client, account: str, call_id: str, to: str = "+14155550100") -> httpx.Response:
    """Ask for a call of ana's."""
    asked = {"account": account, "staff": "ana", "device": "desk", "call_id": call_id, "to": to}
    return http.post("/v1/calls", json=asked)


def test_a_gateway_names_it_in_its_status_and_its_log(
    start_gateway: Callable[..., GatewayProcess], start_engine: Callable[..., EngineServer]
) -> None:
    engine = start_engine(persistent=True)
    with serving(start_gateway, engine) as (gateway, http):
        damage(engine, "acme")
        for account, status in (("acme", 503), ("globex", 200)):
            assert start(http, account, "c-1").status_code == status
            assert http.get(f"/v1/accounts/{account}/pool").status_code == status
        # Whoever is in need is let through all the same (R30).
        assert start(http, "acme", "c-2", "112").json()["type"] == "call.admitted"
        warnings = http.get("/v1/status").json()["warnings"]
    assert warnings == ["What the engine holds of acme cannot be read: see `callgate check`."]
    assert "pool.unreadable" in gateway.log()


def test_a_keepalive_vouches_for_the_other_calls_and_says_that_one_cannot_be_read(
    start_gateway: Callable[..., GatewayProcess], start_engine: Callable[..., EngineServer]
) -> None:
    """R12."""
    engine = start_engine(persistent=True)
    with serving(start_gateway, engine) as (_, http):
        calls = KEYS.named(KEYS.shard_of("acme"), "calls")[0]
        for call_id in ("c-1", "c-2"):
            start(http, "acme", call_id).raise_for_status()
        before = engine.client.hget(calls, "acme/c-2")
        engine.client.hset(calls, "acme/c-1", b"Lx")
        answer = http.post("/v1/calls/keepalive?account=acme", json={"call_ids": ["c-1", "c-2"]})
        assert (answer.status_code, answer.json()["code"]) == (503, "engine_unavailable")
        assert engine.client.hget(calls, "acme/c-2") != before


def test_its_calls_are_not_let_through_as_if_the_engine_were_away(
    start_gateway: Callable[..., GatewayProcess], start_engine: Callable[..., EngineServer]
) -> None:
    """Who may call is not known, and for as long as nobody sees to it."""
    engine = start_engine(persistent=True)
    with serving(start_gateway, engine, CALLGATE_WHEN_ENGINE_DOWN="admit") as (_, http):
        damage(engine, "acme")
        assert start(http, "acme", "c-1").json()["code"] == "engine_unavailable"
        assert start(http, "acme", "c-2", "112").json()["type"] == "call.admitted"


async def test_a_device_of_it_is_not_told_that_nothing_is_left(
    start_gateway: Callable[..., GatewayProcess], start_engine: Callable[..., EngineServer]
) -> None:
    """It does not know, as while the engine is away; its calls are listed."""
    engine = start_engine(persistent=True)
    with serving(start_gateway, engine) as (gateway, http):
        start(http, "acme", "c-1").raise_for_status()
        damage(engine, "acme")
        body = {"account": "acme", "staff": "ana", "device": "desk", "scopes": ["call"]}
        token = http.post("/v1/tokens", json=body).raise_for_status().json()["token"]
    async with connected(gateway, token) as device:
        greeted = await device.welcome()
    assert greeted["remaining_seconds"] is None
    assert [call["call_id"] for call in greeted["calls"]] == ["c-1"]
