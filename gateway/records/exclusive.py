"""Locks between gateways, which fall free when the gateway that has hold of one dies."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.errors import DatabaseUnavailable
from gateway.records import failures


class Exclusive(Protocol):
    """A lock to try for."""

    async def acquire(self) -> bool:
        """Try to get hold, without waiting; tell whether this gateway has it now. Asking again is cheap."""

    async def release(self) -> None:
        """Let go, if this gateway has hold."""


class AdvisoryLock:
    """An advisory lock of PostgreSQL, held by a connection of its own for as long as that lives."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], name: str) -> None:
        self._connect = connect
        self._key = advisory_key(name)
        self._connection: Any = None
        self._held = False

    async def acquire(self) -> bool:
        """Try to get hold. Raises DatabaseUnavailable if PostgreSQL can't be asked; nothing is held then."""
        try:
            if self._connection is None:
                self._connection = await self._connect()
            if self._held:
                await self._connection.execute("SELECT 1")
            else:
                self._held = await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", self._key)
        except Exception as error:
            await self.release()
            if failures.unavailable(error):
                raise DatabaseUnavailable from error
            raise
        return self._held

    async def release(self) -> None:
        """Close the connection, and with it the lock."""
        connection, self._connection, self._held = self._connection, None, False
        if connection is not None:
            connection.terminate()


class FileLock:
    """A lock on a file beside an SQLite database, which the system drops when its process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    async def acquire(self) -> bool:
        """Try to get hold. Raises DatabaseUnavailable if the file can't be opened."""
        if self._file is not None:
            return True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failure:  # the disk is full, or can't be written
            raise DatabaseUnavailable from failure
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    async def release(self) -> None:
        """Close the file, and with it the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def advisory_key(name: str) -> int:
    """Return the number by which PostgreSQL knows the lock of that name (64 bits, signed)."""
    digest = hashlib.sha256(f"callgate {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


async def one_at_a_time(connection: AsyncConnection, name: str) -> None:
    """Wait until no other writing transaction is past this point under that name, until this one ends."""
    if connection.dialect.name != "sqlite":  # there only one writes at all
        await connection.execute(select(func.pg_advisory_xact_lock(advisory_key(name))))
