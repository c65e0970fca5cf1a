"""Every record that was settled is in SQL exactly once, whatever fails in between (R26)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.calls import CallRecord, CycleOpened
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable
from gateway.domain.policy import Policy
from gateway.records.database import Database
from gateway.records.reading import Proven
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.records.making import (
    A_RECORD,
    NOW_MS,
    MemoryStream,
    a_cycle,
    a_record,
    deposed_primary,
    execute,
    rows,
)
from tests.records.waiting import eventually
from tests.support.waiting import wait_until

HOUR_MS = 3_600_000


@pytest.fixture
def recorder(database: Database, stream: MemoryStream) -> Recorder:
    """A recorder of `stream` that saves ten records at once."""
    return Recorder(database, stream, stream.now_ms, records_at_once=10)


@asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


_FAILING_TRIGGER = {
    "sqlite": [
        "CREATE TRIGGER fails BEFORE INSERT ON call_records WHEN NEW.call_id = 'bad' "
        "BEGIN SELECT json('{'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION fail() RETURNS trigger AS "
        "$$ BEGIN RAISE EXCEPTION 'out of order' USING ERRCODE = 'XX000'; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER fails BEFORE INSERT ON call_records FOR EACH ROW WHEN (NEW.call_id = 'bad') "
        "EXECUTE FUNCTION fail()",
    ],
}
_FAILING_SAYS = {"sqlite": "malformed JSON", "postgresql": "out of order"}


async def count(database: Database) -> int:
    return int((await rows(database, "SELECT count(*) FROM call_records"))[0][0])


async def saved(database: Database, records: int) -> bool:
    return await count(database) == records


async def everything(database: Database) -> list[tuple[object, ...]]:
    return await rows(database, "SELECT * FROM call_records ORDER BY account, call_id, admitted_at_ms")


@pytest.mark.parametrize(
    "record",
    [
        a_record(),
        a_record(channel=None, answered_at_ms=None, counted=False, billed_seconds=0),
        a_record(emergency=True, ended_by="lease_expired", to="112", revision=3),
        a_record(policy=Policy(0, 60, 0, "answer")),
        a_record(billed_seconds=2**53 + 1, duration_ms=2**60, to="sip:ana@überall.example"),
    ],
)
async def test_a_record_is_saved_as_it_is(
    recorder: Recorder, stream: MemoryStream, records: Records, record: CallRecord
) -> None:
    stream.add(record)

    assert await recorder.drain() == 1
    assert await records.calls.find_call("acme", "c-1") == record


async def test_records_keep_the_order_of_settling_within_their_shard(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    stream.add(a_record("c-1"), a_cycle(), a_record("c-2"), shard=7)
    stream.add(a_record("c-3"), shard=7)
    stream.add(a_record("c-4"), shard=200)

    await recorder.drain()

    order = "SELECT call_id, shard, record_number FROM call_records ORDER BY shard, record_number"
    assert await rows(database, order) == [("c-1", 7, 0), ("c-2", 7, 2), ("c-3", 7, 3), ("c-4", 200, 0)]


async def test_the_stream_is_trimmed_only_of_what_is_committed(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    stream.add(a_record())
    await execute(database, "ALTER TABLE recorder_positions RENAME TO gone")

    with pytest.raises(Exception, match="recorder_positions"):
        await recorder.drain()
    assert stream.kept == 1

    await execute(database, "ALTER TABLE gone RENAME TO recorder_positions")
    assert await recorder.drain() == 1
    assert stream.kept == 0


async def test_a_higher_revision_replaces_a_lower_one_and_never_the_other_way_round(
    recorder: Recorder, stream: MemoryStream, records: Records
) -> None:
    late = a_record(revision=2, ended_by="hangup", billed_seconds=200)
    early = a_record(revision=1, ended_by="connection_lost", billed_seconds=90)

    for order in ([early, late], [late, early]):
        for record in order:
            stream.add(record)
            await recorder.drain()
        assert await records.calls.find_call("acme", "c-1") == late
    stream.add(early, late, early)
    await recorder.drain()
    assert await records.calls.find_call("acme", "c-1") == late


async def test_a_call_id_used_again_later_has_a_record_of_its_own(
    recorder: Recorder, stream: MemoryStream, records: Records, database: Database
) -> None:
    """R9."""
    newer = a_record(admitted_at_ms=NOW_MS + 1)
    stream.add(newer, a_record())

    await recorder.drain()

    assert await count(database) == 2
    assert await records.calls.find_call("acme", "c-1") == newer


async def test_an_entry_that_comes_again_changes_nothing(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    entry = stream.add(a_record("c-1"), a_record("c-2"))
    await recorder.drain()
    before = await everything(database)

    stream.put_back(entry)
    await execute(database, "DELETE FROM recorder_positions")  # as in a backup
    await Recorder(database, stream, stream.now_ms).drain()

    assert await everything(database) == before


async def test_two_recorders_at_once_save_every_record_once(
    stream: MemoryStream, where: str, database: Database
) -> None:
    for number in range(400):
        stream.add(*(a_record(f"c-{number}-{each}") for each in range(3)), shard=number % 16)
    other = Database(where)
    both = [Recorder(each, stream, stream.now_ms, records_at_once=10) for each in (database, other)]

    await asyncio.gather(*(recorder.drain() for recorder in both))
    await other.close()

    assert await count(database) == 1200
    numbers = "SELECT count(DISTINCT record_number) FROM call_records GROUP BY shard"
    assert await rows(database, numbers) == [(75,)] * 16


async def test_what_the_database_refuses_goes_to_the_dead_letters_and_stops_no_other(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    good = [a_record(f"c-{number}") for number in range(7)]
    too_large = a_record("too-large", billed_seconds=2**63)
    no_integer = a_record("no-integer", duration_ms="ninety")
    nobody = a_record("nobody", staff=None)
    lone = a_record("lone", to="+1\ud800")
    entry = stream.add(*good[:3], too_large, *good[3:5], no_integer, b"\x00\xff", nobody, lone)
    stream.add(a_cycle(allocated_seconds=2**70), a_cycle(account="other"), *good[5:])

    assert await recorder.drain() == 7

    assert await count(database) == 7
    assert await rows(database, "SELECT account FROM statements") == [("other",)]
    letters = await rows(database, 'SELECT entry_id, "index", body, at_ms FROM dead_letters ORDER BY 1, 2')
    assert [(letter[0], letter[1]) for letter in letters[:5]] == [
        (entry.entry_id, index) for index in (3, 6, 7, 8, 9)
    ]
    assert len(letters) == 6
    assert '"call_id": "too-large"' in letters[0][2]
    assert letters[2][2] == '{"bytes": "00ff"}'
    assert {letter[3] for letter in letters} == {NOW_MS}
    assert stream.kept == 0


async def test_of_many_records_at_once_those_are_saved_that_can_be(
    database: Database, stream: MemoryStream, records: Records
) -> None:
    many = [a_record(f"c-{number}", billed_seconds=31 + number) for number in range(700)]
    refused = [a_record(f"refused-{number}", billed_seconds=2**70) for number in range(3)]
    again = a_record("c-5", billed_seconds=7, revision=2)
    for first in range(0, 700, 70):
        stream.add(*many[first : first + 50], *refused[:1], *many[first + 50 : first + 70])
        refused = refused[1:]
    recorder = Recorder(database, stream, stream.now_ms, records_at_once=5000)

    assert await recorder.drain() == 700
    stream.add(*many[:200], again)
    await recorder.drain()

    assert await count(database) == 700
    assert await rows(database, "SELECT count(*) FROM dead_letters") == [(3,)]
    assert await records.calls.find_call("acme", "c-5") == again
    assert await records.calls.find_call("acme", "c-699") == many[699]


async def test_a_text_with_nul_is_kept_whole_or_not_at_all(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    stream.add(a_record(to="a\0b"))

    await recorder.drain()

    kept = await rows(database, 'SELECT "to" FROM call_records')
    dead = await rows(database, "SELECT body FROM dead_letters")
    assert len(kept) + len(dead) == 1
    assert all(to == "a\0b" for (to,) in kept)


async def test_an_engine_that_is_away_is_waited_for(
    recorder: Recorder, database: Database, stream: MemoryStream
) -> None:
    stream.away = True
    async with running(recorder):
        await wait_until(lambda: "engine_unavailable" in (recorder.status().failing or ""))
        stream.away = False
        stream.add(a_record())
        await eventually(lambda: saved(database, 1))
        await wait_until(lambda: recorder.status().failing is None)
    stream.away = True
    with pytest.raises(EngineUnavailable):
        await recorder.drain()


async def test_a_table_that_is_missing_is_said_loudly_and_waited_for(
    recorder: Recorder, database: Database, stream: MemoryStream, capsys: pytest.CaptureFixture[str]
) -> None:
    """No record of it is a dead letter: it is none's fault. Nor does the gateway end, whose calls go on."""
    await execute(database, "ALTER TABLE call_records RENAME TO gone")
    for number in range(3):
        stream.add(a_record(f"c-{number}"))
    async with running(recorder):
        await wait_until(lambda: "call_records" in (recorder.status().failing or ""))
        with pytest.raises(DatabaseUnavailable):
            await recorder.drain()
        assert await rows(database, "SELECT count(*) FROM dead_letters") == [(0,)]
        assert stream.kept == 3
        await execute(database, "ALTER TABLE gone RENAME TO call_records")
        await eventually(lambda: saved(database, 3))
        await wait_until(lambda: recorder.status().failing is None)
    said = capsys.readouterr().out
    assert "recorder.broken" in said
    assert A_RECORD.to not in said


