"""What a phone does when its connection breaks, and when it does not come back."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from gateway.client import (
    EndsUndelivered,
    GatewayUnreachable,
    PhoneClosed,
    PhoneEnded,
    Replaced,
    Softphone,
    StaffRemoved,
    Timing,
    TokenRefused,
    UnexpectedAnswer,
)
from gateway.client.elapsed import elapsed_ms
from gateway.domain.errors import Forbidden, NotFound
from tests.client.scripted import QUICK, Device, ScriptedGateway, scripted_gateway
from tests.support.waiting import wait_until

WATCHFUL = Timing(
    close_seconds=1,
    ping_after_seconds=0.05,
    dead_after_seconds=0.2,
    backoff_seconds=0.01,
    backoff_most_seconds=0.02,
)


async def admitted(phone: Softphone, device: Device) -> str:
    """Start a call, admitted by `device`; return its id."""
    starting = asyncio.ensure_future(phone.start("+14155550100"))
    start = await device.hear()
    await device.admit(start)
    return (await starting).call_id


async def test_a_start_without_an_answer_is_asked_again_under_the_same_call_id(
    scripted: ScriptedGateway,
) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK, hang_up_on_exit=False) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(phone.start("+14155550100", channel="main"))
        first = await device.hear()
        device.vanish()
        device = await scripted.connection()
        assert await device.hear() == first
        await device.admit(first, replayed=True)
        call = await starting
        assert call.admission is not None
        assert call.admission.replayed
        assert call.call_id == first["call_id"]


async def test_requests_without_an_answer_are_asked_again_in_their_order(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK, hang_up_on_exit=False) as phone:
        device = await scripted.connection()
        starting = [asyncio.ensure_future(phone.start("+14155550100")) for _ in range(5)]
        first = [await device.hear() for _ in starting]
        await device.admit(first.pop(2))
        await starting.pop(2)
        device.vanish()
        device = await scripted.connection()
        again = [await device.hear() for _ in first]
        assert again == first
        for start in again:
            await device.admit(start)
        await asyncio.gather(*starting)


async def test_an_end_while_away_is_told_after_with_how_long_ago(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        call_id = await admitted(phone, device)
        scripted.refuse(503)
        scripted.refuse(502)
        device.vanish()
        await phone.wait_connected(connected=False)
        before_ms = elapsed_ms()
        ending = asyncio.ensure_future(phone.calls[0].end())
        after_ms = elapsed_ms()
        device = await scripted.connection()
        end = await device.hear()
        heard_ms = elapsed_ms()
        assert (end["type"], end["call_id"]) == ("call.end", call_id)
        assert 0 <= end["ended_ago_ms"] <= heard_ms - before_ms
        # The moment that is told does not move, however often it is told.
        device.vanish()
        device = await scripted.connection()
        again = await device.hear()
        assert again["ended_ago_ms"] >= heard_ms - after_ms - 1
        await device.settle(again)
        assert (await ending).billed_seconds == 90


async def test_an_end_that_nobody_waits_for_is_told_all_the_same(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        await admitted(phone, device)
        call = phone.calls[0]
        waiting = asyncio.ensure_future(call.end())
        end = await device.hear()
        waiting.cancel()
        await device.say(type="error", re=end["id"], code="database_unavailable", message="away")
        end = await device.hear()
        await device.settle(end)
        await wait_until(lambda: call.settlement)


@pytest.mark.parametrize(("code", "error"), [(4403, StaffRemoved), (4409, Replaced), (4401, TokenRefused)])
async def test_it_does_not_come_back_where_it_is_not_wanted(
    scripted: ScriptedGateway, code: int, error: type[Exception]
) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(phone.start("+14155550100"))
        await device.hear()
        await device.close(code)
        assert isinstance(await phone.wait_ended(), error)
        with pytest.raises(error):
            await starting
        with pytest.raises(error):
            await phone.start("+14155550100")
    assert len(scripted.handshakes) == 1


async def test_it_is_not_sent_away_by_an_attempt_of_its_own_that_a_gateway_came_upon_late(
    scripted: ScriptedGateway,
) -> None:
    """It had given that up, and connected anew: a slow gateway took it for the newer one."""
    hasty = replace(QUICK, connect_seconds=0.2)
    async with Softphone(scripted.url, "token", timing=hasty) as phone:
        device = await scripted.connection()
        scripted.answering.clear()
        device.vanish()
        await wait_until(lambda: len(scripted.handshakes) == 3)
        scripted.answering.set()
        await (await scripted.connection()).close(4409)
        device = await scripted.connection()
        await wait_until(lambda: phone.connected)
        await device.close(4409)
        assert isinstance(await phone.wait_ended(), Replaced), "that was another one"


@pytest.mark.parametrize("status", [502, 504])
async def test_nor_by_one_that_a_proxy_gave_up_and_the_gateway_came_upon_late(
    scripted: ScriptedGateway, status: int
) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        scripted.refuse(status)
        device.vanish()
        await (await scripted.connection()).close(4409)
        device = await scripted.connection()
        await wait_until(lambda: phone.connected)
        await device.close(4409)
        assert isinstance(await phone.wait_ended(), Replaced), "that was another one"


async def test_an_attempt_that_a_gateway_refused_is_not_what_replaced_it(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        scripted.refuse(503, {"code": "going_away", "detail": "The gateway is shutting down."})
        device.vanish()
        await (await scripted.connection()).close(4409)
        assert isinstance(await phone.wait_ended(), Replaced)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013])
async def test_it_comes_back_after_any_other_closing(scripted: ScriptedGateway, code: int) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK):
        device = await scripted.connection()
        await device.close(code)
        await scripted.connection()
    assert len(scripted.handshakes) == 2


def tokens(*given: str) -> Iterator[str]:
    yield from given
    raise AssertionError("no more tokens were expected to be asked for")


async def test_with_a_new_token_it_comes_back_after_4401(scripted: ScriptedGateway) -> None:
    source = tokens("first", "second", "third")
    async with Softphone(scripted.url, lambda: next(source), timing=QUICK) as phone:
        device = await scripted.connection()
        await device.close(4401)
        device = await scripted.connection()
        assert device.token == "second"
        scripted.refuse(401, {"code": "unauthorized", "detail": "This token has expired."})
        device.vanish()
        device = await scripted.connection()
        assert device.token == "third"
        assert phone.ended_by is None


async def test_a_token_of_a_slow_source_is_waited_for(scripted: ScriptedGateway) -> None:
    async def source() -> str:
        await asyncio.sleep(0)
        return "fetched"

    async with Softphone(scripted.url, source, timing=QUICK):
        assert (await scripted.connection()).token == "fetched"


async def test_a_source_that_gives_the_refused_token_again_ends_the_phone(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, lambda: "same", timing=QUICK) as phone:
        await (await scripted.connection()).close(4401)
        assert isinstance(await phone.wait_ended(), TokenRefused)
    assert len(scripted.handshakes) == 1


async def test_a_source_that_breaks_ends_the_phone_and_says_why(scripted: ScriptedGateway) -> None:
    def source() -> str:
        raise LookupError("no token in the vault")

    with pytest.raises(PhoneEnded, match="no token in the vault") as ended:
        async with Softphone(scripted.url, source, timing=QUICK):
            raise AssertionError("entered")
    assert isinstance(ended.value.__cause__, LookupError)


async def test_a_source_that_is_out_of_reach_for_a_while_is_asked_again(scripted: ScriptedGateway) -> None:
    source = iter([None, "second"])

    def fetch() -> str:
        token = "first" if not scripted.handshakes else next(source)
        if token is None:
            raise ConnectionError("the token service is away")
        return token

    async with Softphone(scripted.url, fetch, timing=QUICK):
        await (await scripted.connection()).close(4401)
        assert (await scripted.connection()).token == "second"


async def test_a_refreshed_token_is_the_one_it_comes_back_with(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "old", timing=QUICK) as phone:
        device = await scripted.connection()
        assert device.token == "old"
        refreshing = asyncio.ensure_future(phone.refresh("new"))
        asked = await device.hear()
        assert (asked["type"], asked["token"]) == ("auth.refresh", "new")
        await device.say(type="auth.refreshed", re=asked["id"], expires_at_ms=7)
        assert await refreshing == 7
        device.vanish()
        assert (await scripted.connection()).token == "new"


async def test_a_refused_refresh_changes_nothing(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "old", timing=QUICK) as phone:
        device = await scripted.connection()
        refreshing = asyncio.ensure_future(phone.refresh("another's"))
        asked = await device.hear()
        await device.say(type="error", re=asked["id"], code="forbidden", message="another device's")
        with pytest.raises(Forbidden):
            await refreshing
        device.vanish()
        assert (await scripted.connection()).token == "old"


async def test_a_silent_connection_is_given_up(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=WATCHFUL) as phone:
        device = await scripted.connection()
        device.fall_silent()
        await scripted.connection()
        assert phone.ended_by is None


async def test_a_connection_on_which_only_pongs_come_lives(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=WATCHFUL) as phone:
        device = await scripted.connection()
        began_ms = elapsed_ms()
        await wait_until(lambda: elapsed_ms() - began_ms > 1000 * 3 * WATCHFUL.dead_after_seconds)
        assert phone.connected
        assert device.socket.state.name == "OPEN"
    assert len(scripted.handshakes) == 1


async def test_notices_are_passed_on_and_what_breaks_in_there_breaks_nothing(
    scripted: ScriptedGateway,
) -> None:
    heard: list[str] = []
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def on_notice(notice: object) -> None:
        heard.append(str(notice))
        raise LookupError("a fault of the application")

    async with Softphone(scripted.url, "token", timing=QUICK, on_notice=on_notice) as phone:
        device = await scripted.connection()
        await device.say(type="something_new", of="a newer gateway")
        await device.socket.send("no json at all")
        await device.say(type="notice", kind="minutes_exhausted", message="All minutes are used.", extra=1)
        await wait_until(lambda: heard)
        await wait_until(lambda: reported)
        assert phone.connected
    assert "minutes_exhausted" in heard[0]
    assert isinstance(reported[0], LookupError)


# The first connection.


async def test_nobody_listening_is_said_at_once() -> None:
    async with scripted_gateway() as gone:
        url = gone.url
    with pytest.raises(GatewayUnreachable, match="cannot be reached"):
        async with Softphone(url, "token", timing=QUICK):
            raise AssertionError("entered")


async def test_a_gateway_that_goes_while_it_is_asked_cannot_be_reached() -> None:
    """It was one: the phone may be tried again."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as going:
        port = going.sockets[0].getsockname()[1]
        with pytest.raises(GatewayUnreachable, match=r"without an answer|cannot be reached"):
            async with Softphone(f"http://127.0.0.1:{port}", "token", timing=QUICK):
                raise AssertionError("entered")


