"""Settlements that are told again, because the engine may have lost them: R26."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.domain.answers import Noted, Settled
from gateway.domain.calls import UNHEARD_MS, CallInProgress, CallRecord, CallState, call_meant
from gateway.domain.errors import CallIdUsed, CallUnknown
from gateway.domain.pool import PoolModel
from tests.support.pool_model import (
    CYCLE_END,
    HOUR,
    MINUTE,
    T0,
    a_pool,
    admit,
    end,
    resume,
    retell,
    settled_in_absence,
)

AT_MS = T0 + HOUR


def records(*, absent: bool = False) -> tuple[CallRecord, CallRecord]:
    """Return the record of a call settled in its absence after 2 minutes, and the one of its end after 5.

    The later one is of its hang-up, or (`absent`) of another settlement in its absence.
    """
    pool = a_pool()
    admit(pool, "c-1", T0)
    pool.renew("c-1", T0 + 2 * MINUTE)
    settled_in_absence(pool, "c-1", T0 + 4 * MINUTE)
    resume(pool, "c-1", T0 + 5 * MINUTE)
    if absent:
        settled_in_absence(pool, "c-1", T0 + 6 * MINUTE)
    else:
        end(pool, "c-1", T0 + 5 * MINUTE)
    first, second = pool.records
    return first, second


def a_receipt(record: CallRecord) -> CallInProgress:
    """Return what its device was given when the call of that record was admitted."""
    return CallInProgress(
        account=record.account,
        call_id=record.call_id,
        staff=record.staff,
        device=record.device,
        channel=record.channel,
        to=record.to,
        admitted_at_ms=record.admitted_at_ms,
        answered_at_ms=None,
        cycle_start_ms=record.cycle_start_ms,
        emergency=record.emergency,
        counts=not record.emergency,
    )


def test_a_settlement_that_the_engine_lost_is_taken_over_as_it_was_and_told_to_sql() -> None:
    """R26."""
    record = records()[1]
    pool = a_pool(now_ms=AT_MS)
    assert retell(pool, record, AT_MS) == Noted("c-1")
    assert pool.records == [record]
    assert pool.read(AT_MS).settled_seconds == 300
    assert end(pool, "c-1", AT_MS).replayed
    with pytest.raises(CallIdUsed):
        admit(pool, "c-1", AT_MS)


def test_one_that_sql_has_is_remembered_and_counted_no_second_time() -> None:
    """R26: the pool was made from SQL."""
    record = records()[1]
    pool = a_pool(now_ms=AT_MS, settled_seconds=300)
    retell(pool, record, AT_MS, saved=True)
    assert pool.records == []
    assert pool.read(AT_MS).settled_seconds == 300
    assert end(pool, "c-1", AT_MS).billed_seconds == 300


@pytest.mark.parametrize("saved", [False, True])
def test_telling_twice_is_telling_once(*, saved: bool) -> None:
    record = records()[1]
    pool = a_pool(now_ms=AT_MS)
    retell(pool, record, AT_MS, saved=saved)
    before, told = pool.read(AT_MS), list(pool.records)
    for is_saved in (False, True):
        retell(pool, record, AT_MS, saved=is_saved)
    assert (pool.read(AT_MS), pool.records) == (before, told)


def test_a_call_that_came_back_without_its_end_is_settled_by_exactly_that_record() -> None:
    """R26: its device resumed it by its receipt before it heard of the settlement."""
    lost = a_pool()
    admit(lost, "c-1", T0)
    (receipt,) = lost.read(T0).calls
    end(lost, "c-1", T0 + 2 * MINUTE)
    for saved, settled_seconds in ((False, 0), (True, 120)):
        pool = a_pool(now_ms=AT_MS, settled_seconds=settled_seconds)
        resume(pool, "c-1", AT_MS, found=receipt)
        retell(pool, lost.records[0], AT_MS, saved=saved)
        view = pool.read(AT_MS)
        assert (view.calls, view.settled_seconds, view.used_seconds) == ((), 120, 120)
        assert pool.records == ([] if saved else lost.records)
        assert end(pool, "c-1", AT_MS).replayed


def test_a_settlement_that_was_taken_back_since_settles_nothing() -> None:
    """R15: its call goes on."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    settled_in_absence(pool, "c-1", T0 + HOUR)
    resume(pool, "c-1", T0 + HOUR)
    before = pool.read(T0 + HOUR)
    retell(pool, pool.records[0], T0 + HOUR)
    assert pool.read(T0 + HOUR) == before
    assert len(pool.records) == 1


