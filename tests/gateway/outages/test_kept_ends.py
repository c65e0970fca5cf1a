"""Ends that a gateway took while the engine was away, and whose clients are gone: it delivers them itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.gateway.outages.deployments import Deployment, events, ready_again, real_time_ms
from tests.gateway.outages.test_emergency_calls import CLOCKS_APART_MS, recorded
from tests.support.devices import Device, connected
from tests.support.operators import Json, Operator
from tests.support.waiting import wait_until

AWAY_MS = 5_000
"""So long after the end the engine comes back: as of then it would be another end."""

CARRIED_OUT_LATE_MS = {"killed": 0, "paused": 2_500}
"""An engine that hung may carry out, so much later, what it was sent as of then."""


async def ended_while_away(
    deployment: Deployment, operator: Operator, account: str, end: Callable[[], Awaitable[object]]
) -> Json:
    """Have a call ended while the engine is away, and return the record that becomes of it."""
    deployment.take_engine_away()
    before_ms = real_time_ms()
    await end()
    after_ms = real_time_ms()
    await wait_until(lambda: real_time_ms() > after_ms + AWAY_MS)
    deployment.give_engine_back()
    await ready_again(deployment.gateway)
    record = await recorded(operator, account, "c-1")
    assert (record["ended_by"], record["revision"]) == ("hangup", 1)
    latest_ms = after_ms + CLOCKS_APART_MS + CARRIED_OUT_LATE_MS[deployment.how]
    assert before_ms - CLOCKS_APART_MS < record["ended_at_ms"] < latest_ms
    assert len(await operator.calls(account)) == 1
    assert (await operator.pool(account))["calls_in_progress"] == 0
    return record


async def test_a_device_hangs_up_and_is_gone_for_good(
    deployment: Deployment, operator: Operator, account: str
) -> None:
    """R16: its call ended when it said so, not when nobody vouched for it any more."""
    await operator.account(account)
    async with connected(deployment.gateway, await operator.token(account)) as device:
        await device.start("c-1")

        async def hang_up_and_go() -> None:
            assert (await device.end("c-1"))["code"] == "engine_unavailable"
            await device.close()

        await ended_while_away(deployment, operator, account, hang_up_and_go)

    def is_delivered() -> bool:
        return "c-1" in [line["call_id"] for line in events(deployment.gateway, "end.delivered")]

    await wait_until(is_delivered, 10)  # it may have been carried out before


async def test_a_device_is_gone_before_it_was_answered(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    """It hung up, and its connection broke behind that."""
    await device.start("c-1")

    async def go() -> None:
        await device.ask("call.end", call_id="c-1")
        await device.close()

    await ended_while_away(deployment, operator, account, go)


async def test_a_server_tells_an_end_over_http_once(
    deployment: Deployment, operator: Operator, account: str
) -> None:
    """How long ago it was when it was told counts, too."""
    await operator.account(account)
    admitted = await operator.start("c-1", account)

    async def end() -> None:
        answer = await operator.http.post(f"/v1/calls/c-1/end?account={account}")
        assert answer.json()["code"] == "engine_unavailable"

    record = await ended_while_away(deployment, operator, account, end)
    assert record["admitted_at_ms"] == admitted["admitted_at_ms"]


async def test_the_operator_sees_what_is_kept(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    async def nothing_is_kept() -> bool:
        return await operator.metric("callgate_ends_kept") == 0

    await wait_until(nothing_is_kept, 20)  # of the tests before
    await device.start("c-1")
    deployment.take_engine_away()
    await device.end("c-1")
    assert await operator.metric("callgate_ends_kept") == 1
    deployment.give_engine_back()
    await ready_again(deployment.gateway)
    await wait_until(nothing_is_kept, 20)
