"""Saving entries of the records stream: all of it in one transaction, positions included (R26).

An entry may come twice: after an answer that was lost, or to two recorders at once. Whoever is second finds
the positions further on than where it read from, and skips what lies behind them. Without them, too, the rows
come out the same: a record's key is its call; a higher revision replaces a lower one, never the other way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.calls import CallRecord, CycleOpened
from gateway.records.bulk import BulkInsert, replacing
from gateway.records.failures import refused
from gateway.records.tables import call_records, dead_letters, recorder_positions, statements
from gateway.records.upserts import insert

START: Final = "0-0"
"""The position before the first entry of a stream."""

TRIES: Final = 3
"""How often the database is given an item, before it goes to the dead letters."""

BREATHE: Final = 200
"""After how many entries everything else that the gateway does has its turn."""


class StreamEntry(Protocol):
    """Items that one script appended to the records stream of a shard."""

    @property
    def shard(self) -> int:
        """The shard whose stream it is in."""

    @property
    def entry_id(self) -> str:
        """Its id in that stream: ``milliseconds-sequence``, rising."""

    @property
    def items(self) -> Sequence[CallRecord | CycleOpened | bytes]:
        """What it holds, in order. Bytes are an item that could not be read: a dead letter."""

    @property
    def first_number(self) -> int:
        """The number of its first item, in the order of settling within the shard."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What one transaction saved: how far it got in each shard, how many records, and what was refused.

    Of a dead letter, the shard, the entry's id and the index of the item in it.
    """

    positions: dict[int, str]
    records: int
    dead_letters: list[tuple[int, str, int]]


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


@dataclass(slots=True)
class _Batch:
    """What some entries come to: of several items with one key, the one that counts."""

    records: dict[tuple[str, str, int], _Item] = field(default_factory=dict)
    cycles: dict[tuple[str, int], _Item] = field(default_factory=dict)
    rejected: list[_Rejected] = field(default_factory=list)

    def add(self, entry: StreamEntry) -> None:
        """Take in the items of an entry, which is younger than those before it."""
        for index, item in enumerate(entry.items):
            if isinstance(item, CallRecord):
                key = item.account, item.call_id, item.admitted_at_ms
                earlier = self.records.get(key)
                if earlier is None or earlier.row[_REVISION] < item.revision:
                    self.records[key] = _Item(_record_row(item, entry, index), entry, index)
            elif isinstance(item, CycleOpened):
                self.cycles[item.account, item.cycle_start_ms] = _Item(_cycle_row(item), entry, index)
            else:
                self.rejected.append(_Rejected(entry, index, "it could not be read"))


_RECORD_FIELDS: Final = attrgetter(*(c.name for c in call_records.c if c.name in CallRecord.__slots__))
_POLICY_FIELDS: Final = attrgetter("free_seconds", "increment_seconds", "hold_seconds", "count_from")
_CYCLE_FIELDS: Final = attrgetter(*(c.name for c in statements.c if c.name in CycleOpened.__slots__))
_OPEN: Final = (None,) * (len(statements.c) - len(CycleOpened.__slots__))
_REVISION: Final = list(call_records.c.keys()).index("revision")

_SAVE_RECORDS: Final = BulkInsert(
    call_records, f"{replacing(call_records)} WHERE excluded.revision > call_records.revision"
)
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
    return {row.shard: row.entry_id for row in await connection.execute(select(recorder_positions))}


async def save_entries(
    connection: AsyncConnection, entries: Sequence[StreamEntry], read_from: Mapping[int, str], now_ms: int
) -> Saved:
    """Save entries that were read behind the positions `read_from`, oldest first in each shard.

    An item that the database refuses goes to the dead letters and stops no other.
    """
    shards = sorted({entry.shard for entry in entries})
    saved = await _lock_positions(connection, shards)
    moved = {shard for shard in shards if saved[shard] != read_from.get(shard, START)}
    batch = _Batch()
    for nth, entry in enumerate(entries):
        if nth % BREATHE == 0:
            await asyncio.sleep(0)
        if entry.shard in moved and _order(entry.entry_id) <= _order(saved[entry.shard]):
            continue  # another recorder was first
        batch.add(entry)
        saved[entry.shard] = entry.entry_id
    # Sorted, so that two recorders come to the same rows in the same order, and to no deadlock.
    records = [batch.records[key] for key in sorted(batch.records)]
    cycles = [batch.cycles[key] for key in sorted(batch.cycles)]
    refused_records = await _save(connection, _SAVE_RECORDS, records)
    refused_cycles = await _save(connection, _SAVE_CYCLES, cycles)
    rejected = [*batch.rejected, *refused_records, *refused_cycles]
    await _SAVE_DEAD_LETTERS.run(connection, [_dead_letter(each, now_ms) for each in rejected])
    await _SAVE_POSITIONS.run(connection, sorted(saved.items()))
    return Saved(
        positions=saved,
        records=len(records) - len(refused_records),
        dead_letters=[(each.entry.shard, each.entry.entry_id, each.index) for each in rejected],
    )


async def _lock_positions(connection: AsyncConnection, shards: Sequence[int]) -> dict[int, str]:
    """Return the last entry saved of each of the shards, which nobody else moves before this one is done."""
    query = (
        select(recorder_positions)
        .where(recorder_positions.c.shard.in_(shards))
        .order_by(recorder_positions.c.shard)
        .with_for_update()
    )
    positions = {row.shard: row.entry_id for row in await connection.execute(query)}
    new = [{"shard": shard, "entry_id": START} for shard in shards if shard not in positions]
    if new:
        await connection.execute(insert(connection, recorder_positions).on_conflict_do_nothing(), new)
        return {row.shard: row.entry_id for row in await connection.execute(query)}
    return positions


async def _save(
    connection: AsyncConnection, inserting: BulkInsert, items: Sequence[_Item], tries: int = 1
) -> list[_Rejected]:
    """Insert all that the database takes; return what it refuses, found by halving."""
    if not items:
        return []
    try:
        async with connection.begin_nested():
            await inserting.run(connection, [item.row for item in items])
    except Exception as error:
        if not refused(error):
            raise
        if len(items) > 1:
            half = len(items) // 2
            return [
                *await _save(connection, inserting, items[:half]),
                *await _save(connection, inserting, items[half:]),
            ]
        if tries < TRIES:
            return await _save(connection, inserting, items, tries + 1)
        return [_Rejected(items[0].entry, items[0].place, f"{type(error).__name__}: {error}")]
    return []


def _record_row(record: CallRecord, entry: StreamEntry, index: int) -> tuple[Any, ...]:
    number = entry.first_number + index
    return (*_RECORD_FIELDS(record), *_POLICY_FIELDS(record.policy), entry.shard, number)


def _cycle_row(cycle: CycleOpened) -> tuple[Any, ...]:
    return (*_CYCLE_FIELDS(cycle), *_OPEN)


def _dead_letter(rejected: _Rejected, now_ms: int) -> tuple[Any, ...]:
    entry, item = rejected.entry, rejected.entry.items[rejected.index]
    body = {"bytes": item.hex()} if isinstance(item, bytes) else asdict(item)
    # JSON in ASCII, and an error without NUL: the dead letters themselves are never refused.
    error = rejected.error.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
    return entry.shard, entry.entry_id, rejected.index, json.dumps(body, default=repr), error, now_ms


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, sequence = entry_id.split("-")
    return int(milliseconds), int(sequence)
