"""Records of calls that come back (R15): in progress again, and in no sum until the next revision."""

import itertools
from dataclasses import replace

import pytest

from gateway.domain.calls import CallInProgress, CallReopened
from gateway.records.database import Database
from gateway.records.ingest import Item
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.records.making import (
    CYCLE_MS,
    DAY_MS,
    NEXT_CYCLE_MS,
    NOW_MS,
    MemoryStream,
    a_cycle,
    a_record,
    execute,
    make_plans,
    reopened,
    rows,
)

FIRST = a_record(ended_by="connection_lost", billed_seconds=90)
SECOND = a_record(revision=2, ended_by="lease_expired", billed_seconds=200)
THIRD = a_record(revision=3, billed_seconds=300)
STORY: list[Item] = [FIRST, reopened(FIRST), SECOND, reopened(SECOND), THIRD]
"""A call that came back twice."""


@pytest.fixture
def recorder(database: Database, stream: MemoryStream) -> Recorder:
    """A recorder of `stream`."""
    return Recorder(database, stream, stream.now_ms)


async def everything(database: Database) -> list[tuple[object, ...]]:
    """All columns but those that tell of the place in the stream."""
    columns = 'account, call_id, admitted_at_ms, staff, "to", billed_seconds, ended_by, revision, reopened'
    return await rows(database, f"SELECT {columns} FROM call_records ORDER BY 1, 2, 3")


async def save(stream: MemoryStream, recorder: Recorder, *items: Item) -> None:
    stream.add(*items)
    await recorder.drain()


async def test_a_call_that_came_back_is_in_progress_until_it_ends_again(
    recorder: Recorder, stream: MemoryStream, records: Records
) -> None:
    await save(stream, recorder, FIRST, a_record("other", admitted_at_ms=NOW_MS - 1))
    await save(stream, recorder, reopened(FIRST))

    in_progress = CallInProgress(
        account="acme",
        call_id="c-1",
        staff="ana",
        device="desk",
        channel="main",
        to="+14155550100",
        admitted_at_ms=NOW_MS,
        answered_at_ms=NOW_MS + 8_000,
        cycle_start_ms=CYCLE_MS,
        emergency=False,
        counts=True,
        revision=1,
    )
    assert await records.calls.find_call("acme", "c-1") == in_progress
    other = a_record("other", admitted_at_ms=NOW_MS - 1)
    assert await records.calls.list_calls("acme", limit=10) == ([in_progress, other], None)
    assert (await records.calls.list_calls("acme", limit=1))[0] == [in_progress]
    assert [each async for each in records.calls.calls_of_cycle("acme", CYCLE_MS)] == [other]

    await save(stream, recorder, SECOND)
    assert await records.calls.find_call("acme", "c-1") == SECOND


async def test_it_counts_in_no_sum_while_it_is_in_progress_again(
    recorder: Recorder, stream: MemoryStream, records: Records
) -> None:
    await make_plans(records)
    await records.accounts.put_account("acme", {"name": "Acme", "plan": "team"}, NOW_MS)
    free = a_record("free", billed_seconds=0, counted=False, ended_by="connection_lost")
    sums = []

    for items in (
        [a_cycle(), FIRST, free, a_record("c-2", billed_seconds=31)],
        [reopened(FIRST)],
        [reopened(free)],
        [SECOND],
    ):
        await save(stream, recorder, *items)
        statement = await records.statements.get_statement("acme", CYCLE_MS)
        config = await records.configs.config("acme", NOW_MS, CYCLE_MS)
        assert config is not None
        assert config.settled_seconds == statement.used_seconds
        sums.append((statement.used_seconds, statement.calls_counted, statement.calls_free))

    assert sums == [(121, 2, 1), (31, 1, 1), (31, 1, 0), (231, 2, 0)]


async def test_its_statement_does_not_close_before_it_ended_again(
    recorder: Recorder, stream: MemoryStream, records: Records
) -> None:
    async def nothing_in_progress(_: str) -> None:
        return None

    async def closed() -> list[int]:
        found = await records.closing.close_due(
            NEXT_CYCLE_MS + 2 * DAY_MS,
            late_resume_ms=DAY_MS // 2,
            oldest_call_in_progress=nothing_in_progress,
            save_all=recorder.drain,
        )
        return [each.used_seconds for each in found]

    await save(stream, recorder, a_cycle(), FIRST, reopened(FIRST))
    assert await closed() == []
    await save(stream, recorder, SECOND)
    assert await closed() == [200]


