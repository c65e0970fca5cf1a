"""A disk that hangs, as one does that syncs what others wrote: emergency calls do not wait for it (R30)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.gateway.outages.deployments import events, ready_again, timed
from tests.gateway.outages.test_emergency_calls import WITHIN_SECONDS, no_journal, recorded
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.waiting import wait_until

_PROGRAM = """#!{python}
import os, time
from pathlib import Path

sync, hangs = os.fsync, Path({hangs!r})


def slowly(file):
    while hangs.exists():
        time.sleep(0.01)
    sync(file)


os.fsync = slowly

from gateway.cli import main

main()
"""


class HangingDisk:
    """What a gateway of this `program` syncs is on a disk that can hang."""

    def __init__(self, within: Path) -> None:
        self._sign = within / "hangs"
        self.program = within / "callgate"
        self.program.write_text(_PROGRAM.format(python=sys.executable, hangs=str(self._sign)))
        self.program.chmod(0o700)

    def hang(self) -> None:
        """Finish no sync from now on."""
        self._sign.touch()

    def go_on(self) -> None:
        """Finish them."""
        self._sign.unlink(missing_ok=True)


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
    environ = {"CALLGATE_REDIS_URL": engine.url}
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
