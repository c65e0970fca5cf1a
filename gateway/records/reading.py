"""Reading the records stream: behind what SQL has, and under one epoch of each shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from gateway.domain.calls import CallRecord
from gateway.records.ingest import START, Progress, StreamEntry, last_number

ITEMS_A_READ: Final = 1_000
"""About how many items are asked of the stream at once: reading them holds up all else the gateway does."""

AT_ONCE: Final = (100, 1_000)
"""How many items are decoded before all else has its turn, if nothing waits long, and at most."""

PATIENT_MS: Final = 500
"""For each such time that the oldest item has waited, as many again are decoded before all else has its turn.

A busy gateway otherwise decides more calls than it can record: so it is held back before it is far behind.
"""


class ShardState(Protocol):
    """Whose word a shard is, of which SQL may know another one's."""

    @property
    def epoch(self) -> int:
        """It rises when writes of the shard were lost."""

    @property
    def run(self) -> int:
        """Which process of an engine answers: another one's entries need not be the same."""

    @property
    def engine_ms(self) -> int:
        """What time it was there, by which entries have their ids."""


class Proven(NamedTuple):
    """An entry up to which a shard's stream is what SQL has, in that run of an engine and that epoch."""

    run: int
    epoch: int
    entry_id: str


class RecordStream(Protocol):
    """What ended and is not in SQL yet, by shard. Raises EngineUnavailable where it can't be asked."""

    async def read(
        self, positions: Mapping[int, str], limit: int, at_once: int, away: Set[int]
    ) -> Sequence[StreamEntry]:
        """Return entries behind each shard's position, oldest first in each, but of those that are away.

        At most `limit` of each shard; fewer than that only if there are no more. A shard without a position
        is read from its beginning. All else has its turn after every `at_once` items.
        """

    async def states(self) -> tuple[Mapping[int, ShardState], Set[int]]:
        """Return each shard that is there, and those that are away: they can't be asked, but others can."""

    async def last_up_to(self, positions: Mapping[int, str]) -> Mapping[int, StreamEntry]:
        """Return the last entry of each of these shards that is not behind that position, if there is one."""

    async def renew(self, saved: Mapping[int, Progress]) -> None:
        """Give these shards a new epoch, newer than the one SQL has: what it has and they lack is lost."""

    async def trim(self, saved: Mapping[int, Proven]) -> None:
        """Let go of entries up to and including these, where it still is the stream of which SQL has them."""

    async def backlog(self, saved: Mapping[int, Progress], away: Set[int]) -> int:
        """Return how many items lie behind what is saved of each shard, but of those that are away."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries to be saved together, and under which epochs they were read behind which positions.

    `now_ms` is an instant before they were read, by the billing clock, and `engine_ms` one by the engine's;
    at `at_end` there were no more. `news` are the epochs of the shards that they are of, and those that SQL
    does not know yet. `stale` are shards whose engine lacks what SQL has, for it is of an older epoch, or
    never had the entry that was saved last: of those there are no entries. Of them, `waiting` have some all
    the same. What shards hold that are `away` is not known.
    """

    now_ms: int
    engine_ms: int
    read_from: Mapping[int, str]
    epochs: Mapping[int, int]
    entries: Sequence[StreamEntry]
    at_end: bool
    news: Mapping[int, int]
    stale: frozenset[int]
    waiting: frozenset[int]
    away: frozenset[int]

    @property
    def left_out(self) -> frozenset[int]:
        """Shards that may hold what is in no batch."""
        return self.stale | self.away

    @property
    def lag_ms(self) -> int:
        """How long the oldest record had waited."""
        settled = (
            item.settled_at_ms
            for entry in self.entries
            for item in entry.items
            if isinstance(item, CallRecord)
        )
        return max(0, self.now_ms - min(settled, default=self.now_ms))

    def progress_after(self, progress: Mapping[int, Progress]) -> dict[int, Progress]:
        """Return how far SQL will have come once this is saved."""
        after, nothing = dict(progress), Progress()
        for shard, epoch in self.news.items():
            number = progress.get(shard, nothing).record_number
            after[shard] = Progress(self.read_from.get(shard, START), epoch, number)
        for entry in self.entries:
            after[entry.shard] = after[entry.shard].after(entry)
        return after