@pytest.mark.parametrize(
    ("status", "problem", "error"),
    [
        (401, {"code": "unauthorized", "detail": "This token has expired."}, TokenRefused),
        (403, {"code": "forbidden", "detail": "This token lacks the scope `call`."}, Forbidden),
        (404, {"code": "not_found", "detail": "There is no WebSocket here."}, NotFound),
        (404, None, UnexpectedAnswer),
    ],
)
async def test_a_refused_handshake_says_why(
    scripted: ScriptedGateway, status: int, problem: dict[str, str] | None, error: type[Exception]
) -> None:
    scripted.refuse(status, problem)
    with pytest.raises(error) as refused:
        async with Softphone(scripted.url, "token", timing=QUICK):
            raise AssertionError("entered")
    if problem is not None:
        assert problem["detail"] in str(refused.value)
    assert len(scripted.handshakes) == 1


async def test_a_gateway_that_is_about_to_be_ready_is_waited_for(scripted: ScriptedGateway) -> None:
    scripted.refuse(503, {"code": "going_away", "detail": "This gateway is shutting down."})
    scripted.refuse(503, body=b"<html>a balancer</html>")
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        assert phone.connected
    assert len(scripted.handshakes) == 3


async def test_what_speaks_another_protocol_is_no_gateway() -> None:
    async with scripted_gateway(select=lambda *_: None) as other:
        with pytest.raises(UnexpectedAnswer, match=r"does not speak callgate\.v1"):
            async with Softphone(other.url, "token", timing=QUICK):
                raise AssertionError("entered")


