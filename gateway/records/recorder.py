"""The recorder: moves what ended from the records stream to SQL (R26).

It reads behind its positions, saves in one transaction with the new positions, and only then has the stream
trimmed: of what was saved some hours ago, so that a database restored from an older copy is filled again.
Every gateway has a recorder, and one of them records; the others stand by. Should two record at once all the
same, they come to the same rows (`gateway.records.ingest`): nothing hangs on who holds the lock.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn, Protocol

import anyio
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.domain.calls import CallRecord
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable
from gateway.records.database import Database, Kind
from gateway.records.deployment import put_value, value_of
from gateway.records.exclusive import Exclusive
from gateway.records.ingest import START, Progress, Saved, StreamEntry, load_progress, save_entries

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
"""For how long a backlog, an `as_of_ms`, or how far SQL is, is not asked for again."""

TRIM_SECONDS: Final = 10.0
"""How often entries that were kept long enough are deleted."""

_AS_OF: Final = "records_as_of_ms"


class RecordStream(Protocol):
    """What ended and is not in SQL yet, by shard. Raises EngineUnavailable where it can't be asked."""

    async def read(self, positions: Mapping[int, str], limit: int) -> Sequence[StreamEntry]:
        """Return entries behind each shard's position, oldest first in each.

        At most `limit` of each shard; fewer than that only if there are no more. A shard without a position
        is read from its beginning.
        """

    async def epochs(self) -> Mapping[int, int]:
        """Return each shard's epoch, which rises when writes of it were lost; 0 or none: it is not there."""

    async def trim(self, positions: Mapping[int, str], kept_ms: int) -> None:
        """Let go of entries up to and including these, which are committed, if they are older than that."""

    async def backlog(self, saved: Mapping[int, Progress]) -> int:
        """Return how many items lie behind what is saved of each shard."""


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """How the recorder is doing: whether it is the one that records, what it found waiting and for how long.

    `waiting_entries` counts records and cycles. `failing` says what keeps it from its work, None if nothing
    does.
    """

    recording: bool
    waiting_entries: int
    lag_ms: int
    failing: str | None


class _Round(NamedTuple):
    """What one round did: how many records it saved, and whether those were all.

    `stale` are shards whose engine is of an older epoch than SQL: nothing of theirs is saved.
    """

    records: int
    at_end: bool
    stale: set[int]