@pytest.mark.parametrize(("saved", "settled_seconds"), [(False, 300), (True, 120)])
def test_a_later_revision_replaces_an_earlier_one_and_never_the_other_way_round(
    *, saved: bool, settled_seconds: int
) -> None:
    first, second = records()
    pool = a_pool(now_ms=AT_MS)
    retell(pool, first, AT_MS)
    retell(pool, second, AT_MS, saved=saved)
    retell(pool, first, AT_MS)
    assert pool.read(AT_MS).settled_seconds == settled_seconds
    assert pool.records == ([first] if saved else [first, second])
    assert end(pool, "c-1", AT_MS).revision == 2


def test_a_call_whose_settlement_in_its_absence_was_told_again_may_still_come_back() -> None:
    """R15."""
    second = records(absent=True)[1]
    pool = a_pool(now_ms=AT_MS)
    retell(pool, second, AT_MS)
    assert pool.state("c-1", AT_MS) is CallState.SETTLED_IN_ABSENCE
    assert resume(pool, "c-1", AT_MS, 9).call.revision == 2
    assert pool.read(AT_MS).settled_seconds == 0


def test_one_of_an_older_cycle_leaves_the_running_pool_alone() -> None:
    """R20."""
    record = records()[1]
    pool = a_pool(now_ms=CYCLE_END)
    retell(pool, record, CYCLE_END)
    assert pool.records == [record]
    assert pool.read(CYCLE_END).settled_seconds == 0


def test_one_that_was_asked_for_in_vain_is_known_from_then_on() -> None:
    """R17: its end came first, and found nothing."""
    pool = a_pool(now_ms=AT_MS)
    with pytest.raises(CallUnknown):
        end(pool, "c-1", AT_MS)
    retell(pool, records()[1], AT_MS)
    assert isinstance(end(pool, "c-1", AT_MS), Settled)


def test_another_call_of_that_id_keeps_it() -> None:
    """R9."""
    record = records()[1]

    def begins_anew() -> PoolModel:
        pool = a_pool(now_ms=AT_MS)
        admit(pool, "c-1", AT_MS)
        return pool

    pool = begins_anew()
    retell(pool, record, AT_MS)
    assert pool.read(AT_MS).calls_in_progress == 1
    end(pool, "c-1", AT_MS + MINUTE)
    retell(pool, replace(record, revision=7), AT_MS + MINUTE)
    assert end(pool, "c-1", AT_MS + MINUTE).admitted_at_ms == AT_MS


def test_a_settlement_of_an_earlier_call_of_that_id_is_told_to_sql_once() -> None:
    """R9, R26: the engine had lost it, and admitted its id again before it was told of it."""
    first, record = records()
    pool = a_pool(now_ms=record.settled_at_ms)
    later = admit(pool, "c-1", record.settled_at_ms)
    for _ in range(2):
        retell(pool, record, AT_MS)
        retell(pool, first, AT_MS)
        view = pool.read(AT_MS)
        assert (view.settled_seconds, view.calls_in_progress, pool.records) == (300, 1, [record])
    ended = end(pool, "c-1", AT_MS)
    assert ended.admitted_at_ms == later.admitted_at_ms
    for told in (record, pool.records[1], first):
        retell(pool, told, AT_MS)
    assert pool.read(AT_MS).settled_seconds == 300 + ended.billed_seconds
    assert end(pool, "c-1", AT_MS) == replace(ended, replayed=True)
    assert len(pool.records) == 2


