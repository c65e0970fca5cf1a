"""Saving entries of the records stream: all of it in one transaction, positions included (R26).

An entry may come twice: after an answer that was lost, or to two recorders at once. Whoever is second finds
the positions further on than where it read from, and skips what lies behind them. Without them, too, the rows
come out the same: a record's key is its call; a higher revision replaces a lower one, and of one revision the
reopened state the other (R15), never the other way.

Each shard of the engine has an epoch, which rises when writes of it were lost. SQL keeps the epoch that its
position belongs to. What was read under an older one is refused: it comes from an engine that is no longer
the one, and pools may have been rebuilt without it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import Row, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.calls import CallRecord, CallReopened, CycleOpened, PoolNotice, ThresholdsPassed
from gateway.domain.pool_minutes import THRESHOLDS_PERCENT
from gateway.records.bulk import BulkInsert, Rows, replacing
from gateway.records.failures import refused, try_again, unavailable
from gateway.records.outbox import SAVE_EVENTS, Wanted, wanted_events
from gateway.records.tables import call_records, dead_letters, recorder_positions, statements
from gateway.records.upserts import insert

START: Final = "0-0"
"""The position before the first entry of a stream."""

TRIES: Final = 3
"""How often the database is given an item, before it goes to the dead letters."""

BREATHE: Final = 200
"""After how many entries everything else that the gateway does has its turn."""

Item = CallRecord | CallReopened | CycleOpened | bytes
"""What the stream holds. Bytes are an item that could not be read: a dead letter."""


Notice = PoolNotice | ThresholdsPassed
"""What it says beside, of which nothing is billed."""


class StreamEntry(Protocol):
    """Items that one script appended to the records stream of a shard."""

    @property
    def shard(self) -> int:
        """The shard whose stream it is in."""

    @property
    def entry_id(self) -> str:
        """Its id in that stream: ``milliseconds-sequence``, rising."""

    @property
    def items(self) -> Sequence[Item]:
        """What it holds, in order."""

    @property
    def notices(self) -> Sequence[Notice]:
        """What it says beside, in order."""

    @property
    def unread_because(self) -> str | None:
        """Why the rest of it is bytes, None if it is not."""

    @property
    def first_number(self) -> int:
        """The number of its first item, in the order of settling within the shard."""


class Progress(NamedTuple):
    """How far SQL has come in a shard: the last entry saved, its epoch, and the highest number of an item."""

    entry_id: str = START
    epoch: int = 0
    record_number: int = 0

    def after(self, entry: StreamEntry) -> Progress:
        """How far it will have come with the next entry; after a loss numbers may begin anew lower."""
        return Progress(entry.entry_id, self.epoch, max(self.record_number, last_number(entry)))


@dataclass(frozen=True, slots=True)
class Saved:
    """What one transaction saved: how far it got in each shard, how many records, and what was refused.

    Of a dead letter, the shard, the entry's id and the index of the item in it. `refused` are the shards of
    which nothing was saved, as what was read is not what follows on what SQL has; `missing` is how many items
    before those saved were never seen, by shard.
    """

    progress: dict[int, Progress]
    records: int
    dead_letters: list[tuple[int, str, int]]
    refused: frozenset[int]
    missing: dict[int, int]


class _Item(NamedTuple):
    """One row to save, and where in the stream it comes from."""

    row: tuple[Any, ...]
    entry: StreamEntry
    place: int


@dataclass(frozen=True, slots=True)
class _Rejected:
    """An item that can't be saved, and why."""

    entry: StreamEntry
    index: int
    error: str


_Key = tuple[str, str, int]


