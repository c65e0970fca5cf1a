"""Which calls a device's connection vouches for, and what becomes of them when it is gone (R12, R13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from gateway.api import call_events, device_socket
from gateway.domain.answers import Admitted, Answer, Resumed
from gateway.domain.asks import Answered, End, Resume, Start
from gateway.domain.calls import Caller
from gateway.domain.errors import (
    CallgateError,
    CallIdConflict,
    CallIdUsed,
    CallUnknown,
    DatabaseUnavailable,
    EngineUnavailable,
)
from tests.api.conftest import end, start
from tests.api.fake_service import (
    ADMITTED_MS,
    RECEIPTS,
    FakeService,
    Served,
    answered,
    in_progress,
    resume,
    serving,
    settled,
    stall,
)
from tests.support.waiting import wait_until

OFTEN_SECONDS = 0.02


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def served(service: FakeService) -> AsyncIterator[Served]:
    async with serving(service) as served:
        yield served


# Asking


async def test_a_call_is_resumed_and_answered_with_a_receipt(served: Served, service: FakeService) -> None:
    async with served.device() as device:
        resumed = await device.ask(resume())

    assert resumed == {
        "type": "call.resumed",
        "re": 4,
        "call_id": "c-1",
        "admitted_at_ms": ADMITTED_MS,
        "receipt": RECEIPTS.issue(in_progress()),
    }
    assert service.asked == [Resume("acme", "c-1", ("ana", "desk"), connection=1)]


async def test_with_its_receipt_the_pool_is_told_all_of_the_call(
    served: Served, service: FakeService
) -> None:
    async with served.device() as device:
        receipt = (await device.ask(start()))["receipt"]
        await device.ask(resume(receipt=receipt))

    assert service.asked[-1] == Resume("acme", "c-1", ("ana", "desk"), connection=1, found=in_progress())


@pytest.mark.parametrize(
    ("receipt", "code"),
    [
        ("nonsense", "invalid_field"),
        (RECEIPTS.issue(in_progress("c-2")), "invalid_field"),
        (RECEIPTS.issue(in_progress(account="other")), "forbidden"),
        (RECEIPTS.issue(in_progress(device="mobile")), "forbidden"),
    ],
)
async def test_a_receipt_that_is_not_this_call_s_is_refused(
    served: Served, service: FakeService, receipt: str, code: str
) -> None:
    async with served.device() as device:
        error = await device.ask(resume(receipt=receipt))

        assert (error["type"], error["re"], error["code"]) == ("error", 4, code)
        if code == "invalid_field":
            assert [each["field"] for each in error["errors"]] == ["receipt"]
        assert receipt not in str(error)
        assert (await device.ask(resume(receipt=None)))["type"] == "call.resumed"
    assert len(service.asked) == 1


async def test_every_ask_carries_the_connection_s_number(served: Served, service: FakeService) -> None:
    service.connects = [77]
    async with served.device() as device:
        for frame in (
            start(),
            start("e-1", to="112"),
            {"type": "call.start", "to": "112"},
            answered(),
            end(),
        ):
            await device.ask(frame)

    assert [type(ask) for ask in service.asked] == [Start, Start, Start, Answered, End]
    assert {ask.connection for ask in service.asked if not isinstance(ask, Resume)} == {77}  # type: ignore[union-attr]


@pytest.mark.parametrize("frame", [answered(), end(), resume()])
async def test_an_older_connection_is_told_that_a_newer_one_has_the_call(
    served: Served, service: FakeService, frame: dict[str, Any]
) -> None:
    service.answers = {"c-1": CallIdConflict()}
    async with served.device() as device:
        error = await device.ask(frame)

    assert error["code"] == "call_id_conflict"
    assert "newer connection" in error["message"]


# Vouching


async def test_a_connection_vouches_for_what_it_started_or_resumed(
    served: Served, service: FakeService
) -> None:
    service.answers = {"c-2": Admitted("c-2", ADMITTED_MS, 6000, replayed=True, emergency=False)}
    async with served.device() as device:
        for frame in (start("c-1"), start("c-2"), start("e-1", to="112"), resume("c-3"), answered("c-4")):
            await device.ask(frame)

        assert service.socket().calls == {"c-1", "c-2", "e-1", "c-3"}
        for call_id in ("c-1", "c-3"):
            await device.ask(end(call_id))
        assert service.socket().calls == {"c-2", "e-1"}


async def test_an_emergency_is_vouched_for_by_the_id_that_it_goes_by(
    served: Served, service: FakeService
) -> None:
    service.answers = {"c-1": Admitted("e-9", ADMITTED_MS, 6000, replayed=False, emergency=True)}
    async with served.device() as device:
        await device.ask(start(to="112"))

        assert service.socket().calls == {"e-9"}


async def test_a_call_whose_end_was_taken_is_vouched_for_no_more(
    served: Served, service: FakeService
) -> None:
    """Else its last sign of life would come after its end, and move it (R16)."""
    async with served.device() as device:
        await device.ask(start())
        service.held = {"c-1"}
        await device.send(end())
        await wait_until(lambda: "c-1" in service.waiting)
        assert service.socket().calls == set()
        service.waiting.pop("c-1")(EngineUnavailable())
        assert (await device.hear())["code"] == "engine_unavailable"
        assert service.socket().calls == set()


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (answered(), CallIdConflict()),
        (resume(), CallUnknown()),
        (resume(), CallIdUsed()),
        (resume(), CallIdConflict()),
    ],
)
async def test_what_the_pool_says_is_not_ours_is_vouched_for_no_more(
    served: Served, service: FakeService, frame: dict[str, Any], error: CallgateError
) -> None:
    async with served.device() as device:
        await device.ask(start())
        service.answers = {"c-1": error}
        await device.ask(frame)

        assert service.socket().calls == set()


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (start(to="+4930123456"), CallIdConflict()),
        (answered(), CallUnknown()),  # the engine may have lost it, and another gateway be about to tell it
        (answered(), EngineUnavailable()),
        (resume(), EngineUnavailable()),
        (resume(), DatabaseUnavailable()),
    ],
)
async def test_what_says_nothing_of_the_call_changes_nothing(
    served: Served, service: FakeService, frame: dict[str, Any], error: CallgateError
) -> None:
    async with served.device() as device:
        await device.ask(start())
        service.answers = {"c-1": error}
        told = await device.ask(frame)

        assert (told["code"], told["message"]) == (error.code, error.message)
        assert service.socket().calls == {"c-1"}


# Being gone


async def test_of_a_connection_that_is_gone_the_service_is_told_which_calls_are_lost(
    served: Served, service: FakeService
) -> None:
    async with served.device() as device:
        for frame in (start("c-1"), start("c-2"), start("c-3"), end("c-2")):
            await device.ask(frame)
    await wait_until(lambda: service.lost_calls)

    (lost,) = service.lost_calls
    assert (lost.account, lost.call_ids, lost.number) == ("acme", ("c-1", "c-3"), 1)
    assert 0 <= lost.heard_ago_ms < 5_000
    await wait_until(lambda: len(service.devices) == 0)
    assert len(service.lost_calls) == 1


async def test_of_one_without_calls_nothing_is_told(served: Served, service: FakeService) -> None:
    async with served.device() as device:
        await device.ask(start())
        await device.ask(end())
    await wait_until(lambda: len(service.devices) == 0)

    assert service.lost_calls == []


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (start(), Admitted("c-1", ADMITTED_MS, 6000, replayed=False, emergency=False)),
        (resume(), Resumed(in_progress(), late=True)),
    ],
)
async def test_what_is_admitted_or_resumed_after_it_has_gone_is_lost_at_once(
    served: Served, service: FakeService, frame: dict[str, Any], answer: Answer
) -> None:
    service.held = {"c-1"}
    async with served.device() as device:
        await device.send(frame)
        await wait_until(lambda: "c-1" in service.waiting)
    await wait_until(lambda: len(service.devices) == 0)
    assert service.lost_calls == []

    service.waiting["c-1"](answer)

    (lost,) = service.lost_calls
    assert (lost.account, lost.call_ids, lost.number) == ("acme", ("c-1",), 1)


@pytest.mark.parametrize("answer", [settled("c-1"), CallUnknown(), EngineUnavailable()])
async def test_what_ended_or_failed_after_it_has_gone_is_not(
    served: Served, service: FakeService, answer: Answer | CallgateError
) -> None:
    service.held = {"c-1"}
    async with served.device() as device:
        await device.send(end())
        await wait_until(lambda: "c-1" in service.waiting)
    await wait_until(lambda: len(service.devices) == 0)

    service.waiting["c-1"](answer)

    assert service.lost_calls == []


# Being heard


async def test_pongs_alone_show_that_a_device_is_there() -> None:
    service = FakeService()
    async with serving(service, OFTEN_SECONDS) as served, served.device():
        socket = service.socket()
        for _ in range(5):
            await wait_until(lambda: socket.heard_ago_ms() >= 10, interval=0.001)
            await wait_until(lambda: socket.heard_ago_ms() < 10, interval=0.001)


async def test_a_device_that_answers_no_ping_is_heard_of_no_more() -> None:
    service = FakeService()
    async with serving(service, OFTEN_SECONDS) as served, served.device() as device:
        socket = service.socket()
        stall(device.connection)
        await wait_until(lambda: socket.heard_ago_ms() > 500)
        await device.send(start())
        await wait_until(lambda: socket.heard_ago_ms() < 100, interval=0.001)
        await wait_until(lambda: socket.heard_ago_ms() > 500)
        device.connection.transport.resume_reading()
        await wait_until(lambda: socket.heard_ago_ms() < 100, interval=0.001)


async def test_a_closing_is_the_last_that_is_heard(served: Served, service: FakeService) -> None:
    async with served.device() as device:
        await device.ask(start())
        socket = service.socket()
        await wait_until(lambda: socket.heard_ago_ms() > 300)
        device.connection.transport.abort()  # no frame: the stream ends
    await wait_until(lambda: service.lost_calls)

    assert service.lost_calls[0].heard_ago_ms < 300


async def test_by_another_server_a_device_is_heard_of_by_its_frames() -> None:
    service = FakeService()
    async with serving(service, OFTEN_SECONDS, ours=False) as served, served.device() as device:
        socket = service.socket()
        await wait_until(lambda: socket.heard_ago_ms() > 300)
        await device.ask({"type": "ping", "id": 1})
        assert socket.heard_ago_ms() < 300


# Having a number


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections without a number ask for one often."""
    monkeypatch.setattr(device_socket, "NUMBER_SECONDS", OFTEN_SECONDS)


