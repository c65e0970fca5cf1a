"""The live pool as a plain model: a dict of calls, and every sum made anew from all of them.

It is what the rulebook says, to be read beside it and compared with: the live pool in Redis, which is fast
instead, must answer the same. One model is one account. Nothing happens by itself: what has come due
meanwhile (a reset, a threshold) is caught up with at the beginning of every operation, at the instant at
which it was due; what nobody vouches for any more is settled when somebody asks for it (`reap`).

Its minutes are in `gateway.domain.pool_minutes`, the start of a call in `gateway.domain.pool_calls`.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.domain.answers import NotDue, Noted, Resumed, Settled
from gateway.domain.asks import Answered, Asker, End, Reap, Resume, Retell
from gateway.domain.calls import (
    CallInProgress,
    CallRecord,
    CallReopened,
    CallState,
    EndedBy,
    is_an_earlier_call,
)
from gateway.domain.errors import CallIdUsed, CallUnknown
from gateway.domain.leases import Renewed, lease_of_told, new_lease
from gateway.domain.pool_calls import PoolCalls


class PoolModel(PoolCalls):
    """One account's pool (R4-R10, R12-R26, R28-R30).

    Operations take `now_ms`, billing time; one behind the latest instant used reads as that instant. Where
    leases matter they take `real_ms` as well, which is `now_ms` unless given: leases run on real time also
    where the billing clock is simulated, and `billing_at` then says what that shows at a real instant.

    `records`, `reopened` and `cycles` are what SQL was told so far, each in order; an end is answered from
    there if need be (R17).
    """

    # Calls in progress, and their end

    def answered(self, ask: Answered, now_ms: int) -> Noted:
        """Note when a call was answered, between its admission and now; the first answer stands (R3).

        That of a call that has ended changes nothing. Raises CallUnknown for another device's call, or none;
        CallIdConflict for one that a later connection has (R12).
        """
        now_ms = self._advance(now_ms)
        call = self._calls.get(ask.call_id) or self._ended.get(ask.call_id)
        if call is None:
            raise CallUnknown
        self._check_words(call, ask.device, ask.connection)
        if isinstance(call, CallInProgress) and call.answered_at_ms is None:
            self._set_answered(call, now_ms - ask.answered_ago_ms, now_ms)
        return Noted(ask.call_id)

    def end(self, ask: End, now_ms: int) -> Settled:
        """Settle a call as ended when its client says, between when it was last known alive and now (R16).

        One that was settled in its absence comes back and ends in one, if it still may: not before the end
        that it was given then. Any other that was settled before gives that settlement again (R17).

        Raises CallUnknown for another device's call, or none; of the latter, a start that comes close behind
        is then refused (R17). Raises CallIdConflict for a call that a later connection has (R12).
        """
        now_ms = self._advance(now_ms)
        call = self._calls.get(ask.call_id) or self._ended.get(ask.call_id) or ask.found
        if call is None:
            self._overtaken_at_ms[ask.call_id] = now_ms
            raise CallUnknown
        self._check_words(call, ask.device, ask.connection)
        if isinstance(call, CallInProgress):
            call = self._with_answer(call, ask.answered_at_ms, now_ms)
            earliest_ms = self._earliest_end_ms(call, now_ms)
        elif self._may_return(call, now_ms):
            earliest_ms = call.ended_at_ms
            call = self._take_back(call)
        else:
            return self._settled(call, now_ms, replayed=True)
        ended_at_ms = max(earliest_ms, min(now_ms - ask.ended_ago_ms, now_ms))
        return self._settle(call, ended_at_ms, "hangup", now_ms)

    # Leases, absence and return

    def renew(
        self,
        call_id: str,
        now_ms: int,
        *,
        connection: int = 0,
        heard_ago_ms: int = 0,
        lost: bool = False,
        device: Asker | None = None,
        real_ms: int | None = None,
    ) -> Renewed:
        """Vouch for a call whose device was heard so long ago, or tell that its connection is `lost` (R12).

        With that the grace begins (R13). A keepalive (connection 0) leaves a call alone that a connection
        vouches for. Nothing else of the pool changes, nor is anything caught up with. `device` None means
        the call of any device.
        """
        real_ms = now_ms if real_ms is None else real_ms
        now_ms = max(now_ms, self._latest_ms)
        known = self._calls.get(call_id) or self._ended.get(call_id)
        if known is None or (device is not None and device != (known.staff, known.device)):
            return Renewed.UNKNOWN
        if isinstance(known, CallRecord):
            settled = {CallState.SETTLED_IN_ABSENCE: Renewed.ABSENT, CallState.ENDED: Renewed.ENDED}
            return settled.get(self.state(call_id, now_ms), Renewed.UNKNOWN)
        lease = self._leases[call_id]
        if not lease.hears(connection):
            return Renewed.NEWER_OWNER
        if lost and connection:
            heard_ms = min(self.billing_at(real_ms - heard_ago_ms), now_ms)
            alive_ms = max(heard_ms, self._last_alive_ms(known, now_ms))
            self._leases[call_id] = lease.after_loss(self.terms, connection, real_ms, alive_ms)
        elif not lease.lost or connection != lease.owner or not connection:
            # A renewal that was overtaken by the loss of its connection brings nothing back.
            self._vouch(call_id, connection, real_ms, heard_ago_ms)
        return Renewed.RENEWED

    def reap(
        self, ask: Reap, now_ms: int, real_ms: int | None = None, steady_since_ms: int = 0
    ) -> Settled | NotDue:
        """Settle a call that nobody vouches for any more as of when it was last known alive (R13, R14).

        Never before its lease and grace are over, nor before the engine has been up and gateways have been
        heard of for as long (`steady_since_ms`, real time): else they had no chance to renew.
        """
        real_ms = now_ms if real_ms is None else real_ms
        now_ms = self._advance(now_ms)
        call = self._calls.get(ask.call_id)
        if call is None:
            return NotDue(ask.call_id)
        lease = self._leases[ask.call_id]
        if real_ms < max(lease.reap_at_ms, steady_since_ms + self.terms.lease_ms + self.terms.grace_ms):
            return NotDue(ask.call_id)
        ended_by: EndedBy = "connection_lost" if lease.lost else "lease_expired"
        return self._settle(call, self._last_alive_ms(call, now_ms), ended_by, now_ms)

    def resume(self, ask: Resume, now_ms: int, real_ms: int | None = None) -> Resumed:
        """Vouch for a call again (R13). One that was settled in its absence goes on as if it had not (R15).

        It is asked no reason to refuse it (R8). One that the pool does not know is made again from what was
        found of it (R28): a record as if the pool had it, with what it billed in the settled seconds already.

        Raises CallUnknown for another device's call, or none; CallIdConflict for one that a later connection
        has (R12); CallIdUsed for one that hung up, was away too long, or was overtaken by its end (R17).
        """
        real_ms = now_ms if real_ms is None else real_ms
        now_ms = self._advance(now_ms)
        call = self._calls.get(ask.call_id)
        if call is not None:
            self._check_words(call, ask.device, ask.connection)
            if isinstance(ask.found, CallInProgress):
                call = self._with_answer(call, ask.found.answered_at_ms, now_ms)
            lease = self._leases[ask.call_id]
            if ask.vouched:
                self._vouch(ask.call_id, ask.connection, real_ms)
            elif lease.lost and ask.alive_at_ms > lease.alive_ms:
                self._leases[ask.call_id] = replace(lease, alive_ms=min(ask.alive_at_ms, now_ms))
            return Resumed(call, late=False)
        record, state = self._ended.get(ask.call_id), self.state(ask.call_id, now_ms)
        earlier = None
        if record is not None and ask.found is not None and is_an_earlier_call(record, ask.found):
            earlier, record, state = record, None, CallState.UNKNOWN
        if state is CallState.OVERTAKEN and ask.found is None:
            raise CallIdUsed
        if state in (CallState.UNKNOWN, CallState.OVERTAKEN) and isinstance(ask.found, CallInProgress):
            # An end that nobody knew the call of any more did not overtake its start.
            self._check_words(ask.found, ask.device, 0)
            if earlier is not None:
                self._keep_earlier(earlier)
            return Resumed(self._make_again(ask, ask.found, now_ms, real_ms), late=False)
        if record is None and isinstance(ask.found, CallRecord):
            record = ask.found
        if record is None:
            raise CallIdUsed if state is CallState.OVERTAKEN else CallUnknown
        self._check_words(record, ask.device, ask.connection)
        if not ask.vouched or not self._may_return(record, now_ms):
            raise CallIdUsed
        if earlier is not None:
            self._keep_earlier(earlier)
        call = self._take_back(record)
        self._leases[ask.call_id] = new_lease(self.terms, ask.connection, real_ms)
        self.reopened.append(CallReopened(self.account, ask.call_id, record.admitted_at_ms, record.revision))
        self._changed(now_ms)
        return Resumed(call, late=True)

    def retell(self, ask: Retell, now_ms: int) -> Noted:
        """Hear again of a settlement that may have been lost since; telling twice is telling once (R26).

        What the pool has not got is taken over as it is, and told to SQL unless SQL has it. Then the pool,
        which was made from SQL, has it in its sum as well. The first end of a call stands, as one revision
        more, if its words came a second time meanwhile (R17). Of several calls of one id each has its record;
        the id stays the latest one's (R9).
        """
        now_ms = self._advance(now_ms)
        record = ask.record
        latest = self._calls.get(ask.call_id) or self._ended.get(ask.call_id)
        known, is_earlier = self._known_as(record, latest)
        if known is None and latest is not None and not is_earlier:
            if not is_an_earlier_call(latest, record):
                return Noted(ask.call_id)  # the same call, of which another instant of admission is known
            assert isinstance(latest, CallRecord)
            self._keep_earlier(latest)
        if isinstance(known, CallRecord) and _is_earlier_end(record, known):
            record, saved = replace(record, revision=record.revision + 1), False
        elif known is not None and record.revision <= known.revision:
            # A call in progress may have come back since just that settlement (R15).
            return Noted(ask.call_id)
        else:
            saved = ask.saved
        if not saved:
            if self._is_of_this_cycle(record):
                self.settled_seconds += record.billed_seconds
                if isinstance(known, CallRecord) and not ask.saved:
                    self.settled_seconds -= known.billed_seconds
                elif not isinstance(known, CallInProgress):
                    self.settled_seconds -= ask.billed_before
            self.records.append(record)
        if is_earlier:
            self._keep_earlier(record)
        else:
            self._keep(record)
        self._changed(now_ms)
        return Noted(ask.call_id)

    def _known_as(
        self, record: CallRecord, latest: CallInProgress | CallRecord | None
    ) -> tuple[CallInProgress | CallRecord | None, bool]:
        """What is known of the call of this record, and whether its id is a later call's by now."""
        if latest is not None and latest.admitted_at_ms == record.admitted_at_ms:
            return latest, False
        known = self._earlier.get((record.call_id, record.admitted_at_ms))
        return known, known is not None or (latest is not None and is_an_earlier_call(record, latest))

    def _with_answer(self, call: CallInProgress, told_ms: int | None, now_ms: int) -> CallInProgress:
        """R3: all that an engine has lost of a call may be its answer, of which a gateway tells again."""
        if told_ms is None or call.answered_at_ms is not None or told_ms < call.admitted_at_ms:
            return call
        return self._set_answered(call, told_ms, now_ms)

    def _set_answered(self, call: CallInProgress, at_ms: int, now_ms: int) -> CallInProgress:
        answered = replace(call, answered_at_ms=max(call.admitted_at_ms, min(at_ms, now_ms)))
        self._calls[call.call_id] = answered
        self._changed(now_ms)
        return answered

    def _make_again(self, ask: Resume, found: CallInProgress, now_ms: int, real_ms: int) -> CallInProgress:
        """R28: a call that the engine lost goes on, as its receipt knows it; R8 has been asked before.

        Of one that is told by its gateway it is not known whether it goes on: only that it was admitted, and
        when it was last known alive.
        """
        admitted_at_ms = min(found.admitted_at_ms, now_ms)
        is_of_this_cycle = admitted_at_ms >= self.cycle.start_ms
        call = replace(
            found,
            account=self.account,
            admitted_at_ms=admitted_at_ms,
            answered_at_ms=None
            if found.answered_at_ms is None
            else max(admitted_at_ms, min(found.answered_at_ms, now_ms)),
            cycle_start_ms=self.cycle.start_ms if is_of_this_cycle else found.cycle_start_ms,
            counts=is_of_this_cycle and not found.emergency,
        )
        self._calls[call.call_id] = call
        self._leases[call.call_id] = (
            replace(new_lease(self.terms, ask.connection, real_ms), returned=call.revision == 0)
            if ask.vouched
            else lease_of_told(self.terms, 0, real_ms, max(admitted_at_ms, min(ask.alive_at_ms, now_ms)))
        )
        self._changed(now_ms)
        return call


def _is_earlier_end(told: CallRecord, known: CallRecord) -> bool:
    """R17: whether a settlement is an end by the call's client, before it ended as it is known now.

    Its words came a second time after the first were lost, or nobody vouched for it meanwhile. What comes
    late ends later than it should have, never earlier: so the earliest end stands, whoever tells of it first.
    """
    is_same = (told.admitted_at_ms, told.revision) == (known.admitted_at_ms, known.revision)
    is_earlier = known.ended_by != "hangup" or told.ended_at_ms < known.ended_at_ms
    return is_same and told.ended_by == "hangup" and is_earlier