async def test_one_that_comes_back_while_its_statement_is_being_closed_holds_it_open(
    recorder: Recorder, stream: MemoryStream, records: Records
) -> None:
    async def it_came_back(_: str) -> None:
        stream.add(reopened(FIRST))

    await save(stream, recorder, a_cycle(), FIRST)

    closed = await records.closing.close_due(
        NEXT_CYCLE_MS + 2 * DAY_MS,
        late_resume_ms=DAY_MS // 2,
        oldest_call_in_progress=it_came_back,
        save_all=recorder.drain,
    )

    assert closed == []
    assert not (await records.statements.get_statement("acme", CYCLE_MS)).closed


@pytest.mark.parametrize("cut", list(itertools.product([False, True], repeat=len(STORY) - 1)), ids=str)
async def test_saved_at_once_or_bit_by_bit_it_comes_to_the_same(
    recorder: Recorder, stream: MemoryStream, database: Database, cut: tuple[bool, ...]
) -> None:
    stream.add(STORY[0])
    for item, comes_later in zip(STORY[1:], cut, strict=True):
        if comes_later:
            await recorder.drain()
        stream.add(item)
    await recorder.drain()

    assert [row[-3:] for row in await everything(database)] == [("hangup", 3, False)]


@pytest.mark.parametrize("told", range(1, len(STORY) + 1))
async def test_what_is_saved_again_in_any_order_undoes_nothing(
    recorder: Recorder, stream: MemoryStream, database: Database, told: int
) -> None:
    await save(stream, recorder, *STORY[:told])
    before = await everything(database)
    assert len(before) == 1

    for again in itertools.permutations(STORY[:told]):
        stream.add(*again)
    await recorder.drain()
    for item in reversed(STORY[:told]):
        await save(stream, recorder, item)

    assert await everything(database) == before


async def test_reopened_at_a_revision_that_sql_has_not_seen_it_waits_for_the_next(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    """Its record of that revision was a dead letter."""
    await save(stream, recorder, FIRST)
    await save(stream, recorder, reopened(SECOND))
    await save(stream, recorder, SECOND)
    assert [row[-2:] for row in await everything(database)] == [(2, True)]

    await save(stream, recorder, THIRD)
    assert [row[-2:] for row in await everything(database)] == [(3, False)]


async def test_of_calls_with_one_id_only_the_one_that_came_back_is_reopened(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    other = a_record(admitted_at_ms=NOW_MS - DAY_MS)
    await save(stream, recorder, FIRST, other, replace(FIRST, account="other"), a_record("c-2"))
    await save(stream, recorder, reopened(FIRST))

    assert [row[:3] for row in await everything(database) if row[-1]] == [("acme", "c-1", NOW_MS)]


async def test_one_that_sql_never_heard_of_changes_nothing_and_stops_no_other(
    recorder: Recorder, stream: MemoryStream, database: Database
) -> None:
    await save(stream, recorder, reopened(FIRST), a_record("c-2"))
    assert [row[1] for row in await everything(database)] == ["c-2"]

    await save(stream, recorder, CallReopened("acme", "c-2", NOW_MS, 2**70), a_record("c-3"))
    assert await rows(database, "SELECT count(*) FROM dead_letters") == [(1,)]
    assert [row[1] for row in await everything(database)] == ["c-2", "c-3"]


async def test_a_gateway_of_the_version_before_can_still_record(database: Database) -> None:
    """It names no column that is new; so do statements that are under way while others are updated."""
    await execute(
        database,
        """INSERT INTO call_records (account, call_id, admitted_at_ms, staff, device, "to", ended_at_ms,
        settled_at_ms, duration_ms, billed_seconds, counted, ended_by, emergency, cycle_start_ms, revision,
        free_seconds, increment_seconds, hold_seconds, count_from, shard, record_number)
        SELECT 'acme', 'c-1', 1, 'ana', 'desk', '1', 1, 1, 1, 1, 1=1, 'hangup', 1=0, 1, 1, 30, 1, 60,
        'admission', 0, 1"""
        if database.kind == "postgresql"
        else """INSERT INTO call_records (account, call_id, admitted_at_ms, staff, device, "to", ended_at_ms,
        settled_at_ms, duration_ms, billed_seconds, counted, ended_by, emergency, cycle_start_ms, revision,
        free_seconds, increment_seconds, hold_seconds, count_from, shard, record_number)
        VALUES ('acme', 'c-1', 1, 'ana', 'desk', '1', 1, 1, 1, 1, 1, 'hangup', 0, 1, 1, 30, 1, 60,
        'admission', 0, 1)""",
    )
    await execute(database, "INSERT INTO recorder_positions (shard, entry_id) VALUES (0, '1-1')")

    assert await rows(database, "SELECT admitted_offline, reopened FROM call_records") == [(False, False)]
    assert await rows(database, "SELECT epoch, record_number FROM recorder_positions") == [(0, 0)]