@pytest.mark.usefixtures("hasty")
async def test_a_connection_that_was_welcomed_blindly_gets_its_number_later() -> None:
    service = FakeService(connects=[EngineUnavailable(), EngineUnavailable(), DatabaseUnavailable(), 9])
    async with serving(service, OFTEN_SECONDS) as served, served.device() as device:
        assert (device.welcome["remaining_seconds"], device.welcome["calls"]) == (None, [])
        await wait_until(lambda: service.socket().number == 9)
        await device.ask(start())

    assert isinstance(service.asked[0], Start)
    assert service.asked[0].connection == 9
    assert service.connected == 4


@pytest.mark.usefixtures("hasty")
async def test_before_it_has_one_its_words_are_taken_all_the_same() -> None:
    service = FakeService(connects=[EngineUnavailable()] * 100_000)
    async with serving(service) as served, served.device() as device:
        assert (await device.ask(start()))["type"] == "call.admitted"
        assert (await device.ask(end()))["type"] == "call.settled"

    assert [ask.connection for ask in service.asked if isinstance(ask, Start | End)] == [0, 0]


@pytest.mark.usefixtures("hasty")
async def test_one_that_turns_out_to_be_the_older_is_closed() -> None:
    service = FakeService(connects=[EngineUnavailable(), EngineUnavailable(), 5])
    async with serving(service, OFTEN_SECONDS) as served, served.device() as device:
        service.devices.close_replaced(Caller("acme", "ana", "desk"), 6)

        assert await device.close_code() == 4409


