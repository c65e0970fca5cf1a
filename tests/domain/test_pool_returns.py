"""Calls that come back, after they were settled in their absence or lost by the engine: R15, R17, R28."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.domain.answers import Resumed
from gateway.domain.calls import UNHEARD_MS, CallInProgress, CallReopened, CallState
from gateway.domain.errors import CallIdConflict, CallIdUsed, CallUnknown
from gateway.domain.policy import Policy
from gateway.domain.pool import PoolModel
from tests.support.pool_model import (
    ACCOUNT,
    ANA,
    BOB,
    CYCLE_END,
    HOUR,
    MINUTE,
    SECOND,
    T0,
    TO,
    a_pool,
    admit,
    answered,
    emergency,
    end,
    resume,
    settled_in_absence,
)

LOST_MS = T0 + 2 * MINUTE


def a_pool_with_an_absent_call(began_ms: int = T0) -> PoolModel:
    """Return a pool in which `c-1`, begun by connection 5, was lost two minutes later and settled then."""
    pool = a_pool()
    admit(pool, "c-1", began_ms, connection=5)
    pool.renew("c-1", began_ms + 2 * MINUTE, connection=5, lost=True)
    assert settled_in_absence(pool, "c-1", began_ms + 3 * MINUTE).billed_seconds == 120
    return pool


# Late return (R15)


def test_a_call_settled_in_its_absence_goes_on_from_its_original_start_as_one_call_with_one_record() -> None:
    """R15."""
    pool = a_pool_with_an_absent_call()
    assert pool.read(T0 + 4 * MINUTE).used_seconds == 120
    answer = resume(pool, "c-1", T0 + 4 * MINUTE, 6)
    view = pool.read(T0 + 4 * MINUTE)
    assert answer == Resumed(view.calls[0], late=True)
    assert (answer.call.admitted_at_ms, answer.call.revision, answer.call.counts) == (T0, 1, True)
    assert (view.settled_seconds, view.used_seconds) == (0, 240)
    assert pool.reopened == [CallReopened(ACCOUNT, "c-1", T0, 1)]

    settled = end(pool, "c-1", T0 + 5 * MINUTE, connection=6)
    assert (settled.billed_seconds, settled.revision, settled.ended_by) == (300, 2, "hangup")
    assert [(record.revision, record.billed_seconds) for record in pool.records] == [(1, 120), (2, 300)]
    assert pool.read(T0 + 5 * MINUTE).used_seconds == 300


def test_what_was_known_of_a_call_is_known_when_it_comes_back() -> None:
    pool = a_pool()
    admit(pool, "c-1", T0, channel="main")
    answered(pool, "c-1", T0 + 10 * SECOND)
    (before,) = pool.read(T0 + MINUTE).calls
    settled_in_absence(pool, "c-1", T0 + MINUTE)
    assert resume(pool, "c-1", T0 + 2 * MINUTE).call == replace(before, revision=1)


def test_no_reason_to_refuse_a_call_is_asked_for_when_it_comes_back() -> None:
    """R8, R15."""
    pool = a_pool_with_an_absent_call()
    pool.set_status("suspended", T0 + HOUR)
    pool.set_members(frozenset(), frozenset(), T0 + HOUR)
    assert resume(pool, "c-1", T0 + HOUR).late
    assert pool.read(T0 + HOUR).overrun_seconds == 3000


def test_a_call_that_came_back_can_be_settled_in_its_absence_and_come_back_again() -> None:
    pool = a_pool_with_an_absent_call()
    for revision in (1, 2, 3):
        at_ms = T0 + revision * 10 * MINUTE
        assert resume(pool, "c-1", at_ms).call.revision == revision
        settled = settled_in_absence(pool, "c-1", at_ms + MINUTE)
        assert (settled.revision, settled.billed_seconds) == (revision + 1, revision * 600)
        assert pool.read(at_ms + MINUTE).used_seconds == revision * 600
    assert [each.revision for each in pool.reopened] == [1, 2, 3]


def test_a_call_may_come_back_for_some_hours_after_it_was_last_known_alive() -> None:
    """R15: 12 of them, counted in billing time."""
    pool = a_pool_with_an_absent_call()
    assert pool.state("c-1", LOST_MS + 12 * HOUR) is CallState.SETTLED_IN_ABSENCE
    assert resume(pool, "c-1", LOST_MS + 12 * HOUR).late

    pool = a_pool_with_an_absent_call()
    before = pool.read(LOST_MS + 12 * HOUR + 1)
    with pytest.raises(CallIdUsed):
        resume(pool, "c-1", LOST_MS + 12 * HOUR + 1)
    assert pool.state("c-1", LOST_MS + 12 * HOUR + 1) is CallState.ENDED
    assert pool.read(LOST_MS + 12 * HOUR + 1) == before


def test_a_call_that_hung_up_does_not_come_back() -> None:
    """R17."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0 + MINUTE)
    with pytest.raises(CallIdUsed):
        resume(pool, "c-1", T0 + MINUTE)


