"""Webhooks are sent at least once, to a real receiver, whatever that does."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from gateway.domain import webhooks
from gateway.domain.calls import PoolNotice
from gateway.domain.webhooks import USUAL_EVENTS
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from gateway.service import webhooks as sending
from gateway.service.webhooks import Receiver as Sending
from gateway.service.webhooks import WebhookSender
from tests.records.making import CYCLE_MS, NEXT_CYCLE_MS, NOW_MS, MemoryStream, execute, rows
from tests.support.receivers import SECRET, Receiver
from tests.support.waiting import wait_until

A_NOTICE = PoolNotice("acme", CYCLE_MS, NEXT_CYCLE_MS, "threshold", 50, NOW_MS, 60_000, 30_000, "team")


class Events:
    """Makes events as the recorder does, each of another account."""

    def __init__(self, records: Records) -> None:
        self._stream = MemoryStream()
        self._recorder = Recorder(records.database, self._stream, self._stream.now_ms)
        self._made = 0

    async def make(self, count: int = 1) -> None:
        self._stream.add(*(replace(A_NOTICE, account=f"a-{self._made + n}") for n in range(count)))
        self._made += count
        await self._recorder.drain()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def made(records: Records) -> Events:
    await records.outbox.want(USUAL_EVENTS)
    return Events(records)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes in life takes moments here."""
    monkeypatch.setattr(webhooks, "RETRY_SECONDS", (0.1, 0.2, 0.4))
    monkeypatch.setattr(sending, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(sending, "STANDBY_SECONDS", 0.1)
    monkeypatch.setattr(sending, "COUNT_SECONDS", 0.0)
    monkeypatch.setattr(sending, "PAUSE_SECONDS", (0.3, 1.0))


@asynccontextmanager
async def sender(records: Records, receiver: Receiver, seconds: float = 5.0) -> AsyncIterator[None]:
    running = asyncio.create_task(
        WebhookSender(records, Sending(receiver.url, [SECRET], timeout_seconds=seconds)).run()
    )
    try:
        yield
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def all_done(records: Records) -> bool:
    return (await records.outbox.state()).waiting == 0


async def test_an_event_is_posted_signed_and_once(records: Records, receiver: Receiver, made: Events) -> None:
    await made.make()
    async with sender(records, receiver):
        await wait_until(lambda: all_done(records))
    (delivery,) = receiver.deliveries
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.headers["user-agent"].startswith("Callgate/")
    assert abs(int(delivery.headers["webhook-timestamp"]) - time.time()) < 10
    assert delivery.content["timestamp"] == "2026-11-23T00:00:00Z"
    assert b" " not in delivery.body
    assert await rows(records.database, "SELECT failures, last_error FROM webhook_events") == [(0, None)]


async def test_what_fails_is_sent_again_the_very_same(
    records: Records, receiver: Receiver, made: Events
) -> None:
    receiver.answers.extend([500, 404, 500])
    await made.make()
    async with sender(records, receiver):
        await wait_until(lambda: all_done(records))
    assert [each.status for each in receiver.deliveries] == [500, 404, 500, 204]
    assert len({(each.event_id, each.body) for each in receiver.deliveries}) == 1
    waits = [b.at - a.at for a, b in zip(receiver.deliveries, receiver.deliveries[1:], strict=False)]
    assert waits[0] > 0.09
    assert waits[1] > 0.19
    assert await rows(records.database, "SELECT failures, last_error FROM webhook_events") == [(3, None)]


async def test_one_that_hangs_or_always_fails_delays_no_other(
    records: Records, receiver: Receiver, made: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    receiver.answers.extend([lambda: 204 if hanging.wait(10) else 500, 500])
    monkeypatch.setattr(webhooks, "RETRY_SECONDS", (60,))
    await made.make(2)
    async with sender(records, receiver):
        await wait_until(lambda: receiver.at_once == 1 and len(receiver.deliveries) == 1)
        await made.make(100)
        await wait_until(lambda: len(receiver.taken) == 100)
        hanging.set()
        await wait_until(lambda: len(receiver.taken) == 101)
    assert 1 < receiver.most_at_once <= sending.AT_ONCE


async def test_a_receiver_that_does_not_answer_in_time_has_not_taken_it(
    records: Records, receiver: Receiver, made: Events
) -> None:
    slow = threading.Event()
    receiver.answers.append(lambda: 204 if slow.wait(10) else 500)
    await made.make()
    async with sender(records, receiver, seconds=0.3):
        await wait_until(lambda: all_done(records))
        slow.set()
        await wait_until(lambda: len(receiver.deliveries) == 2)
    assert len({each.event_id for each in receiver.deliveries}) == 1
    assert await rows(records.database, "SELECT failures FROM webhook_events") == [(1,)]


async def test_a_receiver_that_is_back_gets_all_that_waits_at_once(
    records: Records, receiver: Receiver, made: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "BACK_AFTER_MS", 0)
    monkeypatch.setattr(webhooks, "RETRY_SECONDS", (3600,))
    receiver.stop()
    await made.make(30)
    async with sender(records, receiver):

        async def all_failed() -> bool:
            return await rows(records.database, "SELECT count(*) FROM webhook_events WHERE failures = 1") == [
                (30,)
            ]

        await wait_until(all_failed)
        state = await records.outbox.state()
        assert (state.waiting, state.error) == (30, "ConnectError")
        assert state.failing_since_ms is not None
        assert abs(state.failing_since_ms / 1000 - time.time()) < 30
        receiver.start()
        await made.make()
        await wait_until(lambda: all_done(records))
        assert len(receiver.taken) == len(set(receiver.ids())) == 31

        async def told() -> bool:
            return (await records.outbox.state()).failing_since_ms is None

        await wait_until(told)


@pytest.mark.parametrize("status", [301, 302, 307])
async def test_redirects_are_not_followed(
    records: Records, receiver: Receiver, made: Events, status: int
) -> None:
    with Receiver() as elsewhere:
        receiver.headers["Location"] = elsewhere.url
        receiver.answers.append(status)
        await made.make()
        async with sender(records, receiver):
            await wait_until(lambda: all_done(records))
        assert elsewhere.deliveries == []
    assert [each.status for each in receiver.deliveries] == [status, 204]


async def test_one_who_wants_no_more_gets_no_more_until_a_gateway_starts(
    records: Records, receiver: Receiver, made: Events
) -> None:
    receiver.answers.append(410)
    await made.make()
    async with sender(records, receiver):

        async def is_gone() -> bool:
            return (await records.outbox.state()).gone

        await wait_until(is_gone)
    async with sender(records, receiver):
        await made.make(5)
        await asyncio.sleep(0.3)  # nothing is to happen, which nothing tells
        assert len(receiver.deliveries) == 1
        await records.outbox.want(USUAL_EVENTS)
        await wait_until(lambda: all_done(records))
    assert len(set(receiver.ids())) == 6


@pytest.mark.parametrize("how", ["seconds", "date"])
async def test_a_receiver_that_has_too_much_to_do_is_left_alone_for_as_long_as_it_asks(
    records: Records, receiver: Receiver, made: Events, how: str
) -> None:
    asked = (
        "1" if how == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    )
    receiver.headers["Retry-After"] = asked
    receiver.answers.append(429)
    await made.make()
    async with sender(records, receiver):
        await wait_until(lambda: receiver.deliveries)
        await made.make()
        await wait_until(lambda: all_done(records))
    assert receiver.deliveries[1].at - receiver.deliveries[0].at > 0.85


async def test_it_is_given_up_after_days(
    records: Records, receiver: Receiver, made: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "GIVE_UP_SECONDS", 0.25)
    receiver.answers.extend([500] * 9)
    await made.make()
    async with sender(records, receiver):
        await wait_until(lambda: all_done(records))
    assert receiver.taken == []
    assert len(receiver.deliveries) > 1
    found: list[Any] = await rows(
        records.database, "SELECT last_error, done_at_ms FROM webhook_events WHERE NOT sent"
    )
    assert found[0][0] == "HTTP 500"
    assert found[0][1] is not None


async def test_of_several_gateways_one_sends_and_another_goes_on_after_it(
    records: Records, receiver: Receiver, made: Events
) -> None:
    async with sender(records, receiver):
        async with sender(records, receiver):
            await made.make(200)
            await wait_until(lambda: all_done(records))
        await made.make(50)
        await wait_until(lambda: all_done(records))
    assert len(receiver.deliveries) == len(set(receiver.ids())) == 250


async def test_what_was_under_way_when_it_ended_is_sent_again(
    records: Records, receiver: Receiver, made: Events
) -> None:
    slow = threading.Event()
    receiver.answers.append(lambda: 204 if slow.wait(10) else 500)
    await made.make()
    async with sender(records, receiver):
        await wait_until(lambda: receiver.at_once == 1)
    slow.set()
    async with sender(records, receiver):
        await wait_until(lambda: all_done(records))
    assert len(receiver.deliveries) == 2
    assert len(set(receiver.ids())) == 1


async def test_an_event_that_cannot_be_marked_is_sent_again(
    records: Records, receiver: Receiver, made: Events
) -> None:
    """At least once: the mark was lost, as if the database had been restored."""
    await made.make()
    async with sender(records, receiver):
        await wait_until(lambda: all_done(records))
        await execute(
            records.database, "UPDATE webhook_events SET next_at_ms = 1, done_at_ms = NULL, sent = NOT sent"
        )
        await wait_until(lambda: len(receiver.taken) == 2)
    assert len(set(receiver.ids())) == 1