@pytest.mark.usefixtures("hasty")
async def test_one_that_turns_out_to_be_the_newer_stays() -> None:
    service = FakeService(connects=[EngineUnavailable(), EngineUnavailable(), 7])
    async with serving(service, OFTEN_SECONDS) as served, served.device() as device:
        service.devices.close_replaced(Caller("acme", "ana", "desk"), 6)
        await wait_until(lambda: service.socket().number == 7)

        assert (await device.ask({"type": "ping", "id": 1}))["type"] == "pong"


@pytest.mark.usefixtures("hasty")
async def test_a_device_that_is_not_heard_of_gets_none() -> None:
    """It may have connected elsewhere, where the greater number would close the living connection."""
    service = FakeService(connects=[EngineUnavailable()])
    async with serving(service) as served, served.connect() as connection:
        await connection.recv()  # the welcome; the next ping comes in 10 s
        await asyncio.sleep(20 * OFTEN_SECONDS)
        assert service.connected == 1

        await connection.ping()
        await wait_until(lambda: service.socket().number)


# The log


async def test_the_log_tells_of_resumptions_and_of_no_receipt(
    served: Served, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers = {
        "c-2": Resumed(in_progress("c-2"), late=True),
        "c-3": CallIdUsed(),
        "c-4": Admitted("c-4", ADMITTED_MS, None, replayed=False, emergency=False, admitted_offline=True),
    }
    monkeypatch.setattr(call_events, "log", structlog.get_logger("test"))
    with structlog.testing.capture_logs() as lines:
        async with served.device() as device:
            for call_id in ("c-1", "c-2", "c-3"):
                receipt = RECEIPTS.issue(in_progress(call_id))
                await device.ask(resume(call_id, receipt=receipt))
            await device.ask(start("c-4"))
            await device.ask(resume("c-5", receipt="r1.nonsense"))

    resumed = [(line["call_id"], line["late"]) for line in lines if line["event"] == "call.resumed"]
    assert resumed == [("c-1", False), ("c-2", True)]
    (failed,) = (line for line in lines if line["event"] == "call.failed")
    assert (failed["call_id"], failed["asked"], failed["code"]) == ("c-3", "resume", "call_id_used")
    (admitted,) = (line for line in lines if line["event"] == "call.admitted")
    assert admitted["admitted_offline"] is True
    assert "r1." not in str(lines)
