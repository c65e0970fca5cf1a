"""The recorder: moves what ended from the records stream to SQL (R26).

It reads behind its positions, saves in one transaction with the new positions, and only then has the stream
trimmed. Every gateway has a recorder, and one of them records; the others stand by. Should two record at once
all the same, they come to the same rows (`gateway.records.ingest`): nothing hangs on who holds the lock.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import anyio
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.domain.calls import CallRecord
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable
from gateway.records.database import Database, Kind
from gateway.records.deployment import put_value, value_of
from gateway.records.exclusive import Exclusive
from gateway.records.ingest import Saved, StreamEntry, load_positions, save_entries

log = structlog.get_logger()

RECORDS_AT_ONCE: Final[Mapping[Kind, int]] = {"sqlite": 10_000, "postgresql": 5_000}
"""About how many records go into one transaction, if so many wait. SQLite gains by more than PostgreSQL: it
writes a page of each index once for all records that fall on it."""

ITEMS_A_READ: Final = 1_000
"""About how many items are asked of the stream at once: reading them holds up all else the gateway does."""

IDLE_SECONDS: Final = 0.25
STANDBY_SECONDS: Final = 2.0
STUCK_SECONDS: Final = 15.0
RETRY_SECONDS: Final = (0.1, 5.0)
"""The first wait after a failure, and the longest."""

FRESH_SECONDS: Final = 1.0
"""For how long a backlog or an `as_of_ms` is not asked for again."""

_AS_OF: Final = "records_as_of_ms"


class RecordStream(Protocol):
    """What ended and is not in SQL yet, by shard. Raises EngineUnavailable where it can't be asked."""

    async def read(self, positions: Mapping[int, str], limit: int) -> Sequence[StreamEntry]:
        """Return entries behind each shard's position, oldest first in each.

        At most `limit` of each shard; fewer than that only if there are no more. A shard without a position
        is read from its beginning.
        """

    async def trim(self, positions: Mapping[int, str]) -> None:
        """Let go of the entries up to and including these, which are committed."""

    async def backlog(self) -> int:
        """Return how many entries wait."""


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """How the recorder is doing: whether it is the one that records, what it found waiting and for how long.

    `failing` says what keeps it from its work, None if nothing does.
    """

    recording: bool
    waiting_entries: int
    lag_ms: int
    failing: str | None


