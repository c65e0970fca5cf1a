"""What each cycle came to, open and closed (R27)."""

import asyncio

import pytest

from gateway.domain.calls import CallRecord, CycleOpened
from gateway.domain.cycles import Cycle
from gateway.domain.errors import EngineUnavailable, NotFound
from gateway.records import closing
from gateway.records.recorder import Recorder
from gateway.records.statements import Statement
from gateway.records.store import Records
from tests.records.making import (
    CYCLE_MS,
    DAY_MS,
    NEXT_CYCLE_MS,
    NOW_MS,
    MemoryStream,
    a_cycle,
    a_record,
    rows,
)

LATE_MS = DAY_MS // 2


class Closer:
    """Closes what is due, as the service does: with a recorder, and calls in progress that a test sets."""

    def __init__(self, records: Records, stream: MemoryStream) -> None:
        self.in_progress: dict[str, int] = {}
        self.recorder = Recorder(records.database, stream, stream.now_ms)
        self._records = records
        self._stream = stream

    async def record(self, *items: CallRecord | CycleOpened) -> None:
        self._stream.add(*items)
        await self.recorder.drain()

    async def close(self, now_ms: int) -> list[Statement]:
        return await self._records.closing.close_due(
            now_ms,
            late_resume_ms=LATE_MS,
            oldest_call_in_progress=self._oldest,
            save_all=self.recorder.drain,
        )

    async def _oldest(self, account: str) -> int | None:
        return self.in_progress.get(account)


@pytest.fixture
def closer(records: Records, stream: MemoryStream) -> Closer:
    """What closes statements."""
    return Closer(records, stream)


async def statement(records: Records, account: str = "acme") -> Statement:
    return await records.statements.get_statement(account, CYCLE_MS)


async def test_an_open_statement_is_the_sum_of_the_records_there_are(
    records: Records, closer: Closer
) -> None:
    await closer.record(
        a_cycle(),
        a_record("a", billed_seconds=90),
        a_record("b", billed_seconds=31),
        a_record("free", billed_seconds=0, counted=False),
        a_record("112", billed_seconds=0, counted=False, emergency=True),
        a_record("other", account="other", billed_seconds=500),
        a_record("next", cycle_start_ms=NEXT_CYCLE_MS, billed_seconds=700),
    )

    found = await statement(records)

    assert found == Statement(
        account="acme",
        plan="team",
        cycle=Cycle(9, CYCLE_MS, NEXT_CYCLE_MS),
        closed_at_ms=None,
        allocated_seconds=60_000,
        used_seconds=121,
        calls_counted=2,
        calls_free=2,
    )
    assert (found.closed, found.overrun_seconds) == (False, 0)


async def test_the_overrun_is_what_was_used_beyond_the_allocation(records: Records, closer: Closer) -> None:
    await closer.record(a_cycle(allocated_seconds=60), a_record(billed_seconds=90))

    assert (await statement(records)).overrun_seconds == 30


async def test_statements_are_listed_newest_first_page_by_page(records: Records, closer: Closer) -> None:
    cycles = [CYCLE_MS + month * 30 * DAY_MS for month in range(5)]
    for number, start_ms in enumerate(cycles):
        await closer.record(
            a_cycle(cycle_start_ms=start_ms, cycle_end_ms=start_ms + 30 * DAY_MS, cycle_index=number),
            a_record(f"c-{number}", cycle_start_ms=start_ms, billed_seconds=number + 31),
        )
    await closer.close(cycles[2])

    seen: list[Statement] = []
    after = None
    while True:
        page, after = await records.statements.list_statements("acme", after, 2)
        seen += page
        if after is None:
            break

    assert [each.cycle.index for each in seen] == [4, 3, 2, 1, 0]
    assert [each.used_seconds for each in seen] == [35, 34, 33, 32, 31]
    assert [each.closed for each in seen] == [False, False, False, True, True]


async def test_a_cycle_that_was_never_opened_has_no_statement(records: Records) -> None:
    with pytest.raises(NotFound):
        await statement(records)


async def test_a_statement_closes_when_its_cycle_is_over(records: Records, closer: Closer) -> None:
    await closer.record(a_cycle(), a_record("a"), a_record("free", billed_seconds=0, counted=False))

    assert await closer.close(NEXT_CYCLE_MS - 1) == []
    (closed,) = await closer.close(NEXT_CYCLE_MS)

    assert closed == await statement(records)
    assert (closed.closed_at_ms, closed.used_seconds) == (NEXT_CYCLE_MS, 90)
    assert (closed.calls_counted, closed.calls_free) == (1, 1)
    assert await closer.close(NEXT_CYCLE_MS) == []


async def test_a_cycle_without_calls_closes_too(closer: Closer) -> None:
    await closer.record(a_cycle())

    (closed,) = await closer.close(NEXT_CYCLE_MS + 1)

    assert (closed.used_seconds, closed.calls_counted, closed.calls_free) == (0, 0, 0)
    assert closed.closed_at_ms == NEXT_CYCLE_MS