@dataclass(slots=True)
class _Batch:
    """What some entries come to: of several items with one key, the one that counts."""

    records: dict[_Key, _Item] = field(default_factory=dict)
    reopened: dict[_Key, _Item] = field(default_factory=dict)
    cycles: dict[tuple[str, int], _Item] = field(default_factory=dict)
    passed: dict[tuple[str, int], _Item] = field(default_factory=dict)
    events: dict[str, _Item] = field(default_factory=dict)
    rejected: list[_Rejected] = field(default_factory=list)
    wanted: Wanted | None = None

    def add(self, entry: StreamEntry) -> None:
        """Take in the items of an entry, which is younger than those before it.

        One of which no row can be made is rejected, whatever is wrong with it.
        """
        for index, item in enumerate(entry.items):
            try:
                self._add_item(entry, index, item)
            except Exception as error:  # noqa: BLE001 - it is kept, and stops no other
                self.rejected.append(_Rejected(entry, index, _why(error)))
        for place, notice in enumerate(entry.notices, len(entry.items)):
            try:
                self._add_notice(entry, place, notice)
            except Exception as error:  # noqa: BLE001 - the same
                self.rejected.append(_Rejected(entry, place, _why(error)))

    def _add_item(self, entry: StreamEntry, index: int, item: Item) -> None:
        if isinstance(item, CallRecord):
            key = item.account, item.call_id, item.admitted_at_ms
            earlier = self.records.get(key)
            if earlier is None or earlier.row[_REVISION] < item.revision:
                self.records[key] = _Item(_record_row(item, entry, index), entry, index)
        elif isinstance(item, CycleOpened):
            self.cycles[item.account, item.cycle_start_ms] = _Item(_cycle_row(item), entry, index)
        elif isinstance(item, CallReopened):
            key = item.account, item.call_id, item.admitted_at_ms
            earlier = self.reopened.get(key)
            if earlier is None or earlier.row[-1] < item.revision:
                self.reopened[key] = _Item((*key, item.revision), entry, index)
        else:
            why = f"it could not be read: {entry.unread_because or 'no reason is known'}"
            self.rejected.append(_Rejected(entry, index, why))

    def _add_notice(self, entry: StreamEntry, place: int, notice: Notice) -> None:
        if isinstance(notice, ThresholdsPassed):
            self.passed[notice.account, notice.cycle_start_ms] = _Item(_passed_row(notice), entry, place)
        elif self.wanted is not None and (row := self.wanted.of_notice(notice)) is not None:
            self.events[row[0]] = _Item(row, entry, place)

    def reopen(self) -> None:
        """Settle which of the calls that came back are so by a record of this batch, now that all are in."""
        for key in self.reopened.keys() & self.records.keys():
            revision, record = self.reopened.pop(key).row[-1], self.records[key]
            if record.row[_REVISION] <= revision:
                row = (*record.row[:_REVISION], revision, *record.row[_REVISION + 1 : -1], True)
                self.records[key] = record._replace(row=row)


class _Reopening:
    """Marks the records of calls that came back: up to the revision named, which the record then has.

    So a record of that revision, or an older one, that is saved again does not replace it. Where there is no
    record, as it was a dead letter, nothing is to be marked: the next one tells the whole call.
    """

    async def run(self, connection: AsyncConnection, rows: Rows) -> None:
        """Mark them within the transaction of `connection`."""
        await connection.execute(_REOPEN, [dict(zip(_REOPEN_KEYS, row, strict=True)) for row in rows])


class _Passing:
    """Writes down when thresholds were passed, where there is the cycle's statement."""

    async def run(self, connection: AsyncConnection, rows: Rows) -> None:
        """Write them down within the transaction of `connection`."""
        await connection.execute(_PASS, [dict(zip(_PASS_KEYS, row, strict=True)) for row in rows])


_Saving = BulkInsert | _Reopening | _Passing

_REOPEN_KEYS: Final = ("of", "id", "admitted_ms", "up_to")
_REOPEN: Final = (
    update(call_records)
    .where(
        call_records.c.account == bindparam("of"),
        call_records.c.call_id == bindparam("id"),
        call_records.c.admitted_at_ms == bindparam("admitted_ms"),
        call_records.c.revision <= bindparam("up_to"),
    )
    .values(reopened=True, revision=bindparam("up_to"))
)

