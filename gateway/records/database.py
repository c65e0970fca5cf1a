"""The SQL database: SQLite in a file, or PostgreSQL; the same code for both.

A unit of work is a function that takes a connection, handed to `Database.read` or `Database.write`. It runs
in a task of its own, which is never cancelled: a cancelled statement leaves asyncpg's connection out of step
(asyncpg#1356, sqlalchemy#12099), and an aiosqlite transaction open (aiosqlite#259). Who waits for it may be
cancelled; the work then goes on to its end, and `close` waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

import asyncpg
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from gateway.domain.errors import DatabaseUnavailable, SettingsError
from gateway.records import failures
from gateway.records.exclusive import AdvisoryLock, Exclusive, FileLock, one_at_a_time
from gateway.records.schema import upgrade

Kind = Literal["sqlite", "postgresql"]

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_SECONDS: Final = 5
COMMAND_SECONDS: Final = 10
"""How long one statement may take before the database counts as unavailable."""

BUSY_SECONDS: Final = 10
"""How long SQLite waits for another process that is writing."""

POOL_SIZE: Final = 10
RECYCLE_SECONDS: Final = 300
ATTEMPTS: Final = 5
"""How often a transaction is tried of which nothing came: a deadlock, or a connection dead from before."""

_POSTGRES_SESSION: Final = {
    "application_name": "callgate",
    "timezone": "UTC",
    "jit": "off",  # planning it costs more than our short queries take
    # A gateway that was frozen, or whose host is gone, must not keep its locks.
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_SQLITE_SESSION: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a committed record survives a power loss
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -65536",  # 64 MiB for each connection
    "PRAGMA wal_autocheckpoint = 16000",  # pages: by default the recorder would mostly be checkpointing
)
SWITCH_SECONDS: Final = 0.001
"""How long SQLite's thread waits for the interpreter at most, where Python lets a busy thread keep it for
five times as long: behind a gateway at full speed the recorder would fall further and further back."""

_WRITES: Final = "callgate_writes"
_POOL: Final[Mapping[str, Any]] = {
    "pool_size": POOL_SIZE,
    "max_overflow": 0,
    "pool_timeout": BUSY_SECONDS,
    "pool_use_lifo": True,  # the connection used last has what it read in its cache
}


class Database:
    """One SQL database, named by a path (SQLite) or an address (`postgresql://…`, as libpq reads it).

    Raises SettingsError for an address of another kind. All other methods raise DatabaseUnavailable when the
    database could not be asked; what was being written then may or may not have been.
    """

    def __init__(self, where: str | Path) -> None:
        self.kind: Kind
        self._path: Path | None = None
        self._dsn = ""
        scheme, separator, rest = str(where).partition("://")
        if isinstance(where, Path) or not separator:
            self._path = Path(where)
        elif scheme == "sqlite":
            self._path = Path(rest.removeprefix("/"))
        elif scheme in ("postgresql", "postgres"):
            self._dsn = f"postgresql://{rest}"
        else:
            raise SettingsError(
                f"database_url: {scheme}:// is not supported; give a postgresql:// address, "
                "or leave it out for SQLite in the data directory"
            )
        self.kind = "postgresql" if self._path is None else "sqlite"
        self._engine = self._make_engine()
        self._reading = self._engine
        if self.kind == "postgresql":
            # What one unit of work reads is of one moment, as it is in SQLite.
            self._reading = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        self._writing = self._engine.execution_options(**{_WRITES: True})
        self._one_writer = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()

    async def connect(self) -> None:
        """See that the database can be asked; an SQLite file is made, for its owner only.

        Raises SettingsError for an address that is none.
        """
        try:
            if self._path is not None:
                sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.touch(mode=0o600)
            await self.ping()
        except OSError as error:
            raise DatabaseUnavailable from error
        except (ValueError, sqlalchemy.exc.InterfaceError) as error:
            wrong = failures.wrong_address(error)
            if wrong is None:
                raise
            raise SettingsError(f"database_url: {wrong}") from error

    async def ping(self) -> None:
        """Ask the database for nothing."""
        await self.read(_ask_for_nothing)

    async def migrate(self) -> None:
        """Bring the tables to this version, one gateway at a time.

        Raises StartRefused if the tables are a later version's.
        """
        await self._in_own_task(self._migrate())

    async def close(self) -> None:
        """Wait for the work that is under way, then close all connections."""
        while self._under_way:
            await asyncio.wait(set(self._under_way))
        await self._engine.dispose()

    async def read(
        self,
        work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `work(connection, …)` in one transaction that only reads, and sees one moment."""
        return await self._in_own_task(self._transaction(self._reading, lambda c: work(c, *args, **kwargs)))

    async def write(
        self,
        work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `work(connection, …)` in one transaction: all of it is saved, or none if it raises.

        It may be run again where nothing came of it: another transaction was in its way, or the connection
        turned out to be dead.
        """
        return await self._in_own_task(self._write(lambda c: work(c, *args, **kwargs)))

    @contextlib.asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[Exclusive]:
        """Offer the lock of that name, of which one gateway at a time has hold.

        It saves work and is no proof: a holder that lost its connection may still think that it has hold.
        """
        lock: Exclusive
        if self._path is not None:
            lock = FileLock(self._path.with_name(f"{self._path.name}.{name}.lock"))
        else:
            lock = AdvisoryLock(lambda: asyncpg.connect(self._dsn, **self._connect_options()), name)
        try:
            yield lock
        finally:
            await self._in_own_task(lock.release())

    async def _in_own_task(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        if self.kind == "sqlite":
            # SQLite has one writer at a time. Waiting here is fair, and cheaper than its polling.
            async with self._one_writer:
                return await self._transaction(self._writing, work)
        return await self._transaction(self._writing, work)

    async def _transaction(self, engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            worked = False
            try:
                async with engine.connect() as connection, connection.begin():
                    result = await work(connection)
                    worked = True
                return result
            except Exception as error:
                # A connection of the pool may be older than the server, which was started anew. But what
                # became of a commit whose answer was lost, nobody knows.
                nothing_done = failures.try_again(error) or (failures.lost(error) and not worked)
                if nothing_done and attempt < ATTEMPTS:
                    continue
                if failures.unavailable(error):
                    raise DatabaseUnavailable from error
                raise
        raise AssertionError("unreachable")

    async def _migrate(self) -> None:
        if self.kind == "sqlite":
            await self._write(upgrade)
            return
        # Building an index takes as long as it takes, and so does waiting for the gateway that builds it.
        engine = self._make_engine(command_seconds=None)
        try:
            await self._transaction(engine, _upgrade_alone)
        finally:
            await engine.dispose()

    def _make_engine(self, command_seconds: int | None = COMMAND_SECONDS) -> AsyncEngine:
        if self._path is not None:
            engine = create_async_engine(
                sqlalchemy.URL.create("sqlite+aiosqlite", database=str(self._path)),
                # isolation_level None: the driver begins no transactions of its own, `_begin` does.
                connect_args={"timeout": BUSY_SECONDS, "isolation_level": None},
                **_POOL,
            )
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(engine.sync_engine, "begin", _begin)
            return engine

        async def connect(*_: object, **__: object) -> asyncpg.Connection:
            return await asyncpg.connect(self._dsn, **self._connect_options(command_seconds))

        # Recycled, so that none stays with a server that is no longer the primary.
        options: dict[str, Any] = (
            {"poolclass": NullPool} if command_seconds is None else {**_POOL, "pool_recycle": RECYCLE_SECONDS}
        )
        # asyncpg, not SQLAlchemy, reads the address: all that libpq knows (sslmode, several hosts) works.
        return create_async_engine("postgresql+asyncpg://", async_creator=connect, **options)

    def _connect_options(self, command_seconds: int | None = COMMAND_SECONDS) -> dict[str, Any]:
        return {
            "timeout": CONNECT_SECONDS,
            "command_timeout": command_seconds,
            "server_settings": _POSTGRES_SESSION,
        }


async def _ask_for_nothing(connection: AsyncConnection) -> None:
    await connection.execute(sqlalchemy.select(1))


async def _upgrade_alone(connection: AsyncConnection) -> None:
    await one_at_a_time(connection, "migrate")
    await upgrade(connection)


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for statement in _SQLITE_SESSION:
        cursor.execute(statement)
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and then writes would fail at once if another process wrote in between.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
