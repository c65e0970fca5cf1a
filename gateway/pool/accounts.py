"""Accounts in the engine: pools made and brought in line with SQL, what a script missed supplied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.domain.asks import AccountConfig
from gateway.domain.calls import CallRecord
from gateway.domain.cycles import boundary_ms, index_at
from gateway.domain.errors import EngineUnavailable, NotFound
from gateway.domain.plans import Plan, channels_limit, seats_limit
from gateway.domain.pool_minutes import THRESHOLDS_PERCENT
from gateway.pool.codes import Code
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace
from gateway.pool.packed import UNLIMITED, pack_record
from gateway.pool.scripts import Argument, script
from gateway.pool.shards import Shards
from gateway.pool.unreadable import UNDECODABLE, PoolUnreadable

log = structlog.get_logger(__name__)

Loader = Callable[[str], Awaitable[AccountConfig | None]]
"""Reads an account from SQL, once all that waited is saved there; None if SQL knows no such account."""

EndedCalls = Callable[[str], Awaitable[Sequence[CallRecord]]]
"""Asks SQL which calls that are in progress in an account's pool have ended, and which were settled again.

Raises DatabaseUnavailable.
"""

FindResettled = Callable[[str], Awaitable[Sequence[CallRecord]]]
"""Asks SQL for the records of an account's latest cycle that replaced an earlier one of their calls.

Raises DatabaseUnavailable.
"""

_COMING_CYCLES: Final = 4
_ATTEMPTS: Final = 6

_NO_EPOCH: Final = 0


@dataclass(frozen=True, slots=True)
class AccountRead:
    """What SQL says of an account.

    `epoch` is the shard's in which all of it was read, by a `Loader`: a pool is made of no other. 0: it may
    be from before, and will do for a pool that is there. `ended` are the calls in progress that SQL knows to
    have ended, and those settled again.
    """

    config: AccountConfig
    epoch: int = _NO_EPOCH
    ended: Sequence[CallRecord] = ()


class Accounts:
    """Brings pools in line with what SQL says of their accounts."""

    def __init__(
        self,
        engine: Engine,
        keys: KeySpace,
        shards: Shards,
        loader: Loader,
        ended_calls: EndedCalls,
        *,
        unvouched_ms: int,
    ) -> None:
        """`unvouched_ms` is how long a call may be in progress that nobody vouches for: lease and grace."""
        self._engine = engine
        self._keys = keys
        self._shards = shards
        self._loader = loader
        self._ended_calls = ended_calls
        self._unvouched_ms = unvouched_ms

    async def supply(self, account: str, code: int) -> bool:
        """Supply what a script missed: a shard, a pool, or the boundaries of its coming cycles.

        Answers False if SQL knows no such account. Raises DatabaseUnavailable, EngineUnavailable, RedisError.
        """
        shard = self._keys.shard_of(account)
        if code == Code.TOO_LATE:
            # It was answered all the same, so it is the engine's clock that was set: the next beat tells it.
            self._shards.forget_real_ms(shard)
            return True
        if code in (Code.SHARD_MISSING, Code.SHARD_MOVED):
            await self._shards.confirm([shard])
            if code == Code.SHARD_MOVED:
                # Most probably nothing is missing; if the pool is, the script says so when it is asked again.
                return True
        found = await self._read(account, await self._shards.epoch(shard))
        return found is not None and await self._bring_up(found) is not None

    async def apply(self, config: AccountConfig) -> int:
        """Bring the account's pool up to `config`; an older revision changes nothing.

        A pool that is not there is made from what SQL says then, not from `config`. Answers the pool's
        version. Raises NotFound, DatabaseUnavailable, EngineUnavailable, RedisError.
        """
        version = await self._bring_up(AccountRead(config))
        if version is None:
            raise NotFound(f"There is no account {config.account}.")
        return version

    async def _bring_up(self, found: AccountRead | None) -> int | None:
        """Answer the pool's version, or None if SQL turns out to know no such account."""
        earliest: int | None = None
        for _ in range(_ATTEMPTS):
            if found is None:
                return None
            account = found.config.account
            code, detail, epoch = await self._apply(found, earliest)
            if code in (Code.APPLIED, Code.UNCHANGED):
                return detail
            if code == Code.POOL_UNREADABLE:
                raise PoolUnreadable from UNDECODABLE
            if code == Code.ACCOUNT_UNREAD:
                found = await self._read(account, epoch)
            elif code in (Code.SHARD_MISSING, Code.SHARD_MOVED):
                await self._shards.confirm([self._keys.shard_of(account)])
            else:
                # Nobody called for many cycles: all of them turn, one by one, so all boundaries are needed.
                earliest = detail
        raise EngineUnavailable("The account's pool could not be brought up to date; try again shortly.")

    async def _read(self, account: str, epoch: int) -> AccountRead | None:
        """Read in the epoch that the shard was seen to have, or in a later one: the script will refuse it."""
        # Before there is a pool that bills by another.
        await self._shards.policies.keep(self._keys.shard_of(account), epoch)
        config = await self._loader(account)
        return None if config is None else AccountRead(config, epoch, await self._ended_calls(account))

    async def _apply(self, found: AccountRead, earliest: int | None) -> tuple[int, int, int]:
        config = found.config
        current = index_at(config.billing_date, config.time_zone, (await self._shards.clock()).now_ms)
        first, last = current - 2, current + _COMING_CYCLES
        if earliest is not None:
            first = min(first, earliest)
        shard = self._keys.shard_of(config.account)
        keys = [*self._keys.of_shard(shard), *self._keys.of_account(config.account, shard)]
        code, detail, run, epoch, seq = await script("account_apply").run(
            self._engine.client,
            keys,
            account_arguments(found, first, last, unvouched_ms=self._unvouched_ms),
        )
        self._shards.saw(shard, run, epoch, seq)
        return code, detail, epoch


