"""The recorder: moves what ended from the records stream to SQL (R26).

It reads behind its positions, saves in one transaction with the new positions, and only then has the stream
trimmed: of what SQL has had for some hours, so that a database restored from an older copy is filled again.
Every gateway has a recorder, and one of them records; the others stand by. Should two record at once all the
same, they come to the same rows (`gateway.records.ingest`): nothing hangs on who holds the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import anyio
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics, turns
from gateway.domain.errors import CallgateError, DatabaseUnavailable, EngineUnavailable
from gateway.records.checkpoints import saved_long_enough
from gateway.records.database import Database, Kind
from gateway.records.deployment import put_value, value_of
from gateway.records.exclusive import Exclusive
from gateway.records.ingest import Progress, Saved, StreamEntry, load_progress, save_entries
from gateway.records.reading import Batch, RecordStream, StreamReader

log = structlog.get_logger()

RECORDS_AT_ONCE: Final[Mapping[Kind, int]] = {"sqlite": 10_000, "postgresql": 5_000}
"""About how many records go into one transaction, if so many wait. SQLite gains by more than PostgreSQL: it
writes a page of each index once for all records that fall on it."""

IDLE_SECONDS: Final = 0.25
STANDBY_SECONDS: Final = 2.0
STUCK_SECONDS: Final = 15.0
IDLE_TIMES: Final = 4
"""So many times as long does a shard wait that lacks what SQL has, if it has nothing to save."""

RETRY_SECONDS: Final = (0.1, 5.0)
"""The first wait after a failure, and the longest."""

FRESH_SECONDS: Final = 1.0
"""For how long a backlog, an `as_of_ms`, or how far SQL is, is not asked for again."""

TELL_SECONDS: Final = 1.0
"""How often the lag is told while nobody looks at what waits."""

TRIM_SECONDS: Final = 10.0
"""How often entries that were kept long enough are deleted."""

_AS_OF: Final = "records_as_of_ms"


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """How the recorder is doing: whether it is the one that records, what it found waiting and for how long.

    `waiting_entries` counts records and cycles. `lag_ms` grows for as long as the engine or the database is
    not heard of. `failing` says what keeps it from its work, None if nothing does.
    """

    recording: bool
    waiting_entries: int
    lag_ms: int
    failing: str | None


class _Round(NamedTuple):
    """What one round did: whether it saved anything, and how many records, and whether that was all.

    `stale` are shards whose engine lacks what SQL has: nothing of theirs is saved. Those of `waiting` among
    them have something to save. Nor is anything saved of those that are `away`.
    """

    has_saved: bool
    records: int
    at_end: bool
    stale: frozenset[int]
    waiting: frozenset[int]
    away: frozenset[int]

    def check(self, shard: int | None = None) -> None:
        """Raise EngineUnavailable if something of any shard, or of this one, could not be saved."""
        if self.stale if shard is None else shard in self.stale:
            raise EngineUnavailable(
                f"The engine lacks records that SQL has, in {len(self.stale)} shards: its data is older."
            )
        if self.away if shard is None else shard in self.away:
            raise EngineUnavailable(f"{len(self.away)} shards of the engine are away; the others are saved.")

    @property
    def is_last(self) -> bool:
        """Whether there is no more that could be saved now."""
        return self.at_end or (bool(self.stale) and not self.has_saved)


class Recorder:
    """Records until it is cancelled, whatever fails on the way; what is not saved yet stays in the stream.

    `now_ms` asks for the billing clock. What is saved stays in the stream for `kept_ms`. `stuck_seconds` is
    how long an entry may wait before a recorder that stands by takes the one that should record it for stuck,
    and does it itself; and before a shard that lacks what SQL has is given a new epoch, so that it is built
    anew from SQL and told again what it lacks.
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
        self._kept_ms = kept_ms
        self._records_at_once = records_at_once or RECORDS_AT_ONCE[database.kind]
        self._stuck_seconds = stuck_seconds
        self._one_round = asyncio.Lock()
        self._one_drain = asyncio.Lock()
        self._next_drain: asyncio.Task[_Round] | None = None
        self._reader = StreamReader(stream, now_ms, self._records_at_once)
        self._ahead: Batch | None = None
        self._recording = False
        self._failing: str | None = None
        self._progress: dict[int, Progress] | None = None
        self._known: dict[int, Progress] | None = None
        self._progress_asked_at = 0.0
        self._trimmed_at = -math.inf
        self._first_waiting: tuple[int, str] | None = None
        self._first_waiting_since = 0.0
        # Shards that lack what SQL has, how far that was, and since when: all as it was seen last.
        self._stale: dict[int, tuple[Progress, float]] = {}
        self._waiting_entries = 0
        self._waiting_asked_at = -FRESH_SECONDS
        self._lag_ms = 0
        self._turn_began: float | None = None
        self._as_of_ms = 0
        self._as_of_asked_at = -FRESH_SECONDS

    async def run(self) -> NoReturn:
        """Record whatever comes. A failure of the database or the engine is logged and waited out.

        So is, loudly, anything else that goes wrong (a table is missing, a mistake of ours): records wait and
        are not lost; a gateway that ended for it would only take its calls along.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_telling_lag())
            await self._keep_recording()

    async def _keep_recording(self) -> NoReturn:
        failures = 0
        turns.finished("recorder")
        async with self._database.exclusive("recorder") as lock:
            while True:
                try:
                    with _broken_is_unavailable(), self._taking_a_turn():
                        await self._turn(lock)
                except (DatabaseUnavailable, EngineUnavailable) as error:
                    wait_s = _backoff(failures)
                    failures += 1
                    self._failing = f"{error.code}: {_in_a_line(error.__cause__ or error)}"
                    log.warning("recorder.waits", because=self._failing, wait_s=round(wait_s, 2))
                    await self._look_on()
                    await anyio.sleep(wait_s)
                else:
                    failures, self._failing = 0, None
                    turns.finished("recorder")

    async def drain(self, shard: int | None = None) -> int:
        """Save everything that was in the stream when this was called; return how many records that were.

        SQL then has the epochs that the engine had: a recorder elsewhere that still holds entries of an older
        one will be refused. So pools can be made from SQL: all of them, or those of a `shard`, when others
        may lack what SQL has, or be away. Raises DatabaseUnavailable or EngineUnavailable; what was saved by
        then stays saved. All who ask before it begins share one: after a loss thousands of pools are made at
        once.
        """
        if self._next_drain is None:
            self._next_drain = asyncio.create_task(self._drain_in_turn())
            # If it fails when nobody waits any more, nobody asks how it did.
            self._next_drain.add_done_callback(lambda task: task.cancelled() or task.exception())
        done = await asyncio.shield(self._next_drain)
        done.check(shard)
        return done.records

    async def _drain_in_turn(self) -> _Round:
        async with self._one_drain:
            self._next_drain = None
            return await self._drain()

    async def _drain(self) -> _Round:
        records = 0
        done = await self._round(anew=True)
        while not done.is_last:
            records += done.records
            done = await self._round()
        return done._replace(records=records + done.records)

    async def saved_numbers(self) -> Mapping[int, int]:
        """Return the highest number of an item of each shard that SQL has. Raises DatabaseUnavailable."""
        saved = await self._database.read(load_progress)
        return {shard: each.record_number for shard, each in saved.items()}

    def status(self) -> RecorderStatus:
        """Tell how it is doing."""
        return RecorderStatus(self._recording, self._waiting_entries, self._known_lag_ms(), self._failing)

    async def as_of_ms(self) -> int:
        """Return an instant before which everything that was settled is in SQL, whoever recorded it.

        Ask before reading what it is to be said of. In an idle deployment it is now, else a little earlier; 0
        if nothing is known yet. Raises DatabaseUnavailable.
        """
        if time.monotonic() - self._as_of_asked_at >= FRESH_SECONDS:
            self._as_of_ms = await self._ask_as_of_ms()
            self._as_of_asked_at = time.monotonic()
        return self._as_of_ms

    async def saved_here_before_ms(self, away: Set[int] = frozenset()) -> int:
        """Return an instant before which all that this gateway's very engine settled is in SQL; 0 if none is.

        Unlike `as_of_ms` it does not believe what others saved from an engine that took this one's place.
        Of shards that are known to be `away` it says nothing. Raises DatabaseUnavailable, EngineUnavailable.
        """
        return await self._reader.saved_before_ms(await self._database.read(load_progress), away)

    async def _turn(self, lock: Exclusive) -> None:
        self._recording = await lock.acquire()
        if not self._recording:
            await self._stand_by()
            return
        done = await self._round()
        if done.is_last:
            if done.stale or done.away:
                # Another gateway may reach the engine that SQL has all this of, or what is away from here.
                await lock.release()
                done.check()
            self._turn_began = None
            await anyio.sleep(IDLE_SECONDS)

    async def _stand_by(self) -> None:
        progress = await self._database.read(load_progress)
        waiting = await self._look(progress)
        first = (waiting[0].shard, waiting[0].entry_id) if waiting else None
        if first is None or first != self._first_waiting:
            self._first_waiting, self._first_waiting_since = first, time.monotonic()
        elif time.monotonic() - self._first_waiting_since >= self._stuck_seconds:
            log.warning("recorder.takes_over", shard=first[0], entry_id=first[1])
            await self.drain()
        self._turn_began = None
        await anyio.sleep(min(STANDBY_SECONDS, self._stuck_seconds / 3))

    @contextlib.contextmanager
    def _taking_a_turn(self) -> Iterator[None]:
        """Count what is asked of engine and database as lag for as long as it takes: it may hang for ever."""
        self._turn_began = time.monotonic()
        try:
            yield
        finally:
            self._turn_began = None

    async def _look_on(self) -> None:
        """See how much waits though nothing can be saved, as far as it can be seen."""
        if self._known is not None:
            with contextlib.suppress(CallgateError), _broken_is_unavailable():
                await self._look(self._known)

    async def _look(self, progress: Mapping[int, Progress]) -> Sequence[StreamEntry]:
        batch = await self._reader.read(progress, 1)
        self._observe(batch.lag_ms)
        await self._count_waiting(progress, batch, at_end=not batch.entries)
        return batch.entries

    async def _round(self, *, anew: bool = False) -> _Round:
        """Save what waits, or about `records_at_once` of it; `anew`: nothing that was read before this."""
        async with self._one_round:
            with _broken_is_unavailable():
                return await self._one(anew)

    async def _one(self, anew: bool) -> _Round:
        done = await self._save_waiting(anew)
        await self._renew_lasting(done)
        return done

    async def _save_waiting(self, anew: bool) -> _Round:
        # Forgotten until all went well: what was committed must otherwise be asked for again.
        progress, batch = await self._how_far(anew), None if anew else self._ahead
        self._progress = self._ahead = None
        if batch is None:
            batch = await self._reader.read(progress)
        self._observe(batch.lag_ms)
        records = 0
        if batch.news:
            saved = await self._save_and_read_on(batch, progress)
            _report(saved)
            records = saved.records
            progress |= saved.progress
            if saved.refused:
                # And ask SQL again.
                return _Round(True, records, False, batch.stale, batch.waiting, batch.away)
        await self._trim(batch, progress)
        if batch.at_end and not batch.left_out:
            self._as_of_ms = max(self._as_of_ms, batch.now_ms)
        self._progress = self._known = progress
        await self._count_waiting(progress, batch, at_end=batch.at_end)
        return _Round(bool(batch.news), records, batch.at_end, batch.stale, batch.waiting, batch.away)

    async def _save_and_read_on(self, batch: Batch, progress: Mapping[int, Progress]) -> Saved:
        """Save a batch; meanwhile read the next one, if there is more."""
        ahead: asyncio.Task[Batch] | None = None
        expected = batch.progress_after(progress)
        if not batch.at_end:
            ahead = asyncio.create_task(self._reader.read(expected))
            # If saving fails, nobody asks any more how this did.
            ahead.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            saved = await self._database.write(_save, batch)
            if ahead is not None:
                following = await ahead
                if all(saved.progress.get(s) == expected[s] for s in batch.news):
                    self._ahead = following
            return saved
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _how_far(self, anew: bool) -> dict[int, Progress]:
        now = time.monotonic()
        fresh = not anew and now - self._progress_asked_at < FRESH_SECONDS
        if self._progress is not None and (fresh or self._ahead is not None):
            return self._progress
        # Asked again now and then: the database may have been restored from an older copy.
        self._progress_asked_at = now
        self._known = await self._database.read(load_progress)
        return dict(self._known)

    async def _trim(self, batch: Batch, progress: Mapping[int, Progress]) -> None:
        """Let go of what was saved: now and then everywhere, else where there was news if none is kept."""
        now = time.monotonic()
        is_time = now - self._trimmed_at >= TRIM_SECONDS
        if self._kept_ms and not is_time:
            return
        saved = self._reader.proven(progress, batch.epochs)
        if is_time:
            self._trimmed_at = now
        else:
            saved = {shard: saved[shard] for shard in batch.news if shard in saved}
        if saved and self._kept_ms:
            saved = await saved_long_enough(self._database, saved, batch.engine_ms, self._kept_ms)
        if saved:
            await self._stream.trim(saved)

    async def _renew_lasting(self, done: _Round) -> None:
        """Give shards a new epoch that lack what SQL has, and that nobody else will see to.

        They may be those of a primary that was deposed, in whose place another is at work: then SQL goes on,
        where there are calls. So there is more patience with those that have nothing to save. It is looked
        after in every round: where other shards have traffic there may be no last one.
        """
        now, known = time.monotonic(), self._known or {}
        before, self._stale = self._stale, {}
        for shard in done.stale & known.keys():
            saved, since = before.get(shard, (known[shard], now))
            self._stale[shard] = (known[shard], since if saved == known[shard] else now)
        patience = {
            shard: self._stuck_seconds * (1 if shard in done.waiting else IDLE_TIMES) for shard in self._stale
        }
        lasting = {s: saved for s, (saved, since) in self._stale.items() if now - since >= patience[s]}
        if lasting:
            log.warning("records.shards_renewed", shards=len(lasting))
            await self._stream.renew(lasting)

    def _observe(self, lag_ms: int) -> None:
        self._lag_ms = lag_ms
        self._reader.make_haste(lag_ms)
        self._tell_lag()

    async def _keep_telling_lag(self) -> NoReturn:
        while True:
            await anyio.sleep(TELL_SECONDS)
            self._tell_lag()

    def _tell_lag(self) -> None:
        metrics.RECORDER_LAG_SECONDS.set(self._known_lag_ms() / 1000)

    def _known_lag_ms(self) -> int:
        """The lag that was seen last, and at least for how long nobody could look."""
        if self._turn_began is None:
            return self._lag_ms
        return max(self._lag_ms, int((time.monotonic() - self._turn_began) * 1000))

    async def _count_waiting(self, progress: Mapping[int, Progress], batch: Batch, *, at_end: bool) -> None:
        if at_end:
            self._waiting_entries = 0
        elif time.monotonic() - self._waiting_asked_at >= FRESH_SECONDS:
            self._waiting_asked_at = time.monotonic()
            self._waiting_entries = await self._stream.backlog(progress, batch.away)
        metrics.RECORDER_LAG_ENTRIES.set(self._waiting_entries)

    async def _ask_as_of_ms(self) -> int:
        progress = await self._database.read(load_progress)
        known = [self._as_of_ms, int(await self._database.read(value_of, _AS_OF) or 0)]
        try:
            batch = await self._reader.read(progress, 1)
            now_ms = batch.now_ms
            if not batch.entries and not batch.left_out:
                return now_ms
        except EngineUnavailable:
            return max(known)
        # A simulated clock can be set back before there are accounts: what was known then says nothing now.
        return max((each for each in known if each <= now_ms), default=0)


async def _save(connection: AsyncConnection, batch: Batch) -> Saved:
    saved = await save_entries(connection, batch.entries, batch.read_from, batch.news, batch.now_ms)
    if batch.at_end and not batch.left_out and not saved.refused:
        await put_value(connection, _AS_OF, str(batch.now_ms))
    return saved


@contextlib.contextmanager
def _broken_is_unavailable() -> Iterator[None]:
    """Say loudly what nobody foresaw, and raise it as DatabaseUnavailable: whoever waits for that goes on."""
    try:
        yield
    except CallgateError:
        raise
    except Exception as error:
        *_, at = traceback.extract_tb(error.__traceback__)
        # Nothing of the statement's values, which SQLAlchemy and drivers put behind the first line.
        log.error(
            "recorder.broken",
            error=type(error).__name__,
            because=_in_a_line(error),
            at=f"{Path(at.filename).name}:{at.lineno}",
        )
        raise DatabaseUnavailable(f"The recorder broke down: {_in_a_line(error)}") from error


def _in_a_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


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
