"""What the tests of records make: plans, accounts, records, and the stream that records come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.calls import CallRecord, CallReopened, CycleOpened
from gateway.domain.errors import EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool.shards import ShardState, States
from gateway.records.database import Database
from gateway.records.ingest import Item, Notice, Progress
from gateway.records.plans import PlanFields
from gateway.records.reading import Proven
from gateway.records.recorder import Recorder
from gateway.records.store import Records

DAY_MS = 86_400_000
NOW_MS = 1_795_392_000_000
CYCLE_MS = 1_794_718_800_000
"""2026-11-15T05:00:00Z, a cycle's start."""
NEXT_CYCLE_MS = 1_797_310_800_000
IDS_OF_RUN = 1_000_000

SMALL: PlanFields = {"name": "Small", "minutes": 100, "connected_channels": 1, "staff_seats": 1}
TEAM: PlanFields = {"name": "Team", "minutes": 1000, "connected_channels": 2, "staff_seats": 3}
LARGE: PlanFields = {"name": "Large", "minutes": 5000, "connected_channels": 9, "staff_seats": 9}

A_RECORD = CallRecord(
    account="acme",
    call_id="c-1",
    staff="ana",
    device="desk",
    channel="main",
    to="+14155550100",
    admitted_at_ms=NOW_MS,
    answered_at_ms=NOW_MS + 8_000,
    ended_at_ms=NOW_MS + 90_000,
    settled_at_ms=NOW_MS + 90_001,
    duration_ms=90_000,
    billed_seconds=90,
    counted=True,
    ended_by="hangup",
    emergency=False,
    cycle_start_ms=CYCLE_MS,
    revision=1,
    policy=Policy(),
)
A_CYCLE = CycleOpened(
    account="acme",
    cycle_start_ms=CYCLE_MS,
    cycle_end_ms=NEXT_CYCLE_MS,
    cycle_index=9,
    plan="team",
    allocated_seconds=60_000,
)


def a_record(call_id: str = "c-1", **fields: Any) -> CallRecord:
    """Make a record that differs from `A_RECORD` in these fields."""
    return replace(A_RECORD, call_id=call_id, **fields)


def reopened(record: CallRecord) -> CallReopened:
    """Say that the call of this record came back (R15)."""
    return CallReopened(record.account, record.call_id, record.admitted_at_ms, record.revision)


def a_cycle(**fields: Any) -> CycleOpened:
    """Make a cycle that differs from `A_CYCLE` in these fields."""
    return replace(A_CYCLE, **fields)


async def make_plans(records: Records) -> None:
    """Make the plans small, team and large."""
    for plan, fields in {"small": SMALL, "team": TEAM, "large": LARGE}.items():
        await records.plans.put_plan(plan, fields)


async def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    """Look into the tables."""

    async def work(connection: AsyncConnection) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await connection.execute(text(query))]

    return await database.read(work)


