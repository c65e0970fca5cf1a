"""A full disk under what a gateway let through without the engine: nothing ends, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.faults.small_disk import SmallDisk
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Json, Operator, operating
from tests.support.waiting import wait_until


@pytest.fixture
def engine(start_engine: Callable[..., EngineServer]) -> EngineServer:
    """An engine on another disk."""
    return start_engine(persistent=True)


@pytest.fixture
def gateway(
    start_gateway: Callable[..., GatewayProcess], engine: EngineServer, small_disk: SmallDisk
) -> GatewayProcess:
    """A gateway whose data directory, with the journal, SQLite and its log, is on the small disk."""
    return start_gateway(redis_url=engine.url, data_dir=small_disk.path / "data")


@pytest.fixture
async def operator(gateway: GatewayProcess) -> AsyncIterator[Operator]:
    """Its operator, with the account `acme`."""
    async with operating(gateway) as operator:
        await operator.account()
        yield operator


async def test_a_full_disk_ends_no_gateway_that_tells_what_its_journal_has(
    gateway: GatewayProcess, operator: Operator, engine: EngineServer, small_disk: SmallDisk
) -> None:
    """R30. Those that could not be written down any more are told as well."""
    engine.kill()
    early = [await operator.start(f"early-{number}", to="112") for number in range(3)]
    small_disk.fill()
    late = [await operator.start(f"late-{number}", to="112") for number in range(3)]
    engine.start()
    await are_in_progress(operator, [*early, *late])
    assert gateway.process.poll() is None
    small_disk.free()
    await end_and_look(operator, [*early, *late])
    await wait_until(lambda: not list((gateway.data_dir / "emergencies").iterdir()), 20)


async def test_a_gateway_that_is_started_on_a_full_disk_goes_on_from_a_journal(
    gateway: GatewayProcess, operator: Operator, engine: EngineServer, small_disk: SmallDisk
) -> None:
    """Not even emergencies would pass if it ended again and again."""
    engine.kill()
    early = [await operator.start(f"early-{number}", to="112") for number in range(3)]
    small_disk.fill()
    gateway.kill()
    await asyncio.to_thread(gateway.start)
    async with operating(gateway) as again:
        late = [await again.start(f"late-{number}", to="112") for number in range(3)]
        assert (await again.start("early-0", to="112"))["admitted_at_ms"] == early[0]["admitted_at_ms"]
        small_disk.free()
        engine.start()
        await are_in_progress(again, [*early, *late])
        await end_and_look(again, [*early, *late])
    await wait_until(lambda: not list((gateway.data_dir / "emergencies").iterdir()), 20)


async def are_in_progress(operator: Operator, admitted: list[Json]) -> None:
    """Wait until the engine knows these calls, and no others."""

    async def are_told() -> bool:
        calls = (await operator.pool())["calls"]
        known = {(call["call_id"], call["admitted_at_ms"]) for call in calls}
        return known == {(answer["call_id"], answer["admitted_at_ms"]) for answer in admitted}

    await wait_until(are_told, 20)


async def end_and_look(operator: Operator, admitted: list[Json]) -> None:
    """End these calls, and see that each is in SQL once."""
    for answer in admitted:
        assert (await operator.end(answer["call_id"]))["type"] == "call.settled"

    async def are_recorded() -> bool:
        records = await operator.calls()
        assert sorted(record["call_id"] for record in records) == sorted(
            answer["call_id"] for answer in admitted
        )
        return True

    await wait_until(are_recorded, 20)
