"""Emergency calls are placed without waiting for any answer (R30)."""

import asyncio

import pytest

from gateway.client import Softphone, Timing
from tests.client.scripted import QUICK, ScriptedGateway


async def test_one_is_up_before_the_gateway_says_anything(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK, hang_up_on_exit=False) as phone:
        device = await scripted.connection()
        call = phone.emergency("112")
        assert call.emergency
        assert (call.admission, call.ended) == (None, False)
        start = await device.hear()
        assert (start["type"], start["to"], start["call_id"]) == ("call.start", "112", call.call_id)
        await device.admit(start, emergency=True)
        admission = await call.admitted()
        assert admission.admitted_at_ms == call.admitted_at_ms


@pytest.mark.parametrize("to", ["112", "911", "tel:911", "9-1-1"])
async def test_starting_one_does_not_wait_either(scripted: ScriptedGateway, to: str) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK, hang_up_on_exit=False) as phone:
        device = await scripted.connection()
        call = await phone.start(to)
        assert call.admission is None
        await device.admit(await device.hear(), emergency=True)


async def test_one_that_is_made_while_away_is_told_when_back(scripted: ScriptedGateway) -> None:
    slow = Timing(backoff_seconds=3600, backoff_most_seconds=3600, close_seconds=2)
    async with Softphone(scripted.url, "token", timing=slow, hang_up_on_exit=False) as phone:
        device = await scripted.connection()
        device.vanish()
        await phone.wait_connected(connected=False)
        call = phone.emergency("112")  # and it does not wait for the next attempt's turn
        device = await scripted.connection()
        start = await device.hear()
        assert start["call_id"] == call.call_id
        await device.admit(start, emergency=True)


async def test_its_end_goes_by_the_id_that_the_gateway_gave(scripted: ScriptedGateway) -> None:
    """A used id does not refuse it: it is recorded under a fresh one, and must be ended under that."""
    async with Softphone(scripted.url, "token", timing=QUICK) as phone:
        device = await scripted.connection()
        call = phone.emergency("112", call_id="taken")
        ending = asyncio.ensure_future(call.end())
        start = await device.hear()
        assert start["call_id"] == "taken"
        await device.admit(start, call_id="emergency-1", emergency=True)
        end = await device.hear()
        assert end["call_id"] == call.call_id == "emergency-1"
        await device.settle(end)
        assert (await ending).call_id == "emergency-1"


async def test_a_phone_of_no_more_use_still_gives_one(scripted: ScriptedGateway) -> None:
    async with Softphone(scripted.url, "token", timing=QUICK, hang_up_on_exit=False) as phone:
        await (await scripted.connection()).close(4409)
        await phone.wait_ended()
        call = phone.emergency("112")
        assert not call.ended
        call.answered()


async def test_other_numbers_can_be_said(scripted: ScriptedGateway) -> None:
    phone = Softphone(
        scripted.url,
        "token",
        timing=QUICK,
        hang_up_on_exit=False,
        emergency_numbers={"17"},
        sip_domains={"example.com"},
    )
    async with phone:
        device = await scripted.connection()
        for to in ("17", "sip:17@example.com"):
            assert (await phone.start(to)).emergency
            await device.admit(await device.hear(), emergency=True)
        asking = asyncio.ensure_future(phone.start("112"))
        start = await device.hear()
        assert not asking.done()
        await device.admit(start)
        await asking