async def execute(database: Database, statement: str) -> None:
    """Put the tables into a state that no method brings about."""

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text(statement))

    await database.write(work)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the stream below."""

    shard: int
    entry_id: str
    items: list[Item]
    first_number: int
    notices: tuple[Notice, ...] = ()
    unread_because: str | None = None


class MemoryStream:
    """A records stream as Redis has it, in memory, which can be made to fail.

    It has a clock too, in place of the billing clock and the engine's: `at_ms`, which stands still.
    `shard_epochs` are its shards' epochs; all are 0 at first. `run` is which process of an engine it is.
    """

    def __init__(self) -> None:
        self.at_ms = NOW_MS
        self.away = False
        self.shards_away: set[int] = set()
        self.reads = 0
        self.run = 1
        self.shard_epochs: dict[int, int] = {}
        self._shards: dict[int, list[Entry]] = {}
        self._numbers: dict[int, int] = {}
        self._next_id = 0

    def add(self, *told: Item | Notice, shard: int = 0) -> Entry:
        """Append one entry with these items and notices."""
        items = [each for each in told if not isinstance(each, Notice)]
        notices = tuple(each for each in told if isinstance(each, Notice))
        self._next_id += 1
        number = self._numbers.get(shard, 0)
        self._numbers[shard] = number + len(items)
        # As the engine gives ids: another run never gives the same one.
        entry = Entry(shard, f"{self.at_ms}-{self.run * IDS_OF_RUN + self._next_id}", items, number, notices)
        self._shards.setdefault(shard, []).append(entry)
        return entry

    def put_back(self, entry: Entry) -> None:
        """Have an entry again that was trimmed, as after a failover."""
        self._shards[entry.shard] = sorted([*self._shards[entry.shard], entry], key=_order)

    def take_away(self, entry: Entry) -> None:
        """Lose an entry, and have its number again."""
        self._shards[entry.shard].remove(entry)
        self._numbers[entry.shard] -= len(entry.items)

    def become(self, other: MemoryStream) -> None:
        """Have whoever asks this one be answered by another from now on, as after a failover."""
        self.__dict__ = other.__dict__

    async def now_ms(self) -> int:
        """Tell the time."""
        self._check()
        return self.at_ms

    async def read(
        self, positions: Mapping[int, str], limit: int, at_once: int, away: Set[int]
    ) -> Sequence[Entry]:
        """Do as `RecordStream` says."""
        self._check()
        self.reads += 1
        return [
            entry
            for shard, entries in self._asked(away)
            for entry in [each for each in entries if _order(each) > _id(positions.get(shard, "0-0"))][:limit]
        ]

    async def states(self) -> States:
        """Do as `RecordStream` says."""
        self._check()
        shards = (self._shards.keys() | self.shard_epochs.keys()) - self.shards_away
        found = {s: ShardState(self.shard_epochs.get(s, 0), self.run, self.at_ms) for s in shards}
        return States(found, frozenset(self.shards_away))

    async def renew(self, saved: Mapping[int, Progress]) -> None:
        """Do as `RecordStream` says."""
        self._check(saved)
        self.shard_epochs |= {shard: each.epoch + 1 for shard, each in saved.items()}

    async def last_up_to(self, positions: Mapping[int, str]) -> Mapping[int, Entry]:
        """Do as `RecordStream` says."""
        self._check(positions)
        return {
            shard: each
            for shard, position in positions.items()
            for each in self._shards.get(shard, [])
            if _order(each) <= _id(position)
        }

    async def trim(self, saved: Mapping[int, Proven]) -> None:
        """Do as `RecordStream` says."""
        self._check(saved)
        for shard, proven in saved.items():
            if (proven.run, proven.epoch) == (self.run, self.shard_epochs.get(shard, 0)):
                kept = [each for each in self._shards.get(shard, []) if _order(each) > _id(proven.entry_id)]
                self._shards[shard] = kept

    async def backlog(self, saved: Mapping[int, Progress], away: Set[int]) -> int:
        """Do as `RecordStream` says."""
        self._check()
        return sum(
            len(each.items)
            for shard, entries in self._asked(away)
            for each in entries
            if _order(each) > _id(saved.get(shard, Progress()).entry_id)
        )

    @property
    def kept(self) -> int:
        """How many entries there are, saved or not."""
        return sum(map(len, self._shards.values()))

    def _asked(self, away: Set[int]) -> list[tuple[int, list[Entry]]]:
        asked = [(shard, entries) for shard, entries in self._shards.items() if shard not in away]
        self._check(shard for shard, _ in asked)
        return asked

    def _check(self, shards: Iterable[int] = ()) -> None:
        if self.away or self.shards_away & set(shards):
            raise EngineUnavailable


async def deposed_primary(recorder: Recorder, stream: MemoryStream) -> MemoryStream:
    """What a primary has that was deposed when "c-1" had been recorded; `stream` is its successor's."""
    stream.shard_epochs[0] = 1
    stream.add(a_record("c-1"))
    await recorder.drain()
    return deepcopy(stream)


def _order(entry: Entry) -> tuple[int, int]:
    return _id(entry.entry_id)


def _id(entry_id: str) -> tuple[int, int]:
    milliseconds, sequence = entry_id.split("-")
    return int(milliseconds), int(sequence)
