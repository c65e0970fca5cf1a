"""What was read from an engine that is no longer the one is refused; what SQL has lost comes again."""

import asyncio
import json
from collections.abc import Mapping, Sequence, Set
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.errors import EngineUnavailable
from gateway.records.database import Database
from gateway.records.ingest import Progress, Saved, load_progress, save_entries
from gateway.records.reading import Proven, StreamReader
from gateway.records.recorder import Recorder
from tests.records.making import NOW_MS, Entry, MemoryStream, a_record, deposed_primary, execute, rows
from tests.records.waiting import eventually

HOUR_MS = 3_600_000


@pytest.fixture
def recorder(database: Database, stream: MemoryStream) -> Recorder:
    """A recorder of `stream`, which keeps what is saved for an hour."""
    return Recorder(database, stream, stream.now_ms, kept_ms=HOUR_MS)


async def call_ids(database: Database) -> list[str]:
    return [row[0] for row in await rows(database, "SELECT call_id FROM call_records ORDER BY 1")]


async def progress(database: Database) -> dict[int, Progress]:
    return await database.read(load_progress)


async def lose_the_last(recorder: Recorder, stream: MemoryStream) -> None:
    """Have a successor lack what was recorded last, and a slower clock than that was written by."""
    stream.shard_epochs[0] = 1
    stream.at_ms += 20
    lost = stream.add(a_record("lost"))
    await recorder.drain()
    stream.take_away(lost)
    stream.run += 1
    stream.at_ms -= 10


