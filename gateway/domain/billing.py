"""What a call costs the pool: integer milliseconds in, integer seconds out (R1-R5, R7)."""

from __future__ import annotations

from gateway.domain.policy import Policy

MS_A_SECOND = 1000


def billed_seconds(duration_ms: int, policy: Policy) -> int:
    """Return what a call of `duration_ms` bills: nothing up to the free length (R1), else all of it (R2)."""
    if duration_ms <= policy.free_seconds * MS_A_SECOND:
        return 0
    # Rounded up in integers: -(-a // b) is a / b, upwards.
    return -(-duration_ms // (policy.increment_seconds * MS_A_SECOND)) * policy.increment_seconds


def duration_ms(policy: Policy, admitted_ms: int, answered_ms: int | None, end_ms: int) -> int:
    """Return how long a call was, or is at `end_ms` if it goes on: from admission, or from the answer (R3).

    Never negative; 0 for a call that was not answered where the policy counts from the answer.
    """
    if policy.count_from == "admission":
        return max(0, end_ms - admitted_ms)
    return 0 if answered_ms is None else max(0, end_ms - answered_ms)


def held_seconds(billed: int, policy: Policy) -> int:
    """Return what a call in progress that `billed` so much so far holds of the pool (R7)."""
    return max(policy.hold_seconds, billed)


def remaining_seconds(allocated: int, used: int) -> int:
    """Return what is left of the allocation (R5)."""
    return max(0, allocated - used)


def overrun_seconds(allocated: int, used: int) -> int:
    """Return what was used beyond the allocation (R5)."""
    return max(0, used - allocated)
