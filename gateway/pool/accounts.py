"""Accounts in the engine: pools made and brought in line with SQL, what a script missed supplied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from gateway.domain.asks import AccountConfig
from gateway.domain.calls import CallRecord
from gateway.domain.cycles import boundary_ms, index_at
from gateway.domain.errors import EngineUnavailable
from gateway.domain.plans import Plan, channels_limit, seats_limit
from gateway.domain.pool_minutes import THRESHOLDS_PERCENT
from gateway.pool.codes import Code
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace
from gateway.pool.packed import UNLIMITED, pack_record
from gateway.pool.scripts import Argument, script
from gateway.pool.shards import Shards

log = structlog.get_logger(__name__)

Loader = Callable[[str], Awaitable[AccountConfig | None]]
"""Reads an account from SQL; None if SQL knows no such account."""

EndedCalls = Callable[[str], Awaitable[Sequence[CallRecord]]]
"""Asks SQL which calls that are in progress in an account's pool have ended, and which were settled again.

Raises DatabaseUnavailable.
"""

FindResettled = Callable[[str], Awaitable[Sequence[CallRecord]]]
"""Asks SQL for the records of an account's latest cycle that replaced an earlier one of their calls.

Raises DatabaseUnavailable.
"""

_COMING_CYCLES: Final = 4
_ATTEMPTS: Final = 4


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
        if code == Code.TOO_LATE:
            # It was answered all the same, so it is the engine's clock that was set: the next beat tells it.
            self._shards.forget_real_ms(self._keys.shard_of(account))
            return True
        if code in (Code.SHARD_MISSING, Code.SHARD_MOVED):
            await self._shards.confirm([self._keys.shard_of(account)])
            if code == Code.SHARD_MOVED:
                # Most probably nothing is missing; if the pool is, the script says so when it is asked again.
                return True
        config = await self._loader(account)
        if config is None:
            return False
        await self.apply(config)
        return True

    async def apply(self, config: AccountConfig) -> int:
        """Make the account's pool or bring it up to `config`; an older revision changes nothing.

        Answers the pool's version. Raises EngineUnavailable, RedisError.
        """
        now_ms = (await self._shards.clock()).now_ms
        current = index_at(config.billing_date, config.time_zone, now_ms)
        first, last = current - 2, current + _COMING_CYCLES
        ended: Sequence[CallRecord] | None = None
        for _ in range(_ATTEMPTS):
            code, detail = await self._apply(config, first, last, ended)
            if code in (Code.APPLIED, Code.UNCHANGED):
                return detail
            if code == Code.CALLS_UNCHECKED:
                ended = await self._ended_calls(config.account)
            elif code in (Code.SHARD_MISSING, Code.SHARD_MOVED):
                await self._shards.confirm([self._keys.shard_of(config.account)])
            else:
                # Nobody called for many cycles: all of them turn, one by one, so all boundaries are needed.
                first = min(first, detail)
        raise EngineUnavailable("The account's pool could not be brought up to date; try again shortly.")

    async def _apply(
        self, config: AccountConfig, first: int, last: int, ended: Sequence[CallRecord] | None
    ) -> tuple[int, int]:
        shard = self._keys.shard_of(config.account)
        keys = [*self._keys.of_shard(shard), *self._keys.of_account(config.account, shard)]
        code, detail, run, epoch, seq = await script("account_apply").run(
            self._engine.client,
            keys,
            account_arguments(config, first, last, ended, unvouched_ms=self._unvouched_ms),
        )
        self._shards.saw(shard, run, epoch, seq)
        return code, detail


def account_arguments(
    config: AccountConfig,
    first: int,
    last: int,
    ended: Sequence[CallRecord] | None = None,
    *,
    unvouched_ms: int,
) -> list[Argument]:
    """What the script is told of an account, with the boundaries of these cycles.

    `ended` are the calls in progress that SQL knows to have ended, and those settled again; None if it was
    not asked.
    """
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
        "0" if ended is None else "1",
        str(len(ended or ())),
        *(part for record in ended or () for part in _named(record)),
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
