"""What happens to a call in progress, and its end: R3-R5, R11, R16, R17, R26."""

from __future__ import annotations

import pytest

from gateway.domain.answers import Noted
from gateway.domain.calls import CallRecord
from gateway.domain.errors import CallUnknown
from gateway.domain.policy import Policy
from tests.support.pool_model import (
    ACCOUNT,
    ANA,
    BOB,
    HOUR,
    MINUTE,
    SECOND,
    T0,
    TO,
    a_pool,
    admit,
    answered,
    end,
)

FROM_ANSWER = Policy(count_from="answer")


def test_live_use_is_what_hanging_up_right_now_would_cost() -> None:
    """R4."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    for at_ms in (T0 + 30_000, T0 + 30_001, T0 + 31_000, T0 + 90_500):
        live = pool.read(at_ms).used_seconds
        other = a_pool()
        admit(other, "c-1", T0)
        assert live == end(other, "c-1", at_ms).billed_seconds == other.read(at_ms).used_seconds


def test_running_out_ends_no_call() -> None:
    """R5, R11."""
    pool = a_pool(1)
    admit(pool, "c-1", T0)
    view = pool.read(T0 + HOUR)
    assert (view.calls_in_progress, view.remaining_seconds, view.overrun_seconds) == (1, 0, 3540)


def test_a_call_of_a_removed_staff_member_of_a_suspended_account_goes_on_and_ends() -> None:
    """R11, R25."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    pool.set_members(frozenset(), frozenset(), T0 + SECOND)
    pool.set_status("suspended", T0 + SECOND)
    assert answered(pool, "c-1", T0 + 2 * SECOND) == Noted("c-1")
    assert end(pool, "c-1", T0 + MINUTE).billed_seconds == 60


# The answer (R3)


def test_an_answer_is_noted_and_the_first_one_stands() -> None:
    pool = a_pool()
    admit(pool, "c-1", T0)
    assert answered(pool, "c-1", T0 + 10 * SECOND, ago_ms=2 * SECOND) == Noted("c-1")
    answered(pool, "c-1", T0 + 20 * SECOND)
    assert pool.read(T0 + 20 * SECOND).calls[0].answered_at_ms == T0 + 8 * SECOND


@pytest.mark.parametrize(("ago_ms", "at_ms"), [(HOUR, T0), (-HOUR, T0 + 10 * SECOND)])
def test_an_answer_is_between_admission_and_now(ago_ms: int, at_ms: int) -> None:
    pool = a_pool()
    admit(pool, "c-1", T0)
    answered(pool, "c-1", T0 + 10 * SECOND, ago_ms=ago_ms)
    assert pool.read(T0 + 10 * SECOND).calls[0].answered_at_ms == at_ms


def test_an_answer_that_comes_after_the_end_changes_nothing() -> None:
    pool = a_pool()
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0 + MINUTE)
    before = (pool.read(T0 + MINUTE), list(pool.records))
    assert answered(pool, "c-1", T0 + MINUTE) == Noted("c-1")
    assert (pool.read(T0 + MINUTE), pool.records) == before


def test_counted_from_the_answer_an_unanswered_call_uses_nothing_and_holds() -> None:
    pool = a_pool(policy=FROM_ANSWER)
    admit(pool, "c-1", T0)
    view = pool.read(T0 + HOUR)
    assert (view.used_seconds, view.held_seconds) == (0, 60)
    answered(pool, "c-1", T0 + HOUR, ago_ms=2 * MINUTE)
    view = pool.read(T0 + HOUR)
    assert (view.used_seconds, view.held_seconds) == (120, 0)


def test_the_admin_may_report_and_end_for_any_device() -> None:
    pool = a_pool()
    admit(pool, "c-1", T0)
    assert answered(pool, "c-1", T0 + SECOND, device=None) == Noted("c-1")
    assert end(pool, "c-1", T0 + MINUTE, device=None).billed_seconds == 60


@pytest.mark.parametrize("device", [BOB, (ANA[0], "mobile"), (BOB[0], ANA[1])])
def test_another_devices_call_is_unknown(device: tuple[str, str]) -> None:
    pool = a_pool()
    admit(pool, "c-1", T0)
    with pytest.raises(CallUnknown):
        answered(pool, "c-1", T0 + SECOND, device)
    with pytest.raises(CallUnknown):
        end(pool, "c-1", T0 + SECOND, device)
    assert pool.read(T0 + SECOND).calls_in_progress == 1
    end(pool, "c-1", T0 + MINUTE)
    with pytest.raises(CallUnknown):
        answered(pool, "c-1", T0 + MINUTE, device)
    with pytest.raises(CallUnknown):
        end(pool, "c-1", T0 + MINUTE, device)


def test_a_call_never_heard_of_is_unknown_and_its_answer_blocks_no_start() -> None:
    pool = a_pool()
    with pytest.raises(CallUnknown):
        answered(pool, "c-1", T0)
    admit(pool, "c-1", T0)


# The end (R16, R17, R26)