def account_arguments(found: AccountRead, first: int, last: int, *, unvouched_ms: int) -> list[Argument]:
    """What the script is told of an account, with the boundaries of these cycles."""
    config = found.config
    running = config.running_cycle
    boundaries = {k: boundary_ms(config.billing_date, config.time_zone, k) for k in range(first, last + 1)}
    if running is not None:
        # R18: it may have begun, and will end, by a time zone that the account had before.
        boundaries |= {running.index: running.start_ms, running.index + 1: running.end_ms}
        first, last = min(boundaries), max(boundaries)
        boundaries = {
            k: boundaries.get(k) or boundary_ms(config.billing_date, config.time_zone, k)
            for k in range(first, last + 1)
        }
    passed = {each.percent: each.at_ms for each in config.thresholds}
    members = [*(f"s/{staff}" for staff in config.staff), *(f"c/{channel}" for channel in config.channels)]
    return [
        config.account,
        str(config.revision),
        "1" if config.status == "suspended" else "0",
        "0" if config.plan is None else "1",
        *_plan(config.plan, config.pending_plan),
        *_plan(config.pending_plan, None),
        str(config.pending_from_ms or 0),
        str(len(config.staff)),
        str(len(config.channels)),
        str(config.settled_seconds),
        str(running.start_ms if running else 0),
        *(str(passed.get(percent, 0)) for percent in THRESHOLDS_PERCENT),
        str(first),
        str(len(boundaries)),
        *(str(each) for each in boundaries.values()),
        str(found.epoch),
        str(len(found.ended)),
        *(part for record in found.ended for part in _named(record)),
        str(unvouched_ms),
        str(len(config.reopened)),
        *(part for record in config.reopened for part in _named(record)),
        *members,
    ]


def _named(record: CallRecord) -> tuple[str, bytes]:
    return f"{record.account}/{record.call_id}", pack_record(record)


def _plan(plan: Plan | None, pending: Plan | None) -> tuple[str, ...]:
    """A plan as the script takes it. While a smaller one is pending, its limits bind already (R23)."""
    if plan is None:
        return "", "0", str(UNLIMITED), "0", "0"
    most = UNLIMITED if plan.max_concurrent_calls is None else plan.max_concurrent_calls
    return (
        plan.plan,
        str(plan.allocated_seconds),
        str(most),
        str(seats_limit(plan, pending)),
        str(channels_limit(plan, pending)),
    )
