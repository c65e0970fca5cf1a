"""Counting on by oneself: what a pool's live use is while nothing but time passes (R4, R5).

A pool says what was used at `at_ms`, and which calls were in progress. From then on only those calls' ages
change it, until something happens that a newer pool tells of.
"""

from __future__ import annotations

from gateway.client.resources import Pool, PoolCall
from gateway.domain import billing
from gateway.domain.cycles import parse_rfc3339
from gateway.domain.policy import Policy


class LiveUse:
    """A pool as it goes on from the moment it was read.

    Exact as long as all calls that count are among the 100 that a pool shows; with more, those not shown
    stay at what they had used.
    """

    def __init__(self, pool: Pool, heard_at_ms: int) -> None:
        """Take a pool, and when it was heard by the clock that `now_ms` is asked with later (real ms)."""
        self.pool = pool
        self._heard_at_ms = heard_at_ms
        self._cycle_end_ms = parse_rfc3339(pool.cycle.end)
        self._policy = Policy(
            pool.policy.free_seconds,
            pool.policy.increment_seconds,
            pool.policy.hold_seconds,
            pool.policy.count_from,
        )

    def now_ms(self, real_ms: int) -> int:
        """Return the billing time at an instant of the clock it was heard by; at most the cycle's end."""
        passed_ms = max(0, real_ms - self._heard_at_ms) * self.pool.clock_speed
        return max(self.pool.at_ms, min(self.pool.at_ms + passed_ms, self._cycle_end_ms))

    def used_seconds(self, at_ms: int) -> int:
        """Return what is used at a billing time (R4)."""
        grown = sum(
            self.billed_seconds(call, at_ms) - self.billed_seconds(call, self.pool.at_ms)
            for call in self.pool.calls
            if call.counts
        )
        return self.pool.used_seconds + grown

    def remaining_seconds(self, at_ms: int) -> int:
        """Return what is left at a billing time (R5)."""
        return billing.remaining_seconds(self.pool.allocated_seconds, self.used_seconds(at_ms))

    def overrun_seconds(self, at_ms: int) -> int:
        """Return what is used beyond the allocation at a billing time (R5)."""
        return billing.overrun_seconds(self.pool.allocated_seconds, self.used_seconds(at_ms))

    def billed_seconds(self, call: PoolCall, at_ms: int) -> int:
        """Return what a call would bill if it ended at a billing time (R1-R3); an emergency nothing (R30)."""
        if call.emergency:
            return 0
        length = billing.duration_ms(self._policy, call.admitted_at_ms, call.answered_at_ms, at_ms)
        return billing.billed_seconds(length, self._policy)
