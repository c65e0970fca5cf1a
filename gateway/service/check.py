"""Comparing what Redis holds with what SQL does, while gateways go on working between the two.

Nothing stands still meanwhile: calls are settled, the recorder moves records from the stream to SQL, accounts
change. So a pool's settled seconds are read before and after what SQL has and what waits in the stream, and
must lie around their sum; and what differs is looked at again before it is told. A difference that is told
has been there each time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from redis.exceptions import RedisError

from gateway.domain.answers import PoolView
from gateway.domain.asks import AccountConfig
from gateway.domain.calls import CallInProgress, CallRecord, CallReopened
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
from gateway.service.attaching import all_accounts, attached
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
    call: tuple[str, int]
    """Its id, and when it was admitted (ms)."""
    cycle_start_ms: int | None
    billed_seconds: int
    replaces: bool


class Comparison:
    """Reads both sides; writes to neither. All of it raises EngineUnavailable and DatabaseUnavailable."""

    def __init__(self, engine: Engine, records: Records, policy: Policy, *, simulate: bool) -> None:
        self._records = records
        self._keys = KeySpace(DEFAULT_SHARDS)
        self._inspection = Inspection(engine, self._keys)
        self._of_keys = KeyCheck(self._inspection, records)
        self.waiting_records = 0
        """How many records were found that are not in SQL yet."""
        # Its loader knows no account, so that reading a pool that is not there does not make it.
        self._pool = LivePool(engine, _load_nothing, policy, simulate=simulate)
        self._pool.unreadable.quiet = True

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
        in_force, kept = await self._pool.policy(), await self._records.policy.require()
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
                found.append(Difference(account, "pool", self._why_no_pool(account), "there is the account"))
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
        return found + await self._calls([account for account in after if account in before])

    def _why_no_pool(self, account: str) -> str:
        why = self._pool.unreadable.lately().get(account)
        if why is None:
            return "there is none"
        key = self._keys.of_account(account, self._keys.shard_of(account))[0]
        return f"cannot be read ({key}): {why}"

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

    async def _calls(self, accounts: Collection[str]) -> list[Difference]:
        """Look at calls in progress: as many as their pools count, none of them ended in SQL."""
        found: list[Difference] = []
        suspects: dict[str, list[tuple[str, int]]] = {}
        for account, (counted, listed) in (await self._inspection.count_of_accounts(accounts)).items():
            if counted != listed:
                said = f"{counted} counted, {listed} there"
                found.append(Difference(account, "calls in progress", said, "-"))
            if listed:
                calls = await self._pool.calls_of(account)
                suspects[account] = await self._ended(account, _named(calls))
        if not any(suspects.values()):
            return found
        # One that has come back is in progress again in SQL only once that is saved (R15). Looked for before
        # SQL is asked again: what is saved meanwhile is in the one or in the other.
        waiting = {(each.account, *each.call) for each in await self._waiting()}
        for account, calls_of in suspects.items():
            left = [call for call in calls_of if (account, *call) not in waiting]
            for call_id, _ in await self._ended(account, left):
                found.append(Difference(account, f"call {call_id}", "in progress", "ended"))
        return found

    async def _ended(self, account: str, calls: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Which of these calls have ended, as SQL has it."""
        known = await self._records.calls.find_known(account, calls)
        return _named(each for each in known if isinstance(each, CallRecord))


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
        call = (item.call_id, item.admitted_at_ms)
        return Waiting(entry.shard, entry.entry_id, item.account, call, None, 0, replaces=True)
    return Waiting(
        entry.shard,
        entry.entry_id,
        item.account,
        (item.call_id, item.admitted_at_ms),
        item.cycle_start_ms,
        item.billed_seconds,
        replaces=item.revision > 1,
    )


def _named(calls: Iterable[CallInProgress | CallRecord]) -> list[tuple[str, int]]:
    return [(call.call_id, call.admitted_at_ms) for call in calls]


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
