"""What a gateway was told while the engine was away, by clients that are gone: it delivers that itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import get_args

import httpx
import pytest

from tests.gateway.outages.deployments import Deployment, How, events, problem, ready_again, real_time_ms
from tests.gateway.outages.test_emergency_calls import CLOCKS_APART_MS, recorded
from tests.support.devices import Device, connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Json, Operator, operating
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


COUNTS_FROM_THE_ANSWER = {"CALLGATE_COUNT_FROM": "answer", "CALLGATE_FREE_SECONDS": "0"}


@pytest.fixture(params=get_args(How))
def counting_from_the_answer(
    request: pytest.FixtureRequest,
    start_engine: Callable[..., EngineServer],
    start_gateway: Callable[..., GatewayProcess],
) -> Iterator[Deployment]:
    """A deployment in which a call that was never answered is free."""
    engine = start_engine(persistent=True)
    gateway = start_gateway(redis_url=engine.url, environ=COUNTS_FROM_THE_ANSWER)
    yield Deployment(gateway, engine, request.param)
    if engine.process.poll() is None:
        engine.resume()


async def test_a_call_answered_and_ended_meanwhile_bills_from_its_answer(
    counting_from_the_answer: Deployment,
) -> None:
    """R3. The client asks again afterwards, as it may, and changes nothing."""
    deployment = counting_from_the_answer
    async with operating(deployment.gateway) as operator:
        await operator.account()
        admitted = await operator.start("c-1")
        deployment.take_engine_away()
        answered_ms = real_time_ms()
        assert problem(await tell(operator, "answered")) == (503, "engine_unavailable")
        ended_ms = real_time_ms()
        assert problem(await tell(operator, "end")) == (503, "engine_unavailable")
        deployment.give_engine_back()
        await ready_again(deployment.gateway)

        record = await recorded(operator, "acme", "c-1")
        assert record["admitted_at_ms"] == admitted["admitted_at_ms"]
        assert is_of_then(deployment, record["answered_at_ms"], answered_ms)
        assert is_of_then(deployment, record["ended_at_ms"], ended_ms)
        assert record["duration_ms"] == record["ended_at_ms"] - record["answered_at_ms"]
        assert record["billed_seconds"] == -(-record["duration_ms"] // 1000) > 0
        assert (await tell(operator, "answered")).json()["type"] == "call.noted"
        again = (await tell(operator, "end")).json()
        assert (again["replayed"], again["billed_seconds"]) == (True, record["billed_seconds"])
        assert await operator.calls() == [record]


async def test_a_call_that_goes_on_counts_from_an_answer_that_was_told_once(
    counting_from_the_answer: Deployment,
) -> None:
    """R4: nobody has to end it first."""
    deployment = counting_from_the_answer
    async with operating(deployment.gateway) as operator:
        await operator.account()
        await operator.start("c-1")
        deployment.take_engine_away()
        answered_ms = real_time_ms()
        assert problem(await tell(operator, "answered")) == (503, "engine_unavailable")
        deployment.give_engine_back()
        await ready_again(deployment.gateway)

        async def is_answered() -> int | None:
            at_ms: int | None = (await operator.call("c-1"))["answered_at_ms"]
            return at_ms

        at_ms = await wait_until(is_answered, 20)
        assert is_of_then(deployment, at_ms, answered_ms)


def is_of_then(deployment: Deployment, at_ms: int, told_ms: int) -> bool:
    """Whether it is as of when it was told."""
    latest_ms = told_ms + CLOCKS_APART_MS + CARRIED_OUT_LATE_MS[deployment.how]
    return told_ms - CLOCKS_APART_MS < at_ms < latest_ms


async def tell(operator: Operator, what: str) -> httpx.Response:
    """Tell something of the call, as a server does that has not been told of it before."""
    return await operator.http.post(f"/v1/calls/c-1/{what}?account=acme")