def test_a_start_does_not_bring_a_call_back() -> None:
    """R9."""
    pool = a_pool_with_an_absent_call()
    with pytest.raises(CallIdUsed):
        admit(pool, "c-1", T0 + 4 * MINUTE, connection=6)


def test_an_answer_of_a_call_that_is_absent_changes_nothing() -> None:
    pool = a_pool_with_an_absent_call()
    before = pool.read(T0 + 4 * MINUTE)
    answered(pool, "c-1", T0 + 4 * MINUTE)
    assert pool.read(T0 + 4 * MINUTE) == before


def test_another_devices_call_and_none_at_all_are_unknown() -> None:
    pool = a_pool_with_an_absent_call()
    admit(pool, "c-2", T0 + 4 * MINUTE)
    for call_id in ("c-1", "c-2"):
        with pytest.raises(CallUnknown):
            resume(pool, call_id, T0 + 4 * MINUTE, device=BOB)
    with pytest.raises(CallUnknown):
        resume(pool, "c-3", T0 + 4 * MINUTE)
    admit(pool, "c-3", T0 + 4 * MINUTE)
    assert resume(pool, "c-1", T0 + 4 * MINUTE, device=None).late


def test_a_call_whose_start_was_overtaken_by_its_end_is_not_resumed() -> None:
    """R17."""
    pool = a_pool()
    with pytest.raises(CallUnknown):
        end(pool, "c-1", T0)
    with pytest.raises(CallIdUsed):
        resume(pool, "c-1", T0 + MINUTE)
    with pytest.raises(CallUnknown):
        resume(pool, "c-1", T0 + MINUTE + 1)


def test_a_call_that_comes_back_in_another_cycle_bills_to_its_own() -> None:
    """R15, R20: the running pool is left alone."""
    pool = a_pool_with_an_absent_call(CYCLE_END - 5 * MINUTE)
    answer = resume(pool, "c-1", CYCLE_END + MINUTE)
    assert (answer.late, answer.call.counts, answer.call.cycle_start_ms) == (True, False, T0)
    view = pool.read(CYCLE_END + MINUTE)
    assert (view.settled_seconds, view.used_seconds, view.held_seconds) == (0, 0, 0)
    end(pool, "c-1", CYCLE_END + MINUTE)
    assert (pool.records[-1].billed_seconds, pool.records[-1].cycle_start_ms) == (360, T0)
    assert pool.read(CYCLE_END + MINUTE).settled_seconds == 0


def test_an_emergency_that_comes_back_stays_free() -> None:
    """R30."""
    pool = a_pool()
    emergency(pool, "c-1", T0, "f-1")
    settled_in_absence(pool, "c-1", T0 + MINUTE)
    assert resume(pool, "c-1", T0 + HOUR).call.emergency
    assert pool.read(T0 + HOUR).used_seconds == 0
    assert end(pool, "c-1", T0 + HOUR).billed_seconds == 0


def test_a_call_that_comes_back_passes_thresholds_and_rearms_none() -> None:
    """R29."""
    pool = a_pool_with_an_absent_call()
    assert pool.read(T0 + 7 * MINUTE).thresholds == ()
    resume(pool, "c-1", T0 + 7 * MINUTE)
    (half,) = pool.read(T0 + 7 * MINUTE).thresholds
    assert (half.percent, half.at_ms) == (50, T0 + 7 * MINUTE)


# The end of a call that was settled in its absence (R16, R17)


