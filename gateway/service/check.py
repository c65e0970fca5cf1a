"""Comparing what Redis holds with what SQL does, while gateways go on working between the two.

Nothing stands still meanwhile: calls are settled, the recorder moves records from the stream to SQL, accounts
change. So a pool's settled seconds are read before and after what SQL has and what waits in the stream, and
must lie around their sum; and what differs is looked at again before it is told. A difference that is told
has been there each time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from redis.exceptions import RedisError, ResponseError

from gateway.domain.answers import MAX_CALLS_SHOWN, PoolView
from gateway.domain.asks import AccountConfig
from gateway.domain.calls import CallRecord, CallReopened
from gateway.domain.cycles import Cycle, rfc3339
from gateway.domain.errors import EngineUnavailable, NotFound
from gateway.domain.policy import Policy
from gateway.pool.engine import Engine
from gateway.pool.inspection import Inspection
from gateway.pool.keys import DEFAULT_SHARDS, KeySpace
from gateway.pool.live_pool import LivePool
from gateway.pool.record_stream import START, StreamEntry
from gateway.records.ingest import count_dead_letters, load_positions
from gateway.records.statements import Resummed
from gateway.records.store import Records
from gateway.service.attaching import all_accounts, attached, kept_policy
from gateway.service.check_keys import KeyCheck
from gateway.service.differences import Difference

LOOKS: Final = 4
"""So often a difference is looked at before it is told."""
LOOK_AGAIN_SECONDS: Final = 0.5
ACCOUNTS_AT_ONCE: Final = 200
LATE_SECONDS: Final = 60
"""How long a record may wait to be saved before it is told of."""
_ENTRIES_AT_ONCE: Final = 1000
_ANY_TIME_MS: Final = 0

Look = Callable[[], Awaitable["list[Difference]"]]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A record in the stream that SQL may not have yet, or a call that came back (R15).

    `replaces` if a record that SQL may have counts no more once this is saved.
    """

    shard: int
    entry_id: str
    account: str
    cycle_start_ms: int | None
    billed_seconds: int
    replaces: bool