async def test_no_welcome_is_not_waited_for_for_ever(scripted: ScriptedGateway) -> None:
    scripted.greets = False
    hasty = Timing(connect_seconds=0.2)
    with pytest.raises(GatewayUnreachable, match=r"within 0\.2 s"):
        async with Softphone(scripted.url, "token", timing=hasty):
            raise AssertionError("entered")


# Leaving.


async def test_leaving_hangs_up_and_closes_in_order(scripted: ScriptedGateway) -> None:
    async def gateway(device: Device) -> int:
        await device.settle(await device.hear())
        return await device.hear_nothing_until_closed()

    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        await admitted(phone, device)
        call = phone.calls[0]
        told = asyncio.ensure_future(gateway(device))
    assert await told == 1000
    assert call.settlement is not None


async def test_leaving_for_another_program_hangs_nothing_up(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK, hang_up_on_exit=False) as phone:
        device = await scripted.connection()
        await admitted(phone, device)
    assert await device.hear_nothing_until_closed() == 1000


async def leave_with_an_end_untold(scripted: ScriptedGateway, fault: Exception | None = None) -> None:
    async with Softphone(scripted.url, "token", timing=Timing(close_seconds=0.2)) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(phone.start("+14155550100", call_id="c-1"))
        await device.admit(await device.hear())
        await starting
        device.fall_silent()
        if fault is not None:
            raise fault


