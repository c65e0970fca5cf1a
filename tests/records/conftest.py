"""The tests of this directory run on each database in turn: SQLite, and a real PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.records.database import Database
from gateway.records.store import Records
from tests.records.making import MemoryStream
from tests.support.postgres import make_postgres, postgres_server  # noqa: F401 - fixtures


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """An empty database of each kind in turn."""
    if request.param == "sqlite":
        return tmp_path / "callgate.db"
    address = request.getfixturevalue("make_postgres")()
    assert isinstance(address, str)
    return address


@pytest.fixture
async def records(where: str | Path) -> AsyncIterator[Records]:
    """Everything kept in SQL, over a database with tables and nothing in them."""
    records = Records(where)
    await records.open()
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
