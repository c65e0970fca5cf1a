"""Pools as scripts read them: what a script misses is supplied, and what cannot be read stands alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.domain.answers import PoolView
from gateway.domain.billing import overrun_seconds, remaining_seconds
from gateway.domain.cycles import Cycle
from gateway.domain.errors import CallgateError, DatabaseUnavailable, EngineUnavailable, NotFound
from gateway.pool.accounts import Accounts, Loader
from gateway.pool.codes import UNDECIDED, Code
from gateway.pool.engine import Engine, engine_unavailable
from gateway.pool.keys import KeySpace
from gateway.pool.packed import (
    NO_VALUE,
    PackedPool,
    pool_epoch,
    unpack_call_in_progress,
    unpack_policy,
    unpack_pool,
)
from gateway.pool.scripts import script
from gateway.pool.unreadable import UNDECODABLE, PoolUnreadable, Unreadable, broke_down

READ_AT_ONCE: Final = 200
SUPPLIED_AT_ONCE: Final = 20
FEW_COMING_CYCLES: Final = 2


class PoolReader:
    """Reads pools, any number at once."""

    def __init__(
        self, engine: Engine, keys: KeySpace, accounts: Accounts, loader: Loader, unreadable: Unreadable
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._accounts = accounts
        self._loader = loader
        self._unreadable = unreadable

    async def read(self, accounts: Sequence[str], listed: int, *, must_exist: bool) -> dict[str, PoolView]:
        """Pools as they are now, each with so many of its calls at most.

        Accounts that SQL does not know, and those that are not what they should be, are left out; or with
        `must_exist` raised (NotFound, PoolUnreadable). Raises EngineUnavailable, DatabaseUnavailable.
        """
        views: dict[str, PoolView] = {}
        unreadable: dict[str, EngineUnavailable] = {}
        left = dict.fromkeys(accounts)
        for _ in range(3):
            missing: dict[str, int] = {}
            for first in range(0, len(left), READ_AT_ONCE):
                raw, failed = await self._read_raw(list(left)[first : first + READ_AT_ONCE], listed)
                unreadable |= failed
                for account, found in raw.items():
                    if found[0] in UNDECIDED:
                        missing[account] = found[0]
                        continue
                    if found[0] == Code.POOL_UNREADABLE:
                        unreadable[account] = self._unreadable.note(account, UNDECODABLE)
                        continue
                    try:
                        views[account] = _view(account, found)
                    except NO_VALUE as failure:
                        unreadable[account] = self._unreadable.note(account, failure)
            if not missing:
                break
            left = {}
            for account, code in missing.items():
                try:
                    is_known = await self._supply(account, code)
                except PoolUnreadable as failure:
                    unreadable[account] = failure
                    continue
                if is_known:
                    left[account] = None
                elif must_exist:
                    raise NotFound(f"There is no account {account}.")
        else:
            raise EngineUnavailable
        if must_exist:
            for unread in unreadable.values():
                raise unread
        return views

    async def turn_cycles(self, accounts: Iterable[str]) -> Mapping[str, Exception]:
        """Reading a pool turns its cycle and passes its thresholds.

        One that knows few coming boundaries is given more. Answers those that could not be seen to, each with
        why. Raises EngineUnavailable where that is the same for all.
        """
        named, failed = list(accounts), dict[str, Exception]()
        lacking: dict[str, int | None] = {}
        for first in range(0, len(named), READ_AT_ONCE):
            chunk = named[first : first + READ_AT_ONCE]
            try:
                raw, unreadable = await self._read_raw(chunk, 0, for_alarms=True)
            except EngineUnavailable as failure:
                if self._engine.spans_shards:
                    raise
                failed |= dict.fromkeys(chunk, failure)
                continue
            failed |= unreadable
            for account, found in raw.items():
                if found[0] == Code.POOL_UNREADABLE:
                    failed[account] = self._unreadable.note(account, UNDECODABLE)
                elif found[0] in UNDECIDED:
                    lacking[account] = found[0]
                else:
                    try:
                        coming_ends_ms = unpack_pool(found[4]).coming_ends_ms
                    except NO_VALUE as failure:
                        failed[account] = self._unreadable.note(account, failure)
                        continue
                    if sum(end > 0 for end in coming_ends_ms) < FEW_COMING_CYCLES:
                        lacking[account] = None
        return failed | await self._supply_all_due(lacking)

    async def glance(self, accounts: Sequence[str]) -> dict[str, PackedPool | None]:
        """Pools as they were last written; None where there is none, or none that can be read.

        Raises EngineUnavailable.
        """
        found = await self._read_packed(accounts)
        return {account: _glanced(packed) for account, packed in found.items()}

    async def not_made(self, accounts: Sequence[str], epochs: Mapping[int, int]) -> list[str]:
        """Those whose pool is not there, or is of another epoch than their shard, of these `epochs`.

        Raises EngineUnavailable.
        """
        found = await self._read_packed(accounts)
        return [
            account
            for account, packed in found.items()
            if packed is None or pool_epoch(packed) != epochs.get(self._keys.shard_of(account))
        ]

    async def _read_packed(self, accounts: Sequence[str]) -> dict[str, bytes | None]:
        by_shard = self._keys.by_shard(accounts)
        commands = [
            ("MGET", *(self._keys.of_account(account, shard)[0] for account in members))
            for shard, members in by_shard.items()
        ]
        with engine_unavailable():
            found = await self._engine.run_all(commands)
        return {
            account: packed
            for members, pools in zip(by_shard.values(), found, strict=True)
            for account, packed in zip(members, pools, strict=True)
        }

    async def _read_raw(
        self, accounts: list[str], listed: int, *, for_alarms: bool = False
    ) -> tuple[dict[str, list[Any]], dict[str, EngineUnavailable]]:
        """What the script says of each, and those that it broke down on: none of them takes others along."""
        by_shard = self._keys.by_shard(accounts)
        found: dict[str, list[Any]] = {}
        unreadable: dict[str, EngineUnavailable] = {}
        for sections in self._engine.split(list(by_shard.items())):
            keys: list[str] = []
            arguments = [str(len(sections)), str(listed), "1" if for_alarms else "0"]
            for shard, members in sections:
                keys.extend(self._keys.of_shard(shard))
                arguments += [str(len(members)), *members]
                for account in members:
                    keys.extend(self._keys.of_account(account, shard))
            names = [account for _, members in sections for account in members]
            try:
                with engine_unavailable():
                    said = await script("pools_read").run(self._engine.client, keys, arguments)
                found.update(zip(names, said, strict=True))
            except EngineUnavailable as failure:
                if not broke_down(failure.__cause__):
                    raise
                if len(names) == 1:
                    because = failure.__cause__ or failure
                    unreadable[names[0]] = self._unreadable.note(names[0], because)
                    continue
                for account in names:
                    alone, failed = await self._read_raw([account], listed, for_alarms=for_alarms)
                    found |= alone
                    unreadable |= failed
        return found, unreadable

    async def _supply(self, account: str, code: int) -> bool:
        with self._unreadable.alone(account):
            return await self._accounts.supply(account, code)

    async def _supply_all_due(self, lacking: Mapping[str, int | None]) -> dict[str, Exception]:
        """Behind all that needs no SQL, which may be silent for long. Answers those that could not be."""
        failed: dict[str, Exception] = {}
        left = list(lacking)
        while left:
            group, left = left[:SUPPLIED_AT_ONCE], left[SUPPLIED_AT_ONCE:]
            became = await asyncio.gather(*(self._supply_due(account, lacking[account]) for account in group))
            failed |= {name: why for name, why in zip(group, became, strict=True) if why is not None}
            if all(isinstance(failure, DatabaseUnavailable) for failure in became):
                # So it is for the others; what falls due meanwhile shall not wait for that.
                failed |= dict.fromkeys(left, failed[group[0]])
                break
        return failed

    async def _supply_due(self, account: str, code: int | None) -> Exception | None:
        """Supply what an account that is due lacks; without a code, more boundaries. Answers what failed."""
        try:
            with self._unreadable.alone(account):
                if code is None:
                    config = await self._loader(account)
                    if config is not None:
                        await self._accounts.apply(config)
                elif not await self._accounts.supply(account, code):
                    # SQL was restored to an earlier day: nothing can be due for what it does not know.
                    alarms = self._keys.named(self._keys.shard_of(account), "alarms")[0]
                    await self._engine.client.zrem(alarms, account)
        except CallgateError as failure:
            return failure
        return None


def _glanced(packed: bytes | None) -> PackedPool | None:
    try:
        return None if packed is None else unpack_pool(packed)
    except NO_VALUE:
        return None  # whoever works with it tells of that


def _view(account: str, found: list[Any]) -> PoolView:
    """A pool from what `pools_read` says of it."""
    _, now_ms, speed, policy, packed, live_billed, live_held, empty_at_ms, *calls = found
    pool = unpack_pool(packed)
    used = pool.settled_seconds + live_billed
    return PoolView(
        account=account,
        version=pool.version,
        at_ms=now_ms,
        clock_speed=speed,
        plan=pool.plan,
        pending_plan=pool.pending_plan,
        cycle=Cycle(pool.cycle_index, pool.cycle_start_ms, pool.cycle_end_ms),
        policy=unpack_policy(policy),
        allocated_seconds=pool.allocated_seconds,
        settled_seconds=pool.settled_seconds,
        used_seconds=used,
        remaining_seconds=remaining_seconds(pool.allocated_seconds, used),
        overrun_seconds=overrun_seconds(pool.allocated_seconds, used),
        held_seconds=live_held - live_billed,
        calls_in_progress=pool.calls + pool.emergencies,
        calls_counting=pool.counting,
        calls=tuple(
            unpack_call_in_progress(account, call_id.decode(), each, pool.cycle_start_ms)
            for call_id, each in zip(calls[::2], calls[1::2], strict=True)
        ),
        thresholds=pool.thresholds,
        empty_at_ms=empty_at_ms or None,
        seats_used=pool.seats_used,
        seats_limit=pool.seats_limit,
        channels_used=pool.channels_used,
        channels_limit=pool.channels_limit,
        status="suspended" if pool.suspended else "active",
    )
