"""Accounts that no script can work with, as their pool, or a call of theirs, is not what it should be.

Such an account is stopped by itself and shown; whatever is asked together with it goes on. Nothing is mended
here: what the engine holds then is told by `callgate check`, and its operator decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

import structlog
from redis.exceptions import RedisError, ResponseError

from gateway.domain.errors import EngineUnavailable
from gateway.pool.packed import NO_VALUE
from gateway.pool.seldom import Seldom, put_last

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SHOWN_SECONDS: Final = 60.0
"""For how long an account is told of after it was last met so."""

_IN_A_SCRIPT: Final = "@user_script"
_OF_THE_SERVER: Final = ("BUSY", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "MASTERDOWN", "NOPERM")
"""What a command within a script can be refused for, whatever it is about."""


def broke_down(failure: BaseException | None) -> bool:
    """Whether a script failed on what it found or was given: asked the same again it will fail again.

    Not so what the engine can do nothing about just now: it has no memory, it is a replica, ...
    """
    # Its subclasses are all the server's.
    if type(failure) is not ResponseError:
        return False
    said = str(failure)
    return _IN_A_SCRIPT in said and not said.startswith(_OF_THE_SERVER)


UNDECODABLE: Final = ValueError("the pool, or a call of it, is not what this version writes")
"""What a script says of such an account without breaking down."""


class PoolUnreadable(EngineUnavailable):
    """The engine is there; this one account's pool, or a call of it, is not what it should be (503).

    The outcome is known: nothing was decided.
    """

    def __init__(self, message: str | None = None, **members: Any) -> None:
        """Take a sentence for people, and what a client can act on."""
        said = "What the live engine holds of this account cannot be read; its operator has to see to it."
        super().__init__(message or said, **members)


class Unreadable:
    """The accounts that a script broke down on lately, and on what."""

    def __init__(self) -> None:
        self.quiet = False
        """Not to log them: whoever asks tells of them."""
        self._met: dict[str, tuple[float, str]] = {}  # when last, and why
        self._logged = Seldom()

    def __contains__(self, account: str) -> bool:
        return account in self._met

    def __bool__(self) -> bool:
        return bool(self._met)

    def note(self, account: str, because: BaseException) -> PoolUnreadable:
        """Take one in, and return what whoever asked for it is to be told."""
        now, why = monotonic(), str(because)
        if not self.quiet and self._logged.is_time(account):
            log.error("pool.unreadable", account=account, because=why[:200])
        put_last(self._met, account, (now, why))
        failure = PoolUnreadable()
        failure.__cause__ = because
        return failure

    @contextmanager
    def alone(self, account: str) -> Iterator[None]:
        """Raise PoolUnreadable for what is of this account alone, and note it; EngineUnavailable else."""
        try:
            yield
        except PoolUnreadable as failure:
            raise self.note(account, failure.__cause__ or failure) from failure
        except NO_VALUE as failure:
            raise self.note(account, failure) from failure
        except (RedisError, OSError) as failure:
            if broke_down(failure):
                raise self.note(account, failure) from failure
            raise EngineUnavailable from failure

    def forget(self, account: str) -> None:
        """Hear that a script got on with it."""
        self._met.pop(account, None)

    def lately(self) -> dict[str, str]:
        """Those that were met so in the last minute, each with why."""
        oldest = monotonic() - SHOWN_SECONDS
        self._met = {account: each for account, each in self._met.items() if each[0] >= oldest}
        return {account: why for account, (_, why) in self._met.items()}
