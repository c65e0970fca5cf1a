"""A disk that hangs, as one does that syncs what others wrote: emergency calls do not wait for it (R30).

Nor does anything else wait for it any longer than for an engine that is away.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.gateway.outages.deployments import events, problem, ready_again, timed
from tests.gateway.outages.test_emergency_calls import WITHIN_SECONDS, no_journal, recorded
from tests.gateway.outages.test_engine_down import ANSWERED_WITHIN_SECONDS
from tests.support.devices import Device, connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.waiting import wait_until

_PROGRAM = """#!{python}
import os, time
from pathlib import Path

sync, hangs = os.fsync, {hangs!r}
look, shows_nothing = os.scandir, {shows_nothing!r}


def slowly(file):
    while os.access(hangs, os.F_OK):
        time.sleep(0.01)
    sync(file)


def look_slowly(path="."):
    while Path(path).name == "emergencies" and os.access(shows_nothing, os.F_OK):
        time.sleep(0.01)
    return look(path)


os.fsync = slowly
os.scandir = look_slowly

from gateway.cli import main

main()
"""


class HangingDisk:
    """What a gateway of this `program` syncs is on a disk that can hang."""

    def __init__(self, within: Path) -> None:
        self._hangs = within / "hangs"
        self._shows_nothing = within / "shows-nothing"
        self.program = within / "callgate"
        self.program.write_text(
            _PROGRAM.format(
                python=sys.executable, hangs=str(self._hangs), shows_nothing=str(self._shows_nothing)
            )
        )
        self.program.chmod(0o700)

    def hang(self) -> None:
        """Finish no sync from now on."""
        self._hangs.touch()

    def show_nothing(self) -> None:
        """Let nobody look into the journals' folder from now on."""
        self._shows_nothing.touch()

    def go_on(self) -> None:
        """Finish all of it."""
        self._hangs.unlink(missing_ok=True)
        self._shows_nothing.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> HangingDisk:
    """A disk that does not hang yet."""
    return HangingDisk(tmp_path)


@pytest.fixture
def engine(start_engine: Callable[..., EngineServer]) -> EngineServer:
    """An engine on another disk."""
    return start_engine(persistent=True)


@pytest.fixture
async def gateway(tmp_path: Path, disk: HangingDisk, engine: EngineServer) -> AsyncIterator[GatewayProcess]:
    """A gateway whose data directory is on that disk."""
    environ = {"CALLGATE_REDIS_URL": engine.url, "CALLGATE_WHEN_ENGINE_DOWN": "admit"}
    gateway = GatewayProcess(tmp_path / "data", environ=environ, program=disk.program)
    try:
        await asyncio.to_thread(gateway.start)
        yield gateway
    finally:
        disk.go_on()
        gateway.end()


@pytest.fixture
async def operator(gateway: GatewayProcess) -> AsyncIterator[Operator]:
    """Its operator, with the account `acme`."""
    async with operating(gateway) as operator:
        await operator.account()
        yield operator


@pytest.fixture
async def device(gateway: GatewayProcess, operator: Operator) -> AsyncIterator[Device]:
    """Ana's desk phone."""
    async with connected(gateway, await operator.token()) as device:
        yield device


LET_THROUGH_WITHIN_SECONDS = ANSWERED_WITHIN_SECONDS + 1
"""A call that can wait is given another second, in which it may be written down."""


async def test_emergency_calls_are_admitted_within_300_ms(
    gateway: GatewayProcess, operator: Operator, engine: EngineServer, disk: HangingDisk
) -> None:
    """All of them, however many wait for the disk; and each is in the books, once, as of when it was."""
    engine.kill()
    disk.hang()
    calls = [f"help-{number}" for number in range(4)]
    admitted = {}
    took = []
    for call_id in calls:
        admitted[call_id], seconds = await timed(operator.start(call_id, to="112"))
        assert (admitted[call_id]["type"], admitted[call_id]["replayed"]) == ("call.admitted", False)
        took.append(seconds)
    assert min(took[1:]) < WITHIN_SECONDS
    again = await operator.start(calls[0], to="112")
    assert (again["replayed"], again["admitted_at_ms"]) == (True, admitted[calls[0]]["admitted_at_ms"])
    assert {line["call_id"] for line in events(gateway, "emergency.not_written_yet")} == set(calls)

    disk.go_on()
    engine.start()
    await ready_again(gateway)
    for call_id in calls:
        assert (await operator.end(call_id))["type"] == "call.settled"
        record = await recorded(operator, "acme", call_id)
        assert record["admitted_at_ms"] == admitted[call_id]["admitted_at_ms"]
    assert len(await operator.calls()) == len(calls)
    await wait_until(lambda: no_journal(gateway))