_PASSED: Final = {percent: statements.c[f"passed_{percent}_ms"] for percent in THRESHOLDS_PERCENT}
_PASS: Final = (
    update(statements)
    .where(statements.c.account == bindparam("of"), statements.c.cycle_start_ms == bindparam("began_ms"))
    .values({column: bindparam(f"at_{percent}") for percent, column in _PASSED.items()})
)

_PASS_KEYS: Final = ("of", "began_ms", *(f"at_{percent}" for percent in _PASSED))

_LAST_COLUMNS: Final = ("admitted_offline", "reopened")
_RECORD_FIELDS: Final = attrgetter(
    *(c.name for c in call_records.c if c.name in CallRecord.__slots__ and c.name not in _LAST_COLUMNS)
)
_POLICY_FIELDS: Final = attrgetter("free_seconds", "increment_seconds", "hold_seconds", "count_from")
_CYCLE_FIELDS: Final = attrgetter(*(c.name for c in statements.c if c.name in CycleOpened.__slots__))
_OPEN: Final = (None,) * (len(statements.c) - len(CycleOpened.__slots__))
_REVISION: Final = list(call_records.c.keys()).index("revision")

_SAVE_RECORDS: Final = BulkInsert(
    call_records,
    f"{replacing(call_records)} "
    "WHERE (excluded.revision, excluded.reopened) > (call_records.revision, call_records.reopened)",
)
_SAVE_REOPENED: Final = _Reopening()
_SAVE_PASSED: Final = _Passing()
_SAVE_CYCLES: Final = BulkInsert(
    statements,
    "DO UPDATE SET cycle_end_ms = excluded.cycle_end_ms, cycle_index = excluded.cycle_index, "
    "plan = excluded.plan, allocated_seconds = excluded.allocated_seconds "
    "WHERE statements.closed_at_ms IS NULL",  # R27: a closed one never changes
)
_SAVE_POSITIONS: Final = BulkInsert(recorder_positions, replacing(recorder_positions))
_SAVE_DEAD_LETTERS: Final = BulkInsert(dead_letters, "DO NOTHING")


async def load_positions(connection: AsyncConnection) -> dict[int, str]:
    """Return the last entry saved of each shard."""
    return {shard: each.entry_id for shard, each in (await load_progress(connection)).items()}


async def count_dead_letters(connection: AsyncConnection) -> int:
    """Return how many items the database refused."""
    return await connection.scalar(select(func.count()).select_from(dead_letters)) or 0


async def load_progress(connection: AsyncConnection) -> dict[int, Progress]:
    """Return how far each shard is saved."""
    return {row.shard: _progress(row) for row in await connection.execute(select(recorder_positions))}