async def test_leaving_says_which_ends_no_gateway_has_heard(scripted: ScriptedGateway) -> None:
    with pytest.raises(EndsUndelivered) as undelivered:
        await leave_with_an_end_untold(scripted)
    assert undelivered.value.call_ids == ("c-1",)


async def test_what_the_program_raised_is_not_hidden_by_that(scripted: ScriptedGateway) -> None:
    with pytest.raises(LookupError) as failed:
        await leave_with_an_end_untold(scripted, LookupError("the program's own"))
    assert "c-1" in failed.value.__notes__[0]


async def test_ends_are_told_while_leaving_even_if_that_takes_a_new_connection(
    scripted: ScriptedGateway,
) -> None:
    async def gateway(device: Device) -> None:
        await device.hear()
        device.vanish()
        device = await scripted.connection()
        await device.settle(await device.hear())

    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        await admitted(phone, device)
        told = asyncio.ensure_future(gateway(device))
    await told


async def test_a_cancelled_program_still_hangs_up(scripted: ScriptedGateway) -> None:
    async def program() -> None:
        async with Softphone(scripted.url, "token", timing=QUICK) as phone:
            phones.append(phone)
            await asyncio.Event().wait()

    phones: list[Softphone] = []
    running = asyncio.ensure_future(program())
    device = await scripted.connection()
    await wait_until(lambda: phones)
    await admitted(phones[0], device)
    running.cancel()
    await device.settle(await device.hear())
    assert await device.hear_nothing_until_closed() == 1000
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_phone_that_was_left_can_no_longer_be_used(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        await scripted.connection()
    assert not phone.connected
    with pytest.raises(PhoneClosed):
        await phone.start("+14155550100")
