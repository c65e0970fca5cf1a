"""The three times count by themselves, and are what the pool's API says, to the second (R4, R5)."""

from __future__ import annotations

import asyncio

import pytest

from gateway.client import CallRefused
from tests.browser.looking import Look, OpenLook
from tests.browser.people import business, clock, phone_of
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module")]


async def signed_in(look: OpenLook, gateway: GatewayProcess, token: str) -> Look:
    window = await look(gateway.url, f"/#token={token}")
    await window.state("connected")
    return window


async def test_the_thirtieth_second_is_free_and_a_millisecond_more_counts_all_of_it(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    window = await signed_in(look, gateway, await business(operator, account))
    await operator.start("c-1", account)
    await window.call("c-1").wait_for()

    await operator.pass_by(30)
    await window.page.wait_for_selector('[data-running="30"]')
    assert await window.figures() == (3600, 0, 3600)
    assert "Free, 0 s left" in await window.call("c-1").inner_text()

    await operator.pass_by(0.001)
    await window.shows(used=31, remaining=3569)
    assert "Counting, 0:31" in await window.call("c-1").inner_text()


async def test_seconds_are_counted_one_by_one_without_a_message(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    window = await signed_in(look, gateway, await business(operator, account))
    await operator.start("c-1", account)
    await operator.pass_by(28.5)
    await window.call("c-1").wait_for()
    await clock(operator, speed=1)
    await wait_until(lambda: window.pools()[-1]["clock_speed"] == 1)
    heard = len(window.pools())
    await window.watch_used()

    async def counted() -> bool:
        return 33 in await window.used_shown()

    await wait_until(counted, 20)
    assert (await window.used_shown())[:4] == [0, 31, 32, 33]
    assert len(window.pools()) == heard
    await clock(operator, speed=0)
    pool = await operator.pool(account)
    await window.shows(used=pool["used_seconds"], remaining=pool["remaining_seconds"])


async def test_calls_of_two_people_count_at_once(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    window = await signed_in(look, gateway, await business(operator, account))
    async with (
        await phone_of(operator, gateway, account, "ana") as ana,
        await phone_of(operator, gateway, account, "ben") as ben,
    ):
        first = await ana.start("+14155550101")
        await operator.pass_by(40.5)
        second = await ben.start("+14155550102")
        await operator.pass_by(35.2)
        await window.shows(used=76 + 36)
        assert "ana" in await window.call(first.call_id).inner_text()
        assert "+1•••••••0102" in await window.call(second.call_id).inner_text()
        assert await window.text("#calls-count") == "2"

        await operator.pass_by(0.5)
        await window.shows(used=77 + 36)
        await first.end()
        await window.call(first.call_id).wait_for(state="detached")
        await operator.pass_by(10)
        await window.shows(used=77 + 46)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_for_a_whole_minute_every_second_is_the_one_of_the_api(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    token = await business(operator, account)
    window = await signed_in(look, gateway, token)
    async with (
        await phone_of(operator, gateway, account, "ana") as ana,
        await phone_of(operator, gateway, account, "ben") as ben,
    ):
        await ana.start("+14155550101")
        await operator.pass_by(100)
        # Begun at the same phase of a second, so that all that is shown steps at one moment.
        await ben.start("+14155550102")
        await clock(operator, speed=1)
        await wait_until(lambda: window.pools()[-1]["clock_speed"] == 1)
        await window.page.wait_for_load_state("networkidle")
        heard, asked = len(window.heard), len(window.requests)
        began_ms = (await operator.pool(account))["calls"][0]["admitted_at_ms"]
        seconds: dict[int, int] = {}
        wrong: dict[int, object] = {}
        while len(seconds) < 60:
            before = await window.figures()
            pool = await operator.pool(account)
            after = await window.figures()
            second, phase = divmod(pool["at_ms"] - began_ms, 1000)
            # Around the step itself the two readings are of different seconds.
            if 200 <= phase <= 700 and second not in seconds:
                expected = (3600, pool["used_seconds"], pool["remaining_seconds"])
                # A busy machine may draw late, but not by a second.
                if before == after == expected:
                    seconds[second] = pool["used_seconds"]
                    wrong.pop(second, None)
                else:
                    wrong[second] = (phase, before, expected, after)
            await asyncio.sleep(0.05)
        await clock(operator, speed=0)

    assert not wrong
    # The second call stepped from nothing to all of it.
    first, last = min(seconds), max(seconds)
    assert first < 30 < last
    assert seconds[last] - seconds[first] == (last - first) + last + 1
    spoken = [frame["type"] for frame in window.heard[heard:] if frame["type"] != "pool"]
    assert set(spoken) <= {"pong"}
    counted = [
        frame for frame in window.heard[heard:] if frame["type"] == "pool" and frame["clock_speed"] == 1
    ]
    assert counted == []
    assert len(window.requests) <= asked + 3  # after the end of the minute, for what has changed


async def test_minutes_that_run_out_in_mid_call_end_no_call_and_an_upgrade_brings_calls_back(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    window = await signed_in(look, gateway, await business(operator, account, minutes=1))
    async with await phone_of(operator, gateway, account, "ana") as ana:
        call = await ana.start("+14155550101")
        await operator.pass_by(57.5)
        await window.shows(remaining=2)
        await clock(operator, speed=1)

        await window.page.wait_for_selector('.banner[data-kind="out"]')
        await window.page.wait_for_selector("#remaining .note")
        await clock(operator, speed=0)
        pool = await operator.pool(account)
        await window.shows(used=pool["used_seconds"], remaining=0)
        assert pool["overrun_seconds"] > 0
        said = await window.text(".banner")
        assert "The call in progress goes on as long as you like" in said
        assert "a bigger plan" in said
        assert await window.call(call.call_id).count() == 1
        assert not call.ended
        with pytest.raises(CallRefused) as refused:
            await ana.start("+14155550102")
        assert refused.value.reason == "minutes_exhausted"

        await operator.plan(f"{account}-bigger", minutes=10, name="Bigger")
        await operator.move_to(account, f"{account}-bigger")
        await window.page.wait_for_selector(".banner", state="detached")
        await window.shows(used=pool["used_seconds"], remaining=600 - pool["used_seconds"])
        await window.says("#plan", "Bigger")
        assert await window.call(call.call_id).count() == 1
        await (await ana.start("+14155550103")).end()
        await call.end()


async def test_the_cycle_turns_before_the_readers_eyes(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    token = await business(operator, account)
    await operator.start("c-1", account)
    await operator.pass_by(100)
    window = await signed_in(look, gateway, token)
    await window.shows(used=100)
    pool = await operator.pool(account)
    dates = await window.text("#cycle-dates")

    end_ms = await window.page.evaluate("(end) => Date.parse(end)", pool["cycle"]["end"])
    await operator.pass_by((end_ms - pool["at_ms"]) / 1000)

    await window.shows(used=0, remaining=3600)
    assert await window.text("#cycle-dates") != dates
    # R20: the call that spans the boundary is all the old cycle's.
    assert "Counts in the last cycle" in await window.call("c-1").inner_text()
    await operator.end("c-1", account)
    await window.page.wait_for_selector("#statements tbody tr:nth-child(2)")
    await window.says("#chart-text", "The previous cycle came to")


async def test_dates_are_those_of_the_accounts_time_zone(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    token = await business(operator, account, time_zone="Pacific/Auckland")
    window = await look(gateway.url, f"/#token={token}", timezone_id="America/Los_Angeles", locale="en-US")
    await window.state("connected")

    await window.says("#time-zone", "Pacific/Auckland")
    first, last = (await window.text("#cycle-dates")).split(" – ")
    assert " 15, " in first
    assert " 14, " in last


async def test_marks_that_are_passed_are_shown_and_said_and_so_is_when_these_calls_use_it_up(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    window = await signed_in(look, gateway, await business(operator, account, minutes=10))
    await operator.start("c-1", account)
    await operator.pass_by(301)
    pool = await operator.pool(account)
    await window.page.wait_for_selector('.marks li[data-percent="50"][data-passed]')
    assert "passed" in await window.text('.marks li[data-percent="50"]')
    assert await window.page.locator(".marks li[data-passed]").count() == 1
    await window.says("#said", "50 percent of the minutes are used.")
    assert pool["empty_at_ms"] is not None
    assert await window.page.get_attribute("#by-calls", "data-empty-at-ms") == str(pool["empty_at_ms"])
    assert "in 5 min" in await window.text("#by-calls")

    await operator.pass_by(300)
    await window.page.wait_for_selector('.marks li[data-percent="100"][data-passed]')
    await window.says("#said", "All minutes are used. Calls in progress go on; new calls are refused.")
