"""`callgate rebuild`: all pools made anew from SQL, whether gateways are running or not (R28)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from gateway.domain.asks import AccountConfig
from gateway.domain.errors import EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool.keys import DEFAULT_SHARDS
from gateway.pool.live_pool import LivePool
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from gateway.service.administration import Administration
from gateway.service.attaching import all_accounts, attached
from gateway.service.rebuilding import Rebuilder

_KEPT_MS: Final = 168 * 3_600_000
"""The longest that records can be kept after they were saved: deleting them is left to gateways."""


class Rebuild:
    """All pools of a deployment made anew, whatever state they are in, while its gateways go on working.

    They hear of the new epoch by themselves, and tell again what they answered.
    """

    def __init__(self, records: Records, pool: LivePool) -> None:
        self._records = records
        self._pool = pool

    async def count_accounts(self) -> int:
        """How many accounts SQL has. Raises DatabaseUnavailable."""
        return len(await all_accounts(self._records))

    async def run(self, policy: Policy, progress: Callable[[int], None] = lambda _: None) -> int:
        """Make them anew; answers how many there are. `policy` is for shards that are not there any more.

        Raises EngineUnavailable, DatabaseUnavailable, StartRefused. Broken off, it may simply be run again:
        what is not made by then is made as it is met.
        """
        await self._pool.open(policy, replace_policy=True)
        if await self._pool.renew_epochs() < DEFAULT_SHARDS:
            raise EngineUnavailable("The engine was restarted or failed over just now; try again.")
        await self._pool.keep_policy()
        made = await Rebuilder(self._records, self._pool).rebuild(range(DEFAULT_SHARDS), progress)
        if unreadable := self._pool.unreadable.lately():
            raise EngineUnavailable(
                f"All pools are made anew but those that cannot be read ({', '.join(sorted(unreadable))}): "
                "see `callgate check`."
            )
        return made


@asynccontextmanager
async def open_rebuild(redis_url: str, database: str | Path) -> AsyncIterator[tuple[Rebuild, Policy]]:
    """Reach both sides, of a deployment that has been started at least once; with its policy.

    Raises EngineUnavailable, DatabaseUnavailable, and NotFound if nothing was ever kept there.
    """
    async with attached(redis_url, database) as both:

        async def load(account: str) -> AccountConfig | None:
            return await administration.load(account)

        async def saved_numbers() -> Mapping[int, int]:
            return await recorder.saved_numbers()

        async def now_ms() -> int:
            return (await pool.clock()).now_ms

        pool = LivePool(
            both.engine,
            load,
            both.policy,
            simulate=both.simulate,
            saved_numbers=saved_numbers,
            saved_policy=both.records.policy.require,
            find_known=both.records.calls.find_known,
            find_resettled=both.records.calls.find_resettled,
        )
        pool.unreadable.quiet = True
        recorder = Recorder(both.records.database, pool.records, now_ms, kept_ms=_KEPT_MS)
        administration = Administration(both.records, pool, recorder)
        yield Rebuild(both.records, pool), both.policy
