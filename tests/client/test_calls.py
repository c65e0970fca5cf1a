"""A phone's calls: asking, answering, hanging up, and what the gateway answers to each."""

import asyncio

import pytest

from gateway.client import CallRefused, NoAnswer, Softphone, Timing, UnexpectedAnswer
from gateway.domain.errors import CallIdUsed, CallUnknown, EngineUnavailable, InvalidField, TooLarge
from tests.client.scripted import QUICK, ScriptedGateway
from tests.support.waiting import wait_until

HASTY = Timing(answer_seconds=0.2, close_seconds=2, backoff_seconds=0.01, backoff_most_seconds=0.02)


async def test_a_call_is_asked_for_answered_and_settled(scripted: ScriptedGateway) -> None:
    async def gateway() -> None:
        device = await scripted.connection()
        start = await device.hear()
        assert start == {
            "type": "call.start",
            "id": start["id"],
            "call_id": "c-1",
            "to": "+14155550100",
            "channel": "main",
        }
        await device.admit(start)
        answered = await device.hear()
        assert (answered["type"], answered["call_id"]) == ("call.answered", "c-1")
        assert answered["answered_ago_ms"] >= 0
        await device.say(type="call.noted", re=answered["id"], call_id="c-1")
        end = await device.hear()
        assert (end["type"], end["call_id"]) == ("call.end", "c-1")
        await device.settle(end)

    told = asyncio.create_task(gateway())
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        assert phone.welcome is not None
        assert (phone.welcome.account, phone.remaining_seconds) == ("acme", 6000)
        call = await phone.start("+14155550100", channel="main", call_id="c-1")
        assert (call.call_id, call.admitted_at_ms) == ("c-1", 1_795_392_000_000)
        assert (call.remaining_seconds, phone.remaining_seconds) == (5940, 5940)
        assert list(phone.calls) == [call]
        call.answered()
        settlement = await call.end()
        assert (settlement.billed_seconds, settlement.ended_by) == (90, "hangup")
        assert settlement == call.settlement
        assert phone.remaining_seconds == 5910
        assert not phone.calls
    await told


async def test_a_refusal_says_why_and_what_is_left(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(_refused(phone))
        start = await device.hear()
        await device.say(
            type="call.refused",
            re=start["id"],
            call_id=start["call_id"],
            reason="minutes_held",
            message="The remaining minutes are held.",
            remaining_seconds=40,
        )
        refusal = await starting
    assert (refusal.reason, refusal.message) == ("minutes_held", "The remaining minutes are held.")
    assert refusal.remaining_seconds == phone.remaining_seconds == 40


async def _refused(phone: Softphone) -> CallRefused:
    with pytest.raises(CallRefused) as refused:
        await phone.start("+14155550100")
    return refused.value


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"code": "call_id_used", "message": "used"}, CallIdUsed),
        ({"code": "bad_weather", "message": "rain"}, UnexpectedAnswer),
        (
            {"code": "invalid_field", "message": "no", "errors": [{"field": "to", "message": "is missing"}]},
            InvalidField,
        ),
    ],
)
async def test_an_error_is_raised_as_its_code_says(
    scripted: ScriptedGateway, answer: dict[str, object], error: type[Exception]
) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(_raised(phone, error))
        start = await device.hear()
        await device.say(type="error", re=start["id"], **answer)
        raised = await starting
    assert str(raised) == answer["message"]
    if isinstance(raised, InvalidField):
        assert [(each.field, each.message) for each in raised.errors] == [("to", "is missing")]


async def _raised(phone: Softphone, error: type[Exception]) -> Exception:
    with pytest.raises(error) as raised:
        await phone.start("+14155550100", call_id="c-1")
    return raised.value


async def test_answers_find_their_requests_whatever_order_they_come_in(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK, hang_up_on_exit=False) as phone:
        device = await scripted.connection()
        starting = [
            asyncio.ensure_future(phone.start("+14155550100", call_id=f"c-{number}")) for number in range(10)
        ]
        heard = [await device.hear() for _ in range(10)]
        assert [each["call_id"] for each in heard] == [f"c-{number}" for number in range(10)]
        for start in reversed(heard):
            await device.admit(start, remaining_seconds=int(start["call_id"].removeprefix("c-")))
        calls = [await each for each in starting]
        assert [call.remaining_seconds for call in calls] == list(range(10))


