"""What Redis and SQL say differently, as `callgate check` tells it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that Redis and SQL say differently. `account` None: it is of no account."""

    account: str | None
    what: str
    redis: str
    sql: str