async def test_a_record_that_fails_alone_for_another_reason_goes_to_the_dead_letters(
    recorder: Recorder, database: Database, stream: MemoryStream
) -> None:
    """A fault of SQL or of the program that strikes only its row: the others are taken."""
    stream.add(a_record("before"))
    await recorder.drain()
    for statement in _FAILING_TRIGGER[database.kind]:
        await execute(database, statement)
    stream.add(a_record("bad"))

    assert await recorder.drain() == 0
    stream.add(a_record("c-1"), a_record("bad", revision=2), a_record("c-2"), a_cycle())
    assert await recorder.drain() == 2

    letters = await rows(database, "SELECT body, error FROM dead_letters ORDER BY entry_id")
    assert ['"call_id": "bad"' in body for body, _ in letters] == [True, True]
    assert all(_FAILING_SAYS[database.kind] in error for _, error in letters)
    assert await count(database) == 3
    assert stream.kept == 0


async def test_a_record_of_which_no_row_can_be_made_goes_to_the_dead_letters(
    recorder: Recorder, database: Database, stream: MemoryStream
) -> None:
    stream.add(a_record("c-1"), a_record("bad", policy=None), a_record("c-2"))

    assert await recorder.drain() == 2

    ((body, error),) = await rows(database, "SELECT body, error FROM dead_letters")
    assert '"call_id": "bad"' in body
    assert error.startswith("AttributeError")


