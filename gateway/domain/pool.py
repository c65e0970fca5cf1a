"""The live pool as a plain model: a dict of calls, and every sum made anew from all of them.

It is what the rulebook says, to be read beside it and compared with: the live pool in Redis, which is fast
instead, must answer the same. One model is one account. Nothing happens by itself: what has come due
meanwhile (a reset, a threshold) is caught up with at the beginning of every operation, at the instant at
which it was due.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from datetime import date
from typing import Final

from gateway.domain.admission import Facts, RefusalReason, decide
from gateway.domain.answers import MAX_CALLS_SHOWN, Admitted, Noted, PoolView, Refused, Settled, Threshold
from gateway.domain.asks import AccountStatus, Answered, Asker, End, Start
from gateway.domain.billing import (
    billed_seconds,
    duration_ms,
    held_seconds,
    overrun_seconds,
    remaining_seconds,
)
from gateway.domain.calls import OVERTAKEN_MS, CallInProgress, CallRecord, CallState, CycleOpened
from gateway.domain.cycles import cycle_after, cycle_at
from gateway.domain.errors import CallIdConflict, CallIdUsed, CallUnknown
from gateway.domain.plans import AppliesFrom, Plan, channels_limit, plan_change, seats_limit
from gateway.domain.policy import Policy

THRESHOLDS_PERCENT: Final = (50, 80, 100)
"""The percentages of the allocation at which notice is given (R29)."""

_MS_AN_HOUR: Final = 3_600_000


class PoolModel:
    """One account's pool (R4-R10, R16-R25, R29, R30).

    Every operation takes `now_ms`; one behind the latest instant used reads as that instant. `records` and
    `cycles` are what SQL has got so far, in order; an end is answered from there if need be (R17). Of leases
    and late return (R12-R15) the model knows nothing.
    """

    def __init__(
        self,
        account: str,
        *,
        billing_date: date,
        time_zone: str,
        policy: Policy,
        now_ms: int,
        plan: Plan | None = None,
        pending_plan: Plan | None = None,
        status: AccountStatus = "active",
        staff: frozenset[str] = frozenset(),
        channels: frozenset[str] = frozenset(),
        settled_seconds: int = 0,
        call_id_memory_hours: int = 48,
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
        self.cycles: list[CycleOpened] = []
        self._memory_ms = call_id_memory_hours * _MS_AN_HOUR
        self._latest_ms = now_ms
        self._calls: dict[str, CallInProgress] = {}
        self._ended: dict[str, CallRecord] = {}
        self._overtaken_at_ms: dict[str, int] = {}
        self._passed_at_ms: dict[int, int] = {}
        self._announce_cycle()
        self._pass_thresholds(now_ms)

    # Calls

    def start(self, ask: Start, now_ms: int) -> Admitted | Refused:
        """Decide a call's admission (R7-R10, R30).

        Raises CallIdConflict if another call of that id is in progress, CallIdUsed if one has ended (R9) or
        its end came first (R17); an emergency gets neither.
        """
        now_ms = self._advance(now_ms)
        if ask.emergency:
            return self._start_emergency(ask, now_ms)
        match self.state(ask.call_id, now_ms):
            case CallState.IN_PROGRESS:
                call = self._calls[ask.call_id]
                if not _is_same_call(call, ask):
                    raise CallIdConflict
                return self._admitted(call, now_ms, replayed=True)
            case CallState.UNKNOWN:
                reason = self._refusal(ask, now_ms)
                if reason is not None:
                    return Refused(ask.call_id, reason, self._remaining(now_ms))
                return self._admit(ask, ask.call_id, now_ms)
            case _:
                raise CallIdUsed

    def answered(self, ask: Answered, now_ms: int) -> Noted:
        """Note when a call was answered, between its admission and now; the first answer stands (R3).

        That of a call that has ended changes nothing. Raises CallUnknown for another device's call, or none.
        """
        now_ms = self._advance(now_ms)
        call = self._calls.get(ask.call_id) or self._ended.get(ask.call_id)
        if call is None or not _may_ask(ask.device, call):
            raise CallUnknown
        if isinstance(call, CallInProgress) and call.answered_at_ms is None:
            at_ms = max(call.admitted_at_ms, min(now_ms - ask.answered_ago_ms, now_ms))
            self._calls[call.call_id] = replace(call, answered_at_ms=at_ms)
            self._changed(now_ms)
        return Noted(ask.call_id)

    def end(self, ask: End, now_ms: int) -> Settled:
        """Settle a call as ended when its client says, but neither before its answer nor after now (R16).

        One that was settled before gives that settlement again (R17). Raises CallUnknown for another device's
        call, or none; of the latter, a start that comes close behind is then refused (R17).
        """
        now_ms = self._advance(now_ms)
        call = self._calls.get(ask.call_id) or self._ended.get(ask.call_id)
        if call is None:
            self._overtaken_at_ms[ask.call_id] = now_ms
            raise CallUnknown
        if not _may_ask(ask.device, call):
            raise CallUnknown
        if isinstance(call, CallRecord):
            return self._settled(call, now_ms, replayed=True)
        began_ms = call.admitted_at_ms if call.answered_at_ms is None else call.answered_at_ms
        ended_at_ms = max(began_ms, min(now_ms - ask.ended_ago_ms, now_ms))
        return self._settle(call, ended_at_ms, now_ms)

    def state(self, call_id: str, now_ms: int) -> CallState:
        """Return where the call of this id is in its life; what ended is forgotten some time (R9, R17)."""
        if call_id in self._calls:
            return CallState.IN_PROGRESS
        record = self._ended.get(call_id)
        if record is not None and now_ms - record.settled_at_ms <= self._memory_ms:
            return CallState.ENDED
        overtaken_at_ms = self._overtaken_at_ms.get(call_id)
        if overtaken_at_ms is not None and now_ms - overtaken_at_ms <= OVERTAKEN_MS:
            return CallState.OVERTAKEN
        return CallState.UNKNOWN

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

    # Admission and settlement

    def _refusal(self, ask: Start, now_ms: int) -> RefusalReason | None:
        """R8, in its order."""
        return decide(
            Facts(
                account_active=self.status == "active",
                staff_known=ask.staff in self.staff,
                channel_known=ask.channel is None or ask.channel in self.channels,
                destination_valid=ask.destination_valid,
                allocated_seconds=self.allocated_seconds,
                settled_seconds=self.settled_seconds,
                used_seconds=self._used(now_ms),
                held_seconds=self._held(now_ms),
                # A call of an older cycle is a call all the same; an emergency counts against no limit (R30).
                calls_in_progress=sum(not call.emergency for call in self._calls.values()),
                max_concurrent_calls=self.plan.max_concurrent_calls if self.plan else None,
            )
        )

    def _start_emergency(self, ask: Start, now_ms: int) -> Admitted:
        """R30: whatever stands against it, and under a fresh id if its own is another call's."""
        for call_id in (ask.call_id, ask.fresh_call_id):
            call = self._calls.get(call_id) or self._ended.get(call_id)
            if call is not None and _is_same_emergency(call, ask):
                return self._admitted(call, now_ms, replayed=True)
            if call_id and self.state(call_id, now_ms) is CallState.UNKNOWN:
                return self._admit(ask, call_id, now_ms)
        raise ValueError(
            f"the id of an emergency is taken, and so is its fresh_call_id {ask.fresh_call_id!r}"
        )

    def _admit(self, ask: Start, call_id: str, now_ms: int) -> Admitted:
        admitted_at_ms = now_ms if ask.admitted_at_ms is None else min(ask.admitted_at_ms, now_ms)
        call = CallInProgress(
            account=self.account,
            call_id=call_id,
            staff=ask.staff,
            device=ask.device,
            channel=ask.channel,
            to=ask.to,
            admitted_at_ms=admitted_at_ms,
            answered_at_ms=None,
            cycle_start_ms=self._cycle_start_ms(admitted_at_ms),
            emergency=ask.emergency,
            counts=not ask.emergency,
        )
        self._calls[call_id] = call
        self._changed(now_ms)
        return self._admitted(call, now_ms, replayed=False)

    def _settle(self, call: CallInProgress, ended_at_ms: int, now_ms: int) -> Settled:
        duration = duration_ms(self.policy, call.admitted_at_ms, call.answered_at_ms, ended_at_ms)
        billed = 0 if call.emergency else billed_seconds(duration, self.policy)
        record = CallRecord(
            account=call.account,
            call_id=call.call_id,
            staff=call.staff,
            device=call.device,
            channel=call.channel,
            to=call.to,
            admitted_at_ms=call.admitted_at_ms,
            answered_at_ms=call.answered_at_ms,
            ended_at_ms=ended_at_ms,
            settled_at_ms=now_ms,
            duration_ms=duration,
            billed_seconds=billed,
            counted=billed > 0,
            ended_by="hangup",
            emergency=call.emergency,
            cycle_start_ms=call.cycle_start_ms,
            revision=1,
            policy=self.policy,
        )
        if call.counts:  # R20: one of an older cycle leaves this pool alone
            self.settled_seconds += billed
        del self._calls[call.call_id]
        self._ended[call.call_id] = record
        self.records.append(record)
        self._changed(now_ms)
        return self._settled(record, now_ms, replayed=False)

    def _cycle_start_ms(self, at_ms: int) -> int:
        """R20: the cycle of an emergency that is told of late may be over."""
        began = [cycle.cycle_start_ms for cycle in self.cycles if cycle.cycle_start_ms <= at_ms]
        return max(began, default=self.cycles[0].cycle_start_ms)

    def _admitted(self, call: CallInProgress | CallRecord, now_ms: int, *, replayed: bool) -> Admitted:
        return Admitted(
            call_id=call.call_id,
            admitted_at_ms=call.admitted_at_ms,
            remaining_seconds=self._remaining(now_ms),
            replayed=replayed,
            emergency=call.emergency,
        )

    def _settled(self, record: CallRecord, now_ms: int, *, replayed: bool) -> Settled:
        return Settled(
            call_id=record.call_id,
            duration_ms=record.duration_ms,
            billed_seconds=record.billed_seconds,
            counted=record.counted,
            ended_by=record.ended_by,
            revision=record.revision,
            replayed=replayed,
            remaining_seconds=self._remaining(now_ms),
            ended_at_ms=record.ended_at_ms,
            admitted_at_ms=record.admitted_at_ms,
            emergency=record.emergency,
        )

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


def _is_same_call(call: CallInProgress | CallRecord, ask: Start) -> bool:
    """R9: whether the same device asks again for the same call."""
    return (call.staff, call.device, call.channel, call.to) == (ask.staff, ask.device, ask.channel, ask.to)


def _is_same_emergency(call: CallInProgress | CallRecord, ask: Start) -> bool:
    """R30: whether the pool has that emergency already: in progress, or told of before and ended since."""
    is_told_again = isinstance(call, CallInProgress) or call.admitted_at_ms == ask.admitted_at_ms
    return call.emergency and is_told_again and _is_same_call(call, ask)


def _may_ask(asker: Asker | None, call: CallInProgress | CallRecord) -> bool:
    """Tell whether it is the asker's own call, or the asker is the admin (None)."""
    return asker is None or asker == (call.staff, call.device)