class Recorder:
    """Records until it is cancelled, whatever fails on the way; what is not saved yet stays in the stream.

    `now_ms` asks for the billing clock. `stuck_seconds` is how long an entry may wait before a recorder that
    stands by takes the one that should record it for stuck, and does it itself.
    """

    def __init__(
        self,
        database: Database,
        stream: RecordStream,
        now_ms: Callable[[], Awaitable[int]],
        *,
        records_at_once: int | None = None,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._database = database
        self._stream = stream
        self._now_ms = now_ms
        self._records_at_once = records_at_once or RECORDS_AT_ONCE[database.kind]
        self._stuck_seconds = stuck_seconds
        self._one_round = asyncio.Lock()
        self._woken = asyncio.Event()
        self._entries_a_shard = 4
        self._recording = False
        self._failing: str | None = None
        self._positions: dict[int, str] | None = None
        self._first_waiting: tuple[int, str] | None = None
        self._first_waiting_since = 0.0
        self._waiting_entries = 0
        self._waiting_asked_at = -FRESH_SECONDS
        self._lag_ms = 0
        self._as_of_ms = 0
        self._as_of_asked_at = -FRESH_SECONDS

    async def run(self) -> NoReturn:
        """Record whatever comes. A failure of the database or the engine is logged and waited out.

        Anything else that goes wrong is raised: a recorder must not die in silence.
        """
        failures = 0
        async with self._database.exclusive("recorder") as lock:
            while True:
                try:
                    await self._turn(lock)
                except (DatabaseUnavailable, EngineUnavailable) as error:
                    wait_s = _backoff(failures)
                    failures += 1
                    self._failing = f"{error.code}: {error.__cause__ or error}"
                    log.warning("recorder.waits", because=self._failing, wait_s=round(wait_s, 2))
                    await anyio.sleep(wait_s)
                else:
                    failures, self._failing = 0, None

    async def drain(self) -> int:
        """Save everything that was in the stream when this was called; return how many records that were.

        Raises DatabaseUnavailable or EngineUnavailable; what was saved by then stays saved.
        """
        records = 0
        while True:
            saved, at_end = await self._round()
            records += saved
            if at_end:
                return records

    def wake(self) -> None:
        """Have it look into the stream at once, if it is idle."""
        self._woken.set()

    def status(self) -> RecorderStatus:
        """Tell how it is doing."""
        return RecorderStatus(self._recording, self._waiting_entries, self._lag_ms, self._failing)

    async def as_of_ms(self) -> int:
        """Return an instant before which everything that was settled is in SQL, whoever recorded it.

        Ask before reading what it is to be said of. In an idle deployment it is now, else a little earlier; 0
        if nothing is known yet. Raises DatabaseUnavailable.
        """
        if time.monotonic() - self._as_of_asked_at >= FRESH_SECONDS:
            self._as_of_ms = await self._ask_as_of_ms()
            self._as_of_asked_at = time.monotonic()
        return self._as_of_ms

    async def _turn(self, lock: Exclusive) -> None:
        self._recording = await lock.acquire()
        if not self._recording:
            await self._stand_by()
            return
        _, at_end = await self._round()
        if at_end:
            with anyio.move_on_after(IDLE_SECONDS):
                await self._woken.wait()
            self._woken.clear()

    async def _stand_by(self) -> None:
        waiting = await self._stream.read(await self._database.read(load_positions), 1)
        self._observe(waiting, await self._now_ms())
        first = (waiting[0].shard, waiting[0].entry_id) if waiting else None
        if first is None or first != self._first_waiting:
            self._first_waiting, self._first_waiting_since = first, time.monotonic()
        elif time.monotonic() - self._first_waiting_since >= self._stuck_seconds:
            log.warning("recorder.takes_over", shard=first[0], entry_id=first[1])
            await self.drain()
        await anyio.sleep(min(STANDBY_SECONDS, self._stuck_seconds / 3))

    async def _round(self) -> tuple[int, bool]:
        """Save what waits, or about `records_at_once` of it; return how many records, and if that was all."""
        async with self._one_round:
            # Forgotten until all went well: what was committed must otherwise be asked for again.
            positions, self._positions = await self._where(), None
            now_ms = await self._now_ms()
            entries, at_end = await self._read(positions)
            self._observe(entries, now_ms)
            records = 0
            if entries:
                as_of_ms = now_ms if at_end else None
                saved = await self._database.write(_save, entries, positions, now_ms, as_of_ms)
                _report(saved)
                records = saved.records
                positions |= saved.positions
                await self._stream.trim(saved.positions)
            if at_end:
                self._as_of_ms = max(self._as_of_ms, now_ms)
            self._positions = positions
            await self._count_waiting()
            return records, at_end

    async def _where(self) -> dict[int, str]:
        if self._positions is not None and self._recording:
            return self._positions
        positions = await self._database.read(load_positions)
        await self._stream.trim(positions)  # the recorder before this one may not have come to it
        return positions

    async def _read(self, positions: Mapping[int, str]) -> tuple[list[StreamEntry], bool]:
        """Read behind the positions, a little at a time; return the entries, and whether those are all."""
        entries: list[StreamEntry] = []
        behind = dict(positions)
        items = 0
        while True:
            limit = self._entries_a_shard
            found = await self._stream.read(behind, limit)
            at_end = max(Counter(entry.shard for entry in found).values(), default=0) < limit
            entries += found
            behind |= {entry.shard: entry.entry_id for entry in found}
            items_found = sum(len(entry.items) for entry in found)
            if items_found > 2 * ITEMS_A_READ:
                self._entries_a_shard = max(1, limit // 2)
            elif items_found < ITEMS_A_READ and not at_end:
                self._entries_a_shard = 2 * limit
            items += items_found
            if at_end or items >= self._records_at_once:
                return entries, at_end

    def _observe(self, waiting: Sequence[StreamEntry], now_ms: int) -> None:
        settled = (
            item.settled_at_ms for entry in waiting for item in entry.items if isinstance(item, CallRecord)
        )
        self._lag_ms = max(0, now_ms - min(settled, default=now_ms))
        metrics.RECORDER_LAG_SECONDS.set(self._lag_ms / 1000)

    async def _count_waiting(self) -> None:
        if time.monotonic() - self._waiting_asked_at >= FRESH_SECONDS:
            self._waiting_asked_at = time.monotonic()
            self._waiting_entries = await self._stream.backlog()
            metrics.RECORDER_LAG_ENTRIES.set(self._waiting_entries)

    async def _ask_as_of_ms(self) -> int:
        positions = await self._database.read(load_positions)
        known = [self._as_of_ms, int(await self._database.read(value_of, _AS_OF) or 0)]
        try:
            now_ms = await self._now_ms()
            if not await self._stream.read(positions, 1):
                return now_ms
        except EngineUnavailable:
            return max(known)
        # A simulated clock can be set back before there are accounts: what was known then says nothing now.
        return max((each for each in known if each <= now_ms), default=0)


async def _save(
    connection: AsyncConnection,
    entries: Sequence[StreamEntry],
    read_from: Mapping[int, str],
    now_ms: int,
    as_of_ms: int | None,
) -> Saved:
    saved = await save_entries(connection, entries, read_from, now_ms)
    if as_of_ms is not None:
        await put_value(connection, _AS_OF, str(as_of_ms))
    return saved


def _report(saved: Saved) -> None:
    metrics.RECORDED.inc(saved.records)
    for shard, entry_id, index in saved.dead_letters:
        metrics.DEAD_LETTERS.inc()
        # What it says is in the table: a log never has a phone number.
        log.error("record.refused", shard=shard, entry_id=entry_id, index=index)


def _backoff(failures: int) -> float:
    first, longest = RETRY_SECONDS
    jitter: float = random.uniform(0.5, 1)  # noqa: S311 - no secret
    return min(longest, first * 2.0 ** min(failures, 16)) * jitter
