"""The product's own SQL, in memory and at once: what `gateway.records` does is done to an SQLite database.

Nothing waits, so that a history stays the same from run to run. The database can be copied, and go back to a
copy; what a driver or a server can do wrong is for other tests.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from unittest.mock import patch

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import StaticPool

from gateway.domain.errors import DatabaseUnavailable
from gateway.records.database import Kind
from gateway.records.store import Records
from gateway.records.tables import metadata

P = ParamSpec("P")
T = TypeVar("T")

Copy = sqlite3.Connection
"""All that a database had: a database of its own."""


class MemoryDatabase:
    """One database, with tables and nothing in them."""

    def __init__(self) -> None:
        self._engine = sqlalchemy.create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"isolation_level": None}
        )
        event.listen(self._engine, "begin", _begin)
        metadata.create_all(self._engine)
        self._empty = self.copy()

    def empty(self) -> None:
        """Have nothing in the tables."""
        self.go_back_to(self._empty)

    def copy(self) -> Copy:
        """All that it has now."""
        copy = sqlite3.connect(":memory:")
        with closing(self._engine.raw_connection()) as raw:
            cast(sqlite3.Connection, raw.driver_connection).backup(copy)
        return copy

    def go_back_to(self, copy: Copy) -> None:
        """Have what was copied, and nothing else."""
        with closing(self._engine.raw_connection()) as raw:
            copy.backup(cast(sqlite3.Connection, raw.driver_connection))

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do a unit of work."""
        with self._engine.begin() as connection:
            return await work(cast(AsyncConnection, _AtOnce(connection)))

    def close(self) -> None:
        """Let go of it."""
        self._empty.close()
        self._engine.dispose()


class DatabaseOfGateway:
    """The database as one gateway reaches it: what `gateway.records` takes for a `Database`.

    `reached` is awaited before a unit of work is begun, and when it is done and nobody has been told yet.
    """

    kind: Kind = "sqlite"

    def __init__(self, database: MemoryDatabase, reached: Callable[[], Awaitable[bool]]) -> None:
        self._database = database
        self._reached = reached

    def records(self) -> Records:
        """All that is kept in it."""
        with patch("gateway.records.store.Database", lambda _: self):
            return Records("")

    async def read(
        self,
        work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Do a unit of work. Raises DatabaseUnavailable."""
        return await self._run(lambda connection: work(connection, *args, **kwargs))

    write = read

    async def _run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        if not await self._reached():
            raise DatabaseUnavailable
        done = await self._database.run(work)
        if not await self._reached():
            raise DatabaseUnavailable
        return done


class _AtOnce:
    """A connection whose every answer is there at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, *given: Any) -> Any:
        return self._connection.execute(*given)

    async def scalar(self, *given: Any) -> Any:
        return self._connection.scalar(*given)

    async def scalars(self, *given: Any) -> Any:
        return self._connection.scalars(*given)

    async def get_raw_connection(self) -> _AtOnce:
        return self

    @property
    def driver_connection(self) -> _Driver:
        return _Driver(cast(sqlite3.Connection, self._connection.connection.driver_connection))

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        with self._connection.begin_nested():
            yield


class _Driver:
    """The driver's connection, of which bulk inserts are asked."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> _Driver:
        self._connection.executemany(statement, rows)
        return self

    async def close(self) -> None:
        """Nothing is held."""


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
