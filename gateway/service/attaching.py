"""Reaching the engine and the database of a deployment without being one of its gateways."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from gateway.domain.errors import NotFound
from gateway.domain.policy import Policy
from gateway.pool.engine import Engine, connect
from gateway.records.store import Records

ACCOUNTS_AT_ONCE: Final = 1000
_ANY_TIME_MS: Final = 0


@dataclass(frozen=True, slots=True)
class Attached:
    """Both sides of a deployment, and what its data was made under."""

    engine: Engine
    records: Records
    policy: Policy
    simulate: bool


@asynccontextmanager
async def attached(redis_url: str, database: str | Path) -> AsyncIterator[Attached]:
    """Reach both sides of a deployment that has been started at least once; the engine when it is asked.

    Raises DatabaseUnavailable, and NotFound if nothing was ever kept there.
    """
    if isinstance(database, Path) and not await anyio.Path(database).exists():
        raise NotFound(f"There is no database {database}.")
    records = Records(database)
    engine = connect(redis_url)
    try:
        await records.database.connect()
        policy = await records.policy.require()
        simulate = await records.deployment.get("simulate") == "true"
        yield Attached(engine, records, policy, simulate)
    finally:
        with anyio.CancelScope(shield=True):
            await engine.close()
            await records.close()


async def all_accounts(records: Records) -> list[str]:
    """All accounts that SQL has. Raises DatabaseUnavailable."""
    found: list[str] = []
    after: str | None = None
    while True:
        page, after = await records.accounts.list_accounts(None, after, ACCOUNTS_AT_ONCE, _ANY_TIME_MS)
        found += [each.account for each in page]
        if after is None:
            return found
