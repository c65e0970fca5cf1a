"""R9, R17: whatever was said is said again, in any order, at any gateway; nothing changes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.faults.conftest import MakeFleet
from tests.faults.fleet import Fleet
from tests.support.devices import Device, connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.waiting import wait_until

CALLS = 60
GOING_ON = 5


class Recorded:
    """A device's connection that notes what it sends."""

    def __init__(self, device: Device) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self._device = device

    async def say(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.said.append((kind, fields))
        return await self._device.request(kind, **fields)


async def _session(device: Device) -> list[tuple[str, dict[str, Any]]]:
    """Calls, most of which end, with repeats and mistakes among what is said."""
    recorded = Recorded(device)
    for number in range(CALLS):
        call_id = f"c-{number}"
        admitted = await recorded.say("call.start", call_id=call_id, to="+14155550100")
        assert admitted["type"] == "call.admitted", admitted
        if number % 2:
            await recorded.say("call.answered", call_id=call_id, answered_ago_ms=0)
        if number % 3 == 0:
            await recorded.say("call.resume", call_id=call_id, receipt=admitted["receipt"])
        if number >= GOING_ON:
            await recorded.say("call.end", call_id=call_id, ended_ago_ms=number % 4)
    return recorded.said


async def _again(gateway: GatewayProcess, token: str, said: list[tuple[str, dict[str, Any]]]) -> None:
    async with connected(gateway, token) as device:
        for answer in [await device.ask(kind, **fields) for kind, fields in said]:
            frame = await asyncio.wait_for(answer, 20)
            assert frame["type"] in ("call.settled", "call.noted", "call.resumed", "error") or (
                frame["type"] == "call.admitted" and frame["replayed"]
            ), frame
            assert frame["type"] != "call.settled" or frame["replayed"], frame


async def _books(operator: Operator) -> tuple[Any, ...]:
    pool = await operator.pool()
    return (
        sorted((await operator.calls(limit=1000)), key=lambda each: str(each["call_id"])),
        await _used(operator),
        pool["settled_seconds"],
        pool["calls_in_progress"],
        sorted(call["call_id"] for call in pool["calls"]),
    )


async def _used(operator: Operator) -> list[Any]:
    return [
        (each["used_seconds"], each["calls_counted"], each["calls_free"])
        for each in await operator.statements()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(each, marks=pytest.mark.soak) for each in range(1, 10))])
async def test_a_session_said_again_at_two_gateways_changes_nothing(
    make_fleet: MakeFleet, durable: EngineServer, seed: int
) -> None:
    fleet: Fleet = make_fleet(2, durable)
    chance = random.Random(seed)
    try:
        await fleet.start(0)
        one, other = fleet.gateways
        async with operating(one) as operator:
            token = await operator.token("acme", "ana", "desk")
            async with connected(one, token) as device:
                said = await _session(device)
            repeats = [each for each in said for _ in range(chance.randint(1, 3))]
            chance.shuffle(repeats)

            async def saved() -> bool:
                return len(await operator.calls(limit=1000)) == CALLS - GOING_ON

            await wait_until(saved, 20)
            before = await _books(operator)
            ends = {fields["call_id"] for kind, fields in said if kind == "call.end"}
            assert before[4] == sorted({f"c-{number}" for number in range(CALLS)} - ends)
            half = len(repeats) // 2
            await _again(one, token, repeats[:half])
            await _again(other, token, repeats[half:])
            await asyncio.sleep(1)  # so that what is wrong would be saved
            assert await _books(operator) == before
    finally:
        await fleet.end()