class Comparison:
    """Reads both sides; writes to neither. All of it raises EngineUnavailable and DatabaseUnavailable."""

    def __init__(self, engine: Engine, records: Records, policy: Policy, *, simulate: bool) -> None:
        self._records = records
        self._of_keys = KeyCheck(Inspection(engine, KeySpace(DEFAULT_SHARDS)), records)
        self.waiting_records = 0
        """How many records were found that are not in SQL yet."""
        # Its loader knows no account, so that reading a pool that is not there does not make it.
        self._pool = LivePool(engine, _load_nothing, policy, simulate=simulate)

    async def attach(self) -> None:
        """Reach the engine, which may have been restarted since a gateway last worked with it.

        Raises NotFound if it was emptied, and no gateway has filled it again; EngineUnavailable if not all of
        it can be asked.
        """
        await self._pool.attach()
        there, away = await self._pool.records.states()
        if away:
            raise EngineUnavailable
        missing = DEFAULT_SHARDS - len(there)
        if missing:
            raise NotFound(
                f"The engine was emptied: {missing} of its {DEFAULT_SHARDS} shards are not there. A gateway "
                "that runs makes them anew, or `callgate rebuild`."
            )

    async def accounts(self) -> list[str]:
        """Return all accounts that SQL has."""
        return await all_accounts(self._records)

    async def differences(
        self, accounts: Sequence[str], progress: Callable[[int], None] = lambda _: None
    ) -> AsyncIterator[Difference]:
        """Yield what differs; `progress` is told how many of `accounts` are done."""
        for look in (self._deployment, self._recording):
            for difference in await self._settled(look):
                yield difference
        for first in range(0, len(accounts), ACCOUNTS_AT_ONCE):
            chunk = list(accounts[first : first + ACCOUNTS_AT_ONCE])
            for difference in await self._settled(partial(self._accounts, chunk)):
                yield difference
            progress(first + len(chunk))
        for look in (self._of_keys.calls, self._of_keys.strays):
            for difference in await self._settled(look):
                yield difference

    async def _settled(self, look: Look) -> list[Difference]:
        """Look until nothing differs, or something differed in every look."""
        lasting: dict[tuple[str | None, str], Difference] = {}
        for number in range(LOOKS):
            if number:
                await anyio.sleep(LOOK_AGAIN_SECONDS)
            found = {(each.account, each.what): each for each in await look()}
            lasting = found if number == 0 else {key: found[key] for key in lasting if key in found}
            if not lasting:
                break
        return list(lasting.values())

    async def _deployment(self) -> list[Difference]:
        in_force, kept = await self._pool.policy(), await kept_policy(self._records)
        if in_force == kept:
            return []
        return [Difference(None, "policy", _policy_text(in_force), _policy_text(kept))]

    async def _recording(self) -> list[Difference]:
        found = []
        refused = await self._records.database.read(count_dead_letters)
        if refused:
            said = f"{refused} refused: see the table dead_letters"
            found.append(Difference(None, "dead letters", "-", said))
        waiting = await self._waiting()
        self.waiting_records = len(waiting)
        oldest_ms = min((_order(each.entry_id)[0] for each in waiting), default=None)
        if oldest_ms is not None:
            seconds = (await self._engine_ms() - oldest_ms) // 1000
            if seconds > LATE_SECONDS:
                said = f"{len(waiting)} not saved yet, the first for {seconds} s"
                found.append(Difference(None, "records", said, "-"))
        return found

    async def _engine_ms(self) -> int:
        try:
            return await self._pool.records.engine_ms()
        except (RedisError, OSError) as failure:
            raise EngineUnavailable from failure

    async def _accounts(self, accounts: Sequence[str]) -> list[Difference]:
        before = await self._pool.read_many(accounts)
        waiting = await self._waiting()
        read_at = await self._records.database.read(load_positions)
        in_sql = [await self._in_sql(account, before.get(account)) for account in accounts]
        positions = await self._records.database.read(load_positions)
        after = await self._pool.read_many(accounts)
        found: list[Difference] = []
        for account, (config, cycle, applied) in zip(accounts, in_sql, strict=True):
            view = after.get(account)
            if view is None or account not in before:
                found.append(Difference(account, "pool", "there is none", "there is the account"))
                continue
            if not applied:
                found.append(Difference(account, "change", "not there yet", f"revision {config.revision}"))
            found += _differing(view, config, cycle)
            if any(each.account == account and each.replaces for each in waiting):
                continue  # what it comes to is known once that is saved
            if before[account].cycle == view.cycle:
                most = config.settled_seconds + _billed(waiting, account, view.cycle, read_at)
                least = config.settled_seconds + _billed(waiting, account, view.cycle, positions)
                if before[account].settled_seconds > most or view.settled_seconds < least:
                    found.append(
                        Difference(
                            account,
                            "settled seconds",
                            str(view.settled_seconds),
                            f"{config.settled_seconds}, and {least - config.settled_seconds} not saved yet",
                        )
                    )
        found += await self._statements(accounts)
        return found + await self._calls(view for view in after.values() if view.calls_in_progress)

    async def _in_sql(self, account: str, view: PoolView | None) -> tuple[AccountConfig, Cycle, bool]:
        now_ms = _ANY_TIME_MS if view is None else view.at_ms
        start_ms = None if view is None else view.cycle.start_ms
        config = await self._records.configs.config(account, now_ms, start_ms)
        if config is None:
            raise NotFound(f"There is no account {account} any more; accounts are never deleted.")
        cycle = await self._records.configs.running_cycle(account, now_ms)
        row = await self._records.accounts.get_account(account, now_ms)
        return config, cycle, row.applied_revision >= row.revision

    async def _waiting(self) -> list[Waiting]:
        """Return the records that were in the stream and not in SQL a moment ago."""
        behind = dict(await self._records.database.read(load_positions))
        found: list[Waiting] = []
        while entries := await self._stream(behind):
            for entry in entries:
                behind[entry.shard] = entry.entry_id
                found += [
                    _waiting(entry, item)
                    for item in entry.items
                    if isinstance(item, CallRecord | CallReopened)
                ]
        return found

    async def _stream(self, behind: Mapping[int, str]) -> Sequence[StreamEntry]:
        try:
            return await self._pool.records.read(behind, _ENTRIES_AT_ONCE)
        except (RedisError, OSError) as failure:
            raise EngineUnavailable from failure

    async def _statements(self, accounts: Sequence[str]) -> list[Difference]:
        """Find closed statements that do not say what their records come to (R27)."""
        return [
            Difference(
                each.statement.account,
                f"statement {rfc3339(each.statement.cycle.start_ms)}",
                "-",
                _statement_text(each),
            )
            for each in await self._records.statements.sum_again(accounts)
            if not each.agrees
        ]

    async def _calls(self, busy: Iterable[PoolView]) -> list[Difference]:
        """Look at the calls in progress that pools list: as many as they count, none of them ended in SQL."""
        found: list[Difference] = []
        for before in busy:
            try:
                view = await self._pool.read(before.account)
            except EngineUnavailable as failure:
                if not isinstance(failure.__cause__, ResponseError):
                    raise
                said = f"cannot be listed: {failure.__cause__}"
                found.append(Difference(before.account, "calls in progress", said, "-"))
                continue
            listed, counted = len(view.calls), min(view.calls_in_progress, MAX_CALLS_SHOWN)
            if listed != counted:
                said = f"{view.calls_in_progress} counted, {listed} there"
                found.append(Difference(view.account, "calls in progress", said, "-"))
            for call in view.calls:
                record = await self._records.calls.find_call(view.account, call.call_id)
                if isinstance(record, CallRecord) and record.admitted_at_ms == call.admitted_at_ms:
                    found.append(Difference(view.account, f"call {call.call_id}", "in progress", "ended"))
        return found