@pytest.mark.parametrize(
    ("ago_ms", "ended_ms"), [(0, 10 * MINUTE), (3 * MINUTE, 7 * MINUTE), (HOUR, 2 * MINUTE)]
)
def test_a_clients_first_end_of_an_absent_call_is_a_late_return_and_an_end_in_one(
    ago_ms: int, ended_ms: int
) -> None:
    """R17: its moment is between the end that the call was given and now."""
    pool = a_pool_with_an_absent_call()
    settled = end(pool, "c-1", T0 + 10 * MINUTE, ago_ms=ago_ms, connection=5)
    assert (settled.ended_at_ms, settled.ended_by) == (T0 + ended_ms, "hangup")
    assert (settled.billed_seconds, settled.revision, settled.replayed) == (ended_ms // SECOND, 2, False)
    assert pool.read(T0 + 10 * MINUTE).used_seconds == ended_ms // SECOND
    assert pool.reopened == []

    again = end(pool, "c-1", T0 + 20 * MINUTE)
    assert again == replace(settled, replayed=True)
    assert len(pool.records) == 2
    with pytest.raises(CallIdUsed):
        resume(pool, "c-1", T0 + 20 * MINUTE)


def test_after_the_late_hours_an_end_gets_the_settlement_already_made() -> None:
    """R17."""
    pool = a_pool_with_an_absent_call()
    settled = end(pool, "c-1", LOST_MS + 12 * HOUR + 1)
    assert (settled.revision, settled.ended_by, settled.replayed) == (1, "connection_lost", True)
    assert len(pool.records) == 1


def test_a_late_end_bills_by_the_policy_of_now_and_passes_no_threshold_that_it_did_not_reach() -> None:
    """R29: between its return and its end no time passes."""
    pool = a_pool_with_an_absent_call()
    pool.set_policy(Policy(increment_seconds=60), T0 + HOUR)
    settled = end(pool, "c-1", T0 + HOUR, ago_ms=57 * MINUTE - SECOND)
    assert (settled.billed_seconds, pool.records[-1].policy) == (240, Policy(increment_seconds=60))
    assert pool.read(T0 + HOUR).thresholds == ()


def test_a_late_end_in_another_cycle_bills_to_its_own() -> None:
    """R20."""
    pool = a_pool_with_an_absent_call(CYCLE_END - 5 * MINUTE)
    assert end(pool, "c-1", CYCLE_END + MINUTE).billed_seconds == 360
    assert pool.read(CYCLE_END + MINUTE).settled_seconds == 0


# What the engine has forgotten or lost (R17, R28)


def a_rebuilt_pool(other: PoolModel, at_ms: int) -> PoolModel:
    """Return a pool made anew from the records of another one."""
    return a_pool(
        now_ms=at_ms,
        settled_seconds=sum(
            record.billed_seconds for record in other.records if record.cycle_start_ms == other.cycle.start_ms
        ),
    )


def test_a_record_that_was_found_comes_back_as_if_the_pool_had_it() -> None:
    """R15, R28."""
    other = a_pool_with_an_absent_call()
    at_ms = T0 + 10 * MINUTE
    pool = a_rebuilt_pool(other, at_ms)
    answer = resume(pool, "c-1", at_ms, 7, found=other.records[0])
    assert answer == resume(other, "c-1", at_ms, 7)
    assert pool.reopened == other.reopened
    assert pool.read(at_ms).settled_seconds == 0
    assert end(pool, "c-1", at_ms, connection=7) == end(other, "c-1", at_ms, connection=7)
    assert pool.records == other.records[1:]


def test_what_was_found_and_may_not_come_back_changes_nothing() -> None:
    other = a_pool_with_an_absent_call()
    found, at_ms = other.records[0], T0 + 10 * MINUTE
    pool = a_rebuilt_pool(other, at_ms)
    before = pool.read(at_ms)
    with pytest.raises(CallIdUsed):
        resume(pool, "c-1", at_ms, found=replace(found, ended_by="hangup"))
    with pytest.raises(CallUnknown):
        resume(pool, "c-1", at_ms, device=BOB, found=found)
    with pytest.raises(CallUnknown):
        end(pool, "c-1", at_ms, device=BOB, found=found)
    assert end(pool, "c-1", at_ms, found=replace(found, ended_by="hangup")).replayed
    assert pool.read(at_ms) == before
    assert (pool.records, pool.reopened) == ([], [])


def test_the_first_end_of_an_absent_call_that_was_found_is_billed_anew() -> None:
    """R17."""
    other = a_pool_with_an_absent_call()
    at_ms = T0 + 10 * MINUTE
    pool = a_rebuilt_pool(other, at_ms)
    with pytest.raises(CallUnknown):
        end(pool, "c-1", at_ms)
    settled = end(pool, "c-1", at_ms, ago_ms=MINUTE, found=other.records[0])
    assert (settled.billed_seconds, settled.revision, settled.replayed) == (540, 2, False)
    assert pool.read(at_ms).used_seconds == 540
    assert end(pool, "c-1", at_ms, found=other.records[0]) == replace(settled, replayed=True)


def a_receipt(**changes: object) -> CallInProgress:
    """Return what is needed to make a call of Ana's again."""
    call = CallInProgress(ACCOUNT, "c-1", *ANA, None, TO, T0 + MINUTE, None, T0, emergency=False, counts=True)
    return replace(call, **changes)  # type: ignore[arg-type]


def test_a_call_that_the_engine_lost_is_made_again_unchecked() -> None:
    """R28."""
    pool = a_pool(None, status="suspended")
    answer = resume(pool, "c-1", T0 + 5 * MINUTE, 3, found=a_receipt())
    assert answer == Resumed(a_receipt(), late=False)
    view = pool.read(T0 + 5 * MINUTE)
    assert (view.calls, view.used_seconds) == ((a_receipt(),), 240)
    with pytest.raises(CallIdConflict):
        end(pool, "c-1", T0 + 5 * MINUTE, connection=2)
    assert resume(pool, "c-1", T0 + 5 * MINUTE, 3, found=a_receipt()) == answer
    assert pool.read(T0 + 5 * MINUTE) == view


def test_a_call_that_the_engine_lost_is_made_again_after_its_end_was_not_known() -> None:
    """R28. The end comes first, as the device does not know that its call was lost."""
    pool = a_pool()
    with pytest.raises(CallUnknown):
        end(pool, "c-1", T0 + 5 * MINUTE)
    resume(pool, "c-1", T0 + 5 * MINUTE, 3, found=a_receipt())
    assert not end(pool, "c-1", T0 + 5 * MINUTE).replayed


def test_a_call_made_again_keeps_its_revision_its_answer_and_its_flags() -> None:
    pool = a_pool()
    receipt = a_receipt(answered_at_ms=T0 + 2 * MINUTE, revision=4, admitted_offline=True)
    assert resume(pool, "c-1", T0 + 5 * MINUTE, found=receipt).call == receipt
    assert end(pool, "c-1", T0 + 6 * MINUTE).revision == 5
    assert pool.records[0].admitted_offline


def test_a_call_is_made_again_as_admitted_by_now_and_in_the_cycle_it_was_admitted_in() -> None:
    """R20."""
    pool = a_pool()
    ahead = a_receipt(admitted_at_ms=T0 + HOUR, answered_at_ms=T0 + 2 * HOUR, cycle_start_ms=0)
    assert resume(pool, "c-1", T0 + MINUTE, found=ahead).call == a_receipt(answered_at_ms=T0 + MINUTE)
    older = a_receipt(call_id="c-2", admitted_at_ms=T0 - MINUTE, cycle_start_ms=T0 - 30 * 24 * HOUR)
    answer = resume(pool, "c-2", T0 + MINUTE, found=older)
    assert answer.call == replace(older, counts=False)
    assert pool.read(T0 + 2 * MINUTE).used_seconds == 60


def test_an_emergency_made_again_counts_nowhere() -> None:
    """R30."""
    pool = a_pool()
    assert not resume(pool, "c-1", T0 + HOUR, found=a_receipt(emergency=True)).call.counts
    assert pool.read(T0 + HOUR).used_seconds == 0


def test_another_devices_receipt_makes_no_call() -> None:
    pool = a_pool()
    with pytest.raises(CallUnknown):
        resume(pool, "c-1", T0 + MINUTE, device=BOB, found=a_receipt())
    assert pool.read(T0 + MINUTE).calls == ()


def test_a_receipt_makes_no_call_again_that_is_known_to_have_ended() -> None:
    """R17."""
    pool = a_pool()
    admit(pool, "c-1", T0 + MINUTE)
    end(pool, "c-1", T0 + 2 * MINUTE)
    with pytest.raises(CallIdUsed):
        resume(pool, "c-1", T0 + 2 * MINUTE, found=a_receipt())


def test_a_call_that_was_let_through_without_the_engine_after_it_had_ended_there_is_no_second_one() -> None:
    """R26: start and end were carried out together, and both answers were late."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0)
    told = a_receipt(admitted_at_ms=T0 + UNHEARD_MS - 1, admitted_offline=True)
    with pytest.raises(CallIdUsed):
        resume(pool, "c-1", T0 + MINUTE, found=told, vouched=False)
    assert (pool.read(T0 + MINUTE).calls, len(pool.records)) == ((), 1)
    elsewhere = replace(told, to="+14155550199")
    assert resume(pool, "c-1", T0 + MINUTE, found=elsewhere, vouched=False).call == elsewhere
    assert end(pool, "c-1", T0 + MINUTE).admitted_at_ms == told.admitted_at_ms


def test_an_id_that_was_given_again_long_after_is_another_call() -> None:
    """R9: the gateway that let it through could not know that."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0)
    told = a_receipt(admitted_at_ms=T0 + UNHEARD_MS, admitted_offline=True)
    assert resume(pool, "c-1", T0 + MINUTE, found=told, vouched=False).call == told


def test_a_call_made_again_ended_when_its_device_says() -> None:
    """R16: when it was last known alive was lost with it."""
    pool = a_pool()
    resume(pool, "c-1", T0 + 5 * MINUTE, 3, found=a_receipt())
    ended = end(pool, "c-1", T0 + 5 * MINUTE, ago_ms=2 * MINUTE, connection=3)
    assert ended.ended_at_ms == T0 + 3 * MINUTE


def test_nobody_vouches_for_a_call_made_again_but_who_made_it() -> None:
    """R14."""
    pool = a_pool()
    resume(pool, "c-1", T0 + 5 * MINUTE, 3, found=a_receipt())
    settled = settled_in_absence(pool, "c-1", T0 + 6 * MINUTE)
    assert (settled.ended_at_ms, settled.billed_seconds) == (T0 + 5 * MINUTE, 240)
