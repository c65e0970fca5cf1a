"""One database, whichever it is: transactions, failures, and callers that go away."""

import asyncio
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.errors import DatabaseUnavailable, SettingsError
from gateway.records import database as database_module
from gateway.records.database import Database
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.records.making import MemoryStream, a_record, rows
from tests.records.waiting import eventually
from tests.support.postgres import PostgresServer
from tests.support.waiting import wait_until

INSERT = text("INSERT INTO deployment (key, value) VALUES (:key, 'x')")
KEYS = "SELECT key FROM deployment ORDER BY key"


async def insert(connection: AsyncConnection, *keys: str) -> None:
    for key in keys:
        await connection.execute(INSERT, {"key": key})


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, to stop and start."""
    server = PostgresServer()
    server.start()
    yield server
    server.discard()


async def test_a_unit_of_work_that_raises_changes_nothing(database: Database) -> None:
    async def fail(connection: AsyncConnection) -> None:
        await insert(connection, "a")
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(fail)

    assert await rows(database, KEYS) == []


async def test_what_is_read_is_of_one_moment(database: Database) -> None:
    async def read_twice(connection: AsyncConnection) -> bool:
        before = (await connection.execute(text(KEYS))).all()
        await database.write(insert, "a")
        return before == (await connection.execute(text(KEYS))).all()

    assert await database.read(read_twice)
    assert await rows(database, KEYS) == [("a",)]


async def test_reading_does_not_write(make_postgres: Callable[[], str]) -> None:
    database = Database(make_postgres())
    await database.migrate()

    with pytest.raises(DatabaseUnavailable):
        await database.read(insert, "a")
    await database.close()


async def test_work_goes_on_when_who_waits_for_it_is_cancelled(database: Database) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(connection: AsyncConnection) -> None:
        await insert(connection, "a")
        begun.set()
        await go_on.wait()
        await insert(connection, "b")

    caller = asyncio.create_task(database.write(slowly))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await database.write(insert, "c")

    await eventually(lambda: _is(database, ["a", "b", "c"]))


async def _is(database: Database, keys: list[str]) -> bool:
    return [key for (key,) in await rows(database, KEYS)] == keys


async def test_closing_waits_for_the_work_that_is_under_way(where: str | Path) -> None:
    database = Database(where)

    async def slowly(connection: AsyncConnection) -> None:
        for number in range(20):
            await insert(connection, f"{number:02}")
            await asyncio.sleep(0)

    caller = asyncio.create_task(database.write(slowly))
    await asyncio.sleep(0)
    caller.cancel()
    await database.close()

    again = Database(where)
    assert len(await rows(again, KEYS)) == 20
    await again.close()


async def test_writers_at_once_in_two_gateways_are_all_heard(where: str | Path, database: Database) -> None:
    other = Database(where)

    await asyncio.gather(
        *(
            each.write(insert, f"{name}{n:02}")
            for n in range(20)
            for name, each in (("a", database), ("b", other))
        )
    )

    assert len(await rows(database, KEYS)) == 40
    await other.close()


async def test_of_two_transactions_that_wait_for_each_other_both_come_through(database: Database) -> None:
    await database.write(insert, "a", "b")

    async def lock(connection: AsyncConnection, first: str, second: str) -> None:
        for key in (first, second):
            update = text("UPDATE deployment SET value = value || :by WHERE key = :key")
            await connection.execute(update, {"key": key, "by": first})
            await asyncio.sleep(0.05)  # long enough for the other one to have its first lock too

    await asyncio.gather(database.write(lock, "a", "b"), database.write(lock, "b", "a"))

    values = await rows(database, "SELECT value FROM deployment ORDER BY key")
    assert {"".join(sorted(value)) for (value,) in values} == {"abx"}


async def test_a_database_of_another_kind_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="database_url"):
        Database("mysql://localhost/callgate")


@pytest.mark.parametrize("address", ["postgresql://host:port/db", "postgresql://host/db?sslmode=perhaps"])
async def test_an_address_that_is_none_is_a_wrong_setting(address: str) -> None:
    database = Database(address)

    with pytest.raises(SettingsError, match="database_url"):
        await database.connect()
    await database.close()


@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
async def test_sqlite_is_named_by_a_path(tmp_path: Path, prefix: str) -> None:
    database = Database(f"{prefix}{tmp_path}/deep/callgate.db")

    await database.connect()

    assert database.kind == "sqlite"
    assert _mode(tmp_path / "deep" / "callgate.db") == 0o600, "phone numbers are in it"
    assert await rows(database, "PRAGMA journal_mode") == [("wal",)]
    assert await rows(database, "PRAGMA synchronous") == [(2,)], "FULL"
    await database.close()


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    "address", ["postgresql://127.0.0.1:1/callgate", "postgres://callgate@/callgate?host=/nowhere"]
)
async def test_a_postgresql_that_is_not_there_is_unavailable(address: str) -> None:
    database = Database(address)

    with pytest.raises(DatabaseUnavailable):
        await database.connect()
    with pytest.raises(DatabaseUnavailable):
        await database.migrate()
    await database.close()


async def test_a_database_that_does_not_exist_is_unavailable(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.url("nothing"))

    with pytest.raises(DatabaseUnavailable):
        await database.connect()
    await database.close()


async def test_an_sqlite_file_that_another_process_keeps_locked_is_unavailable_until_it_lets_go(
    sqlite_with_tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)
    path = Path(shutil.copy(sqlite_with_tables, tmp_path / "callgate.db"))
    database = Database(path)
    await database.connect()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(DatabaseUnavailable):
        await database.write(insert, "a")
    assert await rows(database, KEYS) == [], "reading goes on"
    other.execute("ROLLBACK")
    await database.write(insert, "b")

    assert await rows(database, KEYS) == [("b",)]
    other.close()
    await database.close()


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "callgate.db"
    path.write_bytes(b"no database at all " * 100)
    database = Database(path)

    with pytest.raises(DatabaseUnavailable):
        await database.connect()
    await database.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
async def test_a_postgresql_that_went_away_is_unavailable_and_works_again_by_itself(
    own_postgres: PostgresServer, stream: MemoryStream, how: signal.Signals
) -> None:
    records = Records(own_postgres.url())
    await records.open()
    database = records.database
    recorder = Recorder(database, stream, stream.now_ms)
    recording = asyncio.create_task(recorder.run())
    await wait_until(lambda: recorder.status().recording)
    await recorder.drain()

    own_postgres.stop(how)
    with pytest.raises(DatabaseUnavailable):
        await database.write(insert, "a")
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    stream.add(a_record())
    await wait_until(lambda: "database_unavailable" in (recorder.status().failing or ""))
    assert stream.kept == 1
    await wait_until(lambda: recorder.status().waiting_entries == 1)

    own_postgres.start()
    await database.ping()
    await database.write(insert, "b")
    await eventually(lambda: records.calls.find_call("acme", "c-1"))
    assert await rows(database, KEYS) == [("b",), ("records_as_of_ms",)]
    recording.cancel()
    await asyncio.wait([recording])
    await records.close()