class Recorder:
    """Records until it is cancelled, whatever fails on the way; what is not saved yet stays in the stream.

    `now_ms` asks for the billing clock. What is saved stays in the stream for `kept_ms`. `stuck_seconds` is
    how long an entry may wait before a recorder that stands by takes the one that should record it for stuck,
    and does it itself.
    """

    def __init__(
        self,
        database: Database,
        stream: RecordStream,
        now_ms: Callable[[], Awaitable[int]],
        *,
        kept_ms: int = 0,
        records_at_once: int | None = None,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._database = database
        self._stream = stream
        self._now_ms = now_ms
        self._kept_ms = kept_ms
        self._records_at_once = records_at_once or RECORDS_AT_ONCE[database.kind]
        self._stuck_seconds = stuck_seconds
        self._one_round = asyncio.Lock()
        self._woken = asyncio.Event()
        self._entries_a_shard = 4
        self._recording = False
        self._failing: str | None = None
        self._progress: dict[int, Progress] | None = None
        self._progress_asked_at = 0.0
        self._trimmed_at = -math.inf
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

        SQL then has the epochs that the engine had: a recorder elsewhere that still holds entries of an older
        one will be refused. So pools can be made from SQL. Raises DatabaseUnavailable or EngineUnavailable;
        what was saved by then stays saved.
        """
        records = 0
        self._progress = None
        while True:
            done = await self._round()
            records += done.records
            if done.at_end:
                _require_current(done.stale)
                return records

    async def saved_numbers(self) -> Mapping[int, int]:
        """Return the highest number of an item of each shard that SQL has. Raises DatabaseUnavailable."""
        saved = await self._database.read(load_progress)
        return {shard: each.record_number for shard, each in saved.items()}

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
        done = await self._round()
        if done.at_end:
            _require_current(done.stale)
            with anyio.move_on_after(IDLE_SECONDS):
                await self._woken.wait()
            self._woken.clear()

    async def _stand_by(self) -> None:
        progress = await self._database.read(load_progress)
        waiting = await self._stream.read(_behind(progress, await self._stream.epochs()), 1)
        self._observe(waiting, await self._now_ms())
        await self._count_waiting(progress, at_end=not waiting)
        first = (waiting[0].shard, waiting[0].entry_id) if waiting else None
        if first is None or first != self._first_waiting:
            self._first_waiting, self._first_waiting_since = first, time.monotonic()
        elif time.monotonic() - self._first_waiting_since >= self._stuck_seconds:
            log.warning("recorder.takes_over", shard=first[0], entry_id=first[1])
            await self.drain()
        await anyio.sleep(min(STANDBY_SECONDS, self._stuck_seconds / 3))

    async def _round(self) -> _Round:
        """Save what waits, or about `records_at_once` of it."""
        async with self._one_round:
            # Forgotten until all went well: what was committed must otherwise be asked for again.
            progress, self._progress = await self._how_far(), None
            now_ms = await self._now_ms()
            read_from, epochs, entries, at_end = await self._read(progress)
            older = {shard for shard, each in progress.items() if epochs.get(shard, 0) < each.epoch}
            # One that was lost whole, and not built again yet, says nothing.
            stale = older & ({each.shard for each in entries} | {shard for shard in epochs if epochs[shard]})
            entries = [each for each in entries if each.shard not in older]
            self._observe(entries, now_ms)
            # Of which shards SQL has to hear, with their epochs.
            news = {entry.shard: epochs.get(entry.shard, 0) for entry in entries}
            news |= {
                shard: epoch
                for shard, epoch in epochs.items()
                if epoch > progress.get(shard, Progress()).epoch
            }
            records, refused = 0, False
            if news:
                as_of_ms = now_ms if at_end and not stale else None
                saved = await self._database.write(_save, entries, read_from, news, now_ms, as_of_ms)
                _report(saved)
                records, refused = saved.records, bool(saved.refused)
                progress |= saved.progress
            if refused:
                return _Round(records, at_end=False, stale=stale)  # and ask SQL again
            await self._trim(
                {s: each for s, each in progress.items() if each.epoch == epochs.get(s, 0)}, news
            )
            if at_end and not stale:
                self._as_of_ms = max(self._as_of_ms, now_ms)
            self._progress = progress
            await self._count_waiting(progress, at_end=at_end)
            return _Round(records, at_end, stale)

    async def _how_far(self) -> dict[int, Progress]:
        now = time.monotonic()
        if self._progress is not None and now - self._progress_asked_at < FRESH_SECONDS:
            return self._progress
        # Asked again now and then: the database may have been restored from an older copy.
        self._progress_asked_at = now
        return await self._database.read(load_progress)

    async def _trim(self, progress: Mapping[int, Progress], news: Collection[int]) -> None:
        """Let go of what was saved: now and then everywhere, else where there was news if none is kept."""
        now = time.monotonic()
        if now - self._trimmed_at >= TRIM_SECONDS:
            self._trimmed_at = now
            await self._stream.trim({s: each.entry_id for s, each in progress.items()}, self._kept_ms)
        elif not self._kept_ms:
            await self._stream.trim({s: progress[s].entry_id for s in news if s in progress}, 0)

    async def _read(
        self, progress: Mapping[int, Progress]
    ) -> tuple[Mapping[int, str], Mapping[int, int], list[StreamEntry], bool]:
        """Read what waits under one epoch of each shard; return where from, the epochs, and what was read."""
        while True:
            epochs = await self._stream.epochs()
            read_from = _behind(progress, epochs)
            entries, at_end = await self._read_behind(read_from)
            if not entries or await self._stream.epochs() == epochs:
                return read_from, epochs, entries, at_end

    async def _read_behind(self, positions: Mapping[int, str]) -> tuple[list[StreamEntry], bool]:
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

    async def _count_waiting(self, progress: Mapping[int, Progress], *, at_end: bool) -> None:
        if at_end:
            self._waiting_entries = 0
        elif time.monotonic() - self._waiting_asked_at >= FRESH_SECONDS:
            self._waiting_asked_at = time.monotonic()
            self._waiting_entries = await self._stream.backlog(progress)
        metrics.RECORDER_LAG_ENTRIES.set(self._waiting_entries)

    async def _ask_as_of_ms(self) -> int:
        progress = await self._database.read(load_progress)
        known = [self._as_of_ms, int(await self._database.read(value_of, _AS_OF) or 0)]
        try:
            now_ms = await self._now_ms()
            if not await self._stream.read(_behind(progress, await self._stream.epochs()), 1):
                return now_ms
        except EngineUnavailable:
            return max(known)
        # A simulated clock can be set back before there are accounts: what was known then says nothing now.
        return max((each for each in known if each <= now_ms), default=0)


def _behind(progress: Mapping[int, Progress], epochs: Mapping[int, int]) -> dict[int, str]:
    """Return where to read each shard from: a newer epoch than SQL has from its beginning."""
    return {
        shard: START if epochs.get(shard, 0) > each.epoch else each.entry_id
        for shard, each in progress.items()
    }


def _require_current(stale: set[int]) -> None:
    if stale:
        raise EngineUnavailable(
            f"The engine has gone back to data that is older than what SQL has, in {len(stale)} shards."
        )


async def _save(
    connection: AsyncConnection,
    entries: Sequence[StreamEntry],
    read_from: Mapping[int, str],
    epochs: Mapping[int, int],
    now_ms: int,
    as_of_ms: int | None,
) -> Saved:
    saved = await save_entries(connection, entries, read_from, epochs, now_ms)
    if as_of_ms is not None:
        await put_value(connection, _AS_OF, str(as_of_ms))
    return saved


def _report(saved: Saved) -> None:
    metrics.RECORDED.inc(saved.records)
    for shard, entry_id, index in saved.dead_letters:
        metrics.DEAD_LETTERS.inc()
        # What it says is in the table: a log never has a phone number.
        log.error("record.refused", shard=shard, entry_id=entry_id, index=index)
    for shard, items in saved.missing.items():
        # Deleted from the stream before this database had them: it was restored from too old a copy.
        log.error("records.missing", shard=shard, items=items)


def _backoff(failures: int) -> float:
    first, longest = RETRY_SECONDS
    jitter: float = random.uniform(0.5, 1)  # noqa: S311 - no secret
    return min(longest, first * 2.0 ** min(failures, 16)) * jitter
