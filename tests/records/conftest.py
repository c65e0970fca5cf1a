"""The tests of this directory run on each database in turn: SQLite, and a real PostgreSQL."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.records.database import Database
from gateway.records.store import Records
from tests.records.making import MemoryStream
from tests.support.postgres import PostgresServer

KINDS = ("sqlite", "postgresql")


async def _make_tables(where: str | Path) -> None:
    records = Records(where)
    await records.open()
    await records.close()


@pytest.fixture(scope="session")
def sqlite_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with tables and nothing in them, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(_make_tables(path))
    return path


@pytest.fixture(scope="session")
def postgres_with_tables(postgres_server: PostgresServer) -> str:
    """The name of a PostgreSQL database with tables and nothing in them, to be copied."""
    name = postgres_server.create_database()
    asyncio.run(_make_tables(postgres_server.url(name)))
    return name


@pytest.fixture(params=KINDS)
def nowhere(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """Where a database of each kind in turn is to be: one without any tables."""
    if request.param == "sqlite":
        return tmp_path / "callgate.db"
    return str(request.getfixturevalue("make_postgres")())


@pytest.fixture(params=KINDS)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    """Where a database of each kind in turn is, with tables and nothing in them."""
    if request.param == "sqlite":
        template = request.getfixturevalue("sqlite_with_tables")
        yield Path(shutil.copy(template, tmp_path / "callgate.db"))
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database(like=request.getfixturevalue("postgres_with_tables"))
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def records(where: str | Path) -> AsyncIterator[Records]:
    """Everything kept in SQL, over a database with tables and nothing in them."""
    records = Records(where)
    await records.database.connect()
    yield records
    await records.close()


@pytest.fixture
def database(records: Records) -> Database:
    """The database of `records`."""
    return records.database


@pytest.fixture
def stream() -> MemoryStream:
    """A records stream with nothing in it."""
    return MemoryStream()
