"""Locks between gateways."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.domain.errors import DatabaseUnavailable
from gateway.records.database import Database
from tests.records.making import rows
from tests.records.waiting import eventually


async def test_one_gateway_at_a_time_has_hold(where: str | Path, database: Database) -> None:
    other = Database(where)
    async with other.exclusive("recorder") as theirs, other.exclusive("another") as unrelated:
        async with database.exclusive("recorder") as ours:
            assert await ours.acquire()
            assert not await theirs.acquire()
            assert await ours.acquire(), "asking again changes nothing"
            assert await unrelated.acquire()
        assert await eventually(theirs.acquire)
    await other.close()


async def test_a_holder_whose_connection_broke_is_told(make_postgres: Callable[[], str]) -> None:
    address = make_postgres()
    database, other = Database(address), Database(address)
    async with database.exclusive("recorder") as ours, other.exclusive("recorder") as theirs:
        assert await ours.acquire()
        await rows(
            other,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        assert await eventually(theirs.acquire)
        with pytest.raises(DatabaseUnavailable):
            await ours.acquire()
        assert not await ours.acquire()
    await other.close()
    await database.close()
