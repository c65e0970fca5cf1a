"""callgate.js as a softphone in a browser: over reloads of the page, killed gateways and refused tokens."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from tests.browser.looking import Look, OpenLook
from tests.browser.people import business
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module")]

PHONE = """async ([token, options]) => {
    const callgate = await import("/callgate.js");
    window.callgate = callgate;
    window.calls = {};
    window.notices = [];
    window.asked = [];
    if (options.stillUp !== undefined) {
        const up = options.stillUp;
        options.stillUp = (call) => { window.asked.push(call.callId); return up; };
    }
    window.phone = new callgate.Softphone(location.origin, token, options);
    phone.on("notice", (notice) => notices.push(notice.kind));
    const welcome = await phone.connect();
    return { ...welcome, leftOver: phone.leftOver.map((call) => call.callId) };
}"""
START = """async ([to, options]) => {
    try {
        const call = await phone.start(to, options ?? {});
        calls[call.callId] = call;
        return { callId: call.callId, emergency: call.emergency, ...call.admission };
    } catch (error) {
        return { error: error.code, reason: error.reason, message: error.message };
    }
}"""
END = """async (id) => {
    try {
        return await calls[id].end();
    } catch (error) {
        return { error: error.code };
    }
}"""


async def phone(window: Look, token: str, **options: Any) -> dict[str, Any]:
    """Make a softphone on the page, and connect it; return its welcome."""
    return dict(await window.page.evaluate(PHONE, [token, options]))


async def start(window: Look, to: str = "+14155550100", **options: Any) -> dict[str, Any]:
    return dict(await window.page.evaluate(START, [to, options]))


async def end(window: Look, call_id: str) -> dict[str, Any]:
    return dict(await window.page.evaluate(END, call_id))


@pytest_asyncio.fixture(loop_scope="module")
async def token(operator: Operator, account: str) -> str:
    """A token of ana's browser."""
    await business(operator, account)
    return await operator.token(account, "ana", "browser", "call")


async def test_a_call_is_placed_answered_and_settled(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str, token: str
) -> None:
    window = await look(gateway.url)
    welcome = await phone(window, token)
    assert (welcome["account"], welcome["staff"], welcome["device"]) == (account, "ana", "browser")

    admitted = await start(window, callId="c-1")
    assert (admitted["callId"], admitted["remainingSeconds"], admitted["replayed"]) == ("c-1", 3600, False)
    await operator.pass_by(8)
    await window.page.evaluate("() => calls['c-1'].answered()")
    await operator.pass_by(37)
    settled = await end(window, "c-1")

    assert (settled["billedSeconds"], settled["endedBy"], settled["revision"]) == (45, "hangup", 1)
    assert await window.page.evaluate("() => [phone.calls.length, phone.remainingSeconds]") == [0, 3555]
    record = await operator.call("c-1", account)
    assert record["answered_at_ms"] - record["admitted_at_ms"] == 8000


async def test_a_refusal_has_its_reason_and_an_id_that_was_used_its_code(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, token: str
) -> None:
    window = await look(gateway.url)
    await phone(window, token)

    refused = await start(window, channel="fax")
    assert (refused["error"], refused["reason"]) == ("call_refused", "channel_unknown")
    await start(window, callId="c-1")
    await end(window, "c-1")
    assert (await start(window, callId="c-1"))["error"] == "call_id_used"
    assert (await start(window, "x" * 9000))["error"] == "too_large"
    assert await window.page.evaluate("() => phone.calls.length") == 0


async def test_an_emergency_call_waits_for_no_answer(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str, token: str
) -> None:
    window = await look(gateway.url)
    (await operator.http.put(f"/v1/accounts/{account}", json={"status": "suspended"})).raise_for_status()
    # Before there is any connection.
    await window.page.evaluate(
        """async (token) => {
            const { Softphone } = await import("/callgate.js");
            window.phone = new Softphone(location.origin, token);
            window.call = phone.emergency("tel:112", { callId: "help" });
            await phone.connect();
        }""",
        token,
    )

    admission = await window.page.evaluate("() => call.admitted()")
    assert admission["replayed"] is False
    assert (await operator.call("help", account))["emergency"] is True
    assert (await window.page.evaluate("() => call.end()"))["billedSeconds"] == 0


async def test_a_newer_connection_of_the_device_ends_the_older_for_good(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, token: str
) -> None:
    first, second = await look(gateway.url), await look(gateway.url)
    await phone(first, token)
    await start(first, callId="c-1")

    welcome = await phone(second, token)

    assert [call["call_id"] for call in welcome["calls"]] == ["c-1"]

    async def ended() -> Any:
        return await first.page.evaluate("() => phone.endedBy?.code")

    await wait_until(ended)
    assert await ended() == "replaced"
    await second.page.evaluate("() => { calls['c-1'] = phone.adopt(phone.welcome.calls[0]); }")
    assert (await end(second, "c-1"))["endedBy"] == "hangup"
    assert await ended() == "replaced"


