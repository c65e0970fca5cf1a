"""Many rows in one statement: the fast way of each driver, past SQLAlchemy.

The SQL is put together from the names of our own tables and columns; values never come into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from sqlalchemy import Column, Table, select
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

TOGETHER: Final = (1000, 100, 10, 1)
"""How many rows one statement takes in SQLite, which lets go of the interpreter while it runs one and then
has to wait for it: with a row in each, a busy gateway would hardly get to record at all. SQLite takes 32,766
values at most."""

COPY_FROM: Final = 100
"""From how many rows on PostgreSQL gets them by COPY, which costs this process less than half."""

Rows = Sequence[tuple[Any, ...]]


class BulkInsert:
    """Inserts rows into a table, a row being a tuple with a value for each of its columns, in their order.

    `on_conflict` is what follows the key in `ON CONFLICT (key)`; it may name the row that is there by the
    table's name and the new one as `excluded`. No two rows of one run may have the same key.
    """

    def __init__(self, table: Table, on_conflict: str) -> None:
        self._table = table
        self._names = [column.name for column in table.c]
        self._columns = ", ".join(map(_quoted, table.c))
        key = ", ".join(map(_quoted, table.primary_key))
        self._into = f"INSERT INTO {table.name} ({self._columns})"
        self._tail = f"ON CONFLICT ({key}) {on_conflict}"

    async def any_row(self, connection: AsyncConnection) -> tuple[Any, ...] | None:
        """A row that the table has, whichever, None if it has none; what the drivers raise comes as it is."""
        row = (await connection.execute(select(self._table).limit(1))).one_or_none()
        return None if row is None else tuple(row)

    async def run(self, connection: AsyncConnection, rows: Rows) -> None:
        """Insert the rows within the transaction of `connection`, in which a statement must have run before.

        What the drivers raise comes as it is: see `gateway.records.failures`.
        """
        if not rows:
            return
        driver: Any = (await connection.get_raw_connection()).driver_connection
        if connection.dialect.name == "sqlite":
            await self._some_at_a_time(driver, rows)
        elif len(rows) < COPY_FROM:
            await self._from_arrays(driver, connection.dialect, rows)
        else:
            await self._from_a_copy(driver, connection.dialect, rows)

    async def _some_at_a_time(self, driver: Any, rows: Rows) -> None:
        marks = f"({', '.join('?' for _ in self._names)})"
        done = 0
        for size in TOGETHER:
            until = len(rows) - (len(rows) - done) % size
            if done == until:
                continue
            values = ", ".join(size * [marks])
            groups = [list(chain(*rows[at : at + size])) for at in range(done, until, size)]
            cursor = await driver.executemany(f"{self._into} VALUES {values} {self._tail}", groups)
            await cursor.close()
            done = until

    async def _from_arrays(self, driver: Any, dialect: Dialect, rows: Rows) -> None:
        # A type's collation ("TEXT COLLATE …") is no part of the array's type.
        types = [column.type.compile(dialect).split()[0] for column in self._table.c]
        arrays = ", ".join(f"${number}::{each}[]" for number, each in enumerate(types, 1))
        source = f"SELECT * FROM unnest({arrays})"  # noqa: S608 - see above
        await driver.execute(f"{self._into} {source} {self._tail}", *zip(*rows, strict=True))

    async def _from_a_copy(self, driver: Any, dialect: Dialect, rows: Rows) -> None:
        name = f"incoming_{self._table.name}"
        # It has the columns of this code, not those of the table, which a later version may have altered.
        columns = ", ".join(f"{_quoted(each)} {each.type.compile(dialect)}" for each in self._table.c)
        await driver.execute(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({columns}) ON COMMIT DELETE ROWS;"  # noqa: S608
            f"DELETE FROM {name}"
        )
        await driver.copy_records_to_table(name, records=rows, columns=self._names)
        source = f"SELECT {self._columns} FROM {name}"  # noqa: S608 - see above
        await driver.execute(f"{self._into} {source} {self._tail}")


def replacing(table: Table) -> str:
    """Return the `on_conflict` that takes over every column but the key from the new row."""
    columns = [_quoted(column) for column in table.c if not column.primary_key]
    return "DO UPDATE SET " + ", ".join(f"{column} = excluded.{column}" for column in columns)


def _quoted(column: Column[Any]) -> str:
    return f'"{column.name}"'
