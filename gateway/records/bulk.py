"""Many rows in one statement: the fast way of each driver, past SQLAlchemy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection


class BulkInsert:
    """Inserts rows into a table, a row being a tuple with a value for each of its columns, in their order.

    `on_conflict` is what follows the key in `ON CONFLICT (key)`; it may name the row that is there by the
    table's name and the new one as `excluded`. No two rows of one run may have the same key.

    One array a column, unnested, costs PostgreSQL one statement; SQLite runs a prepared one for each row.
    """

    def __init__(self, table: Table, on_conflict: str) -> None:
        self._table = table
        self._on_conflict = on_conflict
        self._statements: dict[str, str] = {}

    async def run(self, connection: AsyncConnection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert the rows within the transaction of `connection`, in which a statement must have run before.

        What the drivers raise comes as it is: see `gateway.records.failures`.
        """
        if not rows:
            return
        dialect = connection.dialect
        statement = self._statements.get(dialect.name)
        if statement is None:
            statement = self._statements[dialect.name] = self._statement(dialect)
        driver: Any = (await connection.get_raw_connection()).driver_connection
        if dialect.name == "sqlite":
            await (await driver.executemany(statement, rows)).close()
        else:
            await driver.execute(statement, *zip(*rows, strict=True))

    def _statement(self, dialect: Dialect) -> str:
        columns = list(self._table.c)
        if dialect.name == "sqlite":
            source = f"VALUES ({', '.join('?' for _ in columns)})"
        else:
            # A type's collation ("TEXT COLLATE …") is no part of the array's type.
            types = [column.type.compile(dialect).split()[0] for column in columns]
            arrays = ", ".join(f"${number}::{each}[]" for number, each in enumerate(types, 1))
            source = f"SELECT * FROM unnest({arrays})"  # noqa: S608 - our own tables' types
        into = f"INSERT INTO {self._table.name} ({', '.join(map(_quoted, columns))})"
        key = ", ".join(map(_quoted, self._table.primary_key))
        return f"{into} {source} ON CONFLICT ({key}) {self._on_conflict}"


def replacing(table: Table) -> str:
    """Return the `on_conflict` that takes over every column but the key from the new row."""
    columns = [_quoted(column) for column in table.c if not column.primary_key]
    return "DO UPDATE SET " + ", ".join(f"{column} = excluded.{column}" for column in columns)


def _quoted(column: Column[Any]) -> str:
    return f'"{column.name}"'