async def test_what_is_told_of_a_call_is_told_in_order(scripted: ScriptedGateway) -> None:
    """The end waits for the word that the answer is noted: after the end it would be too late."""
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(phone.start("+14155550100"))
        await device.admit(await device.hear())
        call = await starting
        call.answered()
        ending = asyncio.ensure_future(call.end())
        answered = await device.hear()
        await device.say(type="error", re=answered["id"], code="engine_unavailable", message="away")
        again = await device.hear()
        assert (again["type"], again["id"]) == ("call.answered", answered["id"])
        await device.say(type="call.noted", re=again["id"], call_id=again["call_id"])
        end = await device.hear()
        assert end["type"] == "call.end"
        await device.settle(end)
        assert (await ending).billed_seconds == 90


async def test_ending_twice_is_asked_once(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(phone.start("+14155550100"))
        await device.admit(await device.hear())
        call = await starting
        ending = [asyncio.ensure_future(call.end()) for _ in range(3)]
        await device.settle(await device.hear())
        first, *others = [await each for each in ending]
        assert all(other == first for other in others)
        assert await call.end() == first
        pinging = asyncio.ensure_future(phone.ping())
        ping = await device.hear()
        assert ping["type"] == "ping"
        await device.say(type="pong", re=ping["id"], server_time_ms=5)
        assert await pinging == 5


async def test_an_end_of_a_call_that_the_gateway_does_not_know_says_so(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(phone.start("+14155550100"))
        await device.admit(await device.hear(), receipt=None)
        ending = asyncio.ensure_future((await starting).end())
        end = await device.hear()
        await device.say(type="error", re=end["id"], code="call_unknown", message="no such call")
        with pytest.raises(CallUnknown):
            await ending
        assert not phone.calls


async def test_what_passes_by_itself_is_asked_again_under_the_same_id(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK, hang_up_on_exit=False) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(phone.start("+14155550100"))
        first = await device.hear()
        await device.say(type="error", re=first["id"], code="engine_unavailable", message="away")
        second = await device.hear()
        assert second == first
        await device.admit(second)
        assert (await starting).call_id == first["call_id"]


async def test_a_start_that_got_no_answer_is_given_up_and_leaves_no_call(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=HASTY) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(_raised(phone, NoAnswer))
        start = await device.hear()
        assert "within 0.2 s" in str(await starting)
        end = await device.hear()
        assert (end["type"], end["call_id"]) == ("call.end", start["call_id"])
        await device.admit(start)  # too late: it is ended all the same
        await device.settle(end)


async def test_an_engine_that_stays_away_is_what_a_given_up_start_says(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=HASTY) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(_raised(phone, EngineUnavailable))
        while (frame := await device.hear())["type"] == "call.start":
            await device.say(type="error", re=frame["id"], code="engine_unavailable", message="away")
        assert frame["type"] == "call.end"
        await device.say(type="error", re=frame["id"], code="call_unknown", message="never heard of")
        await starting


async def test_a_cancelled_start_leaves_no_call(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        starting = asyncio.create_task(phone.start("+14155550100", call_id="c-1"))
        await device.hear()
        starting.cancel()
        end = await device.hear()
        assert (end["type"], end["call_id"]) == ("call.end", "c-1")
        await device.settle(end)
        await wait_until(lambda: not phone.calls)
    assert starting.cancelled()


async def test_a_start_that_was_never_sent_is_forgotten_when_given_up(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=HASTY) as phone:
        device = await scripted.connection()
        device.vanish()
        await phone.wait_connected(connected=False)
        scripted.refuse(503)
        with pytest.raises(NoAnswer):
            await phone.start("+14155550100", timeout_seconds=0)
        device = await scripted.connection()
        await phone.wait_connected()
        assert not phone.calls
    assert await device.hear_nothing_until_closed() == 1000


async def test_an_oversized_request_is_not_sent(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        with pytest.raises(TooLarge):
            await phone.start("+" + "1" * 70_000)
    assert await device.hear_nothing_until_closed() == 1000