def test_an_ended_call_leaves_one_record_with_all_there_is_to_know() -> None:
    """R26."""
    pool = a_pool()
    admit(pool, "c-1", T0, channel="main")
    answered(pool, "c-1", T0 + 8 * SECOND)
    end(pool, "c-1", T0 + 95 * SECOND, ago_ms=5 * SECOND)
    assert pool.records == [
        CallRecord(
            account=ACCOUNT,
            call_id="c-1",
            staff=ANA[0],
            device=ANA[1],
            channel="main",
            to=TO,
            admitted_at_ms=T0,
            answered_at_ms=T0 + 8 * SECOND,
            ended_at_ms=T0 + 90 * SECOND,
            settled_at_ms=T0 + 95 * SECOND,
            duration_ms=90_000,
            billed_seconds=90,
            counted=True,
            ended_by="hangup",
            emergency=False,
            cycle_start_ms=T0,
            revision=1,
            policy=Policy(),
        )
    ]


def test_a_call_that_hung_up_some_time_ago_gives_back_what_it_seemed_to_use() -> None:
    """R16: live use may drop."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    assert pool.read(T0 + 5 * MINUTE).used_seconds == 300
    assert end(pool, "c-1", T0 + 5 * MINUTE, ago_ms=4 * MINUTE).billed_seconds == 60
    assert pool.read(T0 + 5 * MINUTE).used_seconds == 60


@pytest.mark.parametrize(
    ("answer_ms", "ago_ms", "ended_ms"),
    [(None, HOUR, 0), (10_000, HOUR, 10_000), (10_000, 5_000, 55_000), (10_000, -HOUR, 60_000)],
)
def test_an_end_is_neither_before_its_answer_nor_after_now(
    answer_ms: int | None, ago_ms: int, ended_ms: int
) -> None:
    """R16."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    if answer_ms is not None:
        answered(pool, "c-1", T0 + answer_ms)
    assert end(pool, "c-1", T0 + MINUTE, ago_ms=ago_ms).ended_at_ms == T0 + ended_ms


def test_ending_twice_is_ending_once() -> None:
    """R17."""
    pool = a_pool()
    admit(pool, "c-1", T0)
    first = end(pool, "c-1", T0 + MINUTE)
    admit(pool, "c-2", T0 + MINUTE)
    again = end(pool, "c-1", T0 + 3 * MINUTE, ago_ms=MINUTE)
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.ended_at_ms, again.billed_seconds, again.revision) == (T0 + MINUTE, 60, 1)
    assert (first.remaining_seconds, again.remaining_seconds) == (540, 420)
    assert len(pool.records) == 1


def test_an_end_repeated_after_its_id_was_forgotten_finds_its_record() -> None:
    """R17."""
    pool = a_pool(call_id_memory_hours=1)
    admit(pool, "c-1", T0)
    end(pool, "c-1", T0 + MINUTE)
    again = end(pool, "c-1", T0 + 100 * HOUR)
    assert (again.replayed, again.billed_seconds) == (True, 60)


# The policy, and the clock


def test_another_policy_bills_calls_in_progress_and_leaves_what_is_settled() -> None:
    pool = a_pool()
    admit(pool, "c-1", T0)
    admit(pool, "c-2", T0)
    end(pool, "c-1", T0 + 61 * SECOND)
    by_the_minute = Policy(increment_seconds=60)
    pool.set_policy(by_the_minute, T0 + 61 * SECOND)
    assert pool.read(T0 + 61 * SECOND).used_seconds == 61 + 120
    end(pool, "c-2", T0 + 61 * SECOND)
    assert [(record.billed_seconds, record.policy) for record in pool.records] == [
        (61, Policy()),
        (120, by_the_minute),
    ]


def test_a_clock_behind_reads_as_the_latest_instant_used() -> None:
    pool = a_pool()
    pool.read(T0 + HOUR)
    assert admit(pool, "c-1", T0).admitted_at_ms == T0 + HOUR
    assert pool.read(T0).at_ms == T0 + HOUR


def test_the_version_grows_with_every_change_and_with_nothing_else() -> None:
    pool = a_pool()
    versions = [pool.read(T0).version]
    admit(pool, "c-1", T0)
    versions.append(pool.read(T0).version)
    answered(pool, "c-1", T0 + 1)
    versions.append(pool.read(T0 + 1).version)
    end(pool, "c-1", T0 + 2)
    versions.append(pool.read(T0 + 2).version)
    pool.set_status("suspended", T0 + 2)
    versions.append(pool.read(T0 + 2).version)
    assert versions == sorted(set(versions))
    assert versions[0] == T0

    answered(pool, "c-1", T0 + 3)
    end(pool, "c-1", T0 + 3)
    pool.set_status("suspended", T0 + 3)
    pool.set_policy(pool.policy, T0 + 3)
    pool.set_members(pool.staff, pool.channels, T0 + 3)
    pool.set_time_zone(pool.time_zone, T0 + 3)
    pool.withdraw_pending(T0 + 3)
    assert pool.plan is not None
    pool.change_plan(pool.plan, T0 + 3)
    assert pool.read(T0 + 3).version == versions[-1]
