"""The dashboard client and a real gateway, together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.client import (
    AdminClient,
    Dashboard,
    GatewayUnreachable,
    PoolNotice,
    Softphone,
    StaffRemoved,
    TokenRefused,
)
from gateway.client.resources import Pool
from gateway.domain.errors import Forbidden, NotFound
from tests.client.businesses import client, make_business
from tests.client.scripted import QUICK
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until

TO = "+14155550100"
StartGateway = Callable[..., GatewayProcess]


async def make_watched(admin: AdminClient, account: str) -> str:
    """Make a business, and return a token of ana's that watches."""
    await make_business(admin, account)
    return (await admin.issue_token(account, staff="ana", device="desk")).token


async def to_its_end(dashboard: Dashboard) -> None:
    """Take all pools until it ends, and raise why."""
    async for _ in dashboard:
        pass


async def test_it_shows_the_pool_and_every_change(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        token = await make_watched(admin, "shows")
        async with Dashboard(gateway.url, token) as dashboard, Softphone(gateway.url, token) as phone:
            assert dashboard.pool.remaining_seconds == 600
            assert (dashboard.connected, dashboard.stale_seconds, dashboard.trouble) == (True, None, "")
            call = await phone.start(TO)
            pools = aiter(dashboard)

            async def next_with(calls: int) -> Pool:
                async with asyncio.timeout(10):
                    while (pool := await anext(pools)).calls_in_progress != calls:
                        pass
                return pool

            assert (await next_with(1)).calls[0].call_id == call.call_id
            await admin.move_clock(advance_ms=45_000)
            await wait_until(lambda: dashboard.pool.used_seconds == 45)
            await call.end()
            assert (await next_with(0)).remaining_seconds == 555


async def test_it_counts_on_by_itself(start_gateway: StartGateway) -> None:
    gateway = await asyncio.to_thread(start_gateway, "--free-seconds", "0")
    async with client(gateway) as admin:
        token = await make_watched(admin, "counts")
        async with Dashboard(gateway.url, token) as dashboard, Softphone(gateway.url, token) as phone:
            await phone.start(TO)
            await wait_until(lambda: dashboard.pool.calls_in_progress == 1)
            version = dashboard.pool.version
            assert dashboard.live is not None
            live = dashboard.live
            await wait_until(lambda: live.used_seconds(dashboard.now_ms()) >= 3)
            assert dashboard.pool.version == version
            assert abs((await admin.pool("counts")).used_seconds - live.used_seconds(dashboard.now_ms())) <= 1


async def test_with_the_admin_key_the_account_is_named(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_watched(admin, "named")
        async with Dashboard(gateway.url, gateway.admin_key, account="named") as dashboard:
            assert dashboard.pool.account == "named"
        with pytest.raises(NotFound):
            async with Dashboard(gateway.url, gateway.admin_key, account="none"):
                pass


async def test_who_may_not_watch_is_told(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_watched(admin, "told")
        calls = await admin.issue_token("told", staff="ana", device="desk", scopes=["call"])
    with pytest.raises(Forbidden):
        async with Dashboard(gateway.url, calls.token):
            pass
    with pytest.raises(TokenRefused):
        async with Dashboard(gateway.url, "nonsense"):
            pass
    with pytest.raises(GatewayUnreachable):
        async with Dashboard("http://127.0.0.1:1", calls.token):
            pass


async def test_notices_are_heard(gateway: GatewayProcess) -> None:
    heard: list[PoolNotice] = []
    async with client(gateway) as admin:
        token = await make_watched(admin, "heard")
        await admin.put_plan("twenty", name="Twenty", minutes=20, connected_channels=1, staff_seats=2)
        async with Dashboard(gateway.url, token, on_notice=heard.append) as dashboard:
            await admin.change_plan("heard", "twenty")
            await wait_until(lambda: dashboard.pool.allocated_seconds == 1200)
            await wait_until(lambda: heard)
    assert [(notice.kind, notice.plan) for notice in heard] == [("plan_changed", "twenty")]


async def test_a_removed_staff_member_s_ends(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        token = await make_watched(admin, "removed")
        async with Dashboard(gateway.url, token) as dashboard:
            await admin.remove_staff("removed", "ana")
            with pytest.raises(StaffRemoved):
                await asyncio.wait_for(to_its_end(dashboard), 10)
            assert isinstance(dashboard.ended_by, StaffRemoved)


async def test_a_revoked_token_ends_it_unless_there_is_another(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        token = await make_watched(admin, "revoked")
        issued = 0

        async def issue() -> str:
            nonlocal issued
            issued += 1
            return (await admin.issue_token("revoked", scopes=["watch"])).token

        async with (
            Dashboard(gateway.url, token, timing=QUICK) as fixed,
            Dashboard(gateway.url, issue, timing=QUICK) as renewed,
        ):
            await admin.revoke_tokens("revoked")
            await wait_until(lambda: isinstance(fixed.ended_by, TokenRefused))
            await wait_until(lambda: issued == 2 and renewed.connected)


async def test_a_gateway_that_goes_away_makes_it_stale_and_it_comes_back(start_gateway: StartGateway) -> None:
    gateway = await asyncio.to_thread(start_gateway)
    async with client(gateway) as admin:
        token = await make_watched(admin, "stale")
    async with Dashboard(gateway.url, token, timing=QUICK) as dashboard:
        port = gateway.url.rpartition(":")[2]
        await asyncio.to_thread(gateway.kill)
        await wait_until(lambda: not dashboard.connected)
        await wait_until(lambda: (dashboard.stale_seconds or 0) > 0.5)
        await wait_until(lambda: "cannot be reached" in dashboard.trouble)
        assert dashboard.pool.remaining_seconds == 600
        gateway = await asyncio.to_thread(start_gateway, "--port", port, data_dir=gateway.data_dir)
        await wait_until(lambda: dashboard.connected)
        assert dashboard.stale_seconds is None
        async with client(gateway) as admin:
            await admin.put_staff("stale", "bob")
        await wait_until(lambda: dashboard.pool.seats.used == 2)


async def test_one_who_is_slow_gets_the_newest(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        token = await make_watched(admin, "slow")
        async with Dashboard(gateway.url, token) as dashboard:
            pools = aiter(dashboard)
            await anext(pools)
            for number in range(3):
                await admin.put_staff("slow", "bob")
                await wait_until(lambda: dashboard.pool.seats.used == 2)
                await admin.remove_staff("slow", "bob")
                await wait_until(lambda: dashboard.pool.seats.used == 1)
                assert number < 3
            newest = dashboard.pool
            assert await anext(pools) == newest
