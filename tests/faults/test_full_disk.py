"""A disk that is full: nothing is answered that could not be kept, and all goes on once there is space."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable

import pytest

from tests.faults.conftest import MakeFleet
from tests.faults.fleet import DEVICES, Fleet, at_work, goes_on, times
from tests.faults.load import Habits
from tests.faults.small_disk import SmallDisk
from tests.support.engines import EngineServer
from tests.support.waiting import wait_until

FILLS = int(os.environ.get("FILLS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
FULL_SECONDS = 5


async def _engine_fills(
    fleet: Fleet, engine: EngineServer, disk: SmallDisk, devices: int, fills: int
) -> None:
    """One that syncs all ends rather than answer what it cannot keep; somebody starts it again."""
    async with at_work(fleet, devices, Habits(longest_seconds=8), SEED) as load:
        for _ in times(fills):
            await asyncio.to_thread(disk.fill)
            await wait_until(lambda: engine.process.poll() is not None, 20)
            disk.free()
            await asyncio.to_thread(engine.start)
            await goes_on(load, 20)
        report = await fleet.check(load)
    assert report.reaped == 0


@pytest.mark.slow
async def test_the_engine_s_disk_is_full(
    make_fleet: MakeFleet, small_disk: SmallDisk, start_engine: Callable[..., EngineServer]
) -> None:
    engine = await asyncio.to_thread(start_engine, persistent=True, within=small_disk.path)
    await _engine_fills(make_fleet(2, engine), engine, small_disk, 20, 1)


@pytest.mark.soak
async def test_the_engine_s_disk_is_full_many_times(
    make_fleet: MakeFleet, small_disk: SmallDisk, start_engine: Callable[..., EngineServer]
) -> None:
    engine = await asyncio.to_thread(start_engine, persistent=True, within=small_disk.path)
    await _engine_fills(make_fleet(2, engine), engine, small_disk, DEVICES or 40, FILLS)


async def _fills(fleet: Fleet, disk: SmallDisk) -> None:
    async with at_work(fleet, DEVICES or 40, Habits(longest_seconds=8), SEED) as load:
        for _ in times(FILLS):
            await asyncio.to_thread(disk.fill)
            await asyncio.sleep(FULL_SECONDS)
            disk.free()
            await goes_on(load, 20)
        await fleet.check(load)


@pytest.mark.soak
async def test_the_database_s_disk_is_full(
    make_fleet: MakeFleet, durable: EngineServer, small_disk: SmallDisk
) -> None:
    """SQLite can't save: records wait in the engine, which is elsewhere."""
    await _fills(make_fleet(1, durable, directory=small_disk.path), small_disk)


@pytest.mark.soak
async def test_the_disk_of_all_data_is_full(make_fleet: MakeFleet, small_disk: SmallDisk) -> None:
    """The embedded engine, SQLite, what a gateway keeps for later, and its log."""
    await _fills(make_fleet(1, list, directory=small_disk.path), small_disk)