async def test_a_recorder_that_runs_saves_what_comes(
    recorder: Recorder, database: Database, stream: MemoryStream
) -> None:
    async with running(recorder):
        for number in range(30):
            stream.add(a_record(f"c-{number}"), shard=number % 5)
        await eventually(lambda: saved(database, 30))
    assert stream.kept == 0


async def test_a_recorder_cancelled_at_any_moment_loses_and_doubles_nothing(
    where: str, database: Database, stream: MemoryStream
) -> None:
    for number in range(120):
        stream.add(a_record(f"c-{number}"), shard=number % 3)
    for moment in range(40):
        task = asyncio.create_task(Recorder(database, stream, stream.now_ms, records_at_once=4).drain())
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    await Recorder(database, stream, stream.now_ms).drain()

    assert await count(database) == 120
    assert await rows(database, "SELECT count(*) FROM dead_letters") == [(0,)]


async def test_of_two_that_run_one_records_and_the_other_takes_over(
    where: str, database: Database, stream: MemoryStream
) -> None:
    other = Database(where)
    first, second = (Recorder(each, stream, stream.now_ms, stuck_seconds=0.3) for each in (database, other))
    async with running(second):
        async with running(first):
            await wait_until(lambda: first.status().recording != second.status().recording)
            stream.add(a_record("c-1"))
            await eventually(lambda: saved(database, 1))
            recording = first if first.status().recording else second
        await wait_until(lambda: second.status().recording)
        stream.add(a_record("c-2"))
        await eventually(lambda: saved(database, 2))
    assert recording in (first, second)
    await other.close()


