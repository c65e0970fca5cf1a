"""An account's calls: how one is admitted, vouched for, settled, and taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Final

from gateway.domain.admission import Facts, RefusalReason, decide
from gateway.domain.answers import Admitted, Refused, Settled
from gateway.domain.asks import AccountStatus, Asker, Start
from gateway.domain.billing import billed_seconds, duration_ms
from gateway.domain.calls import (
    OVERTAKEN_MS,
    UNHEARD_MS,
    CallInProgress,
    CallRecord,
    CallState,
    EndedBy,
)
from gateway.domain.errors import CallIdConflict, CallIdUsed, CallUnknown
from gateway.domain.leases import Lease, Terms, lease_of_told, new_lease
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from gateway.domain.pool_minutes import PoolMinutes

_MS_AN_HOUR: Final = 3_600_000


class PoolCalls(PoolMinutes):
    """One account's calls, and the start of one (R7-R10, R20, R30)."""

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
        lease_ms: int = 15_000,
        grace_ms: int = 30_000,
        late_resume_ms: int = 12 * _MS_AN_HOUR,
    ) -> None:
        """Make the pool at `now_ms`, in the cycle holding it, of which `settled_seconds` are used (R28)."""
        super().__init__(
            account,
            billing_date=billing_date,
            time_zone=time_zone,
            policy=policy,
            now_ms=now_ms,
            plan=plan,
            pending_plan=pending_plan,
            status=status,
            staff=staff,
            channels=channels,
            settled_seconds=settled_seconds,
        )
        self.terms = Terms(lease_ms, grace_ms, late_resume_ms)
        self.billing_at: Callable[[int], int] = lambda real_ms: real_ms
        """What the billing clock shows at a real instant. What was before a simulated clock was last moved
        counts as of where it was moved to."""
        self._memory_ms = call_id_memory_hours * _MS_AN_HOUR
        self._ended: dict[str, CallRecord] = {}
        # Ended calls whose id is a later call's by now, by id and admission (R9, R26).
        self._earlier: dict[tuple[str, int], CallRecord] = {}
        # Of calls in progress, and of those that were settled in their absence: who had them last.
        self._leases: dict[str, Lease] = {}
        self._overtaken_at_ms: dict[str, int] = {}

    def start(self, ask: Start, now_ms: int, real_ms: int | None = None) -> Admitted | Refused:
        """Decide a call's admission (R7-R10, R30); who asks for it vouches for it (R12).

        Raises CallIdConflict if another call of that id is in progress, or a later connection has it (R9);
        CallIdUsed if one has ended (R9) or its end came first (R17); an emergency gets neither.
        """
        real_ms = now_ms if real_ms is None else real_ms
        now_ms = self._advance(now_ms)
        if ask.emergency:
            return self._start_emergency(ask, now_ms, real_ms)
        match self.state(ask.call_id, now_ms):
            case CallState.IN_PROGRESS:
                call = self._calls[ask.call_id]
                if not _is_same_call(call, ask):
                    raise CallIdConflict
                self._check_owner(ask.call_id, ask.connection)
                self._vouch(ask.call_id, ask.connection, real_ms)
                return self._admitted(call, now_ms, replayed=True)
            case CallState.UNKNOWN:
                reason = self._refusal(ask, now_ms)
                if reason is not None:
                    return Refused(ask.call_id, reason, self._remaining(now_ms))
                return self._admit(ask, ask.call_id, now_ms, real_ms)
            case _:
                raise CallIdUsed

    def state(self, call_id: str, now_ms: int) -> CallState:
        """Return where the call of this id is in its life; what ended is forgotten some time (R9, R17)."""
        if call_id in self._calls:
            return CallState.IN_PROGRESS
        record = self._ended.get(call_id)
        if record is not None and now_ms - record.settled_at_ms <= self._memory_ms:
            return CallState.SETTLED_IN_ABSENCE if self._may_return(record, now_ms) else CallState.ENDED
        overtaken_at_ms = self._overtaken_at_ms.get(call_id)
        if overtaken_at_ms is not None and now_ms - overtaken_at_ms <= OVERTAKEN_MS:
            return CallState.OVERTAKEN
        return CallState.UNKNOWN

    # Admission

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

    def _start_emergency(self, ask: Start, now_ms: int, real_ms: int) -> Admitted:
        """R30: whatever stands against it, and under a fresh id if its own is another call's.

        An older connection's repeat is answered like any other, but vouches for nothing.
        """
        for call_id in (ask.call_id, ask.fresh_call_id):
            call = self._calls.get(call_id) or self._ended.get(call_id)
            if call is not None and _is_same_emergency(call, ask):
                if isinstance(call, CallInProgress):
                    call = self._replay_emergency(call, ask, now_ms, real_ms)
                return self._admitted(call, now_ms, replayed=True)
            if call_id and self.state(call_id, now_ms) is CallState.UNKNOWN:
                return self._admit(ask, call_id, now_ms, real_ms)
        raise ValueError(
            f"the id of an emergency is taken, and so is its fresh_call_id {ask.fresh_call_id!r}"
        )

    def _replay_emergency(
        self, call: CallInProgress, ask: Start, now_ms: int, real_ms: int
    ) -> CallInProgress:
        """One that is told of is as old as its caller was told, if it was admitted later all the same."""
        told_at_ms = ask.admitted_at_ms
        if told_at_ms is None:
            self._vouch(call.call_id, ask.connection, real_ms)
        elif told_at_ms < call.admitted_at_ms and not call.revision:
            cycle_start_ms = self._cycle_start_ms(ask, told_at_ms)
            call = replace(call, admitted_at_ms=told_at_ms, cycle_start_ms=cycle_start_ms)
            self._calls[call.call_id] = call
            self._changed(now_ms)
        return call

    def _admit(self, ask: Start, call_id: str, now_ms: int, real_ms: int) -> Admitted:
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
            cycle_start_ms=self._cycle_start_ms(ask, admitted_at_ms),
            emergency=ask.emergency,
            counts=not ask.emergency,
            admitted_offline=ask.admitted_at_ms is not None,
        )
        self._calls[call_id] = call
        self._leases[call_id] = (
            new_lease(self.terms, ask.connection, real_ms)
            if ask.admitted_at_ms is None
            else lease_of_told(self.terms, ask.connection, real_ms, admitted_at_ms)
        )
        self._changed(now_ms)
        return self._admitted(call, now_ms, replayed=False)

    def _cycle_start_ms(self, ask: Start, admitted_at_ms: int) -> int:
        """R20: the cycle of an emergency that is told of late may be over."""
        if admitted_at_ms >= self.cycle.start_ms or ask.cycle_start_ms is None:
            return self.cycle.start_ms
        return ask.cycle_start_ms

    def _admitted(self, call: CallInProgress | CallRecord, now_ms: int, *, replayed: bool) -> Admitted:
        return Admitted(
            call_id=call.call_id,
            admitted_at_ms=call.admitted_at_ms,
            remaining_seconds=self._remaining(now_ms),
            replayed=replayed,
            emergency=call.emergency,
            cycle_start_ms=call.cycle_start_ms,
        )

    # Vouching

    def _check_owner(self, call_id: str, connection: int) -> None:
        """R12: raise CallIdConflict if a later connection has the call, or had it when it was settled."""
        lease = self._leases.get(call_id)
        if lease is not None and not lease.hears(connection):
            raise CallIdConflict

    def _check_words(self, call: CallInProgress | CallRecord, device: Asker | None, connection: int) -> None:
        """Raise CallUnknown for another device's call, CallIdConflict for one a later connection has."""
        if device is not None and device != (call.staff, call.device):
            raise CallUnknown
        self._check_owner(call.call_id, connection)

    def _vouch(self, call_id: str, connection: int, real_ms: int, heard_ago_ms: int = 0) -> None:
        """R12: renew the lease, if this connection has the call or may take it."""
        lease = self._leases[call_id]
        if lease.may_be_renewed_by(connection):
            self._leases[call_id] = lease.renewed(self.terms, connection, real_ms, heard_ago_ms)

    def _earliest_end_ms(self, call: CallInProgress, now_ms: int) -> int:
        """Before when it can't have ended, whatever its client says (R16)."""
        if self._leases[call.call_id].returned:
            # When it was last known alive was lost with it.
            return max(call.admitted_at_ms, call.answered_at_ms or 0)
        return self._last_alive_ms(call, now_ms)

    def _last_alive_ms(self, call: CallInProgress, now_ms: int) -> int:
        """When a call was last known alive, in billing time. Admission and answer are signs of life."""
        lease = self._leases[call.call_id]
        alive_ms = lease.alive_ms if lease.lost else self.billing_at(lease.alive_ms)
        return max(min(alive_ms, now_ms), call.admitted_at_ms, call.answered_at_ms or call.admitted_at_ms)

    # Settlement

    def _settle(self, call: CallInProgress, ended_at_ms: int, ended_by: EndedBy, now_ms: int) -> Settled:
        """R26: the call becomes a record, of a higher revision than it had before (R15)."""
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
            ended_by=ended_by,
            emergency=call.emergency,
            cycle_start_ms=call.cycle_start_ms,
            revision=call.revision + 1,
            policy=self.policy,
            admitted_offline=call.admitted_offline,
        )
        if call.counts:  # R20: one of an older cycle leaves this pool alone
            self.settled_seconds += billed
        self._keep(record)
        self.records.append(record)
        self._changed(now_ms)
        return self._settled(record, now_ms, replayed=False)

    def _keep(self, record: CallRecord) -> None:
        """Remember a call as ended. Who had it last matters as long as it may come back."""
        self._calls.pop(record.call_id, None)
        self._ended[record.call_id] = record
        self._overtaken_at_ms.pop(record.call_id, None)
        if record.ended_by == "hangup":
            self._leases.pop(record.call_id, None)

    def _keep_earlier(self, record: CallRecord) -> None:
        """Remember an ended call whose id is a later call's."""
        self._earlier[record.call_id, record.admitted_at_ms] = record

    def _may_return(self, record: CallRecord, now_ms: int) -> bool:
        """R15, R17: whether the call was settled in its absence, not too long ago."""
        return record.ended_by != "hangup" and now_ms - record.ended_at_ms <= self.terms.late_resume_ms

    def _take_back(self, record: CallRecord) -> CallInProgress:
        """R15: undo a settlement. The call is as it was before, but for the revision of its record."""
        counts = self._is_of_this_cycle(record)
        if counts:
            self.settled_seconds -= record.billed_seconds
        call = CallInProgress(
            account=record.account,
            call_id=record.call_id,
            staff=record.staff,
            device=record.device,
            channel=record.channel,
            to=record.to,
            admitted_at_ms=record.admitted_at_ms,
            answered_at_ms=record.answered_at_ms,
            cycle_start_ms=record.cycle_start_ms,
            emergency=record.emergency,
            counts=counts,
            revision=record.revision,
            admitted_offline=record.admitted_offline,
        )
        self._ended.pop(record.call_id, None)
        self._overtaken_at_ms.pop(record.call_id, None)
        self._calls[record.call_id] = call
        return call

    def _is_of_this_cycle(self, record: CallRecord) -> bool:
        """R20, R30: whether what it billed is part of what is settled."""
        return not record.emergency and record.cycle_start_ms == self.cycle.start_ms

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


def _is_same_call(call: CallInProgress | CallRecord, ask: Start) -> bool:
    """R9: whether the same device asks again for the same call."""
    return (call.staff, call.device, call.channel, call.to) == (ask.staff, ask.device, ask.channel, ask.to)


def _is_same_emergency(call: CallInProgress | CallRecord, ask: Start) -> bool:
    """R30: whether the pool has that emergency already.

    In progress; or it ended since it was let through, or just before (`UNHEARD_MS`): told of before or
    admitted by the engine all the same.
    """
    if isinstance(call, CallRecord):
        told_at_ms = ask.admitted_at_ms
        if told_at_ms is None:
            return False
        if call.admitted_at_ms != told_at_ms and call.settled_at_ms + UNHEARD_MS <= told_at_ms:
            return False
    return call.emergency and _is_same_call(call, ask)