def test_a_settlement_of_an_earlier_call_that_sql_has_counts_no_second_time() -> None:
    record = records()[1]
    pool = a_pool(now_ms=AT_MS, settled_seconds=300)
    admit(pool, "c-1", AT_MS)
    for saved in (True, False):
        retell(pool, record, AT_MS, saved=saved)
    assert (pool.read(AT_MS).settled_seconds, pool.records) == (300, [])


def test_a_later_revision_of_an_earlier_call_of_that_id_replaces_the_one_before() -> None:
    first, second = records()
    pool = a_pool(now_ms=AT_MS)
    admit(pool, "c-1", AT_MS)
    for record in (first, second, first, second):
        retell(pool, record, AT_MS)
    assert pool.records == [first, second]
    assert pool.read(AT_MS).settled_seconds == 300


@pytest.mark.parametrize("is_told_first", [False, True])
def test_in_whatever_order_the_calls_of_an_id_are_told_again_each_counts_once(*, is_told_first: bool) -> None:
    earlier = records()[1]
    later = replace(earlier, admitted_at_ms=AT_MS, settled_at_ms=AT_MS + MINUTE, billed_seconds=60)
    receipt = a_receipt(later)
    pool = a_pool(now_ms=AT_MS + HOUR)
    if is_told_first:
        retell(pool, earlier, AT_MS + HOUR)
        resume(pool, "c-1", AT_MS + HOUR, found=receipt)
    for record in (later, earlier, later, earlier):
        retell(pool, record, AT_MS + HOUR)
    assert len(pool.records) == 2
    assert pool.read(AT_MS + HOUR).settled_seconds == 360


def test_a_settlement_of_a_later_call_of_that_id_is_taken_over() -> None:
    """R9: it was lost, and an older copy knows the call before it."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0 + MINUTE)
    later = replace(records()[1], admitted_at_ms=T0 + 3 * MINUTE, billed_seconds=7)
    retell(pool, later, AT_MS)
    assert pool.records[1:] == [later]
    assert pool.read(AT_MS).settled_seconds == 67


def test_what_an_id_means_is_what_sql_has_unless_another_call_was_admitted_since() -> None:
    """R9, R28: the later one was lost before it had a record."""
    record = records()[1]
    same = replace(record, admitted_at_ms=record.settled_at_ms - 1, revision=1)
    later = replace(record, admitted_at_ms=record.settled_at_ms)
    assert call_meant(record, same) == record
    assert call_meant(record, later) == later
    assert call_meant(later, record) == later
    assert call_meant(record, None) == call_meant(None, record) == record
    assert call_meant(None, None) is None


def test_a_call_that_was_let_through_without_the_engine_is_the_one_that_ended_just_before() -> None:
    """R26: the engine had carried out its start, and its end, before the gateway gave up waiting for it."""
    record = records()[1]
    told = replace(record, admitted_at_ms=record.settled_at_ms + UNHEARD_MS - 1, admitted_offline=True)
    assert call_meant(record, told) == record
    others = (
        replace(told, admitted_offline=False),
        replace(told, admitted_at_ms=told.admitted_at_ms + 1),
        replace(told, to="+14155550199"),
    )
    for other in others:
        assert call_meant(record, other) == other


def test_of_two_ends_that_a_client_said_the_earlier_one_stands() -> None:
    """R17: what comes late ends later than it should have, never earlier."""
    record = records()[1]
    late = replace(record, ended_at_ms=record.ended_at_ms + 9_000, billed_seconds=309)
    for first, told in ((late, record), (record, late)):
        pool = a_pool(now_ms=AT_MS)
        retell(pool, first, AT_MS)
        retell(pool, told, AT_MS)
        assert pool.read(AT_MS).settled_seconds == 300
        assert pool.records[-1].ended_at_ms == record.ended_at_ms
