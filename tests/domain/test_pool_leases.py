"""Who vouches for a call, and what becomes of one that nobody vouches for: R9, R12-R14, R16, R30."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.domain.answers import NotDue, Noted, Resumed, Settled
from gateway.domain.asks import Reap, Start
from gateway.domain.errors import CallIdConflict
from gateway.domain.leases import Renewed
from gateway.domain.pool import PoolModel
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
    emergency,
    end,
    reap,
    resume,
    settled_in_absence,
)

LEASE = 15 * SECOND
GRACE = 30 * SECOND
OLD, OWNER, NEW = 4, 5, 6


def a_pool_with_a_call(connection: int = OWNER) -> PoolModel:
    """Return a pool in which a connection started `c-1` at `T0`."""
    pool = a_pool(lease_ms=LEASE, grace_ms=GRACE)
    admit(pool, "c-1", T0, connection=connection)
    return pool


# When nobody vouches (R13, R14)


def test_a_call_is_settled_only_once_its_lease_and_the_grace_are_over() -> None:
    """R14: exactly once, as of when it was last known alive."""
    pool = a_pool_with_a_call()
    assert reap(pool, "c-1", T0 + LEASE + GRACE - 1) == NotDue("c-1")
    settled = settled_in_absence(pool, "c-1", T0 + LEASE + GRACE)
    assert (settled.ended_at_ms, settled.ended_by, settled.revision) == (T0, "lease_expired", 1)
    assert (settled.billed_seconds, settled.replayed) == (0, False)
    assert reap(pool, "c-1", T0 + HOUR) == NotDue("c-1")
    assert len(pool.records) == 1


def test_what_nobody_knows_is_not_due() -> None:
    pool = a_pool_with_a_call()
    end(pool, "c-1", T0 + SECOND)
    assert reap(pool, "c-1", T0 + HOUR) == NotDue("c-1")
    assert reap(pool, "c-2", T0 + HOUR) == NotDue("c-2")


def test_a_renewed_call_lives_another_lease_and_is_billed_until_its_device_was_last_heard() -> None:
    """R12."""
    pool = a_pool_with_a_call()
    for at_ms in range(T0, T0 + 10 * MINUTE, 5 * SECOND):
        assert pool.renew("c-1", at_ms, connection=OWNER, heard_ago_ms=2 * SECOND) is Renewed.RENEWED
        assert reap(pool, "c-1", at_ms) == NotDue("c-1")
    last_ms = T0 + 10 * MINUTE - 5 * SECOND
    assert reap(pool, "c-1", last_ms + LEASE + GRACE - 1) == NotDue("c-1")
    settled = settled_in_absence(pool, "c-1", last_ms + LEASE + GRACE)
    assert (settled.ended_at_ms, settled.billed_seconds) == (last_ms - 2 * SECOND, 593)


def test_last_known_alive_never_goes_back() -> None:
    pool = a_pool_with_a_call()
    pool.renew("c-1", T0 + 10 * SECOND, connection=OWNER, heard_ago_ms=SECOND)
    pool.renew("c-1", T0 + 12 * SECOND, connection=OWNER, heard_ago_ms=8 * SECOND)
    assert settled_in_absence(pool, "c-1", T0 + MINUTE).ended_at_ms == T0 + 9 * SECOND


def test_a_lost_connection_begins_the_grace_at_once_and_the_call_ends_when_it_was_last_heard() -> None:
    """R13."""
    pool = a_pool_with_a_call()
    lost_ms = T0 + 40 * SECOND
    assert pool.renew("c-1", lost_ms, connection=OWNER, heard_ago_ms=SECOND, lost=True) is Renewed.RENEWED
    assert reap(pool, "c-1", lost_ms + GRACE - 1) == NotDue("c-1")
    settled = settled_in_absence(pool, "c-1", lost_ms + GRACE)
    assert (settled.ended_at_ms, settled.ended_by) == (T0 + 39 * SECOND, "connection_lost")


def test_a_loss_told_twice_is_dated_by_what_was_heard_last() -> None:
    pool = a_pool_with_a_call()
    pool.renew("c-1", T0 + 10 * SECOND, connection=OWNER, lost=True)
    pool.renew("c-1", T0 + 11 * SECOND, connection=OWNER, heard_ago_ms=5 * SECOND, lost=True)
    assert settled_in_absence(pool, "c-1", T0 + MINUTE).ended_at_ms == T0 + 10 * SECOND


def test_a_call_that_is_resumed_within_the_grace_goes_on_as_if_nothing_happened() -> None:
    """R13."""
    pool = a_pool_with_a_call()
    pool.renew("c-1", T0 + 10 * SECOND, connection=OWNER, lost=True)
    version = pool.read(T0 + 35 * SECOND).version
    answer = resume(pool, "c-1", T0 + 35 * SECOND, NEW)
    assert answer == Resumed(pool.read(T0 + 35 * SECOND).calls[0], late=False)
    assert reap(pool, "c-1", T0 + 35 * SECOND + LEASE + GRACE - 1) == NotDue("c-1")
    assert pool.read(T0 + 35 * SECOND).version == version
    assert end(pool, "c-1", T0 + 90 * SECOND, connection=NEW).billed_seconds == 90


def test_nothing_is_reaped_before_gateways_have_had_a_lease_and_a_grace_to_renew_in() -> None:
    """R14: an engine that was away, or stopped, reaps nobody."""
    pool = a_pool_with_a_call()
    back_ms = T0 + HOUR
    for at_ms in (back_ms, back_ms + LEASE + GRACE - 1):
        assert reap(pool, "c-1", at_ms, steady_since_ms=back_ms) == NotDue("c-1")
    assert reap(pool, "c-1", back_ms + LEASE + GRACE, steady_since_ms=back_ms) != NotDue("c-1")


def test_an_answer_is_a_sign_of_life() -> None:
    pool = a_pool_with_a_call()
    answered(pool, "c-1", T0 + 10 * SECOND, connection=OWNER)
    assert settled_in_absence(pool, "c-1", T0 + MINUTE).ended_at_ms == T0 + 10 * SECOND


def test_an_emergency_that_nobody_vouches_for_is_settled_too_and_is_free() -> None:
    """R30."""
    pool = a_pool(lease_ms=LEASE, grace_ms=GRACE)
    emergency(pool, "c-1", T0, "f-1")
    pool.renew("c-1", T0 + MINUTE)
    settled = settled_in_absence(pool, "c-1", T0 + HOUR)
    assert (settled.duration_ms, settled.billed_seconds, settled.emergency) == (MINUTE, 0, True)


def test_renewals_change_no_version() -> None:
    pool = a_pool_with_a_call()
    version = pool.read(T0).version
    pool.renew("c-1", T0 + SECOND, connection=NEW)
    pool.renew("c-1", T0 + SECOND, connection=NEW, lost=True)
    pool.renew("c-1", T0 + SECOND)
    assert pool.read(T0 + SECOND).version == version


def test_a_renewal_tells_what_it_could_not_renew() -> None:
    pool = a_pool_with_a_call()
    admit(pool, "c-2", T0, connection=OWNER)
    admit(pool, "c-3", T0, connection=OWNER)
    end(pool, "c-2", T0 + SECOND)
    settled_in_absence(pool, "c-3", T0 + MINUTE)
    at_ms = T0 + MINUTE
    assert pool.renew("c-1", at_ms, connection=OWNER, device=BOB) is Renewed.UNKNOWN
    assert pool.renew("c-1", at_ms, connection=OWNER, device=ANA) is Renewed.RENEWED
    assert pool.renew("c-2", at_ms, connection=OWNER) is Renewed.ENDED
    assert pool.renew("c-3", at_ms, connection=OWNER) is Renewed.ABSENT
    assert pool.renew("c-3", T0 + 12 * HOUR, connection=OWNER) is Renewed.ABSENT
    assert pool.renew("c-3", T0 + 12 * HOUR + 1, connection=OWNER) is Renewed.ENDED
    assert pool.renew("c-3", T0 + 49 * HOUR, connection=OWNER) is Renewed.UNKNOWN
    assert pool.renew("c-4", at_ms, connection=OWNER) is Renewed.UNKNOWN


# Whose call it is (R9, R12)


def test_the_words_of_an_older_connection_are_refused() -> None:
    pool = a_pool_with_a_call()
    resume(pool, "c-1", T0 + SECOND, NEW)
    at_ms = T0 + 2 * SECOND
    before = pool.read(at_ms)
    with pytest.raises(CallIdConflict):
        answered(pool, "c-1", at_ms, connection=OWNER)
    with pytest.raises(CallIdConflict):
        end(pool, "c-1", at_ms, connection=OWNER)
    with pytest.raises(CallIdConflict):
        resume(pool, "c-1", at_ms, OWNER)
    with pytest.raises(CallIdConflict):
        admit(pool, "c-1", at_ms, connection=OWNER)
    assert pool.renew("c-1", at_ms, connection=OWNER) is Renewed.NEWER_OWNER
    assert pool.renew("c-1", at_ms, connection=OWNER, lost=True) is Renewed.NEWER_OWNER
    assert pool.read(at_ms) == before
    assert reap(pool, "c-1", T0 + SECOND + LEASE + GRACE - 1) == NotDue("c-1")
    assert end(pool, "c-1", at_ms, connection=NEW).ended_by == "hangup"


def test_an_older_connection_has_no_say_after_the_call_was_settled_in_its_absence_either() -> None:
    pool = a_pool_with_a_call()
    settled_in_absence(pool, "c-1", T0 + MINUTE)
    for attempt in (answered, end):
        with pytest.raises(CallIdConflict):
            attempt(pool, "c-1", T0 + MINUTE, connection=OLD)
    with pytest.raises(CallIdConflict):
        resume(pool, "c-1", T0 + MINUTE, OLD)
    assert answered(pool, "c-1", T0 + MINUTE, connection=OWNER) == Noted("c-1")


def test_of_a_call_that_hung_up_every_connection_is_told_the_settlement() -> None:
    """R17."""
    pool = a_pool_with_a_call()
    end(pool, "c-1", T0 + MINUTE, connection=OWNER)
    assert answered(pool, "c-1", T0 + MINUTE, connection=OLD) == Noted("c-1")
    assert end(pool, "c-1", T0 + MINUTE, connection=OLD).replayed


def test_words_over_http_are_always_taken() -> None:
    pool = a_pool_with_a_call()
    assert answered(pool, "c-1", T0 + SECOND) == Noted("c-1")
    assert not end(pool, "c-1", T0 + MINUTE).replayed


def test_a_start_repeated_over_another_connection_takes_the_call_over() -> None:
    """R9."""
    pool = a_pool_with_a_call()
    assert admit(pool, "c-1", T0 + 40 * SECOND, connection=NEW).replayed
    with pytest.raises(CallIdConflict):
        end(pool, "c-1", T0 + 40 * SECOND, connection=OWNER)
    assert settled_in_absence(pool, "c-1", T0 + HOUR).ended_at_ms == T0 + 40 * SECOND


@pytest.mark.parametrize("how", ["start", "resume", "keepalive"])
def test_over_http_a_call_is_vouched_for_only_while_no_connection_does(how: str) -> None:
    """R12."""

    def vouch(pool: PoolModel, at_ms: int) -> None:
        if how == "start":
            assert admit(pool, "c-1", at_ms).replayed
        elif how == "resume":
            assert not resume(pool, "c-1", at_ms).late
        else:
            assert pool.renew("c-1", at_ms) is Renewed.RENEWED

    pool = a_pool_with_a_call()
    vouch(pool, T0 + 10 * SECOND)
    assert settled_in_absence(pool, "c-1", T0 + LEASE + GRACE).ended_at_ms == T0

    for connection, is_lost in ((OWNER, True), (0, False)):
        pool = a_pool_with_a_call(connection)
        if is_lost:
            pool.renew("c-1", T0 + SECOND, connection=connection, lost=True)
        vouch(pool, T0 + 10 * SECOND)
        assert reap(pool, "c-1", T0 + 10 * SECOND + LEASE + GRACE - 1) == NotDue("c-1")
        settled = settled_in_absence(pool, "c-1", T0 + 10 * SECOND + LEASE + GRACE)
        assert (settled.ended_at_ms, settled.ended_by) == (T0 + 10 * SECOND, "lease_expired")


def test_a_connection_takes_over_what_keepalives_vouched_for() -> None:
    pool = a_pool_with_a_call(0)
    resume(pool, "c-1", T0 + SECOND, OLD)
    with pytest.raises(CallIdConflict):
        end(pool, "c-1", T0 + SECOND, connection=OLD - 1)


def test_another_call_of_that_id_is_a_conflict_whatever_the_connection() -> None:
    """R9."""
    pool = a_pool_with_a_call()
    with pytest.raises(CallIdConflict):
        admit(pool, "c-1", T0, BOB, connection=NEW)
    assert not end(pool, "c-1", T0 + MINUTE, connection=OWNER).replayed


def test_nothing_refuses_an_emergency_but_an_older_connection_vouches_for_nothing() -> None:
    """R30."""
    pool = a_pool(lease_ms=LEASE, grace_ms=GRACE)
    fields: dict[str, Any] = {"to": "112", "emergency": True, "fresh_call_id": "f-1"}
    admit(pool, "c-1", T0, connection=OWNER, **fields)
    assert admit(pool, "c-1", T0 + 10 * SECOND, connection=OLD, **fields).replayed
    assert admit(pool, "c-1", T0 + 10 * SECOND, **fields).replayed
    assert settled_in_absence(pool, "c-1", T0 + LEASE + GRACE).ended_at_ms == T0

    admit(pool, "c-2", T0 + HOUR, connection=OWNER, **fields)
    assert admit(pool, "c-2", T0 + HOUR + SECOND, connection=NEW, **fields).replayed
    with pytest.raises(CallIdConflict):
        end(pool, "c-2", T0 + HOUR + SECOND, connection=OWNER)


# The end of a call that is vouched for (R16)


def test_an_end_is_not_before_the_call_was_last_known_alive() -> None:
    """R16."""
    pool = a_pool_with_a_call()
    pool.renew("c-1", T0 + 50 * SECOND, connection=OWNER, heard_ago_ms=SECOND)
    settled = end(pool, "c-1", T0 + MINUTE, ago_ms=30 * SECOND, connection=OWNER)
    assert settled.ended_at_ms == T0 + 49 * SECOND


def test_an_end_of_a_call_whose_connection_was_lost_is_between_then_and_now() -> None:
    """R16."""
    for ago_ms, ended_ms in ((0, 30_000), (15_000, 15_000), (HOUR, 9_000)):
        pool = a_pool_with_a_call()
        pool.renew("c-1", T0 + 10 * SECOND, connection=OWNER, heard_ago_ms=SECOND, lost=True)
        assert end(pool, "c-1", T0 + 30 * SECOND, ago_ms=ago_ms).ended_at_ms == T0 + ended_ms


# A simulated billing clock


def test_moving_a_simulated_clock_ends_no_call_and_bills_it_on() -> None:
    """What was alive before the clock was moved counts as alive as of where it was moved to."""
    pool = a_pool(lease_ms=LEASE, grace_ms=GRACE)
    set_clock(pool, T0)
    pool.start(Start(ACCOUNT, *ANA, "c-1", TO, connection=OWNER), T0, real_ms=1000)
    set_clock(pool, T0 + HOUR)
    assert pool.reap(Reap(ACCOUNT, "c-1"), T0 + HOUR, real_ms=2000) == NotDue("c-1")
    settled = pool.reap(Reap(ACCOUNT, "c-1"), T0 + HOUR, real_ms=1000 + LEASE + GRACE)
    assert isinstance(settled, Settled)
    assert (settled.ended_at_ms, settled.billed_seconds) == (T0 + HOUR, 3600)


def test_a_call_whose_connection_was_lost_is_billed_no_further_when_a_simulated_clock_is_moved() -> None:
    pool = a_pool(lease_ms=LEASE, grace_ms=GRACE)
    set_clock(pool, T0)
    pool.start(Start(ACCOUNT, *ANA, "c-1", TO, connection=OWNER), T0, real_ms=1000)
    set_clock(pool, T0 + MINUTE)
    pool.renew("c-1", T0 + MINUTE, connection=OWNER, lost=True, real_ms=2000)
    set_clock(pool, T0 + HOUR)
    settled = pool.reap(Reap(ACCOUNT, "c-1"), T0 + HOUR, real_ms=2000 + GRACE, steady_since_ms=-HOUR)
    assert isinstance(settled, Settled)
    assert (settled.ended_at_ms, settled.billed_seconds) == (T0 + MINUTE, 60)


def set_clock(pool: PoolModel, at_ms: int) -> None:
    """Let the billing clock stand at an instant, whatever the real one shows."""
    pool.billing_at = lambda real_ms: at_ms
