"""What an account has and what of it is used: its plan, its cycle, and every sum made anew from all calls."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from datetime import date
from typing import Final

from gateway.domain.answers import MAX_CALLS_SHOWN, PoolView
from gateway.domain.asks import AccountStatus
from gateway.domain.billing import (
    billed_seconds,
    duration_ms,
    held_seconds,
    overrun_seconds,
    remaining_seconds,
)
from gateway.domain.calls import CallInProgress, CallRecord, CallReopened, CycleOpened, Threshold
from gateway.domain.cycles import cycle_after, cycle_at
from gateway.domain.plans import AppliesFrom, Plan, channels_limit, plan_change, seats_limit
from gateway.domain.policy import Policy

THRESHOLDS_PERCENT: Final = (50, 80, 100)
"""The percentages of the allocation at which notice is given (R29)."""


class PoolMinutes:
    """One account's minutes (R4, R5, R7, R18-R25, R29). What is said of its calls: `gateway.domain.pool`.

    `records`, `reopened` and `cycles` are what SQL was told so far, each in order.
    """

    def __init__(
        self,
        account: str,
        *,
        billing_date: date,
        time_zone: str,
        policy: Policy,
        now_ms: int,
        plan: Plan | None,
        pending_plan: Plan | None,
        status: AccountStatus,
        staff: frozenset[str],
        channels: frozenset[str],
        settled_seconds: int,
    ) -> None:
        """Make the pool at `now_ms`, in the cycle holding it, of which `settled_seconds` are used (R28)."""
        self.account = account
        self.billing_date = billing_date
        self.time_zone = time_zone
        self.policy = policy
        self.plan = plan
        self.pending_plan = pending_plan
        self.status: AccountStatus = status
        self.staff = staff
        self.channels = channels
        self.settled_seconds = settled_seconds
        self.cycle = cycle_at(billing_date, time_zone, now_ms)
        self.version = now_ms
        self.records: list[CallRecord] = []
        self.reopened: list[CallReopened] = []
        self.cycles: list[CycleOpened] = []
        self._latest_ms = now_ms
        self._calls: dict[str, CallInProgress] = {}
        self._passed_at_ms: dict[int, int] = {}
        self._announce_cycle()
        self._pass_thresholds(now_ms)

    # The account

    def change_plan(self, plan: Plan, now_ms: int) -> AppliesFrom:
        """Move to `plan` and say from when it holds (R21-R23). Raises SeatLimit or ChannelLimit."""
        now_ms = self._advance(now_ms)
        change = plan_change(
            self.plan, self.pending_plan, plan, seats_used=len(self.staff), channels_used=len(self.channels)
        )
        if (change.plan, change.pending) == (self.plan, self.pending_plan):
            return change.applies
        self.pending_plan = change.pending
        if change.plan != self.plan:
            self._put_in_force(change.plan, now_ms)
        self._changed(now_ms)
        return change.applies

    def withdraw_pending(self, now_ms: int) -> None:
        """Keep the plan in force beyond this cycle after all (R23)."""
        now_ms = self._advance(now_ms)
        if self.pending_plan is not None:
            self.pending_plan = None
            self._changed(now_ms)

    def set_status(self, status: AccountStatus, now_ms: int) -> None:
        """Suspend or restore the account; calls in progress go on (R8, R11)."""
        now_ms = self._advance(now_ms)
        if status != self.status:
            self.status = status
            self._changed(now_ms)

    def set_members(self, staff: frozenset[str], channels: frozenset[str], now_ms: int) -> None:
        """Say who may call, and by which channels; calls in progress of those removed go on (R11, R25)."""
        now_ms = self._advance(now_ms)
        if (staff, channels) != (self.staff, self.channels):
            self.staff, self.channels = staff, channels
            self._changed(now_ms)

    def set_policy(self, policy: Policy, now_ms: int) -> None:
        """Bill by another policy from now on, calls in progress included; what is settled stays."""
        now_ms = self._advance(now_ms)
        if policy != self.policy:
            self.policy = policy
            self._changed(now_ms)

    def set_time_zone(self, time_zone: str, now_ms: int) -> None:
        """Move the account to another time zone: the running cycle keeps its end (R18)."""
        now_ms = self._advance(now_ms)
        if time_zone != self.time_zone:
            self.time_zone = time_zone
            self._changed(now_ms)

    # Reading

    @property
    def allocated_seconds(self) -> int:
        """What the plan in force gives this cycle."""
        return self.plan.allocated_seconds if self.plan else 0

    def read(self, now_ms: int, clock_speed: int = 1) -> PoolView:
        """Return the pool as it is (R4, R5)."""
        now_ms = self._advance(now_ms)
        used = self._used(now_ms)
        newest_first = sorted(
            self._calls.values(), key=lambda call: (call.admitted_at_ms, call.call_id), reverse=True
        )
        return PoolView(
            account=self.account,
            version=self.version,
            at_ms=now_ms,
            clock_speed=clock_speed,
            plan=self.plan.plan if self.plan else None,
            pending_plan=self.pending_plan.plan if self.pending_plan else None,
            cycle=self.cycle,
            policy=self.policy,
            allocated_seconds=self.allocated_seconds,
            settled_seconds=self.settled_seconds,
            used_seconds=used,
            remaining_seconds=remaining_seconds(self.allocated_seconds, used),
            overrun_seconds=overrun_seconds(self.allocated_seconds, used),
            held_seconds=self._held(now_ms) - (used - self.settled_seconds),
            calls_in_progress=len(self._calls),
            calls_counting=sum(call.counts for call in self._calls.values()),
            calls=tuple(newest_first[:MAX_CALLS_SHOWN]),
            thresholds=tuple(Threshold(*each) for each in sorted(self._passed_at_ms.items())),
            empty_at_ms=self._empty_at_ms(now_ms),
            seats_used=len(self.staff),
            seats_limit=seats_limit(self.plan, self.pending_plan),
            channels_used=len(self.channels),
            channels_limit=channels_limit(self.plan, self.pending_plan),
            status=self.status,
        )

    # Sums over the calls in progress that belong to this cycle

    def _billed_so_far(self, now_ms: int) -> list[int]:
        return [
            billed_seconds(
                duration_ms(self.policy, call.admitted_at_ms, call.answered_at_ms, now_ms), self.policy
            )
            for call in self._calls.values()
            if call.counts
        ]

    def _used(self, now_ms: int) -> int:
        """R4: as if every call hung up right now."""
        return self.settled_seconds + sum(self._billed_so_far(now_ms))

    def _held(self, now_ms: int) -> int:
        """R7."""
        return sum(held_seconds(billed, self.policy) for billed in self._billed_so_far(now_ms))

    def _remaining(self, now_ms: int) -> int:
        return remaining_seconds(self.allocated_seconds, self._used(now_ms))

    # Time

    def _advance(self, now_ms: int) -> int:
        """Catch up with what came due until now, in order, and return now."""
        now_ms = max(now_ms, self._latest_ms)
        while now_ms >= self.cycle.end_ms:
            self._pass_thresholds(self.cycle.end_ms - 1)
            self._open_next_cycle()
        self._pass_thresholds(now_ms)
        self._latest_ms = now_ms
        return now_ms

    def _open_next_cycle(self) -> None:
        """R19, R20, R23: nothing carries over, calls stay behind, the pending plan holds."""
        self.cycle = cycle_after(self.cycle, self.billing_date, self.time_zone)
        self._latest_ms = self.cycle.start_ms
        if self.pending_plan is not None:
            self.plan, self.pending_plan = self.pending_plan, None
        self.settled_seconds = 0
        self._passed_at_ms = {}
        self._calls = {call_id: replace(call, counts=False) for call_id, call in self._calls.items()}
        self._announce_cycle()
        self.version += 1

    def _put_in_force(self, plan: Plan | None, now_ms: int) -> None:
        """R21, R22: what is used stays. R29: thresholds that use is below again may be passed again."""
        before = self.allocated_seconds
        self.plan = plan
        if self.allocated_seconds != before:
            used = self._used(now_ms)
            self._passed_at_ms = {
                percent: at_ms
                for percent, at_ms in self._passed_at_ms.items()
                if used * 100 >= self.allocated_seconds * percent
            }
        self._announce_cycle()

    def _announce_cycle(self) -> None:
        self.cycles.append(
            CycleOpened(
                account=self.account,
                cycle_start_ms=self.cycle.start_ms,
                cycle_end_ms=self.cycle.end_ms,
                cycle_index=self.cycle.index,
                plan=self.plan.plan if self.plan else None,
                allocated_seconds=self.allocated_seconds,
            )
        )

    def _changed(self, now_ms: int) -> None:
        self.version += 1
        self._pass_thresholds(now_ms)

    def _pass_thresholds(self, until_ms: int) -> None:
        """R29: note the thresholds that live use reached since the latest instant, each at its own."""
        if self.allocated_seconds == 0:
            return
        for percent in THRESHOLDS_PERCENT:
            if percent not in self._passed_at_ms:
                at_ms = self._reached_at_ms(percent, self._latest_ms, until_ms)
                if at_ms is not None:
                    self._passed_at_ms[percent] = at_ms
                    self.version += 1

    def _empty_at_ms(self, now_ms: int) -> int | None:
        if self.allocated_seconds == 0:
            return None
        if self._used(now_ms) >= self.allocated_seconds:
            return self._passed_at_ms[100]
        return self._reached_at_ms(100, now_ms, self.cycle.end_ms - 1)

    def _reached_at_ms(self, percent: int, from_ms: int, until_ms: int) -> int | None:
        """Return the first instant of the span at which live use is that part of the allocation, or None.

        Nothing else happens within the span, so live use only rises there.
        """

        def reached(at_ms: int) -> bool:
            return self._used(at_ms) * 100 >= self.allocated_seconds * percent

        if not reached(until_ms):
            return None
        return range(from_ms, until_ms + 1)[bisect_left(range(from_ms, until_ms), True, key=reached)]