async def test_draining_makes_epochs_known_to_sql_even_where_nothing_waits(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    stream.shard_epochs = {0: 5, 1: 5, 9: 0}
    entry = stream.add(a_record())

    await recorder.drain()
    assert await progress(database) == {0: Progress(entry.entry_id, 5, 0), 1: Progress(epoch=5)}

    stream.shard_epochs = {0: 6, 1: 5}
    await recorder.drain()
    assert (await progress(database))[0] == Progress(entry.entry_id, 6, 0)


async def test_what_was_read_under_an_older_epoch_is_refused_and_stays_where_it_is(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    """A recorder that was held up before it could save, while pools were rebuilt from SQL elsewhere."""
    stream.shard_epochs = {0: 5, 1: 5}
    held = [stream.add(a_record("lost")), stream.add(a_record("other-shard"), shard=1)]
    other_engine = MemoryStream()
    other_engine.shard_epochs = {0: 6, 1: 5}
    await Recorder(database, other_engine, stream.now_ms).drain()

    saved = await database.write(save_entries, held, {}, {0: 5, 1: 5}, NOW_MS)

    assert saved.refused == {0}
    assert saved.progress.keys() == {1}
    assert await call_ids(database) == ["other-shard"]
    with pytest.raises(EngineUnavailable, match="older"):
        await recorder.drain()
    assert (stream.kept, await call_ids(database)) == (2, ["other-shard"])


async def test_an_engine_that_went_back_is_told_of_and_the_other_shards_are_recorded(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    stream.shard_epochs = {0: 6, 1: 5}
    await recorder.drain()
    stream.shard_epochs = {0: 5, 1: 5}
    stream.add(a_record("c-0"))
    stream.add(a_record("c-1"), shard=1)

    with pytest.raises(EngineUnavailable, match="older"):
        await recorder.drain()
    assert await call_ids(database) == ["c-1"]

    stream.shard_epochs = {0: 7, 1: 5}
    await recorder.drain()
    assert await call_ids(database) == ["c-0", "c-1"]


async def test_a_shard_that_was_lost_whole_and_is_not_built_yet_is_no_obstacle(
    recorder: Recorder, stream: MemoryStream
) -> None:
    stream.shard_epochs = {0: 6}
    await recorder.drain()
    stream.shard_epochs = {}

    assert await recorder.drain() == 0


async def test_in_a_new_epoch_a_shard_is_read_from_its_beginning(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    """After a failover new entries may have ids below those that SQL has seen."""
    stream.shard_epochs = {0: 1}
    first, second = stream.add(a_record("c-1")), stream.add(a_record("c-2"))
    await recorder.drain()
    before = await rows(database, "SELECT * FROM call_records ORDER BY call_id")
    promoted = MemoryStream()
    promoted.shard_epochs = {0: 2}
    promoted.add(*first.items)
    between = Entry(0, f"{NOW_MS}-1", [a_record("c-3")], 1)
    assert between.entry_id < second.entry_id
    promoted.put_back(between)

    await Recorder(database, promoted, stream.now_ms).drain()

    assert await call_ids(database) == ["c-1", "c-2", "c-3"]
    assert (await rows(database, "SELECT * FROM call_records ORDER BY call_id"))[:2] == before


async def test_what_lies_before_the_entry_saved_last_is_not_read_again_if_that_is_there(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    """After a failover that lost nothing of it, hours of records would otherwise have to be read first."""
    stream.shard_epochs = {0: 1}
    stream.add(a_record("a"), a_record("b"))
    last = stream.add(a_record("c"))
    await recorder.drain()
    await execute(database, "DELETE FROM call_records WHERE call_id = 'a'")
    stream.shard_epochs = {0: 2}
    stream.add(a_record("d"))

    await recorder.drain()
    assert await call_ids(database) == ["b", "c", "d"]

    await execute(database, f"UPDATE recorder_positions SET entry_id = '{last.entry_id}'")
    stream.shard_epochs = {0: 3}
    await recorder.drain()
    assert await call_ids(database) == ["a", "b", "c", "d"], "another entry has that id: its number differs"


class ShakyStream(MemoryStream):
    """A stream whose engine fails over while it is read."""

    async def read(
        self, positions: Mapping[int, str], limit: int, at_once: int, away: Set[int]
    ) -> Sequence[Entry]:
        """Read what the old engine has; the next one asked is the new one, which lacks it."""
        found = await super().read(positions, limit, at_once, away)
        if self.shard_epochs[0] == 1:
            self.shard_epochs = {0: 2}
            await self.trim({0: Proven(self.run, 2, found[-1].entry_id)})
            self.add(a_record("kept"))
        return found


async def test_what_was_read_while_the_epoch_changed_is_read_again(database: Database) -> None:
    stream = ShakyStream()
    stream.shard_epochs = {0: 1}
    stream.add(a_record("lost"))

    await Recorder(database, stream, stream.now_ms).drain()

    assert await call_ids(database) == ["kept"]
    assert (await progress(database))[0].epoch == 2


async def test_the_highest_number_saved_is_known_and_never_falls(
    recorder: Recorder, stream: MemoryStream
) -> None:
    stream.shard_epochs = {0: 1, 3: 1}
    stream.add(a_record("a"), a_record("b"))
    stream.add(a_record("c"))
    await recorder.drain()
    assert await recorder.saved_numbers() == {0: 2, 3: 0}

    stream.shard_epochs = {0: 2, 3: 1}
    await recorder.drain()
    assert await recorder.saved_numbers() == {0: 2, 3: 0}


async def kept_after(stream: MemoryStream, database: Database, after_ms: int) -> int:
    """How many entries are left when somebody else records, that much later."""
    stream.at_ms += after_ms
    await Recorder(database, stream, stream.now_ms, kept_ms=HOUR_MS).drain()
    return stream.kept


async def test_what_is_saved_is_kept_for_its_time_and_then_deleted(
    stream: MemoryStream, database: Database
) -> None:
    stream.add(a_record("c-1"))
    assert await kept_after(stream, database, 0) == 1
    stream.add(a_record("c-2"), shard=1)
    assert await kept_after(stream, database, HOUR_MS - 1) == 2
    assert await kept_after(stream, database, 1) == 1
    assert await kept_after(stream, database, HOUR_MS - 2) == 1
    assert await kept_after(stream, database, 1) == 0


async def test_what_is_saved_is_kept_by_an_eighth_longer_at_most(
    stream: MemoryStream, database: Database
) -> None:
    step_ms = HOUR_MS // 16
    for step in range(40):
        stream.add(a_record(f"c-{step}"))
        kept = await kept_after(stream, database, step_ms if step else 0)
        assert min(step + 1, 16) <= kept <= 17
        ((checkpoints,),) = await rows(
            database, "SELECT value FROM deployment WHERE key = 'records_checkpoints'"
        )
        assert len(json.loads(checkpoints)) <= 10


async def test_what_is_saved_late_is_kept_as_long_as_anything(
    stream: MemoryStream, database: Database
) -> None:
    """The database was away for hours, and is restored from a copy made just before it had what waited."""
    stream.shard_epochs = {0: 1}
    stream.add(a_record("c-1"))
    await kept_after(stream, database, 0)
    copy = await rows(database, "SELECT shard, entry_id, epoch, record_number FROM recorder_positions")
    stream.add(a_record("c-2"))
    await kept_after(stream, database, 3 * HOUR_MS)
    assert await call_ids(database) == ["c-1", "c-2"]
    await kept_after(stream, database, HOUR_MS - 1)

    await _restore(database, copy)
    await kept_after(stream, database, 0)
    assert await call_ids(database) == ["c-1", "c-2"]


async def test_what_is_saved_stays_its_time_after_a_clock_was_set_back_too(
    stream: MemoryStream, database: Database
) -> None:
    stream.add(a_record())
    assert await kept_after(stream, database, 0) == 1
    assert await kept_after(stream, database, -9 * HOUR_MS) == 1
    assert await kept_after(stream, database, HOUR_MS - 1) == 1
    assert await kept_after(stream, database, 1) == 0


async def test_how_far_sql_was_in_another_epoch_says_nothing(
    stream: MemoryStream, database: Database
) -> None:
    stream.shard_epochs = {0: 1}
    stream.add(a_record())
    assert await kept_after(stream, database, 0) == 1
    stream.shard_epochs = {0: 2}
    assert await kept_after(stream, database, HOUR_MS) == 1
    assert await kept_after(stream, database, 0) == 1
    assert await kept_after(stream, database, HOUR_MS) == 0


async def test_nothing_is_trimmed_that_another_engine_tells_than_the_one_it_was_read_from(
    stream: MemoryStream, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept, and the gateway hears of the successor while it saves what a deposed primary told."""
    recorder = Recorder(database, stream, stream.now_ms)
    deposed = await deposed_primary(recorder, stream)
    stream.run += 1
    stream.add(a_record("told-by-the-successor"))
    deposed.at_ms += 20
    deposed.add(a_record("lost"))
    write = database.write

    async def write_and_fail_over(*work: Any) -> Any:
        done = await write(*work)
        deposed.become(stream)
        return done

    monkeypatch.setattr(database, "write", write_and_fail_over)
    await Recorder(database, deposed, deposed.now_ms).drain()
    monkeypatch.undo()

    assert deposed.kept == 1
    deposed.shard_epochs[0] = 2
    await Recorder(database, deposed, deposed.now_ms).drain()
    assert await call_ids(database) == ["c-1", "lost", "told-by-the-successor"]


async def test_a_database_restored_from_an_older_copy_is_filled_again(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    stream.shard_epochs = {0: 1, 1: 1}
    stream.add(a_record("c-1"))
    await recorder.drain()
    copy = await rows(database, "SELECT shard, entry_id, epoch, record_number FROM recorder_positions")
    for number in range(2, 6):
        stream.add(a_record(f"c-{number}"), shard=number % 2)
        await recorder.drain()
    running = asyncio.create_task(recorder.run())

    await _restore(database, copy)
    await eventually(lambda: _saved(database, 5))

    running.cancel()
    await asyncio.wait([running])
    assert await call_ids(database) == [f"c-{number}" for number in range(1, 6)]


async def _saved(database: Database, calls: int) -> bool:
    return len(await call_ids(database)) == calls


async def _restore(database: Database, copy: Sequence[tuple[object, ...]]) -> None:
    """Have only the call c-1, and the positions of that time."""
    await execute(database, "DELETE FROM call_records WHERE call_id <> 'c-1'")
    await execute(database, "DELETE FROM recorder_positions")
    for shard, entry_id, epoch, number in copy:
        values = f"({shard}, '{entry_id}', {epoch}, {number})"
        await execute(
            database,
            f"INSERT INTO recorder_positions (shard, entry_id, epoch, record_number) VALUES {values}",
        )


async def test_entries_behind_a_gap_are_refused_and_read_again(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    """The database was restored under a recorder that had just read on from where it was before."""
    first, second, third = (stream.add(a_record(f"c-{number}")) for number in range(3))
    await database.write(save_entries, [first], {}, {}, NOW_MS)

    saved = await database.write(save_entries, [third], {0: second.entry_id}, {}, NOW_MS)

    assert (set(saved.refused), saved.records) == ({0}, 0)
    assert await call_ids(database) == ["c-0"]
    await recorder.drain()
    assert await call_ids(database) == ["c-0", "c-1", "c-2"]


async def test_items_that_sql_never_saw_are_told_of(
    stream: MemoryStream, database: Database, recorder: Recorder
) -> None:
    """They were deleted from the stream before a database as old as this one had them."""
    first, _, third = (stream.add(a_record(f"c-{n}a"), a_record(f"c-{n}b")) for n in range(3))
    await database.write(save_entries, [first], {}, {}, NOW_MS)

    saved = await database.write(save_entries, [third], {0: first.entry_id}, {}, NOW_MS)

    assert saved.missing == {0: 2}
    assert saved.records == 2


async def test_what_was_saved_of_a_deposed_primary_hides_nothing_that_its_successor_told_before(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    """R26: both go by one epoch, as nobody has found yet what was lost."""
    deposed = await deposed_primary(recorder, stream)
    stream.run += 1
    stream.at_ms += 10
    stream.add(a_record("told-by-the-successor"))
    deposed.at_ms += 20
    deposed.add(a_record("lost"))
    await Recorder(database, deposed, deposed.now_ms).drain()

    stream.at_ms += 20
    stream.add(a_record("c-2"))
    with pytest.raises(EngineUnavailable):
        await recorder.drain()
    assert stream.shard_epochs == {0: 1}, "it may be this one that was deposed"
    recorder = Recorder(database, stream, stream.now_ms, stuck_seconds=0)
    with pytest.raises(EngineUnavailable):
        await recorder.drain()
    assert stream.shard_epochs == {0: 2}, "nobody else goes on here"
    await recorder.drain()
    assert await call_ids(database) == ["c-1", "c-2", "lost", "told-by-the-successor"]


async def test_what_is_saved_of_a_deposed_primary_meanwhile_hides_nothing_that_was_read_before(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    """R26: another recorder was first, but of another stream."""
    deposed = await deposed_primary(recorder, stream)
    known = await progress(database)
    stream.run += 1
    stream.add(a_record("c-2"))
    deposed.at_ms += 10
    deposed.add(a_record("lost"))
    stream.at_ms += 20
    stream.add(a_record("c-3"))
    batch = await StreamReader(stream, stream.now_ms, 10).read(known)
    await Recorder(database, deposed, deposed.now_ms).drain()

    async def save(connection: AsyncConnection) -> Saved:
        return await save_entries(connection, batch.entries, batch.read_from, batch.news, NOW_MS)

    saved = await database.write(save)
    assert saved.refused == {0}
    assert await call_ids(database) == ["c-1", "lost"]


async def test_a_shard_that_lacks_what_sql_has_holds_up_no_other(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    """It had nothing to save since: so it is given a new epoch after four times as long."""
    stream.shard_epochs |= {0: 1, 1: 1}
    stream.add(a_record("c-1"))
    lost = stream.add(a_record("lost"))
    await recorder.drain()
    stream.take_away(lost)
    stream.run += 1
    stream.add(a_record("c-2"), shard=1)
    recorder = Recorder(database, stream, stream.now_ms, stuck_seconds=0.05)
    await recorder.drain(1)
    assert await call_ids(database) == ["c-1", "c-2", "lost"]
    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            await recorder.drain(0)
        await asyncio.sleep(0.06)
    assert stream.shard_epochs == {0: 1, 1: 1}
    await asyncio.sleep(0.15)
    with pytest.raises(EngineUnavailable):
        await recorder.drain()
    assert stream.shard_epochs == {0: 2, 1: 1}
    assert await recorder.drain() >= 0


async def test_an_entry_in_the_place_of_the_one_saved_last_is_not_taken_for_it(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    """R26: a deposed primary and its successor told as many things, the last in the same millisecond."""
    deposed = await deposed_primary(recorder, stream)
    stream.run += 1
    stream.at_ms += 5
    stream.add(a_record("s-1"))
    stream.at_ms += 5
    of_successor = stream.add(a_record("s-2"))
    deposed.at_ms += 10
    deposed.add(a_record("d-1"))
    saved = deposed.add(a_record("d-2"))
    assert saved.entry_id.split("-")[0] == of_successor.entry_id.split("-")[0]
    assert saved.first_number == of_successor.first_number
    await Recorder(database, deposed, deposed.now_ms, kept_ms=HOUR_MS).drain()

    assert await recorder.saved_here_before_ms() == 0
    stream.shard_epochs[0] = 2
    await recorder.drain()
    assert await call_ids(database) == ["c-1", "d-1", "d-2", "s-1", "s-2"]


class LateStream(MemoryStream):
    """One in which something ends just after it was read, in another run than the first."""

    async def last_up_to(self, positions: Mapping[int, str]) -> Mapping[int, Entry]:
        """Do as `RecordStream` says."""
        found = await super().last_up_to(positions)
        if self.run > 1:
            self.add(a_record("late"))
        return found


async def test_what_may_be_unread_is_not_trimmed(database: Database) -> None:
    """R26: where nothing is kept, and a successor's clock is slower than that of what was saved last."""
    stream = LateStream()
    await lose_the_last(Recorder(database, stream, stream.now_ms, kept_ms=HOUR_MS), stream)
    await Recorder(database, stream, stream.now_ms).drain()
    assert stream.kept == 1


async def test_answers_are_let_go_of_though_numbers_began_again_below_those_that_sql_has(
    recorder: Recorder, stream: MemoryStream
) -> None:
    """R26: what a deposed primary told was saved after its successor had been compared."""
    stream.shard_epochs[0] = 1
    _, *lost = [stream.add(a_record(call_id)) for call_id in ("c-1", "c-2", "c-3")]
    await recorder.drain()
    for each in lost:
        stream.take_away(each)
    stream.shard_epochs[0] = 2
    stream.add(a_record("c-4"))
    await recorder.drain()
    assert await recorder.saved_here_before_ms() == stream.at_ms


async def test_a_look_from_behind_what_is_just_being_saved_spoils_nothing(stream: MemoryStream) -> None:
    """The next entries are read while these are saved, and somebody asks meanwhile how far that is."""
    stream.shard_epochs[0] = 1
    for number in range(10):
        stream.add(a_record(f"c-{number}"))
    reader = StreamReader(stream, stream.now_ms, 2)
    batch = await reader.read({})
    assert not batch.at_end
    assert (await reader.read({}, 1)).entries
    following = await reader.read(batch.progress_after({}))
    assert not following.stale
    assert following.entries


async def test_what_its_successor_tells_later_by_a_slower_clock_is_not_hidden_either(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    """R26: it had nothing yet when it was first looked for what was saved last."""
    await lose_the_last(recorder, stream)
    await recorder.drain()
    stream.add(a_record("c-1"))
    with pytest.raises(EngineUnavailable):
        await recorder.drain()
    assert await call_ids(database) == ["lost"]


async def test_a_deposed_primary_gets_no_epoch_while_its_successor_is_recorded(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    """R26."""
    deposed = await deposed_primary(recorder, stream)
    at_the_old_one = Recorder(database, deposed, deposed.now_ms, stuck_seconds=0.05)
    for call_id in ("c-2", "c-3", "c-4"):
        deposed.at_ms += 20
        deposed.add(a_record(f"lost-{call_id}"))
        stream.at_ms += 10
        stream.add(a_record(call_id))
        await recorder.drain()
        with pytest.raises(EngineUnavailable):
            await at_the_old_one.drain()
        await asyncio.sleep(0.06)
    assert deposed.shard_epochs == {0: 1}


async def test_a_drain_does_not_say_that_all_is_saved_where_another_engine_is_further_on(
    recorder: Recorder, stream: MemoryStream, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposed = await deposed_primary(recorder, stream)
    stream.run += 1
    stream.add(a_record("told by its successor"))
    deposed.at_ms += 20
    deposed.add(a_record("told by the deposed"))
    other, write = Recorder(database, deposed, deposed.now_ms, kept_ms=HOUR_MS), database.write

    async def write_behind_another(*work: Any) -> Any:
        monkeypatch.setattr(database, "write", write)
        await other.drain()
        return await write(*work)

    monkeypatch.setattr(database, "write", write_behind_another)
    with pytest.raises(EngineUnavailable):
        await recorder.drain()


async def test_a_shard_with_a_long_backlog_gets_its_epoch_though_others_have_traffic(
    stream: MemoryStream, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that lack what SQL has, more waits than is read at once, and no round is ever the last."""
    recorder = Recorder(database, stream, stream.now_ms, kept_ms=HOUR_MS, records_at_once=5, stuck_seconds=0)
    stream.add(a_record("c-1"))
    await lose_the_last(recorder, stream)
    stream.at_ms += 20
    for number in range(2_100):
        stream.add(a_record(f"waiting-{number}"))
    read = stream.read

    async def read_with_traffic(*asked: Any) -> Sequence[Entry]:
        if stream.shard_epochs[0] == 1:
            stream.add(a_record(f"traffic-{stream.reads}"), shard=1)
        return await read(*asked)

    monkeypatch.setattr(stream, "read", read_with_traffic)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        running = group.create_task(recorder.run())
        await eventually(lambda: _has(database, "waiting-2099"))
        running.cancel()
    assert stream.shard_epochs[0] == 2


async def _has(database: Database, call_id: str) -> bool:
    return call_id in await call_ids(database)
