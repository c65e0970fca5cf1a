"""What a dashboard sends and is sent, frame by frame."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from websockets.asyncio.client import connect

from tests.api.conftest import ALLOWED_ORIGIN, MASKED, NUMBER, SECRET, Acme, end, refusal, start
from tests.support.dashboards import handshake, watching
from tests.support.gateways import GatewayProcess


def watch(acme: Acme, token: str | None = None, **more: Any) -> Any:
    """A dashboard of the account, by default with a token of the whole account."""
    credential = acme.token("watch", staff=None, device=None) if token is None else token
    return watching(acme.gateway.websocket_url, credential, **more)


def knock(acme: Acme, token: str | None = None, **more: Any) -> connect:
    return handshake(acme.gateway.websocket_url, token, **more)


async def advance(acme: Acme, seconds: int) -> None:
    moved = await asyncio.to_thread(
        acme.admin.post, "/v1/simulation/clock", json={"advance_ms": seconds * 1000}
    )
    moved.raise_for_status()


async def test_the_first_message_is_the_pool_as_the_api_has_it(acme: Acme) -> None:
    async with watch(acme) as watcher:
        first = await watcher.pool()
        assert watcher.frames[0] == first
    with acme.client(acme.token("watch", staff=None, device=None)) as client:
        assert first == {"type": "pool", **client.get(f"{acme.url}/pool").json()}


async def test_every_change_is_sent_and_nothing_because_time_passes(acme: Acme) -> None:
    async with watch(acme) as watcher, acme.device() as device:
        await watcher.pool(calls_in_progress=0)
        await device.ask(start())
        begun = await watcher.pool(calls_in_progress=1)
        assert begun["calls"][0]["call_id"] == "c-1"
        await device.ask({"type": "call.answered", "id": 3, "call_id": "c-1"})
        await watcher.until(lambda frame: frame["calls"] and frame["calls"][0]["answered_at_ms"])
        await device.ask(end())
        await watcher.pool(calls_in_progress=0, version=begun["version"] + 2)
        seen = len(watcher.frames)
        await asyncio.sleep(1.5)
        assert len(watcher.frames) == seen


async def test_a_staff_member_more_and_a_bigger_plan_are_changes(acme: Acme) -> None:
    async with watch(acme) as watcher:
        await watcher.pool(seats={"used": 2, "limit": 3})
        acme.admin.put(f"{acme.url}/staff/eve").raise_for_status()
        await watcher.pool(seats={"used": 3, "limit": 3})
        bigger = {"name": "Big", "minutes": 200, "connected_channels": 2, "staff_seats": 3}
        acme.admin.put(f"/v1/plans/{acme.id}-big", json=bigger).raise_for_status()
        acme.admin.put(f"{acme.url}/plan", json={"plan": f"{acme.id}-big"}).raise_for_status()
        pool = await watcher.pool(allocated_seconds=12_000)
        notice = await watcher.notice("plan_changed")
        assert notice["plan"] == f"{acme.id}-big"
        assert watcher.frames.index(notice) < watcher.frames.index(pool)


async def test_of_many_changes_at_most_four_pools_a_second_are_sent_and_the_newest_last(acme: Acme) -> None:
    async with watch(acme) as watcher, acme.device() as device:
        await watcher.pool()
        for number in range(300):
            await device.ask(start(f"c-{number}"))
            await device.ask(end(f"c-{number}"))
            await asyncio.sleep(0.005)
        acme.admin.put(f"{acme.url}/staff/eve").raise_for_status()
        await watcher.pool(seats={"used": 3, "limit": 3})
        times = watcher.arrived_at
        assert len(times) >= 4
        assert len(times) <= (times[-1] - times[0]) * 4 + 2


async def test_each_kind_of_reader_sees_as_much_of_the_numbers_as_it_may(
    acme: Acme, gateway: GatewayProcess
) -> None:
    async with acme.device() as desk, acme.device(acme.token(staff="bob")) as bob:
        await desk.ask(start("of-ana"))
        await bob.ask(start("of-bob"))
        for token, query, expected in (
            (acme.token("watch", staff=None, device=None), "", [MASKED, MASKED]),
            (acme.token("watch", staff=None, device=None), f"?account={acme.id}", [MASKED, MASKED]),
            (acme.token("watch", staff="ana", device=None), "", [MASKED, MASKED]),
            (acme.token("watch", "numbers", staff=None, device=None), "", [NUMBER, NUMBER]),
            (acme.token("watch", "call"), "", [NUMBER, MASKED]),
            (acme.token("watch", staff="bob", device="laptop"), "", [MASKED, MASKED]),
            (gateway.admin_key, f"?account={acme.id}", [NUMBER, NUMBER]),
        ):
            async with watch(acme, token, query=query) as watcher:
                calls = {call["call_id"]: call["to"] for call in (await watcher.pool())["calls"]}
                assert [calls["of-ana"], calls["of-bob"]] == expected


async def test_moving_the_clock_or_its_speed_sends_the_pool(acme: Acme) -> None:
    async with watch(acme) as watcher, acme.device() as device:
        await device.ask(start())
        await watcher.pool(calls_in_progress=1)
        await advance(acme, 60)
        await watcher.pool(used_seconds=60)
        clock = acme.admin.post("/v1/simulation/clock", json={"speed": 2})
        clock.raise_for_status()
        await watcher.pool(clock_speed=2)
        acme.admin.post("/v1/simulation/clock", json={"speed": 0}).raise_for_status()
        await watcher.until(lambda frame: frame["clock_speed"] == 0 and frame["used_seconds"] > 60)


async def test_a_policy_that_changes_is_sent(acme: Acme) -> None:
    async with watch(acme) as watcher:
        before = (await watcher.pool())["policy"]
        try:
            acme.admin.put("/v1/policy", json={"free_seconds": 20}).raise_for_status()
            await watcher.pool(policy=before | {"free_seconds": 20})
        finally:
            acme.admin.put("/v1/policy", json={"free_seconds": 30}).raise_for_status()


async def test_a_cycle_that_turns_is_told_and_sent(acme: Acme) -> None:
    async with watch(acme) as watcher:
        first = await watcher.pool()
        await advance(acme, 32 * 86_400)
        pool = await watcher.until(lambda frame: frame.get("cycle", first["cycle"]) != first["cycle"])
        notice = await watcher.notice("cycle_reset")
        assert notice["cycle"]["start"] == first["cycle"]["end"]
        assert watcher.frames.index(notice) <= watcher.frames.index(pool)
        assert len(watcher.of("notice")) == 1


async def test_with_more_than_a_hundred_calls_it_is_sent_once_a_second(
    make_account: Any,
) -> None:
    acme = make_account(100_000)
    async with watch(acme) as watcher, acme.device() as device:
        await device.send(*(start(f"c-{number}", id=number) for number in range(101)))
        for _ in range(101):
            assert (await device.hear())["type"] == "call.admitted"
        acme.admin.post("/v1/simulation/clock", json={"speed": 1}).raise_for_status()
        try:
            await watcher.pool(calls_in_progress=101, clock_speed=1)
            seen = len(watcher.frames)
            await asyncio.sleep(3.2)
            assert 2 <= len(watcher.frames) - seen <= 4
            await device.ask(end("c-0"))
            await watcher.pool(calls_in_progress=100)
            seen = len(watcher.frames)
            await asyncio.sleep(1.5)
            assert len(watcher.frames) == seen
        finally:
            acme.admin.post("/v1/simulation/clock", json={"speed": 0}).raise_for_status()
        await device.send(*(end(f"c-{number}", id=number) for number in range(1, 101)))
        await watcher.pool(calls_in_progress=0)


async def test_ping_pong_and_errors(acme: Acme) -> None:
    async with watch(acme) as watcher:
        pong = await watcher.answer({"type": "ping", "id": "a"})
        assert watcher.frames[0]["type"] == "pool"
        assert (pong["type"], pong["server_time_ms"]) == ("pong", watcher.frames[0]["at_ms"])
        error = await watcher.answer({"type": "call.start", "id": 2, "call_id": "c-1", "to": NUMBER})
        assert (error["type"], error["code"]) == ("error", "unknown_type")
        error = await watcher.answer({"type": "auth.refresh", "id": 3})
        assert (error["code"], error["errors"][0]["field"]) == ("invalid_field", "token")
        await watcher.send("hello")
        await watcher.until(lambda frame: frame.get("code") == "bad_json" and frame["re"] is None)
        await watcher.send("[" * 5000)
        await watcher.answer({"type": "ping", "id": 4})


async def test_a_binary_frame_and_a_large_one_close(acme: Acme) -> None:
    async with watch(acme) as watcher:
        await watcher.send(b"binary")
        assert await watcher.closed() == 1003
    async with watch(acme) as watcher:
        await watcher.send("x" * 65_537)
        assert await watcher.closed() == 1009


async def test_a_browser_s_token_comes_as_a_subprotocol(acme: Acme) -> None:
    token = acme.token("watch")
    async with knock(acme, subprotocols=["callgate.v1", f"bearer.{token}"]) as connection:
        assert connection.subprotocol == "callgate.v1"
        assert json.loads(await connection.recv())["type"] == "pool"


async def test_who_may_not_watch_is_refused(acme: Acme, gateway: GatewayProcess) -> None:
    assert (await refusal(knock(acme)))["status"] == 401
    assert (await refusal(knock(acme, "nonsense")))["status"] == 401
    assert (await refusal(knock(acme, acme.token("watch", ttl_seconds=-1))))["status"] == 401
    assert (await refusal(knock(acme, acme.token("watch", secret=SECRET[::-1]))))["status"] == 401
    assert (await refusal(knock(acme, acme.token("call", "numbers"))))["code"] == "forbidden"
    assert (await refusal(knock(acme, acme.token("watch"), query="?account=other")))["code"] == "forbidden"
    assert (await refusal(knock(acme, acme.token("watch"), subprotocols=["x.v1"])))["code"] == "invalid_field"
    problem = await refusal(knock(acme, gateway.admin_key))
    assert (problem["status"], problem["errors"][0]["field"]) == (422, "account")
    assert (await refusal(knock(acme, gateway.admin_key, query="?account=a/b")))["status"] == 422
    assert (await refusal(knock(acme, gateway.admin_key, query="?account=none")))["status"] == 404


async def test_a_foreign_page_is_refused_and_an_allowed_one_is_not(acme: Acme) -> None:
    token = acme.token("watch")
    evil = {"Origin": "https://evil.example"}
    assert (await refusal(knock(acme, token, headers=evil)))["code"] == "forbidden"
    for origin in (ALLOWED_ORIGIN, acme.gateway.url):
        async with knock(acme, token, headers={"Origin": origin}) as connection:
            assert json.loads(await connection.recv())["type"] == "pool"


def test_asked_by_plain_http_it_says_what_it_is(admin: httpx.Client) -> None:
    answer = admin.get("/v1/live")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


async def test_a_token_that_expires_ends_its_connection(acme: Acme) -> None:
    async with watch(acme, acme.token("watch", ttl_seconds=1)) as watcher:
        assert await watcher.closed() == 4401


async def test_a_token_that_is_revoked_ends_its_connection(acme: Acme) -> None:
    async with watch(acme, acme.token("watch")) as ana, watch(acme, acme.token("watch", staff="bob")) as bob:
        await ana.pool()
        acme.admin.post("/v1/tokens/revoke", json={"account": acme.id, "staff": "ana"}).raise_for_status()
        assert await ana.closed() == 4401
        assert (await bob.answer({"type": "ping", "id": 1}))["type"] == "pong"


async def test_a_newer_token_goes_on_without_reconnecting(acme: Acme) -> None:
    async with watch(acme, acme.token("watch", ttl_seconds=2)) as watcher:
        newer = acme.token("watch", "numbers")
        refreshed = await watcher.answer({"type": "auth.refresh", "id": 1, "token": newer})
        assert refreshed["type"] == "auth.refreshed"
        for number, token, code in (
            (2, acme.token("call"), "forbidden"),
            (3, acme.token("watch", staff="bob"), "forbidden"),
            (4, "nonsense", "unauthorized"),
            (5, acme.gateway.admin_key, "forbidden"),
        ):
            error = await watcher.answer({"type": "auth.refresh", "id": number, "token": token})
            assert error["code"] == code
        await asyncio.sleep(3.5)
        assert (await watcher.answer({"type": "ping", "id": 6}))["type"] == "pong"
        async with acme.device(acme.token(staff="bob")) as device:
            await device.ask(start())
            assert (await watcher.pool(calls_in_progress=1))["calls"][0]["to"] == NUMBER


async def test_a_removed_staff_member_s_dashboard_is_closed_and_refused(acme: Acme) -> None:
    token = acme.token("watch")
    async with watch(acme, token) as ana, watch(acme) as other:
        await ana.pool()
        await other.pool(seats={"used": 2, "limit": 3})
        acme.admin.delete(f"{acme.url}/staff/ana").raise_for_status()
        assert await ana.closed() == 4403
        await other.pool(seats={"used": 1, "limit": 3})
    assert (await refusal(knock(acme, token)))["status"] == 403


async def test_readers_are_counted(acme: Acme, admin: httpx.Client) -> None:
    def counted() -> float:
        lines = admin.get("/metrics").text.splitlines()
        return float(
            next(x for x in lines if x.startswith('callgate_connections{kind="dashboard"}')).split()[1]
        )

    async with watch(acme) as watcher:
        await watcher.pool()
        before = counted()
        async with watch(acme) as other:
            await other.pool()
            assert counted() == before + 1


async def test_two_readers_are_sent_the_same(acme: Acme) -> None:
    async with watch(acme) as one, watch(acme, acme.token("watch")) as other, acme.device() as device:
        await one.pool()
        await other.pool()
        await device.ask(start())
        assert (await one.pool(calls_in_progress=1))["version"] == (await other.pool(calls_in_progress=1))[
            "version"
        ]
