"""A gateway that stops, or is killed, and is started again on its data: nothing that was answered is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.gateway.conftest import StartGateway
from tests.support.devices import Device, Frame, connect_device, connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Json, Operator, operating
from tests.support.waiting import wait_until

RESTARTING = 1012
DEVICES = 10


@asynccontextmanager
async def running(
    start_gateway: StartGateway, data_dir: Path
) -> AsyncIterator[tuple[GatewayProcess, Operator]]:
    """A gateway with its embedded engine, and its operator."""
    gateway = await asyncio.to_thread(start_gateway, data_dir=data_dir)
    async with operating(gateway) as operator:
        yield gateway, operator


async def recorded(operator: Operator, count: int) -> list[Json]:
    """Wait until the recorder has caught up, and return all records."""

    async def enough() -> list[Json]:
        records = await operator.calls()
        return records if len(records) >= count else []

    found: list[Json] = await wait_until(enough, 20)
    return found


async def test_a_gateway_that_stops_takes_leave_and_its_calls_go_on(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    """R11. What was asked is answered first, and whoever connects is sent elsewhere."""
    async with running(start_gateway, tmp_path) as (gateway, operator):
        await operator.account()
        token = await operator.token()
        device = await connect_device(gateway, token)
        admitted = await device.start("c-0")
        asked = [await device.ask("call.start", call_id=f"c-{n}", to="+14155550100") for n in range(1, 51)]
        assert (await device.request("ping"))["type"] == "pong"  # so that it has read all of them
        gateway.signal(signal.SIGTERM)
        answers = await asyncio.gather(*asked)
        assert {frame["type"] for frame in answers} == {"call.admitted"}
        assert await device.closed() == RESTARTING
        assert [(notice["type"], notice["kind"]) for notice in device.notices] == [("notice", "going_away")]
    assert await asyncio.to_thread(gateway.process.wait, 30) == 0

    async with running(start_gateway, tmp_path) as (gateway, operator), connected(gateway, token) as device:
        calls = {call["call_id"]: call for call in (await device.welcome())["calls"]}
        assert calls.keys() == {f"c-{number}" for number in range(51)}
        assert calls["c-0"]["admitted_at_ms"] == admitted["admitted_at_ms"]
        assert (await device.start("c-0"))["replayed"]
        ended = await asyncio.gather(*(device.end(call_id) for call_id in calls))
        assert not any(frame["replayed"] for frame in ended)
        assert len(await recorded(operator, 51)) == 51


async def test_while_it_takes_leave_it_is_not_ready_and_lets_nobody_in(
    start_engine: Callable[..., EngineServer], start_gateway: StartGateway
) -> None:
    engine = start_engine()
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url)
    async with operating(gateway) as operator:
        await operator.account()
        token = await operator.token()
        device = await connect_device(gateway, token)
        await device.welcome()
        engine.pause()  # so that there is an answer to wait for
        asked = await device.ask("call.start", call_id="c-1", to="+14155550100")
        await device.request("ping")
        gateway.signal(signal.SIGTERM)
        await wait_until(lambda: device.notices)
        ready = await operator.http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert int(ready.headers["retry-after"]) >= 1
        with pytest.raises(InvalidStatus) as refused:
            await connect_device(gateway, token)
        assert refused.value.response.status_code == 503
        assert (await asked)["code"] == "engine_unavailable"
        assert await device.closed() == RESTARTING


class Busy:
    """A device that calls and hangs up as fast as it can, and notes what it was told."""

    def __init__(self, device: Device, name: str) -> None:
        self._device = device
        self._name = name
        self.admitted: dict[str, Frame] = {}
        self.settled: dict[str, Frame] = {}
        self.in_doubt = ""

    async def run(self) -> None:
        """Go on until the gateway is gone. Every third call is left in progress."""
        for number in range(1_000_000):
            call_id = self.in_doubt = f"{self._name}-{number}"
            try:
                frame = await self._device.start(call_id)
                assert frame["type"] == "call.admitted", frame
                self.admitted[call_id] = frame
                if number % 3:
                    self.settled[call_id] = await self._device.end(call_id)
            except OSError:
                return


async def test_a_gateway_that_is_killed_loses_nothing_that_it_answered(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    """R14, R26: its embedded engine dies with it, in the midst of work."""
    async with running(start_gateway, tmp_path) as (gateway, operator):
        await operator.account(minutes=1_000_000)
        tokens = [await operator.token("acme", "ana", f"device-{number}") for number in range(DEVICES)]
        devices = [await connect_device(gateway, token) for token in tokens]
        busy = [Busy(device, f"d{number}") for number, device in enumerate(devices)]
        tasks = [asyncio.create_task(each.run()) for each in busy]
        await wait_until(lambda: all(len(each.settled) >= 50 for each in busy), 30)
        gateway.kill()
        await asyncio.gather(*tasks)
        await asyncio.gather(*(device.close() for device in devices))

    admitted = {call_id: frame for each in busy for call_id, frame in each.admitted.items()}
    settled = {call_id: frame for each in busy for call_id, frame in each.settled.items()}
    in_doubt = {each.in_doubt for each in busy}
    async with running(start_gateway, tmp_path) as (gateway, operator):
        records = {record["call_id"]: record for record in await recorded(operator, len(settled))}
        for call_id, frame in settled.items():
            assert records[call_id]["duration_ms"] == frame["duration_ms"]
            assert records[call_id]["admitted_at_ms"] == admitted[call_id]["admitted_at_ms"]
        assert records.keys() - settled.keys() <= in_doubt

        going_on = set()
        for token in tokens:
            async with connected(gateway, token) as device:
                going_on |= {call["call_id"] for call in (await device.welcome())["calls"]}
        assert going_on - in_doubt == admitted.keys() - settled.keys() - in_doubt
        assert (await operator.pool())["calls_in_progress"] == len(going_on)
        for call_id in sorted(going_on):
            assert not (await operator.end(call_id))["replayed"]
        total = len(records) + len(going_on)
        everything = await recorded(operator, total)
        assert len({record["call_id"] for record in everything}) == len(everything) == total
        (statement,) = await operator.statements()
        assert statement["calls_counted"] + statement["calls_free"] == total
        assert (await operator.pool())["settled_seconds"] == statement["used_seconds"]


async def test_what_was_changed_is_there_after_it_was_killed(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    """Accounts, revoked tokens, a suspension, a pending plan."""
    async with running(start_gateway, tmp_path) as (gateway, operator):
        await operator.account(minutes=10)
        await operator.account("other", minutes=10)
        await operator.plan("small", minutes=5)
        token = await operator.token()
        await operator.move_to("acme", "small")
        await operator.suspend("other")
        await operator.http.post("/v1/tokens/revoke", json={"account": "acme"})
        gateway.kill()
    async with running(start_gateway, tmp_path) as (gateway, operator):
        assert (await operator.pool())["pending_plan"] == "small"
        assert (await operator.start("c-1", "other"))["reason"] == "account_suspended"
        with pytest.raises(InvalidStatus) as refused:
            await connect_device(gateway, token)
        assert refused.value.response.status_code == 401
        assert (await operator.start("c-1"))["type"] == "call.admitted"