async def save_entries(
    connection: AsyncConnection,
    entries: Sequence[StreamEntry],
    read_from: Mapping[int, str],
    epochs: Mapping[int, int],
    now_ms: int,
) -> Saved:
    """Save entries that were read behind the positions `read_from`, oldest first in each shard.

    `epochs` are those that they were read under, and of other shards those that SQL shall take: where it is
    newer than the one SQL has, the shard's position begins anew, unless it was read from just there. An item
    that cannot be saved goes to the dead letters and stops no other. What would keep every item from being
    saved is raised.
    """
    shards = sorted({entry.shard for entry in entries} | epochs.keys())
    saved = await _lock_positions(connection, shards)
    refused = set()
    for shard, known in saved.items():
        epoch = epochs.get(shard, 0)
        if epoch > known.epoch:
            goes_on = read_from.get(shard) == known.entry_id
            saved[shard] = known._replace(entry_id=known.entry_id if goes_on else START, epoch=epoch)
        # A position before where this was read from is that of an older copy of the database.
        if epoch < known.epoch or order(saved[shard].entry_id) < order(read_from.get(shard, START)):
            refused.add(shard)
    moved = {shard for shard in shards if saved[shard].entry_id != read_from.get(shard, START)}
    refused |= {shard for shard in moved - refused if _is_elsewhere(saved[shard].entry_id, shard, entries)}
    batch = _Batch(wanted=await wanted_events(connection, time.time_ns() // 1_000_000))
    missing: dict[int, int] = {}
    for nth, entry in enumerate(entries):
        if nth % BREATHE == 0:
            await asyncio.sleep(0)
        at = saved[entry.shard]
        if entry.shard in refused or (entry.shard in moved and order(entry.entry_id) <= order(at.entry_id)):
            continue  # another recorder was first, or it is not to be saved at all
        # Of positions that the version before has written, the number is not known.
        is_known = at.record_number > 0 or at.entry_id == START
        if is_known and entry.first_number > at.record_number + 1:
            missing[entry.shard] = missing.get(entry.shard, 0) + entry.first_number - at.record_number - 1
        batch.add(entry)
        saved[entry.shard] = at.after(entry)
    batch.reopen()
    # Sorted, so that two recorders come to the same rows in the same order, and to no deadlock.
    records = [batch.records[key] for key in sorted(batch.records)]
    reopened = [batch.reopened[key] for key in sorted(batch.reopened)]
    cycles = [batch.cycles[key] for key in sorted(batch.cycles)]
    events = [batch.events[key] for key in sorted(batch.events)]
    refused_records = await _save(connection, _SAVE_RECORDS, records)
    refused_reopenings = await _save(connection, _SAVE_REOPENED, reopened)
    refused_cycles = await _save(connection, _SAVE_CYCLES, cycles)
    refused_passed = await _save(
        connection, _SAVE_PASSED, [batch.passed[key] for key in sorted(batch.passed)]
    )
    refused_events = await _save(connection, SAVE_EVENTS, events)
    rejected = [*batch.rejected, *refused_records, *refused_reopenings, *refused_cycles, *refused_passed]
    rejected += refused_events
    if batch.wanted is not None and "call_recorded" in batch.wanted.types:
        rejected += await _save_events_of(connection, batch.wanted, records, refused_records)
    await _SAVE_DEAD_LETTERS.run(connection, [_dead_letter(each, now_ms) for each in rejected])
    # Refused ones too: a newer epoch is taken all the same.
    await _SAVE_POSITIONS.run(connection, [(shard, *saved[shard]) for shard in shards])
    return Saved(
        progress={shard: saved[shard] for shard in shards if shard not in refused},
        records=len(records) - len(refused_records),
        dead_letters=[(each.entry.shard, each.entry.entry_id, each.index) for each in rejected],
        refused=frozenset(refused),
        missing=missing,
    )


def _progress(row: Row[Any]) -> Progress:
    return Progress(row.entry_id, row.epoch, row.record_number)


async def _lock_positions(connection: AsyncConnection, shards: Sequence[int]) -> dict[int, Progress]:
    """Return how far each of the shards is saved, which nobody else moves before this one is done."""
    query = (
        select(recorder_positions)
        .where(recorder_positions.c.shard.in_(shards))
        .order_by(recorder_positions.c.shard)
        .with_for_update()
    )
    positions = {row.shard: _progress(row) for row in await connection.execute(query)}
    new = [{"shard": shard, "entry_id": START} for shard in shards if shard not in positions]
    if new:
        await connection.execute(insert(connection, recorder_positions).on_conflict_do_nothing(), new)
        return {row.shard: _progress(row) for row in await connection.execute(query)}
    return positions


async def _save(
    connection: AsyncConnection, inserting: _Saving, items: Sequence[_Item], tries: int = 1
) -> list[_Rejected]:
    """Insert all that the database takes; return what it refuses, found by halving.

    What it says of a value is that value's matter; of anything else only if it takes another row.
    """
    if not items:
        return []
    try:
        async with connection.begin_nested():
            await inserting.run(connection, [item.row for item in items])
    except Exception as error:
        if unavailable(error) or try_again(error):
            raise
        if not refused(error) and not await _takes_rows(connection, inserting):
            raise
        if len(items) > 1:
            half = len(items) // 2
            return [
                *await _save(connection, inserting, items[:half]),
                *await _save(connection, inserting, items[half:]),
            ]
        if tries < TRIES:
            return await _save(connection, inserting, items, tries + 1)
        return [_Rejected(items[0].entry, items[0].place, _why(error))]
    return []


async def _takes_rows(connection: AsyncConnection, inserting: _Saving) -> bool:
    """Whether the database takes a row that is not at fault: one that it has, or that changes nothing.

    False if there is none to try it with: then a mistake in the schema would look like one in each record,
    and all would become dead letters.
    """
    rows: Rows
    if isinstance(inserting, BulkInsert):
        there = await inserting.any_row(connection)
        rows = [] if there is None else [there]
    else:
        keys = _REOPEN_KEYS if isinstance(inserting, _Reopening) else _PASS_KEYS
        rows = [("", *(0 for _ in keys[1:]))] if keys is _PASS_KEYS else [("", "", 0, 0)]
    if not rows:
        return False
    trial = await connection.begin_nested()
    try:
        await inserting.run(connection, rows)
    except Exception as error:
        if unavailable(error) or try_again(error):
            raise
        return False
    finally:
        await trial.rollback()
    return True


async def _save_events_of(
    connection: AsyncConnection, wanted: Wanted, records: Sequence[_Item], refused: Sequence[_Rejected]
) -> list[_Rejected]:
    """Write the events of records that were saved; return those that can't be."""
    unsaved = {(each.entry.shard, each.entry.entry_id, each.index) for each in refused}
    items: list[_Item] = []
    rejected: list[_Rejected] = []
    for nth, item in enumerate(records):
        if nth % BREATHE == 0:
            await asyncio.sleep(0)
        record = item.entry.items[item.place]
        if (item.entry.shard, item.entry.entry_id, item.place) not in unsaved:
            assert isinstance(record, CallRecord)
            try:
                items.append(item._replace(row=wanted.of_record(record)))
            except Exception as error:  # noqa: BLE001 - it is kept, and stops no other
                rejected.append(_Rejected(item.entry, item.place, _why(error)))
    rejected += await _save(connection, SAVE_EVENTS, sorted(items, key=lambda each: str(each.row[0])))
    return [replace(each, error=f"it is saved, but not its event: {each.error}") for each in rejected]


def _passed_row(passed: ThresholdsPassed) -> tuple[Any, ...]:
    at_ms = {threshold.percent: threshold.at_ms for threshold in passed.thresholds}
    return (passed.account, passed.cycle_start_ms, *(at_ms.get(percent) for percent in _PASSED))


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _record_row(record: CallRecord, entry: StreamEntry, index: int) -> tuple[Any, ...]:
    number = entry.first_number + index
    return (
        *_RECORD_FIELDS(record),
        *_POLICY_FIELDS(record.policy),
        entry.shard,
        number,
        record.admitted_offline,
        False,
    )


def _cycle_row(cycle: CycleOpened) -> tuple[Any, ...]:
    return (*_CYCLE_FIELDS(cycle), *_OPEN)


def _dead_letter(rejected: _Rejected, now_ms: int) -> tuple[Any, ...]:
    entry, item = rejected.entry, [*rejected.entry.items, *rejected.entry.notices][rejected.index]
    body = {"bytes": item.hex()} if isinstance(item, bytes) else asdict(item)
    # JSON in ASCII, and an error without NUL: the dead letters themselves are never refused.
    error = rejected.error.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
    return entry.shard, entry.entry_id, rejected.index, json.dumps(body, default=repr), error, now_ms


def last_number(entry: StreamEntry) -> int:
    """Return the number of an entry's last item; of one with none, of the last before it."""
    return entry.first_number + len(entry.items) - 1


def _is_elsewhere(entry_id: str, shard: int, entries: Sequence[StreamEntry]) -> bool:
    """Whether a position that another recorder came to is none of these entries.

    Then it may be one of another engine's stream, and says nothing of what lies before it in this one; or the
    other one has read further. It is read again, to find out.
    """
    ids = [entry.entry_id for entry in entries if entry.shard == shard]
    return bool(ids) and entry_id not in ids


def order(entry_id: str) -> tuple[int, int]:
    """Return what ids of entries are ordered by."""
    milliseconds, sequence = entry_id.split("-")
    return int(milliseconds), int(sequence)
