"""Webhooks of whole gateways (contract, Webhooks): signed, at least once, one id an event."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.gateway.conftest import SECRETS, StartGateway
from tests.support.engines import EngineServer
from tests.support.operators import Operator, instant, operating
from tests.support.receivers import Receiver
from tests.support.waiting import wait_until

ALL = "threshold,minutes_exhausted,minutes_restored,plan_changed,cycle_closed,call_recorded"
DAY = 86_400


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def settings(receiver: Receiver, **more: str) -> dict[str, str]:
    return {"CALLGATE_WEBHOOK_URL": receiver.url, "CALLGATE_WEBHOOK_SECRET": receiver.secret, **more}


async def call(operator: Operator, call_id: str, seconds: int = 60) -> None:
    await operator.start(call_id)
    await operator.pass_by(seconds)
    await operator.end(call_id)


async def test_a_cycle_that_closes_and_a_record_that_is_saved_are_told(
    start_gateway: StartGateway, receiver: Receiver
) -> None:
    environ = settings(receiver, CALLGATE_WEBHOOK_EVENTS=ALL)
    gateway = start_gateway("--simulate", environ=environ)
    async with operating(gateway) as operator:
        await operator.at(instant("2027-01-15T00:00:00Z"))
        await operator.account("acme")
        await call(operator, "c-1")
        await wait_until(lambda: receiver.ids("call_recorded"), 30)
        await operator.at(instant("2027-02-20T00:00:00Z"))
        await wait_until(lambda: receiver.ids("cycle_closed"), 30)
        (recorded,) = [each for each in receiver.taken if each.type == "call_recorded"]
        assert recorded.data["record"] == await operator.call("c-1")
        assert (recorded.data["allocated_seconds"], recorded.data["used_seconds"]) == (6000, 60)
        (closed,) = [each for each in receiver.taken if each.type == "cycle_closed"]
        assert closed.data["statement"] == (await operator.statements())[-1]
        assert closed.data["cycle"] == {"start": "2027-01-15T00:00:00Z", "end": "2027-02-15T00:00:00Z"}

        async def none_wait() -> bool:
            status = (await operator.http.get("/v1/status")).json()
            return bool(status["webhooks"] == {"waiting": 0, "failing_since_ms": None})

        await wait_until(none_wait)
        assert await operator.metric('callgate_webhooks_sent_total{type="cycle_closed"}') == 1
    assert receiver.secret not in gateway.log()


async def test_without_a_webhook_nothing_is_kept(start_gateway: StartGateway, receiver: Receiver) -> None:
    gateway = start_gateway("--simulate")
    async with operating(gateway) as operator:
        await operator.at(instant("2027-01-15T00:00:00Z"))
        await operator.account("acme")
        await operator.at(instant("2027-02-20T00:00:00Z"))
        await wait_until_closed(operator, 1)
        assert (await operator.http.get("/v1/status")).json()["webhooks"] is None
    gateway.stop()
    again = start_gateway("--simulate", data_dir=gateway.data_dir, environ=settings(receiver))
    async with operating(again) as operator:
        await operator.at(instant("2027-03-20T00:00:00Z"))
        await wait_until(lambda: receiver.ids("cycle_closed"), 30)
    assert [each.data["cycle"]["start"] for each in receiver.taken] == ["2027-02-15T00:00:00Z"]


async def wait_until_closed(operator: Operator, count: int) -> None:
    async def closed() -> bool:
        return len([each for each in await operator.statements() if each["closed"]]) == count

    await wait_until(closed, 30)


async def test_a_receiver_that_fails_is_told_of_and_holds_up_nothing(
    start_gateway: StartGateway, receiver: Receiver
) -> None:
    receiver.stop()
    gateway = start_gateway("--simulate", environ=settings(receiver, CALLGATE_WEBHOOK_EVENTS=ALL))
    async with operating(gateway) as operator:
        await operator.account("acme")
        for number in range(5):
            await call(operator, f"c-{number}")

        async def warned() -> bool:
            status = (await operator.http.get("/v1/status")).json()
            assert status["webhooks"]["waiting"] == 5
            assert status["webhooks"]["failing_since_ms"] is not None
            warnings: list[str] = status["warnings"]
            return any("fails since" in each and "5 events wait" in each for each in warnings)

        await wait_until(warned, 30)
        assert len(await operator.calls()) == 5
        receiver.start()
        await wait_until(lambda: len(receiver.taken) == 5, 60)  # the first retry is after 5 s

        async def all_well() -> bool:
            status = (await operator.http.get("/v1/status")).json()
            return bool(status["webhooks"] == {"waiting": 0, "failing_since_ms": None})

        await wait_until(all_well)
    assert len(set(receiver.ids())) == 5
    assert "+14155550100" not in gateway.log()


async def test_what_a_killed_gateway_had_sent_and_not_marked_is_sent_again_under_the_same_id(
    start_gateway: StartGateway, receiver: Receiver
) -> None:
    gate = threading.Event()
    receiver.answers.append(lambda: 204 if gate.wait(30) else 500)
    environ = settings(receiver, CALLGATE_WEBHOOK_EVENTS="call_recorded")
    gateway = start_gateway("--simulate", environ=environ)
    async with operating(gateway) as operator:
        await operator.account("acme")
        await call(operator, "c-1")
        await wait_until(lambda: receiver.at_once == 1, 30)
    gateway.kill()
    gate.set()  # it takes the event, and nobody hears of it
    await wait_until(lambda: len(receiver.taken) == 1)
    again = start_gateway("--simulate", data_dir=gateway.data_dir, environ=environ)
    await wait_until(lambda: len(receiver.taken) == 2, 30)
    first, second = receiver.taken
    assert (first.event_id, first.body) == (second.event_id, second.body)
    again.stop()


@pytest.mark.slow
async def test_of_two_gateways_one_sends_and_the_other_takes_over(
    valkey: EngineServer, start_gateway: StartGateway, make_postgres: object, receiver: Receiver
) -> None:
    assert callable(make_postgres)
    shared = {
        "redis_url": valkey.url,
        "database_url": make_postgres(),
        "environ": {**SECRETS, **settings(receiver, CALLGATE_WEBHOOK_EVENTS="call_recorded")},
    }
    first = await asyncio.to_thread(start_gateway, "--simulate", **shared)
    second = await asyncio.to_thread(start_gateway, "--simulate", **shared)
    async with operating(first) as operator, operating(second) as other:
        await operator.account("acme")
        for number in range(20):
            await call(operator if number % 2 else other, f"c-{number}")

        async def all_marked() -> bool:
            return bool((await other.http.get("/v1/status")).json()["webhooks"]["waiting"] == 0)

        await wait_until(lambda: len(receiver.taken) == 20, 30)
        await wait_until(all_marked)
        sender, rest = (first, other) if "webhooks.sending" in first.log() else (second, operator)
        sender.kill()
        for number in range(20, 30):
            await call(rest, f"c-{number}")
        await wait_until(lambda: len(set(receiver.ids())) == 30, 60)
    assert len(receiver.taken) == 30
