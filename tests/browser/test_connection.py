"""What the page does when its gateway dies, when its token is no good any more, and with two tabs."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from gateway.client import Softphone
from tests.browser.looking import OpenLook
from tests.browser.people import business, watching
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_it_comes_back_by_itself_after_the_gateway_was_killed(
    look: OpenLook, killed: GatewayProcess
) -> None:
    async with operating(killed) as operator:
        watch = await business(operator, "acme")
        token = await operator.token("acme", "ana", "cell", "call")
    window = await look(killed.url, f"/#token={watch}", errors=True)
    await window.state("connected")
    async with Softphone(killed.url, token) as ana:
        call = await ana.start("+14155550101")
        await window.call(call.call_id).wait_for()

        killed.kill()
        await window.state("reconnecting")
        assert "stale since" in await window.text("#live")
        await window.call(call.call_id).wait_for()

        killed.start()
        await window.state("connected", seconds=30)
        await wait_until(lambda: ana.connected, 30)
        async with operating(killed) as operator:
            pool = await operator.pool("acme")
            shown = window.pools()[-1]
            assert shown["calls"][0]["call_id"] == call.call_id == pool["calls"][0]["call_id"]
            await call.end()
            await window.call(call.call_id).wait_for(state="detached")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_gateway_that_hangs_is_noticed_though_its_connection_stays(
    look: OpenLook, start_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = start_gateway()
    async with operating(gateway) as operator:
        watch = await business(operator, "acme")
    window = await look(gateway.url, f"/#token={watch}", errors=True)
    await window.state("connected")

    gateway.signal(signal.SIGSTOP)
    # Silence alone says nothing: after 25 s it asks, and gives the gateway 8 s.
    await window.state("reconnecting", seconds=50)
    gateway.signal(signal.SIGCONT)
    await window.state("connected", seconds=30)


async def test_a_revoked_token_ends_the_page_and_is_forgotten(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    token = await business(operator, account)
    window = await look(gateway.url, f"/#token={token}", errors=True)
    await window.state("connected")

    (await operator.http.post("/v1/tokens/revoke", json={"account": account})).raise_for_status()

    await window.page.wait_for_selector("cg-sign-in")
    assert "revoked" in await window.text("#sign-in-problem")
    assert await window.page.evaluate("sessionStorage.length") == 0
    assert await window.page.locator("#remaining").count() == 0

    await window.page.fill("#credential", await watching(operator, account))
    await window.page.press("#credential", "Enter")
    await window.state("connected")


async def test_the_token_of_a_removed_staff_member_ends_the_page(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    await business(operator, account)
    token = await watching(operator, account, staff="ben")
    window = await look(gateway.url, f"/#token={token}", errors=True)
    await window.state("connected")

    (await operator.http.delete(f"/v1/accounts/{account}/staff/ben")).raise_for_status()

    await window.page.wait_for_selector("cg-sign-in")
    assert "removed" in await window.text("#sign-in-problem")
    # Nor does it help to come again.
    await window.page.fill("#credential", token)
    await window.page.press("#credential", "Enter")
    await window.page.wait_for_selector("#live")
    await window.page.wait_for_selector("cg-sign-in")
    await window.says("#sign-in-problem", "removed")


@pytest.mark.parametrize("token", ["nonsense", "e30.eyJzdWIiOiJhY21lIn0.x"])
async def test_what_is_no_token_of_this_gateway_is_told_so(
    look: OpenLook, gateway: GatewayProcess, token: str
) -> None:
    window = await look(gateway.url, errors=True)

    await window.page.fill("#credential", token)
    await window.page.click("button")

    await window.says("#sign-in-problem", "token")


async def test_a_token_without_the_scope_watch_is_told_so(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    await business(operator, account)
    token = await operator.token(account, "ana", "desk", "call")
    window = await look(gateway.url, f"/#token={token}", errors=True)

    await window.page.wait_for_selector("cg-sign-in")
    assert "watch" in await window.text("#sign-in-problem")


async def test_two_tabs_count_alike_and_sign_out_each_for_itself(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    token = await business(operator, account)
    first = await look(gateway.url, f"/#token={token}")
    await first.state("connected")
    second = await first.page.context.new_page()
    await second.goto(gateway.url)
    await second.wait_for_selector("cg-sign-in")
    await second.fill("#credential", token)
    await second.press("#credential", "Enter")
    await operator.start("c-1", account)
    await operator.pass_by(45)

    await first.shows(used=45)
    await second.wait_for_selector('#used [data-seconds="45"]')
    await second.click("text=Sign out")
    await second.wait_for_selector("cg-sign-in")
    await operator.pass_by(5)
    await first.shows(used=50)


async def test_the_token_leaves_no_trace_but_in_the_tab(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    token = await business(operator, account)
    window = await look(gateway.url, "/")
    await window.page.goto(f"{gateway.url}/#token={token}")
    await window.state("connected")

    assert window.page.url == f"{gateway.url}/"
    assert await window.page.evaluate("localStorage.length + document.cookie.length") == 0
    # It was replaced in the history, not only covered by a newer entry.
    addresses = await window.page.evaluate("[location.href, document.referrer].join()")
    assert token not in addresses
    await window.page.go_back()
    await window.page.go_forward()
    assert token not in window.page.url
    assert token not in gateway.log()
    assert all(token not in request.url for request in window.requests)

    await window.page.reload()
    await window.state("connected")


async def test_a_page_of_another_origin_may_not_connect(
    operator: Operator,
    look: OpenLook,
    gateway: GatewayProcess,
    account: str,
    start_gateway: Callable[..., GatewayProcess],
) -> None:
    other = start_gateway()
    token = await business(operator, account)
    connect = """([url, token]) => new Promise((resolve) => {
        const socket = new WebSocket(url, ["callgate.v1", `bearer.${token}`]);
        socket.onopen = () => resolve("open");
        socket.onclose = () => resolve("closed");
    })"""
    live = f"{gateway.websocket_url}/v1/live"
    foreign = await look(other.url, errors=True, bypass_csp=True)
    own = await look(gateway.url)

    assert await own.page.evaluate(connect, [live, token]) == "open"
    page = await foreign.page.context.new_page()
    await page.goto(other.url)
    assert await page.evaluate(connect, [live, token]) == "closed"
    assert await page.evaluate(connect, [live.replace("live", "device"), token]) == "closed"
