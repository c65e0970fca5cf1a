"""SQL that is away, and SQL that was restored from an older copy: every record, once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.service.opening import DATABASE_FILE
from tests.faults.conftest import MakeFleet
from tests.faults.fleet import DEVICES, SETTLED_WITHIN, Fleet, at_work, goes_on, times
from tests.faults.load import Habits
from tests.support.engines import EngineServer
from tests.support.postgres import PostgresServer

AWAY_SECONDS = int(os.environ.get("AWAY_SECONDS", "600"))
OUTAGES = int(os.environ.get("OUTAGES", "50"))
RESTORES = int(os.environ.get("RESTORES", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)


def _fleet(make_fleet: MakeFleet, engine: EngineServer, database: PostgresServer) -> Fleet:
    return make_fleet(2, engine, database_url=database.url(database.create_database()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [signal.SIGINT, pytest.param(signal.SIGQUIT, marks=pytest.mark.soak)],
    ids=["stopped", "crashed"],
)
async def test_sql_goes_away_and_comes_back(
    make_fleet: MakeFleet, durable: EngineServer, own_postgres: PostgresServer, how: signal.Signals
) -> None:
    fleet = _fleet(make_fleet, durable, own_postgres)
    async with at_work(fleet, 40, Habits(leave=0.05), SEED) as load:
        await asyncio.to_thread(own_postgres.stop, how)
        await goes_on(load, 80)
        await asyncio.to_thread(own_postgres.start)
        await fleet.check(load)


@pytest.mark.soak
async def test_sql_goes_away_many_times(
    make_fleet: MakeFleet, durable: EngineServer, own_postgres: PostgresServer
) -> None:
    fleet, ways = _fleet(make_fleet, durable, own_postgres), (signal.SIGINT, signal.SIGQUIT)
    async with at_work(fleet, DEVICES or 100, Habits(leave=0.02), SEED) as load:
        for number in times(OUTAGES):
            await asyncio.to_thread(own_postgres.stop, ways[number % 2])
            await goes_on(load, 20)
            await asyncio.to_thread(own_postgres.start)
            await goes_on(load, 20)
        await fleet.check(load)


@pytest.mark.soak
async def test_sql_is_away_for_long(
    make_fleet: MakeFleet, durable: EngineServer, own_postgres: PostgresServer
) -> None:
    fleet = _fleet(make_fleet, durable, own_postgres)
    habits = Habits(shortest_seconds=0, longest_seconds=0.2, leave=0.001)  # as fast as two cores can
    async with at_work(fleet, DEVICES or 200, habits, SEED) as load:
        before = load.books.admissions
        await asyncio.sleep(30)
        there = (load.books.admissions - before) / 30
        await asyncio.to_thread(own_postgres.stop)
        before = load.books.admissions
        await asyncio.sleep(AWAY_SECONDS)
        away = (load.books.admissions - before) / AWAY_SECONDS
        print(f"\nadmissions a second: {there:.1f} with SQL, {away:.1f} without it")
        await asyncio.to_thread(own_postgres.start)
        await fleet.check(load, within=SETTLED_WITHIN + AWAY_SECONDS / 10)
    assert away > 0.9 * there


def _copy(database: Path, to: Path) -> None:
    to.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)


def _restore(database: Path, copy: Path) -> None:
    for file in database.parent.glob(f"{database.name}*"):
        file.unlink()
    _copy(copy, database)


async def _restores(fleet: Fleet, devices: int, count: int, copy: Path) -> None:
    gateway = fleet.gateways[0]
    database = gateway.data_dir / DATABASE_FILE
    async with at_work(fleet, devices, Habits(longest_seconds=2), SEED) as load:
        for _ in times(count):
            await asyncio.to_thread(_copy, database, copy)
            await goes_on(load, devices)
            url = gateway.url
            await asyncio.to_thread(gateway.kill)
            fleet.balancer.remove(url)
            await asyncio.to_thread(_restore, database, copy)
            await asyncio.to_thread(gateway.start)
            fleet.balancer.add(gateway.url)
            await goes_on(load, devices)
        await fleet.check(load)


async def _postgresql_restores(fleet: Fleet, postgres: PostgresServer, devices: int, count: int) -> None:
    """Gateways go on meanwhile: with what they know of how far SQL was."""
    async with at_work(fleet, devices, Habits(longest_seconds=2), SEED) as load:
        for _ in times(count):
            await asyncio.to_thread(postgres.copy)
            await goes_on(load, devices)
            await asyncio.to_thread(postgres.restore)
            await goes_on(load, devices)
        await fleet.check(load)


@pytest.mark.soak
async def test_sql_is_restored_from_an_older_copy(
    make_fleet: MakeFleet, durable: EngineServer, tmp_path: Path
) -> None:
    """The engine keeps records for some hours after they were saved, and fills it again."""
    await _restores(make_fleet(1, durable), 40, 1, tmp_path / "copy")


@pytest.mark.slow
async def test_postgresql_is_restored_from_an_older_copy_under_its_gateways(
    make_fleet: MakeFleet, durable: EngineServer, own_postgres: PostgresServer
) -> None:
    await _postgresql_restores(_fleet(make_fleet, durable, own_postgres), own_postgres, 40, 1)


@pytest.mark.soak
async def test_postgresql_is_restored_many_times(
    make_fleet: MakeFleet, durable: EngineServer, own_postgres: PostgresServer
) -> None:
    fleet = _fleet(make_fleet, durable, own_postgres)
    await _postgresql_restores(fleet, own_postgres, DEVICES or 100, RESTORES)


@pytest.mark.soak
async def test_sql_is_restored_many_times(
    make_fleet: MakeFleet, durable: EngineServer, tmp_path: Path
) -> None:
    await _restores(make_fleet(1, durable), DEVICES or 100, RESTORES, tmp_path / "copy")