class StreamReader:
    """Reads batches of about `records_at_once`, if so many wait."""

    def __init__(
        self, stream: RecordStream, now_ms: Callable[[], Awaitable[int]], records_at_once: int
    ) -> None:
        self._stream = stream
        self._now_ms = now_ms
        self._records_at_once = records_at_once
        self._entries_a_shard = 4
        self._at_once = AT_ONCE[0]
        # By shard, a run, and up to which entry its stream is what SQL has, and nothing else.
        self._proven: dict[int, tuple[int, str]] = {}

    def make_haste(self, lag_ms: int) -> None:
        """Take more of the gateway's time, the longer records wait."""
        self._at_once = min(AT_ONCE[0] * (1 + lag_ms // PATIENT_MS), AT_ONCE[1])

    async def read(self, progress: Mapping[int, Progress], a_shard: int | None = None) -> Batch:
        """Read what waits, each shard under one epoch; at most `a_shard` entries of each, if given."""
        while True:
            now_ms = await self._now_ms()
            states, away = await self._stream.states()
            epochs = _epochs(states)
            read_from = await self._where_to_read_from(progress, epochs)
            if a_shard is None:
                entries, at_end = await self._read_behind(read_from, away)
            else:
                entries, at_end = await self._stream.read(read_from, a_shard, self._at_once, away), False
            unproven = self._unproven(progress, states)
            there = await self._stream.last_up_to(unproven) if unproven else {}
            if not (entries or unproven):
                break
            states_now, _ = await self._stream.states()
            if _answering(states) == _answering(states_now):
                break
        lacking = {shard for shard, each in progress.items() if epochs.get(shard, 0) < each.epoch}
        lacking |= {shard for shard, last in there.items() if not _is_saved(last, progress[shard])}
        proven = {
            shard: entry_id
            for shard, entry_id in unproven.items()
            if shard in there or _is_past(entry_id, states[shard].engine_ms)
        }
        if a_shard is None:
            proven |= {entry.shard: entry.entry_id for entry in entries}
        self._proven |= {s: (states[s].run, proven[s]) for s in (proven.keys() & states.keys()) - lacking}
        with_entries = {entry.shard for entry in entries}
        news = {shard: epochs.get(shard, 0) for shard in with_entries - lacking}
        nothing = Progress()
        news |= {s: epoch for s, epoch in epochs.items() if epoch > progress.get(s, nothing).epoch}
        return Batch(
            now_ms=now_ms,
            # In a Cluster each has a clock: whichever is ahead.
            engine_ms=max((state.engine_ms for state in states.values()), default=0),
            read_from=read_from,
            epochs=epochs,
            entries=[each for each in entries if each.shard not in lacking] if lacking else entries,
            at_end=at_end,
            news=news,
            # One that was lost whole, and is not built again yet, says nothing.
            stale=frozenset(lacking & (with_entries | {s for s in epochs if epochs[s]})),
            waiting=frozenset(lacking & with_entries),
            away=frozenset(away),
        )

    def proven(self, progress: Mapping[int, Progress], epochs: Mapping[int, int]) -> dict[int, Proven]:
        """Return where SQL is, of shards whose stream was found to be what it has when it was read last."""
        nowhere = (0, "")
        return {
            shard: Proven(self._proven[shard][0], each.epoch, each.entry_id)
            for shard, each in progress.items()
            if each.epoch == epochs.get(shard, 0) and self._proven.get(shard, nowhere)[1] == each.entry_id
        }

    async def saved_before_ms(self, progress: Mapping[int, Progress], away: Set[int] = frozenset()) -> int:
        """Return an instant before which all that this very engine settled is saved; 0 if there is none.

        What SQL has may be of the engine that took this one's place, while this gateway still asks a primary
        that was deposed: so what was saved last of each shard must be here too. It says nothing of shards
        that are known to be `away`; if another one is, there is none.
        """
        now_ms = await self._now_ms()
        states, away_now = await self._stream.states()
        epochs, nothing = _epochs(states), Progress()
        shards = (epochs.keys() | progress.keys()) - away
        if away_now - away or any(epochs.get(s, 0) != progress.get(s, nothing).epoch for s in shards):
            return 0
        saved = {shard: each.entry_id for shard, each in progress.items() if shard not in away}
        last = await self._stream.last_up_to(saved)
        if not all(_is_saved(entry, progress[shard]) for shard, entry in last.items()):
            return 0
        waiting = await self._stream.read(saved, 1, self._at_once, away)
        return min([now_ms, *map(_settled_from_ms, waiting)])

    async def _where_to_read_from(
        self, progress: Mapping[int, Progress], epochs: Mapping[int, int]
    ) -> dict[int, str]:
        """Return where to read each shard from: in a newer epoch than SQL has, from its beginning.

        Unless the very entry that was saved last is still there: then nothing that lies before it is new.
        """
        read_from = {shard: each.entry_id for shard, each in progress.items()}
        newer = {s: each.entry_id for s, each in progress.items() if epochs.get(s, 0) > each.epoch}
        there = await self._stream.last_up_to(newer) if newer else {}
        for shard in newer:
            if shard not in there or not _was_saved_last(there[shard], progress[shard]):
                read_from[shard] = START
        return read_from

    def _unproven(self, progress: Mapping[int, Progress], states: Mapping[int, ShardState]) -> dict[int, str]:
        """Return where SQL is, of shards where that is not known to be an entry of this very stream.

        In one epoch, too, it may be one of a primary that was deposed: then some of what its successor told
        meanwhile may lie before that, by their clocks, and nobody would ever read it.
        """
        return {
            shard: known.entry_id
            for shard, known in progress.items()
            if shard in states
            and known.entry_id != START
            and states[shard].epoch == known.epoch
            and self._proven.get(shard) != (states[shard].run, known.entry_id)
        }

    async def _read_behind(
        self, positions: Mapping[int, str], away: Set[int]
    ) -> tuple[Sequence[StreamEntry], bool]:
        """Read behind the positions, a little at a time; return the entries, and whether those are all."""
        entries: list[StreamEntry] = []
        read_to = dict(positions)
        items = 0
        while True:
            limit = self._entries_a_shard
            found = await self._stream.read(read_to, limit, self._at_once, away)
            at_end = max(Counter(entry.shard for entry in found).values(), default=0) < limit
            entries += found
            read_to |= {entry.shard: entry.entry_id for entry in found}
            items_found = sum(len(entry.items) for entry in found)
            if items_found > 2 * ITEMS_A_READ:
                self._entries_a_shard = max(1, limit // 2)
            elif items_found < ITEMS_A_READ and not at_end:
                self._entries_a_shard = 2 * limit
            items += items_found
            if at_end or items >= self._records_at_once:
                return entries, at_end


def _epochs(states: Mapping[int, ShardState]) -> dict[int, int]:
    return {shard: state.epoch for shard, state in states.items()}


def _answering(states: Mapping[int, ShardState]) -> dict[int, tuple[int, int]]:
    return {shard: (state.epoch, state.run) for shard, state in states.items()}


def _is_past(entry_id: str, engine_ms: int) -> bool:
    """Whether no new entry can have this id, nor a smaller one."""
    return int(entry_id.split("-")[0]) < engine_ms


def _is_saved(entry: StreamEntry, progress: Progress) -> bool:
    """Whether this is the entry that was saved last; its numbers may have begun again below others."""
    return entry.entry_id == progress.entry_id and last_number(entry) <= progress.record_number


def _was_saved_last(entry: StreamEntry, progress: Progress) -> bool:
    return (entry.entry_id, last_number(entry)) == (progress.entry_id, progress.record_number)


def _settled_from_ms(entry: StreamEntry) -> int:
    """When the first record of an entry was settled; 0 if there is none in it."""
    return next((item.settled_at_ms for item in entry.items if isinstance(item, CallRecord)), 0)
