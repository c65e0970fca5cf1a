"""Finding and listing call records."""

from collections.abc import Sequence

import pytest

from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.errors import InvalidField
from gateway.records import calls
from gateway.records.database import Database
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.records.making import CYCLE_MS, NEXT_CYCLE_MS, NOW_MS, MemoryStream, a_record


async def record(database: Database, stream: MemoryStream, *items: CallRecord) -> None:
    stream.add(*items)
    await Recorder(database, stream, stream.now_ms).drain()


def ids(found: Sequence[CallRecord | CallInProgress]) -> list[str]:
    return [each.call_id for each in found]


async def test_a_call_that_was_never_heard_of_is_not_found(records: Records) -> None:
    assert await records.calls.find_call("acme", "c-1") is None
    assert await records.calls.list_calls("acme", limit=10) == ([], None)


async def test_records_are_listed_newest_admitted_first(
    records: Records, database: Database, stream: MemoryStream
) -> None:
    await record(
        database,
        stream,
        a_record("b", admitted_at_ms=NOW_MS + 1),
        a_record("late", admitted_at_ms=NOW_MS + 2),
        a_record("a", admitted_at_ms=NOW_MS + 1),
        a_record("C", admitted_at_ms=NOW_MS + 1),
        a_record("first"),
        a_record("other", account="other"),
    )

    found, after = await records.calls.list_calls("acme", limit=10)

    assert ids(found) == ["late", "C", "a", "b", "first"]
    assert after is None


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_repeat_and_hide_nothing_whatever_comes_meanwhile(
    records: Records, database: Database, stream: MemoryStream, limit: int
) -> None:
    there = [a_record(f"c-{n}", admitted_at_ms=NOW_MS + n // 4) for n in range(13)]
    await record(database, stream, *there)

    seen: list[str] = []
    after = None
    while True:
        page, after = await records.calls.list_calls("acme", after=after, limit=limit)
        seen += ids(page)
        if after is None:
            break
        if len(seen) < 10:
            newer = a_record(f"newer-{len(seen)}", admitted_at_ms=NOW_MS + 99)
            await record(database, stream, newer, a_record(f"older-{len(seen)}", admitted_at_ms=NOW_MS - 1))

    assert {each for each in seen if each.startswith("c-")} == {each.call_id for each in there}
    assert len(seen) == len(set(seen))
    assert not any(each.startswith("newer") for each in seen)


async def test_records_of_one_cycle_and_of_one_staff_member_are_told_apart(
    records: Records, database: Database, stream: MemoryStream
) -> None:
    later = NEXT_CYCLE_MS + 5
    await record(
        database,
        stream,
        a_record("a"),
        a_record("b", staff="bob", admitted_at_ms=NOW_MS + 1),
        a_record("c", cycle_start_ms=NEXT_CYCLE_MS, admitted_at_ms=later),
        a_record("d", cycle_start_ms=NEXT_CYCLE_MS, admitted_at_ms=later + 1, staff="bob"),
    )

    async def listed(cycle_start_ms: int | None, staff: str | None) -> list[str]:
        found, _ = await records.calls.list_calls(
            "acme", cycle_start_ms=cycle_start_ms, staff=staff, limit=10
        )
        return ids(found)

    assert await listed(CYCLE_MS, None) == ["b", "a"]
    assert await listed(NEXT_CYCLE_MS, None) == ["d", "c"]
    assert await listed(None, "bob") == ["d", "b"]
    assert await listed(NEXT_CYCLE_MS, "bob") == ["d"]
    assert await listed(CYCLE_MS, "cleo") == []


async def test_all_records_of_a_cycle_are_read_oldest_first_over_all_pages(
    records: Records, database: Database, stream: MemoryStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "PAGE", 3)
    there = [a_record(f"c-{n}", admitted_at_ms=NOW_MS + n // 4) for n in range(12)]
    await record(database, stream, *there, a_record("next", cycle_start_ms=NEXT_CYCLE_MS))

    read = [each async for each in records.calls.calls_of_cycle("acme", CYCLE_MS)]

    assert sorted(ids(read)) == sorted(each.call_id for each in there)
    assert [each.admitted_at_ms for each in read] == sorted(each.admitted_at_ms for each in there)
    assert [each async for each in records.calls.calls_of_cycle("nobody", CYCLE_MS)] == []


@pytest.mark.parametrize(
    "after", ["x", "WzFd", "WyJhIiwxXQ", "WzEuNSwiYSJd", "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5OTksImEiXQ"]
)
async def test_a_cursor_of_another_making_is_an_invalid_field(records: Records, after: str) -> None:
    with pytest.raises(InvalidField) as raised:
        await records.calls.list_calls("acme", after=after, limit=10)

    assert [error.field for error in raised.value.errors] == ["after"]
