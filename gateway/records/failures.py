"""What a driver's error means: the database could not be asked, or it refused what it was given.

SQLAlchemy wraps some errors of asyncpg and sqlite3 and lets others through, and the recorder uses the drivers
directly; so errors are told apart here by what they say (SQLSTATE, SQLite's result code), not by their class.
What is neither is an error of the program and is left to be seen.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

import asyncpg
import sqlalchemy.exc

_REFUSED_SQLSTATES: Final = ("22", "23", "54")
"""Classes of SQLSTATE: data exception, integrity constraint violation, a limit of PostgreSQL exceeded."""

_BROKEN_SQLSTATES: Final = ("0A", "42", "XX")
"""Feature not supported, syntax or access rule, internal: an error in the program or the schema."""

_TRY_AGAIN_SQLSTATES: Final = ("40001", "40P01")
"""Serialization failure and deadlock: nothing was done, and the same again may well succeed."""

_REFUSED_SQLITE_CODES: Final = (
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
)
_BROKEN_SQLITE_CODES: Final = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_SCHEMA)


def try_again(error: BaseException) -> bool:
    """Tell whether the transaction was undone only because of another one that ran beside it."""
    return any(_sqlstate(each) in _TRY_AGAIN_SQLSTATES for each in _causes(error))


def unavailable(error: BaseException) -> bool:
    """Tell whether the database could not be asked: away, overloaded, full, locked for too long."""
    for each in _causes(error):
        state = _sqlstate(each)
        if state:
            return not state.startswith((*_REFUSED_SQLSTATES, *_BROKEN_SQLSTATES))
        code = _sqlite_code(each)
        if code is not None:
            return code not in (*_REFUSED_SQLITE_CODES, *_BROKEN_SQLITE_CODES)
    return lost(error) or any(
        isinstance(each, OSError | EOFError | sqlalchemy.exc.TimeoutError) for each in _causes(error)
    )


def lost(error: BaseException) -> bool:
    """Tell whether a connection that was there turned out to be dead."""
    return any(_closed(each) for each in _causes(error))


def refused(error: BaseException) -> bool:
    """Tell whether the database, or its driver, took exception to a value that it was given."""
    for each in _causes(error):
        state = _sqlstate(each)
        if state:
            return state.startswith(_REFUSED_SQLSTATES)
        code = _sqlite_code(each)
        if code is not None:
            return code in _REFUSED_SQLITE_CODES
    return not unavailable(error) and any(_unencodable(each) for each in _causes(error))


def wrong_address(error: BaseException) -> str | None:
    """Return what is wrong with the address that the driver was given, None if that isn't the matter."""
    for each in _causes(error):
        # Of a port that is no number, urllib complains.
        if isinstance(each, asyncpg.exceptions.ClientConfigurationError) or type(each) is ValueError:
            return str(each)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    while each is not None:
        yield each
        # What SQLAlchemy says of a connection that died under it (a rollback that can't be made, a
        # connection that is closed) it raises while that is handled, and names no cause.
        is_consequence = isinstance(each, sqlalchemy.exc.InvalidRequestError)
        each = each.__cause__ or (each.__context__ if is_consequence else None)


def _sqlstate(error: BaseException) -> str | None:
    return getattr(error, "sqlstate", None)


def _sqlite_code(error: BaseException) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the low byte is the primary code


def _closed(error: BaseException) -> bool:
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return error.connection_invalidated
    if isinstance(error, asyncpg.InternalClientError):
        return True  # out of step with its server, which went away in the middle of something (asyncpg#1361)
    if isinstance(error, asyncpg.InterfaceError | sqlite3.ProgrammingError | ValueError):
        # "connection is closed", "Cannot operate on a closed database", …
        return "clos" in str(error) or "no active connection" in str(error)
    return isinstance(error, asyncpg.PostgresConnectionError)


def _unencodable(error: BaseException) -> bool:
    return isinstance(
        error, ValueError | TypeError | OverflowError | sqlite3.InterfaceError | sqlite3.ProgrammingError
    )
