"""What a driver's error means."""

from __future__ import annotations

import asyncpg
import sqlalchemy.exc

from gateway.records import failures


def raised_while_handling(first: Exception, then: Exception) -> Exception:
    """`then` as it is where it was raised, without a cause, while `first` was handled."""
    then.__context__ = first
    return then


def test_what_follows_from_a_connection_that_died_says_that_the_database_is_away() -> None:
    died = asyncpg.exceptions.ConnectionDoesNotExistError("connection was closed in the middle of operation")
    for consequence in (
        sqlalchemy.exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back."),
        sqlalchemy.exc.ResourceClosedError("This Connection is closed"),
    ):
        assert failures.unavailable(raised_while_handling(died, consequence))


def test_a_connection_that_is_out_of_step_is_as_good_as_dead() -> None:
    """PostgreSQL was stopped just as a connection was made: seen to end a gateway."""
    assert failures.unavailable(
        asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")
    )


def test_a_mistake_of_the_program_is_left_to_be_seen() -> None:
    mistake = sqlalchemy.exc.InvalidRequestError("Entity namespace has no property")
    assert not failures.unavailable(mistake)
    assert not failures.unavailable(raised_while_handling(OSError("away"), KeyError("a mistake")))