async def test_a_call_over_the_boundary_keeps_its_statement_open_until_it_is_saved(
    stream: MemoryStream, closer: Closer
) -> None:
    """R20: it bills to the cycle that it was admitted in."""
    await closer.record(a_cycle())
    closer.in_progress = {"acme": NEXT_CYCLE_MS - 5}
    assert await closer.close(NEXT_CYCLE_MS + 60_000) == []

    closer.in_progress = {"acme": NEXT_CYCLE_MS + 1}  # one of the next cycle does not matter
    settled_at_ms = NEXT_CYCLE_MS + 61_000
    stream.add(a_record(settled_at_ms=settled_at_ms, billed_seconds=66))  # settled, and not saved yet
    (closed,) = await closer.close(NEXT_CYCLE_MS + 70_000)

    assert (closed.used_seconds, closed.closed_at_ms) == (66, settled_at_ms)


async def test_a_call_that_may_come_back_keeps_its_statement_open(records: Records, closer: Closer) -> None:
    """R15."""
    ended_at_ms = NEXT_CYCLE_MS - 1_000
    lost = a_record(ended_by="connection_lost", ended_at_ms=ended_at_ms, settled_at_ms=ended_at_ms + 30_000)
    await closer.record(a_cycle(), lost)

    assert await closer.close(NEXT_CYCLE_MS) == []
    assert await closer.close(ended_at_ms + LATE_MS) == []
    (closed,) = await closer.close(ended_at_ms + LATE_MS + 1)

    assert closed.closed_at_ms == ended_at_ms + LATE_MS
    assert await statement(records) == closed


async def test_a_call_that_came_back_and_was_hung_up_keeps_nothing_open(closer: Closer) -> None:
    ended_at_ms = NEXT_CYCLE_MS - 1_000
    await closer.record(a_cycle(), a_record(ended_by="lease_expired", ended_at_ms=ended_at_ms))
    assert await closer.close(NEXT_CYCLE_MS) == []

    await closer.record(a_record(revision=2, ended_by="hangup", settled_at_ms=NEXT_CYCLE_MS + 10))

    (closed,) = await closer.close(NEXT_CYCLE_MS + 20)
    assert closed.closed_at_ms == NEXT_CYCLE_MS + 10


async def test_a_record_of_a_lost_call_that_is_saved_while_closing_keeps_it_open(
    stream: MemoryStream, closer: Closer
) -> None:
    await closer.record(a_cycle())
    stream.add(a_record(ended_by="connection_lost", ended_at_ms=NEXT_CYCLE_MS - 1))

    assert await closer.close(NEXT_CYCLE_MS + 60_000) == []


async def test_a_closed_statement_never_changes(records: Records, closer: Closer) -> None:
    await closer.record(a_cycle(), a_record("a"))
    (closed,) = await closer.close(NEXT_CYCLE_MS)

    await closer.record(a_cycle(plan="large", allocated_seconds=1), a_record("emergency", billed_seconds=0))

    assert await statement(records) == closed
    assert len(await rows(records.database, "SELECT 1 FROM call_records")) == 2, "no record is lost"


async def test_what_is_billed_in_the_records_is_what_is_used(records: Records, closer: Closer) -> None:
    await closer.record(
        a_cycle(), *(a_record(f"c-{n}", billed_seconds=31 + n, admitted_at_ms=NOW_MS + n) for n in range(50))
    )
    (closed,) = await closer.close(NEXT_CYCLE_MS)

    read = [each async for each in records.calls.calls_of_cycle("acme", CYCLE_MS)]

    assert sum(each.billed_seconds for each in read) == closed.used_seconds
    assert len(read) == closed.calls_counted + closed.calls_free


async def test_many_statements_close_in_order_and_open_ones_stop_none(
    closer: Closer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "PAGE", 3)
    for number in range(10):
        account = f"a-{number}"
        await closer.record(
            a_cycle(account=account, cycle_end_ms=NEXT_CYCLE_MS + number % 4),
            a_record(account=account, billed_seconds=31 + number),
        )
    closer.in_progress = {"a-0": NOW_MS, "a-4": NOW_MS, "a-8": NOW_MS}

    closed = await closer.close(NEXT_CYCLE_MS + 10)

    assert [each.account for each in closed] == ["a-1", "a-5", "a-9", "a-2", "a-6", "a-3", "a-7"]
    assert [each.used_seconds for each in closed] == [32, 36, 40, 33, 37, 34, 38]


async def test_two_gateways_that_close_at_once_close_each_statement_once(
    where: str, records: Records, closer: Closer, stream: MemoryStream
) -> None:
    for number in range(20):
        await closer.record(a_cycle(account=f"a-{number}"))
    other = Records(where)

    both = await asyncio.gather(closer.close(NEXT_CYCLE_MS), Closer(other, stream).close(NEXT_CYCLE_MS))
    await other.close()

    assert sorted(each.account for closed in both for each in closed) == sorted(f"a-{n}" for n in range(20))


async def test_a_failure_of_the_engine_closes_nothing_and_comes_out_as_it_is(
    stream: MemoryStream, records: Records, closer: Closer
) -> None:
    await closer.record(a_cycle())
    stream.away = True

    with pytest.raises(EngineUnavailable):
        await closer.close(NEXT_CYCLE_MS)
    assert not (await statement(records)).closed
