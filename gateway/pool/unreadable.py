"""Accounts that no script can work with, as their pool, or a call of theirs, is not what it should be.

Such an account is stopped by itself and shown; whatever is asked together with it goes on. Nothing is mended
here: what the engine holds then is told by `callgate check`, and its operator decides.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

import structlog
from redis.exceptions import ResponseError

from gateway.domain.errors import EngineUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SHOWN_SECONDS: Final = 60.0
"""For how long an account is told of after it was last met so, and how often it is logged."""
SHOWN_AT_MOST: Final = 1000

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


class Unreadable:
    """The accounts that a script broke down on lately, and on what."""

    def __init__(self) -> None:
        self.quiet = False
        """Not to log them: whoever asks tells of them."""
        self._met: dict[str, tuple[float, float, str]] = {}  # when last, when it was logged, and why

    def __contains__(self, account: str) -> bool:
        return account in self._met

    def __bool__(self) -> bool:
        return bool(self._met)

    def note(self, account: str, because: BaseException) -> EngineUnavailable:
        """Take one in, and return what whoever asked for it is to be told."""
        now, why = monotonic(), str(because)
        _, logged_at, _ = self._met.pop(account, (now, float("-inf"), ""))
        if not self.quiet and now - logged_at >= SHOWN_SECONDS:
            log.error("pool.unreadable", account=account, because=why[:200])
            logged_at = now
        if len(self._met) >= SHOWN_AT_MOST:
            del self._met[next(iter(self._met))]
        self._met[account] = (now, logged_at, why)
        failure = EngineUnavailable(f"The pool of {account} cannot be read; its operator has to see to it.")
        failure.__cause__ = because
        return failure

    def forget(self, account: str) -> None:
        """Hear that a script got on with it."""
        self._met.pop(account, None)

    def lately(self) -> dict[str, str]:
        """Those that were met so in the last minute, each with why."""
        oldest = monotonic() - SHOWN_SECONDS
        self._met = {account: each for account, each in self._met.items() if each[0] >= oldest}
        return {account: why for account, (_, _, why) in self._met.items()}