@asynccontextmanager
async def open_comparison(redis_url: str, database: str | Path) -> AsyncIterator[Comparison]:
    """Reach both sides, of a deployment that has been started at least once.

    Raises EngineUnavailable, DatabaseUnavailable, and NotFound if nothing was ever kept there.
    """
    async with attached(redis_url, database) as both:
        comparison = Comparison(both.engine, both.records, both.policy, simulate=both.simulate)
        await comparison.attach()
        yield comparison


async def _load_nothing(_: str) -> AccountConfig | None:
    return None


def _waiting(entry: StreamEntry, item: CallRecord | CallReopened) -> Waiting:
    if isinstance(item, CallReopened):
        return Waiting(entry.shard, entry.entry_id, item.account, None, 0, replaces=True)
    return Waiting(
        entry.shard,
        entry.entry_id,
        item.account,
        item.cycle_start_ms,
        item.billed_seconds,
        replaces=item.revision > 1,
    )


def _differing(view: PoolView, config: AccountConfig, cycle: Cycle) -> Iterable[Difference]:
    plan, pending = config.plan, config.pending_plan
    compared: list[tuple[str, object, object]] = [
        ("plan", view.plan, plan and plan.plan),
        ("pending plan", view.pending_plan, pending and pending.plan),
        ("allocated seconds", view.allocated_seconds, plan.allocated_seconds if plan else 0),
        ("status", view.status, config.status),
        ("staff seats in use", view.seats_used, len(config.staff)),
        ("channels in use", view.channels_used, len(config.channels)),
        ("cycle", _cycle_text(view.cycle), _cycle_text(cycle)),
    ]
    for what, redis, sql in compared:
        if redis != sql:
            yield Difference(view.account, what, _text(redis), _text(sql))


def _billed(waiting: Iterable[Waiting], account: str, cycle: Cycle, saved_up_to: Mapping[int, str]) -> int:
    """Sum what an account's records in the stream bill to a cycle, behind what SQL has saved."""
    return sum(
        each.billed_seconds
        for each in waiting
        if each.account == account
        and each.cycle_start_ms == cycle.start_ms
        and _order(each.entry_id) > _order(saved_up_to.get(each.shard, START))
    )


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, sequence = entry_id.split("-")
    return int(milliseconds), int(sequence)


def _cycle_text(cycle: Cycle) -> str:
    return f"{rfc3339(cycle.start_ms)} to {rfc3339(cycle.end_ms)}"


def _policy_text(policy: Policy) -> str:
    return (
        f"free {policy.free_seconds} s, increment {policy.increment_seconds} s, "
        f"hold {policy.hold_seconds} s, from {policy.count_from}"
    )


def _statement_text(each: Resummed) -> str:
    stated = each.statement
    came_back = f", {each.reopened} in progress again" if each.reopened else ""
    return (
        f"{stated.used_seconds} s, {stated.calls_counted} calls counted, {stated.calls_free} free; its "
        f"records: {each.used_seconds} s, {each.calls_counted} counted, {each.calls_free} free{came_back}"
    )


def _text(value: object) -> str:
    return "none" if value is None else str(value)