async def test_what_a_stuck_recorder_leaves_lying_another_one_saves(
    where: str, database: Database, stream: MemoryStream
) -> None:
    standby = Recorder(database, stream, stream.now_ms, stuck_seconds=0.3)
    other = Database(where)
    async with other.exclusive("recorder") as held:
        assert await held.acquire()
        async with running(standby):
            stream.add(a_record())
            await eventually(lambda: saved(database, 1))
            assert not standby.status().recording
    await other.close()


async def test_the_instant_up_to_which_all_is_saved_is_known_to_every_gateway(
    where: str, recorder: Recorder, stream: MemoryStream
) -> None:
    stream.add(a_record())
    await recorder.drain()
    stream.at_ms += 5
    stream.add(a_record("c-2"))
    other = Database(where)

    assert await Recorder(other, stream, stream.now_ms).as_of_ms() == NOW_MS, "c-2 is not saved"
    await recorder.drain()
    stream.at_ms += 5
    assert await Recorder(other, stream, stream.now_ms).as_of_ms() == NOW_MS + 10, "nothing waits"
    stream.away = True
    assert await Recorder(other, stream, stream.now_ms).as_of_ms() == NOW_MS + 5
    await other.close()


async def test_all_who_want_it_drained_before_it_begins_share_one(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    """R28: pools are made anew by thousands, and what each is made from must be saved before."""
    stream.add(a_record())
    await asyncio.gather(*(recorder.drain() for _ in range(100)))
    assert stream.reads < 10
    under_way = asyncio.create_task(recorder.drain())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stream.add(a_record("c-2"))
    await recorder.drain()
    assert await count(database) == 2
    await under_way


async def test_who_waits_for_a_drain_no_more_stops_it_for_nobody(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    stream.add(a_record())
    first, second = asyncio.create_task(recorder.drain()), asyncio.create_task(recorder.drain())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    assert first.cancelled()
    stream.away = True
    with pytest.raises(EngineUnavailable):
        await recorder.drain()
    stream.away = False
    assert await recorder.drain() == 0


async def test_answers_are_safe_that_were_settled_before_what_waits(
    recorder: Recorder, stream: MemoryStream
) -> None:
    """R26."""
    assert await recorder.saved_here_before_ms() == NOW_MS, "nothing was settled"
    record = a_record()
    stream.at_ms = record.settled_at_ms + 10
    stream.add(record)
    assert await recorder.saved_here_before_ms() == record.settled_at_ms
    await recorder.drain()
    assert await recorder.saved_here_before_ms() == stream.at_ms
    await stream.trim({0: Proven(stream.run, 0, "999999999999999-0")})
    assert await recorder.saved_here_before_ms() == stream.at_ms, "what was saved need not be kept"
    stream.add(a_cycle())
    assert await recorder.saved_here_before_ms() == 0, "when that was is not said"
    await recorder.drain()
    stream.shard_epochs[0] = 5
    assert await recorder.saved_here_before_ms() == 0, "something was lost that SQL does not know of"


async def test_what_another_gateway_saved_of_the_new_primary_says_nothing_of_the_old_one(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    """R26: this gateway still asks the primary that was deposed, which goes on by itself."""
    stream.add(a_record())
    await recorder.drain()
    old = Recorder(database, deposed := deepcopy(stream), deposed.now_ms)
    deposed.add(a_record("lost"))
    for call_id in ("c-2", "c-3"):
        stream.add(a_record(call_id))
    await recorder.drain()
    stream.at_ms += 10
    assert await old.as_of_ms() == NOW_MS, "by what SQL says, nothing waits behind it"
    assert await old.saved_here_before_ms() == 0


async def test_a_recorder_whose_engine_lacks_what_sql_has_makes_way_for_another(
    database: Database, stream: MemoryStream
) -> None:
    """R26: it asks a primary that was deposed, and had the lock before that."""
    recorder = Recorder(database, stream, stream.now_ms, kept_ms=HOUR_MS)
    deposed = await deposed_primary(recorder, stream)
    stream.run += 1
    stream.at_ms += 10
    stream.add(a_record("c-2"))
    await recorder.drain()
    deposed.at_ms += 20
    deposed.add(a_record("lost"))
    old = Recorder(database, deposed, deposed.now_ms, kept_ms=HOUR_MS)
    async with running(old):
        await wait_until(lambda: old.status().failing is not None)
        async with running(recorder):
            await wait_until(lambda: recorder.status().recording)
            stream.at_ms += 20
            stream.add(a_record("c-3"))
            await wait_until(lambda: saved(database, 3))


async def test_the_lag_is_that_of_the_oldest_record_found_waiting(
    recorder: Recorder, stream: MemoryStream
) -> None:
    stream.at_ms = NOW_MS + 100_000
    stream.add(a_record("c-1", settled_at_ms=NOW_MS + 99_000), a_record("c-2", settled_at_ms=NOW_MS + 99_500))

    await recorder.drain()
    assert recorder.status().lag_ms == 1_000
    await recorder.drain()
    assert recorder.status().lag_ms == 0


async def test_the_lag_grows_while_the_database_does_not_answer(
    where: str, recorder: Recorder, stream: MemoryStream
) -> None:
    """One that hangs would else look well: nobody looks at what waits meanwhile."""
    other = Database(where)
    held, enough = asyncio.Event(), asyncio.Event()

    async def hold(connection: AsyncConnection) -> None:
        if other.kind == "postgresql":
            await connection.execute(text("LOCK TABLE call_records"))
        held.set()
        await enough.wait()

    def told_ms() -> int:
        told = REGISTRY.get_sample_value("callgate_recorder_lag_seconds")
        assert told is not None
        return min(recorder.status().lag_ms, round(told * 1000))

    holding = asyncio.create_task(other.write(hold))
    await held.wait()
    stream.add(a_record())
    async with running(recorder):
        try:
            await wait_until(lambda: told_ms() >= 500, 8)
            await wait_until(lambda: told_ms() >= 1500, 8)
        finally:
            enough.set()
            await holding
        await wait_until(lambda: told_ms() < 500)
    await other.close()


async def test_a_recorder_that_has_nothing_to_do_does_not_lag(
    where: str, recorder: Recorder, database: Database, stream: MemoryStream
) -> None:
    other = Database(where)
    async with other.exclusive("recorder") as lock:
        await lock.acquire()
        async with running(recorder):
            # It stands by for seconds at a time.
            looked = stream.reads
            await wait_until(lambda: stream.reads > looked)
            await asyncio.sleep(0.5)
            assert recorder.status().lag_ms < 400
    await other.close()


async def test_a_cycle_opens_its_statement_and_a_later_plan_replaces_it(
    recorder: Recorder, stream: MemoryStream, records: Records
) -> None:
    stream.add(a_cycle(plan=None, allocated_seconds=0))
    stream.add(
        a_cycle(plan="team", allocated_seconds=60_000), a_cycle(plan="large", allocated_seconds=300_000)
    )
    stream.add(a_cycle(account="other"))

    await recorder.drain()

    (statement,), _ = await records.statements.list_statements("acme", None, 10)
    assert (statement.plan, statement.allocated_seconds, statement.cycle.index) == ("large", 300_000, 9)


def test_what_comes_out_of_the_stream_has_a_column_for_each_field() -> None:
    from gateway.records.tables import call_records, statements

    assert set(CallRecord.__slots__) - {"policy"} <= set(call_records.c.keys())
    assert set(CycleOpened.__slots__) <= set(statements.c.keys())


# A shard that is away, in a Cluster


async def test_a_shard_that_is_away_holds_up_no_other(
    database: Database, recorder: Recorder, stream: MemoryStream
) -> None:
    stream.add(a_record("c-0"), shard=1)
    await recorder.drain()
    for shard in (0, 1, 2):
        stream.add(a_record(f"of-{shard}"), shard=shard)
    stream.shards_away = {1}
    async with running(recorder):
        await eventually(lambda: saved(database, 3))
        await wait_until(lambda: "1 shards of the engine are away" in str(recorder.status().failing), 5)
        for shard in (0, 2):
            await recorder.drain(shard)
        for whole in (1, None):
            with pytest.raises(EngineUnavailable, match="1 shards"):
                await recorder.drain(whole)
        assert await count(database) == 3

        stream.shards_away = set()
        await eventually(lambda: saved(database, 4))
        await wait_until(lambda: recorder.status().failing is None, 10)
        await recorder.drain()


async def test_records_are_up_to_date_as_of_before_a_shard_went_away(
    database: Database, recorder: Recorder, stream: MemoryStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R27: nobody knows what it holds that is not saved; this gateway's answers of it are kept (R26)."""
    monkeypatch.setattr("gateway.records.recorder.FRESH_SECONDS", 0)
    stream.add(a_record("c-0"), shard=1)
    await recorder.drain()
    assert await recorder.as_of_ms() == NOW_MS
    stream.shards_away = {1}
    stream.at_ms += HOUR_MS
    stream.add(a_record("c-1"))
    with pytest.raises(EngineUnavailable):
        await recorder.drain()
    assert await count(database) == 2
    assert await recorder.as_of_ms() == NOW_MS
    assert await Recorder(database, stream, stream.now_ms).as_of_ms() == NOW_MS, "nor is another one's"
    assert await recorder.saved_here_before_ms() == 0
    assert await recorder.saved_here_before_ms({1}) == stream.at_ms
    assert await recorder.saved_here_before_ms({0}) == 0, "not the one that is known to be away"

    stream.shards_away = set()
    await recorder.drain()
    assert await recorder.as_of_ms() == await recorder.saved_here_before_ms() == stream.at_ms


async def test_a_shard_that_is_away_is_given_no_new_epoch(database: Database, stream: MemoryStream) -> None:
    stream.shard_epochs |= {0: 1, 1: 1}
    recorder = Recorder(database, stream, stream.now_ms, stuck_seconds=0)
    stream.add(a_record("c-1"), shard=1)
    await recorder.drain()
    stream.shards_away = {1}
    for _ in range(3):
        with pytest.raises(EngineUnavailable):
            await recorder.drain()
    stream.shards_away = set()
    await recorder.drain()
    assert stream.shard_epochs == {0: 1, 1: 1}


async def test_all_shards_are_away_as_the_engine_is(recorder: Recorder, stream: MemoryStream) -> None:
    stream.add(a_record())
    stream.away = True
    for shard in (0, None):
        with pytest.raises(EngineUnavailable):
            await recorder.drain(shard)
