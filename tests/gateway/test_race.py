"""Many devices after the last minutes at one instant, on two gateways (R6, R7, R9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.devices import Device, Frame, connect_device
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.waiting import wait_until

DEVICES = 200
DEVICES_A_PERSON = 4


class Fleet:
    """Two hundred devices of fifty people, every other one connected to the one or the other gateway."""

    def __init__(self, gateways: list[GatewayProcess], tokens: list[str]) -> None:
        self._gateways = gateways
        self._tokens = tokens
        self._shift = 0
        self.devices: list[Device] = []

    async def connect(self) -> None:
        """Connect all devices, each to the other gateway than before."""
        self._shift += 1
        self.devices = await asyncio.gather(
            *(
                connect_device(self._gateways[(number + self._shift) % 2], token)
                for number, token in enumerate(self._tokens)
            )
        )
        await asyncio.gather(*(device.welcome() for device in self.devices))

    async def ask_at_once(self, call_ids: list[str]) -> list[Frame]:
        """Have every device ask for its call; nobody waits for anybody's answer."""
        asked = await asyncio.gather(
            *(
                device.ask("call.start", call_id=call_id, to="+14155550100")
                for device, call_id in zip(self.devices, call_ids, strict=True)
            )
        )
        return await asyncio.gather(*asked)

    async def close(self) -> None:
        """Disconnect."""
        await asyncio.gather(*(device.close() for device in self.devices))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_last_minutes_go_to_as_many_as_there_is_room_for(
    engine_url: str, start_twin: Callable[..., GatewayProcess]
) -> None:
    """R7: a call in progress holds 60 s; one is admitted while something is left that no one holds."""
    gateways = [await asyncio.to_thread(start_twin, engine_url, "--simulate") for _ in range(2)]
    async with operating(gateways[0]) as operator:
        fleet = Fleet(gateways, await make_account(operator))
        await fleet.connect()

        await use_up(operator, 59)
        await race(operator, fleet, left_seconds=1, room_for=1)

        await upgrade(operator, minutes=2)
        await race(operator, fleet, left_seconds=61, room_for=2)

        await use_up(operator, 61)
        await upgrade(operator, minutes=12)
        await race(operator, fleet, left_seconds=600, room_for=10)

        await fleet.close()


async def make_account(operator: Operator) -> list[str]:
    """Make an account of one minute, and return the tokens of its devices."""
    await operator.account(minutes=1)
    people = [f"person-{number}" for number in range(DEVICES // DEVICES_A_PERSON)]
    for person in people:
        await operator.staff("acme", person)
    return [
        await operator.token("acme", person, f"device-{number}")
        for person in people
        for number in range(DEVICES_A_PERSON)
    ]


async def use_up(operator: Operator, seconds: int) -> None:
    """Let a call of this length take its seconds."""
    await operator.start(f"used-{seconds}")
    await operator.pass_by(seconds)
    assert (await operator.end(f"used-{seconds}"))["billed_seconds"] == seconds


async def upgrade(operator: Operator, *, minutes: int) -> None:
    await operator.plan(f"minutes-{minutes}", minutes=minutes)
    await operator.move_to("acme", f"minutes-{minutes}")


async def race(operator: Operator, fleet: Fleet, *, left_seconds: int, room_for: int) -> None:
    """All ask; all ask again; all come by the other gateway and ask again; those who got through hang up."""
    before = await operator.pool()
    assert before["remaining_seconds"] == left_seconds
    call_ids = [f"of-{left_seconds}-{number}" for number in range(DEVICES)]

    answers = await fleet.ask_at_once(call_ids)
    admitted = {frame["call_id"]: frame for frame in answers if frame["type"] == "call.admitted"}
    assert len(admitted) == room_for
    assert not any(frame["replayed"] for frame in admitted.values())
    refused = [frame for frame in answers if frame["type"] != "call.admitted"]
    assert {(frame["type"], frame["reason"]) for frame in refused} == {("call.refused", "minutes_held")}

    assert replayed_only(await fleet.ask_at_once(call_ids), admitted)
    older = fleet.devices
    await fleet.connect()
    assert {await device.closed() for device in older} == {4409}
    assert replayed_only(await fleet.ask_at_once(call_ids), admitted)

    during = await operator.pool()
    assert during["calls_in_progress"] == room_for
    assert {call["call_id"] for call in during["calls"]} == set(admitted)
    assert during["used_seconds"] == before["used_seconds"]

    for device, call_id in zip(fleet.devices, call_ids, strict=True):
        if call_id in admitted:
            assert (await device.end(call_id))["billed_seconds"] == 0
    after = await operator.pool()
    assert (after["calls_in_progress"], after["remaining_seconds"]) == (0, left_seconds)
    await wait_until(lambda: recorded(operator, set(call_ids), set(admitted)))


def replayed_only(answers: list[Frame], admitted: dict[str, Frame]) -> bool:
    """Tell whether just these calls are admitted, as they were (R9), and all others refused once more."""
    again = {frame["call_id"]: frame for frame in answers if frame["type"] == "call.admitted"}
    return again.keys() == admitted.keys() and all(
        frame["replayed"] and frame["admitted_at_ms"] == admitted[call_id]["admitted_at_ms"]
        for call_id, frame in again.items()
    )


async def recorded(operator: Operator, asked: set[str], admitted: set[str]) -> bool:
    """Tell whether every admitted call, and none of the refused ones, has its record (R26)."""
    records = [record["call_id"] for record in await operator.calls() if record["call_id"] in asked]
    assert len(records) == len(set(records))
    return set(records) == admitted
