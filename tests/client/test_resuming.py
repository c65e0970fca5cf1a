"""A phone vouches for its calls again on each new connection (R13, R15)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.client import Call, Softphone
from gateway.domain.errors import CallIdConflict, CallUnknown
from tests.client.scripted import QUICK, Device, Hours, ScriptedGateway
from tests.support.waiting import wait_until

FOUND: dict[str, Any] = {
    "call_id": "c-1",
    "staff": "ana",
    "device": "desk",
    "channel": "main",
    "to": "+14155550100",
    "admitted_at_ms": 1_795_391_940_000,
    "answered_at_ms": None,
    "counts": True,
    "emergency": False,
}


@pytest.fixture
def hours() -> Hours:
    return Hours()


def phone_of(scripted: ScriptedGateway, hours: Hours, **options: Any) -> Softphone:
    options = {"hang_up_on_exit": False, "timing": QUICK, "clock": hours.clock, **options}
    return Softphone(scripted.url, "token", **options)


async def call_of(phone: Softphone, device: Device, call_id: str = "c-1") -> Call:
    """Start a call, admitted by `device`."""
    starting = asyncio.ensure_future(phone.start("+14155550100", call_id=call_id))
    await device.admit(await device.hear())
    return await starting


async def back(scripted: ScriptedGateway, phone: Softphone, device: Device) -> Device:
    """Break the connection off; return the next one, which the phone has been welcomed on."""
    device.vanish()
    await phone.wait_connected(connected=False)
    device = await scripted.connection()
    await phone.wait_connected()
    return device


async def hear(device: Device, kind: str, call_id: str = "c-1") -> dict[str, Any]:
    frame = await device.hear()
    assert (frame["type"], frame["call_id"]) == (kind, call_id)
    return frame


async def silent(phone: Softphone, device: Device) -> None:
    """Expect that the device has nothing else to say."""
    pinging = asyncio.ensure_future(phone.ping())
    ping = await device.hear()
    assert ping["type"] == "ping"
    await device.say(type="pong", re=ping["id"], server_time_ms=5)
    await pinging


# Within the grace.


async def test_calls_are_resumed_with_the_latest_receipt(scripted: ScriptedGateway, hours: Hours) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        await call_of(phone, device, "c-2")
        assert call.receipt == "receipt of c-1"
        hours.pass_by(29)
        device = await back(scripted, phone, device)
        resume = await hear(device, "call.resume")
        assert resume["receipt"] == "receipt of c-1"
        await device.resume(resume)
        await device.resume(await hear(device, "call.resume", "c-2"), receipt=None)
        await silent(phone, device)
        device = await back(scripted, phone, device)
        assert (await hear(device, "call.resume"))["receipt"] == "receipt of c-1, anew"
        assert (await hear(device, "call.resume", "c-2"))["receipt"] == "receipt of c-2"
        assert not call.ended


async def test_nothing_is_said_of_a_call_before_it_is_resumed(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        call.answered()
        await hear(device, "call.answered")
        device = await back(scripted, phone, device)
        resume = await hear(device, "call.resume")
        await silent(phone, device)  # not even behind it, for it may have to be asked again
        await device.fail(resume, "engine_unavailable")
        resume = await hear(device, "call.resume")
        ending = asyncio.ensure_future(call.end())
        await silent(phone, device)
        await device.resume(resume)
        await device.note(await hear(device, "call.answered"))
        await device.settle(await hear(device, "call.end"))
        assert (await ending).billed_seconds == 90


async def test_a_call_that_ended_meanwhile_needs_no_resume(scripted: ScriptedGateway, hours: Hours) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        device.vanish()
        await phone.wait_connected(connected=False)
        ending = asyncio.ensure_future(call.end())
        await asyncio.sleep(0)
        hours.pass_by(3600)  # however long it was
        device = await scripted.connection()
        end = await hear(device, "call.end")
        assert end["ended_ago_ms"] == 3_600_000
        await device.settle(end)
        await ending


async def test_a_resume_that_got_no_answer_is_asked_again(scripted: ScriptedGateway, hours: Hours) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        device = await back(scripted, phone, device)
        await hear(device, "call.resume")
        call.answered()
        device = await back(scripted, phone, device)
        await device.resume(await hear(device, "call.resume"))
        await hear(device, "call.answered")
        device = await back(scripted, phone, device)
        await hear(device, "call.resume")
        ending = asyncio.ensure_future(call.end())  # now there is nothing to resume any more
        device = await back(scripted, phone, device)
        await device.note(await hear(device, "call.answered"))
        await device.settle(await hear(device, "call.end"))
        await ending


async def test_a_call_whose_admission_was_the_last_word_is_resumed(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(phone.start("+14155550100", call_id="c-1"))
        await device.admit(await device.hear())
        await device.close(1012)
        call = await starting
        device = await scripted.connection()
        await device.resume(await hear(device, "call.resume"))
        assert phone.calls == (call,)


async def test_an_emergency_is_resumed_under_the_id_that_it_got(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = phone.emergency("112", call_id="taken")
        await device.admit(
            await device.hear(), call_id="emergency-1", emergency=True, receipt="of emergency-1"
        )
        await call.admitted()
        device = await back(scripted, phone, device)
        assert (await hear(device, "call.resume", "emergency-1"))["receipt"] == "of emergency-1"


async def test_one_let_through_without_the_engine_says_so(scripted: ScriptedGateway, hours: Hours) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        starting = asyncio.ensure_future(phone.start("+14155550100"))
        await device.admit(await device.hear(), remaining_seconds=None, admitted_offline=True)
        call = await starting
        assert call.admission is not None
        assert (call.admission.offline, call.remaining_seconds) == (True, None)
        assert call.receipt is not None


async def test_an_adopted_call_is_vouched_for(scripted: ScriptedGateway, hours: Hours) -> None:
    scripted.calls_in_progress = [FOUND]
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        assert phone.welcome is not None
        call = phone.adopt(phone.welcome.calls[0])
        call.answered()
        resume = await hear(device, "call.resume")
        assert "receipt" not in resume
        await device.resume(resume, receipt="fresh")
        await device.note(await hear(device, "call.answered"))
        assert call.receipt == "fresh"
        assert phone.adopt(phone.welcome.calls[0]) is call
        assert phone.calls == (call,)


# What a resume is answered.


async def test_a_call_that_was_settled_for_good_gets_its_settlement(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        device = await back(scripted, phone, device)
        await device.fail(await hear(device, "call.resume"), "call_id_used")
        end = await hear(device, "call.end")
        await call.wait_over()
        assert call.ended
        await device.settle(end, ended_by="connection_lost", replayed=True)
        assert (await call.end()).ended_by == "connection_lost"
        assert not phone.calls


async def test_a_call_whose_receipt_is_not_taken_is_unknown(scripted: ScriptedGateway, hours: Hours) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        device = await back(scripted, phone, device)
        await device.fail(await hear(device, "call.resume"), "call_unknown")
        await device.fail(await hear(device, "call.end"), "call_unknown")
        with pytest.raises(CallUnknown):
            await call.end()
        assert not phone.calls


async def test_a_call_that_a_newer_connection_has_is_left_alone(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    async with phone_of(scripted, hours, hang_up_on_exit=True) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        device = await back(scripted, phone, device)
        await device.fail(await hear(device, "call.resume"), "call_id_conflict")
        await call.wait_over()
        assert (call.elsewhere, call.ended) == (True, False)
        assert not phone.calls
        device = await back(scripted, phone, device)
        await silent(phone, device)
        ending = asyncio.ensure_future(_conflict(call))
        await device.fail(await hear(device, "call.end"), "call_id_conflict")
        await ending
    assert await device.hear_nothing_until_closed() == 1000


async def _conflict(call: Call) -> None:
    with pytest.raises(CallIdConflict):
        await call.end()


async def test_a_gateway_that_knows_no_resuming_is_told_the_rest(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    """While a deployment is being upgraded."""
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        device = await back(scripted, phone, device)
        call.answered()
        await device.fail(await hear(device, "call.resume"), "unknown_type")
        await device.note(await hear(device, "call.answered"))
        assert not call.ended


async def test_an_end_of_a_call_that_was_lost_makes_it_again_from_its_receipt(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    """R28: the live state may be lost while the device is away, and the call over by then."""
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        ending = asyncio.ensure_future(call.end())
        await device.fail(await hear(device, "call.end"), "call_unknown")
        resume = await hear(device, "call.resume")
        assert resume["receipt"] == "receipt of c-1"
        hours.pass_by(2)
        await device.resume(resume)
        end = await hear(device, "call.end")
        assert end["ended_ago_ms"] == 2000
        await device.settle(end)
        assert (await ending).billed_seconds == 90


async def test_so_does_an_answer_of_one(scripted: ScriptedGateway, hours: Hours) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        answered = asyncio.ensure_future(call.answered())
        await device.fail(await hear(device, "call.answered"), "call_unknown")
        await device.resume(await hear(device, "call.resume"))
        await device.note(await hear(device, "call.answered"))
        await answered


async def test_a_gateway_that_takes_a_receipt_and_knows_no_call_is_not_asked_for_ever(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        ending = asyncio.ensure_future(_unknown(call))
        for _ in range(3):
            await device.fail(await hear(device, "call.end"), "call_unknown")
            await device.resume(await hear(device, "call.resume"))
        await device.fail(await hear(device, "call.end"), "call_unknown")
        await ending


async def _unknown(call: Call) -> None:
    with pytest.raises(CallUnknown):
        await call.end()


# Beyond the grace.


async def away(scripted: ScriptedGateway, phone: Softphone, device: Device, hours: Hours) -> Device:
    """Break the connection off, and let more than the grace pass before the next."""
    scripted.greets = False
    device.vanish()
    await phone.wait_connected(connected=False)
    hours.pass_by(31)
    device = await scripted.connection()
    scripted.greets = True
    await device.welcome()
    return device


async def test_without_anybody_to_ask_a_call_ended_when_it_was_last_known_up(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        device = await away(scripted, phone, device, hours)
        end = await hear(device, "call.end")
        assert end["ended_ago_ms"] == 31_000
        await call.wait_over()
        await device.settle(end)
        await wait_until(lambda: call.settlement)


def answering(future: "asyncio.Future[bool]", asked: list[Call]) -> Callable[[Call], Any]:
    async def still_up(call: Call) -> bool:
        asked.append(call)
        return await asyncio.shield(future)

    return still_up


@pytest.mark.parametrize("later", [False, True])
async def test_the_application_is_asked_and_may_say_yes(
    scripted: ScriptedGateway, hours: Hours, later: bool
) -> None:
    asked: list[Call] = []
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    if not later:
        answer.set_result(True)
    async with phone_of(scripted, hours, still_up=answering(answer, asked)) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        device = await away(scripted, phone, device, hours)
        if later:
            call.answered()
            await wait_until(lambda: asked == [call])
            await silent(phone, device)
            device = await back(scripted, phone, device)  # it is not asked twice
            await silent(phone, device)
            answer.set_result(True)
        await device.resume(await hear(device, "call.resume"))
        if later:
            await device.note(await hear(device, "call.answered"))
        assert (asked, call.ended) == ([call], False)
        device = await back(scripted, phone, device)
        await hear(device, "call.resume")
        assert len(asked) == 1


@pytest.mark.parametrize("said", [lambda _: False, lambda _: 1 // 0], ids=["no", "failing"])
async def test_the_application_may_say_no_or_fail(
    scripted: ScriptedGateway, hours: Hours, said: Callable[[Call], bool]
) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    async with phone_of(scripted, hours, still_up=said) as phone:
        device = await scripted.connection()
        await call_of(phone, device)
        device = await away(scripted, phone, device, hours)
        hours.pass_by(5)
        end = await hear(device, "call.end")
        assert end["ended_ago_ms"] >= 31_000
        await device.settle(end)
    assert all(isinstance(each, ZeroDivisionError) for each in reported)


async def test_hanging_up_while_the_application_is_asked_is_an_answer(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    asked: list[Call] = []
    never: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    async with phone_of(scripted, hours, still_up=answering(never, asked)) as phone:
        device = await scripted.connection()
        call = await call_of(phone, device)
        device = await away(scripted, phone, device, hours)
        await wait_until(lambda: asked)
        hours.pass_by(60)  # somebody has to find the dialogue first
        ending = asyncio.ensure_future(call.end())
        end = await hear(device, "call.end")
        assert end["ended_ago_ms"] == 91_000
        await device.settle(end)
        await ending


async def test_each_call_is_asked_about(scripted: ScriptedGateway, hours: Hours) -> None:
    async with phone_of(scripted, hours, still_up=lambda call: call.call_id == "c-2") as phone:
        device = await scripted.connection()
        await call_of(phone, device, "c-1")
        await call_of(phone, device, "c-2")
        device = await away(scripted, phone, device, hours)
        heard = [await device.hear(), await device.hear()]
        assert {(each["type"], each["call_id"]) for each in heard} == {
            ("call.end", "c-1"),
            ("call.resume", "c-2"),
        }
        await device.settle(next(each for each in heard if each["type"] == "call.end"))


async def test_a_phone_that_slept_over_a_living_connection_connects_anew_and_asks(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    """Gateway and phone may be stopped together; nobody knows then what became of the media."""
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        await call_of(phone, device)
        hours.pass_by(3600)
        await device.say(type="notice", kind="good_morning", message="Heard before anything else.")
        device = await scripted.connection()
        end = await hear(device, "call.end")
        assert end["ended_ago_ms"] == 3_600_000
        await device.settle(end)


async def test_a_virtual_machine_that_was_stopped_sees_it_by_the_time_of_day(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        await call_of(phone, device)
        device.vanish()
        await phone.wait_connected(connected=False)
        hours.wall_ms += 600_000
        device = await scripted.connection()
        end = await hear(device, "call.end")
        assert end["ended_ago_ms"] == 600_000
        await device.settle(end)


async def test_a_clock_that_is_set_while_connected_ends_nothing(
    scripted: ScriptedGateway, hours: Hours
) -> None:
    async with phone_of(scripted, hours) as phone:
        device = await scripted.connection()
        await call_of(phone, device)
        hours.wall_ms += 600_000
        await silent(phone, device)
        device = await back(scripted, phone, device)
        await hear(device, "call.resume")
