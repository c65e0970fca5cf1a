"""Records on each kind of database in turn."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.records.store import Records


@pytest.fixture(params=["sqlite", "postgresql"])
async def records(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Records]:
    """Everything kept in SQL, with nothing in it."""
    where = (
        tmp_path / "callgate.db" if request.param == "sqlite" else request.getfixturevalue("make_postgres")()
    )
    records = Records(where)
    await records.open()
    yield records
    await records.close()