async def test_what_was_not_written_yet_is_written_when_the_disk_goes_on(
    gateway: GatewayProcess, operator: Operator, engine: EngineServer, disk: HangingDisk
) -> None:
    """From then on it outlives the process."""
    engine.kill()
    disk.hang()
    admitted = [await operator.start(call_id, to="112") for call_id in ("help-0", "help-1")]
    disk.go_on()

    def are_written() -> bool:
        (journal,) = (gateway.data_dir / "emergencies").glob("*.jsonl")
        return journal.read_text().count('"what":"start"') == len(admitted)

    await wait_until(are_written)
    gateway.kill()
    engine.start()
    await asyncio.to_thread(gateway.start)
    async with operating(gateway) as again:
        for answer in admitted:
            await again.end(answer["call_id"])
            record = await recorded(again, "acme", answer["call_id"])
            assert record["admitted_at_ms"] == answer["admitted_at_ms"]


async def test_a_gateway_that_is_stopped_meanwhile_writes_them_down_first(
    gateway: GatewayProcess, operator: Operator, engine: EngineServer, disk: HangingDisk
) -> None:
    engine.kill()
    disk.hang()
    admitted = [await operator.start(call_id, to="112") for call_id in ("help-0", "help-1")]
    stopped = asyncio.create_task(asyncio.to_thread(gateway.stop))
    await wait_until(lambda: events(gateway, "gateway.stopping"))
    disk.go_on()
    assert await stopped == 0
    engine.start()
    await asyncio.to_thread(gateway.start)
    async with operating(gateway) as again:
        for answer in admitted:
            await again.end(answer["call_id"])
            record = await recorded(again, "acme", answer["call_id"])
            assert record["admitted_at_ms"] == answer["admitted_at_ms"]


async def test_an_emergency_is_told_to_an_engine_that_is_back_before_the_disk_is(
    gateway: GatewayProcess, operator: Operator, engine: EngineServer, disk: HangingDisk
) -> None:
    engine.kill()
    disk.hang()
    await operator.start("help", to="112")
    await wait_until(lambda: events(gateway, "journal.not_told_yet"))
    engine.start()
    await wait_until(lambda: events(gateway, "journal.told"))
    assert (await operator.end("help"))["type"] == "call.settled"
    await recorded(operator, "acme", "help")
    disk.go_on()
    await wait_until(lambda: no_journal(gateway))
    assert len(await operator.calls()) == 1


async def test_ends_are_answered_and_kept_where_the_folder_hangs(
    gateway: GatewayProcess, operator: Operator, device: Device, engine: EngineServer, disk: HangingDisk
) -> None:
    """And delivered to an engine that is back before the disk is."""
    (gateway.data_dir / "emergencies").mkdir()
    calls = [f"c-{number}" for number in range(3)]
    for call_id in calls:
        assert (await device.start(call_id))["type"] == "call.admitted"
    engine.kill()
    disk.show_nothing()
    took = []
    for call_id in calls:
        answer, seconds = await timed(device.end(call_id))
        assert answer["code"] == "engine_unavailable"
        took.append(seconds)
    assert min(took) < ANSWERED_WITHIN_SECONDS
    await device.close()
    assert await operator.metric("callgate_ends_kept") == len(calls)
    engine.start()
    for call_id in calls:
        assert (await recorded(operator, "acme", call_id))["ended_by"] == "hangup"


async def test_an_end_that_no_engine_knows_is_not_unknown_where_the_folder_hangs(
    gateway: GatewayProcess, operator: Operator, disk: HangingDisk
) -> None:
    """Another worker's journal may have its call; when the folder shows that none has, it is."""
    (gateway.data_dir / "emergencies").mkdir()
    disk.show_nothing()
    answer, seconds = await timed(operator.http.post("/v1/calls/c-1/end?account=acme", json={}))
    assert problem(answer) == (503, "engine_unavailable")
    assert seconds < ANSWERED_WITHIN_SECONDS
    disk.go_on()
    await wait_until(lambda: events(gateway, "end.not_taken"))


@pytest.mark.parametrize("hang", [HangingDisk.hang, HangingDisk.show_nothing])
async def test_a_call_that_can_wait_is_not_let_through_by_a_disk_that_hangs(
    gateway: GatewayProcess,
    operator: Operator,
    device: Device,
    engine: EngineServer,
    disk: HangingDisk,
    hang: Callable[[HangingDisk], None],
) -> None:
    """Asked again when it goes on it is."""
    (gateway.data_dir / "emergencies").mkdir()
    engine.kill()
    hang(disk)
    answer, seconds = await timed(device.start("c-1"))
    assert answer["code"] == "engine_unavailable"
    assert seconds < LET_THROUGH_WITHIN_SECONDS
    disk.go_on()
    assert (await device.start("c-2"))["admitted_offline"]
    engine.start()
    await wait_until(lambda: no_journal(gateway))
    assert [call["call_id"] for call in (await operator.pool())["calls"]] == ["c-2"]
