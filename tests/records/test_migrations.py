"""The tables come out of the migrations as the code wants them, however many gateways start at once."""

import asyncio
import multiprocessing
import re
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.errors import StartRefused
from gateway.records.database import Database
from gateway.records.store import Records
from gateway.records.tables import metadata
from tests.records.making import NOW_MS, execute, rows

COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
CONSTRAINTS = """
    SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""
SQLITE = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY 1"


def _start(where: str | Path) -> None:
    async def start() -> None:
        records = Records(where)
        await records.open()
        await records.close()

    asyncio.run(start())


async def _schema(database: Database) -> list[tuple[list[str], ...]]:
    queries = [SQLITE] if database.kind == "sqlite" else [COLUMNS, INDEXES, CONSTRAINTS]
    found = [row for query in queries for row in await rows(database, query)]
    return [
        tuple(_clauses(str(each)) for each in row)
        for row in found
        if not any("alembic_version" in str(each) for each in row)
    ]


def _clauses(text: str) -> list[str]:
    """SQLite keeps the text of a table as it came, where white space and the order of constraints vary."""
    head, *constraints = re.sub(r"\s+", " ", text).replace(" ) ", ", CONSTRAINT ").split(", CONSTRAINT ")
    return [head, *sorted(constraints)]


async def test_the_migrations_make_the_tables_that_the_code_names(
    nowhere: str | Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    migrated = Database(nowhere)
    await migrated.connect()
    await migrated.migrate()
    made = Database(
        tmp_path / "made.db" if migrated.kind == "sqlite" else request.getfixturevalue("make_postgres")()
    )

    async def make(connection: AsyncConnection) -> None:
        await connection.run_sync(metadata.create_all)

    await made.write(make)

    assert await _schema(migrated) == await _schema(made)
    await migrated.close()
    await made.close()


async def test_migrating_again_changes_nothing(records: Records) -> None:
    await records.accounts.put_account("acme", {"name": "Acme"}, NOW_MS)

    await records.database.migrate()

    assert (await records.accounts.get_account("acme", NOW_MS)).name == "Acme"


async def test_gateways_that_start_at_once_on_an_empty_database_all_come_up(nowhere: str | Path) -> None:
    context = multiprocessing.get_context("spawn")
    starting = [context.Process(target=_start, args=(nowhere,)) for _ in range(3)]
    for process in starting:
        process.start()
    for process in starting:
        await asyncio.to_thread(process.join, 60)

    assert [process.exitcode for process in starting] == [0] * 3
    database = Database(nowhere)
    assert len(await rows(database, "SELECT * FROM alembic_version")) == 1
    await database.close()


async def test_tables_of_a_later_version_are_left_alone(records: Records) -> None:
    await execute(records.database, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(StartRefused, match="later version"):
        await records.database.migrate()