async def test_a_refused_token_ends_it_and_a_newer_one_goes_on(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str, token: str
) -> None:
    window = await look(gateway.url, errors=True)
    fresh = await operator.token(account, "ana", "browser", "call", "watch")
    await phone(window, token)
    assert await window.page.evaluate("(token) => phone.refresh(token)", fresh) > 0
    assert await window.page.evaluate("() => phone.ping()") == await operator.now_ms()

    body = {"account": account, "staff": "ana", "device": "browser"}
    (await operator.http.post("/v1/tokens/revoke", json=body)).raise_for_status()

    async def ended() -> Any:
        return await window.page.evaluate("() => phone.endedBy?.code")

    await wait_until(ended)
    assert await ended() == "token_refused"
    # And at once, where it is refused at the handshake.
    refused = await window.page.evaluate(
        """async (token) => {
            const phone = new callgate.Softphone(location.origin, token);
            return phone.connect().catch((error) => error.code);
        }""",
        token,
    )
    assert refused == "token_refused"
    # A source of tokens is asked for another.
    assert (
        await window.page.evaluate(
            """async ([old, fresh]) => {
            const tokens = [old, fresh];
            window.phone = new callgate.Softphone(location.origin, () => tokens.shift());
            return (await phone.connect()).type;
        }""",
            [token, await operator.token(account, "ana", "browser", "call")],
        )
        == "welcome"
    )


async def test_a_token_without_the_scope_call_is_forbidden(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str, token: str
) -> None:
    window = await look(gateway.url, errors=True)
    watching = await operator.token(account, "ana", "browser", "watch")
    refused = await window.page.evaluate(
        """async (token) => {
            const { Softphone } = await import("/callgate.js");
            return new Softphone(location.origin, token).connect().catch((error) => error.code);
        }""",
        watching,
    )
    assert refused == "forbidden"


async def test_a_reload_ends_a_call_as_of_when_the_page_was_last_there(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str, token: str
) -> None:
    window = await look(gateway.url)
    await phone(window, token, keepIn="phone")
    await start(window, callId="c-1")
    await operator.pass_by(100)

    await window.page.reload()
    welcome = await phone(window, token, keepIn="phone")

    assert welcome["leftOver"] == ["c-1"]
    await wait_until(lambda: window.page.evaluate("() => phone.calls.length === 0"))
    record = await operator.call("c-1", account)
    assert (record["state"], record["ended_by"], record["billed_seconds"]) == ("ended", "hangup", 100)
    assert (
        await window.page.evaluate("() => Object.keys(localStorage).filter((key) => key.includes('call/'))")
        == []
    )


async def test_a_call_that_is_still_up_after_a_reload_is_resumed(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str, token: str
) -> None:
    window = await look(gateway.url)
    await phone(window, token, keepIn="phone")
    await start(window, callId="c-1")

    await window.page.reload()
    await phone(window, token, keepIn="phone", stillUp=True)

    await wait_until(lambda: any(frame["type"] == "call.resumed" for frame in window.heard))
    assert await window.page.evaluate("() => asked") == ["c-1"]
    assert (await operator.call("c-1", account))["state"] == "in_progress"
    settled = await window.page.evaluate("() => phone.calls[0].end()")
    assert settled["revision"] == 1


async def test_only_one_page_keeps_its_calls_under_a_name(
    look: OpenLook, gateway: GatewayProcess, token: str
) -> None:
    window = await look(gateway.url)
    await phone(window, token, keepIn="phone")
    other = await window.page.context.new_page()
    await other.goto(gateway.url)
    refused = await other.evaluate(
        """async (token) => {
            const { Softphone } = await import("/callgate.js");
            const other = new Softphone(location.origin, token, { keepIn: "phone" });
            return other.connect().catch((error) => error.code);
        }""",
        token,
    )
    assert refused == "journal_in_use"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ends_that_no_gateway_heard_are_told_after_a_reload_with_their_moment(
    look: OpenLook, killed: GatewayProcess
) -> None:
    async with operating(killed) as operator:
        await business(operator, "acme")
        token = await operator.token("acme", "ana", "browser", "call")
    window = await look(killed.url, errors=True)
    await phone(window, token, keepIn="phone")
    admitted = await start(window, callId="c-1")
    await start(window, callId="c-2")
    killed.kill()
    # Hung up while nobody hears it. Only the page's storage knows when.
    ended_ms = await window.page.evaluate("() => { void calls['c-1'].end(); return Date.now(); }")
    killed.start()
    await window.page.reload()

    await phone(window, token, keepIn="phone", stillUp=True)

    await wait_until(lambda: window.page.evaluate("() => phone.calls.length === 1"), 20)
    async with operating(killed) as operator:
        record = await operator.call("c-1", "acme")
        assert (record["state"], record["ended_by"]) == ("ended", "hangup")
        assert record["admitted_at_ms"] == admitted["admittedAtMs"]
        assert abs(record["ended_at_ms"] - ended_ms) < 1500
        assert (await operator.call("c-2", "acme"))["state"] == "in_progress"
        await window.page.evaluate("() => phone.calls[0].end()")
        assert (await operator.call("c-2", "acme"))["revision"] == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_calls_go_on_over_a_killed_gateway_and_what_was_asked_meanwhile_is_carried_out(
    look: OpenLook, killed: GatewayProcess
) -> None:
    async with operating(killed) as operator:
        await business(operator, "acme")
        token = await operator.token("acme", "ana", "browser", "call")
    window = await look(killed.url, errors=True)
    await phone(window, token, timing={"answerMs": 30_000})
    await start(window, callId="c-1")
    killed.kill()
    await wait_until(lambda: window.page.evaluate("() => !phone.connected"))
    await window.page.evaluate("() => { window.waiting = phone.start('+14155550102', { callId: 'c-2' }); }")
    killed.start()

    assert await window.page.evaluate("async () => (await waiting).callId") == "c-2"
    async with operating(killed) as operator:
        pool = await operator.pool("acme")
        assert {call["call_id"] for call in pool["calls"]} == {"c-1", "c-2"}
    assert (await end(window, "c-1"))["revision"] == 1
    assert await window.page.evaluate("() => phone.close()") == []
    async with operating(killed) as operator:
        assert (await operator.pool("acme"))["calls"] == []
