"""What holds of calls that are lost, settled in their absence, come back and are told of again."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.domain.answers import Admitted, NotDue, Noted, PoolView
from gateway.domain.asks import Answered, End, Reap, Resume, Retell, Start
from gateway.domain.billing import billed_seconds, duration_ms
from gateway.domain.calls import CallEvent, CallRecord, CallReopened, CallState, next_state
from gateway.domain.errors import CallgateError, CallIdConflict, CallIdUsed, CallUnknown
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from tests.support.pool_model import ACCOUNT, ANA, BOB, HOUR, T0, TO, a_pool

LEASE, GRACE = 15_000, 30_000
CALL_IDS = st.sampled_from(["c-0", "c-1", "c-2"])
DEVICES = st.sampled_from([ANA, ANA, ANA, ANA, BOB, None])
CONNECTIONS = st.integers(0, 4)
AGO_MS = st.one_of(st.just(0), st.integers(0, 100_000), st.just(HOUR))
WAITS_MS = st.one_of(
    st.integers(0, 60_000),
    st.sampled_from([1, LEASE, GRACE, LEASE + GRACE, HOUR, 12 * HOUR, 40 * HOUR, 20 * 24 * HOUR]),
)


class AnyAbsence(RuleBasedStateMachine):
    """Does anything to calls that nobody vouches for, and keeps books beside the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = a_pool(
            60, billing_date=date(2026, 10, 31), time_zone="America/Havana", lease_ms=LEASE, grace_ms=GRACE
        )
        self.now_ms = T0
        self.steady_since_ms = T0
        # What SQL makes of what it is told: the latest record of each call, and those that count no more.
        self.saved: dict[tuple[str, int], CallRecord] = {}
        self.reopened: dict[tuple[str, int], CallReopened] = {}
        self.listed = (0, 0)
        self.version = 0
        self.fresh = 0

    @rule(ms=WAITS_MS)
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(ms=st.sampled_from([0, 30_000, LEASE + GRACE]))
    def the_engine_was_away_until_some_time_ago(self, ms: int) -> None:
        self.steady_since_ms = self.now_ms - ms

    @rule(call_id=CALL_IDS, connection=CONNECTIONS, emergency=st.sampled_from([False, False, True]))
    def a_call_begins(self, call_id: str, connection: int, *, emergency: bool) -> None:
        self.fresh += 1
        fresh = f"f-{self.fresh}" if emergency else ""
        ask = Start(ACCOUNT, *ANA, call_id, TO, None, True, emergency, fresh, connection=connection)
        try:
            answer = self.pool.start(ask, self.now_ms)
        except (CallIdUsed, CallIdConflict):
            assert not emergency
            return
        assert isinstance(answer, Admitted) or not emergency

    @rule(call_id=CALL_IDS, device=DEVICES, connection=CONNECTIONS, ago_ms=AGO_MS)
    def a_call_is_answered(
        self, call_id: str, device: tuple[str, str] | None, connection: int, ago_ms: int
    ) -> None:
        try:
            self.pool.answered(Answered(ACCOUNT, call_id, device, ago_ms, connection), self.now_ms)
        except (CallUnknown, CallIdConflict):
            return

    @rule(call_id=CALL_IDS, connection=CONNECTIONS, ago_ms=AGO_MS, lost=st.booleans())
    def a_call_is_renewed(self, call_id: str, connection: int, ago_ms: int, *, lost: bool) -> None:
        before, state = self.view(), self.state(call_id)
        renewed = self.pool.renew(call_id, self.now_ms, connection=connection, heard_ago_ms=ago_ms, lost=lost)
        assert self.view() == before
        allowed = {
            CallState.IN_PROGRESS: {Renewed.RENEWED, Renewed.NEWER_OWNER},
            CallState.SETTLED_IN_ABSENCE: {Renewed.ABSENT},
            CallState.ENDED: {Renewed.ENDED},
        }
        assert renewed in allowed.get(state, {Renewed.UNKNOWN})
        if renewed is Renewed.NEWER_OWNER:
            assert connection
            self.is_refused(End(ACCOUNT, call_id, None, connection=connection))

    def is_refused(self, ask: End) -> None:
        before = self.view()
        try:
            self.pool.end(ask, self.now_ms)
        except CallIdConflict:
            assert self.view() == before
            return
        raise AssertionError(ask)

    @rule(call_id=CALL_IDS)
    def a_call_is_reaped(self, call_id: str) -> None:
        before, state = self.view(), self.state(call_id)
        answer = self.pool.reap(Reap(ACCOUNT, call_id), self.now_ms, steady_since_ms=self.steady_since_ms)
        if isinstance(answer, NotDue):
            assert self.view() == before
            return
        assert self.now_ms >= self.steady_since_ms + LEASE + GRACE
        record = self.pool.records[-1]
        assert record.ended_at_ms in (answer.ended_at_ms, record.answered_at_ms)
        assert self.now_ms - record.ended_at_ms >= GRACE or record.ended_at_ms == record.answered_at_ms
        lost = answer.ended_by == "connection_lost"
        event = CallEvent.CONNECTION_LOST if lost else CallEvent.LEASE_EXPIRED
        absent = next_state(state, event)
        if self.now_ms - answer.ended_at_ms > 12 * HOUR:
            absent = next_state(absent, CallEvent.RETURN_EXPIRED)
        assert self.state(call_id) is absent
        again = self.pool.reap(Reap(ACCOUNT, call_id), self.now_ms)
        assert again == NotDue(call_id)

    @rule(ms=st.integers(1, 200_000))
    def the_cycle_is_about_to_end(self, ms: int) -> None:
        self.now_ms = max(self.now_ms, self.view().cycle.end_ms - ms)

    @rule(
        call_id=CALL_IDS,
        connection=CONNECTIONS,
        is_told=st.booleans(),
        ms=st.integers(0, 60_000) | st.integers(0, 4 * HOUR),
        then=st.sampled_from(["resumed", "ended", "reaped"]),
        ago_ms=AGO_MS,
    )
    def a_call_is_lost_and_settled(
        self, call_id: str, connection: int, ms: int, then: str, ago_ms: int, *, is_told: bool
    ) -> None:
        self.a_call_begins(call_id, connection, emergency=False)
        self.now_ms += ms // 2
        if is_told:
            self.a_call_is_renewed(call_id, connection, 0, lost=True)
        self.now_ms += LEASE + GRACE
        self.a_call_is_reaped(call_id)
        self.keep_books()
        if then == "resumed":
            self.a_call_is_resumed(call_id, None, connection, is_found=False)
        elif then == "ended":
            self.a_call_ends(call_id, None, connection, ago_ms)

    @rule(call_id=CALL_IDS, device=DEVICES, connection=CONNECTIONS, is_found=st.booleans())
    def a_call_is_resumed(
        self, call_id: str, device: tuple[str, str] | None, connection: int, *, is_found: bool
    ) -> None:
        before, state = self.view(), self.state(call_id)
        found = next((r for r in reversed(self.pool.records) if r.call_id == call_id), None)
        ask = Resume(ACCOUNT, call_id, device, connection, found if is_found else None)
        try:
            answer = self.pool.resume(ask, self.now_ms)
        except CallgateError:
            assert self.view() == before
            return
        assert self.state(call_id) is next_state(state, CallEvent.RESUMED) is CallState.IN_PROGRESS
        assert answer.late == (state is CallState.SETTLED_IN_ABSENCE)
        assert (self.view() == before) == (not answer.late)
        # Asked again it is one that goes on.
        assert self.pool.resume(ask, self.now_ms) == replace(answer, late=False)
        assert self.pool.reap(Reap(ACCOUNT, call_id), self.now_ms) == NotDue(call_id) or connection == 0

    @rule(call_id=CALL_IDS, device=DEVICES, connection=CONNECTIONS, ago_ms=AGO_MS)
    def a_call_ends(self, call_id: str, device: tuple[str, str] | None, connection: int, ago_ms: int) -> None:
        before, state, told = self.view(), self.state(call_id), len(self.pool.records)
        try:
            settled = self.pool.end(End(ACCOUNT, call_id, device, ago_ms, connection), self.now_ms)
        except CallgateError:
            assert self.view() == before
            return
        comes_back = state in (CallState.IN_PROGRESS, CallState.SETTLED_IN_ABSENCE)
        assert settled.replayed == (not comes_back)
        assert len(self.pool.records) == told + comes_back
        assert settled.admitted_at_ms <= settled.ended_at_ms <= self.now_ms
        again = self.pool.end(End(ACCOUNT, call_id, None), self.now_ms)
        assert replace(again, replayed=settled.replayed) == replace(
            settled, remaining_seconds=again.remaining_seconds
        )
        assert again.replayed

    @rule(which=st.integers(0, 9), saved=st.booleans())
    def a_settlement_is_told_again(self, which: int, *, saved: bool) -> None:
        """R26: nothing was lost, so nothing changes."""
        records = [each for each in self.pool.records if self.now_ms - each.settled_at_ms <= 48 * HOUR]
        if records:
            before, told = self.view(), len(self.pool.records)
            record = records[which % len(records)]
            assert self.pool.retell(Retell(record, saved), self.now_ms) == Noted(record.call_id)
            assert (self.view(), len(self.pool.records)) == (before, told)

    @rule(which=st.integers(0, 9), connection=CONNECTIONS)
    def the_engine_loses_everything(self, which: int, connection: int) -> None:
        """R26, R28: made from SQL and told again by gateways and devices, the pool is as it was."""
        before = self.view()
        self.pool = a_pool(
            60,
            billing_date=date(2026, 10, 31),
            time_zone="America/Havana",
            lease_ms=LEASE,
            grace_ms=GRACE,
            now_ms=self.now_ms,
            policy=self.pool.policy,
            settled_seconds=self.billed_in(before.cycle.start_ms),
        )
        self.pool.version = before.version + 1
        self.listed = (0, 0)
        records = list(self.saved.values())
        self.retell(records[:which])
        for call in before.calls:
            ask = Resume(ACCOUNT, call.call_id, None, connection, call)
            answer = self.pool.resume(ask, self.now_ms)
            assert answer.call == call
        self.retell(records[which:])
        view = self.view()
        assert (view.settled_seconds, view.used_seconds) == (before.settled_seconds, before.used_seconds)
        assert sorted(view.calls, key=lambda call: call.call_id) == sorted(
            before.calls, key=lambda call: call.call_id
        )

    def retell(self, records: list[CallRecord]) -> None:
        for record in records:
            if (record.call_id, record.admitted_at_ms) not in self.reopened:
                self.pool.retell(Retell(record, saved=True), self.now_ms)

    @rule(count_from=st.sampled_from(["admission", "answer"]), increment_seconds=st.sampled_from([1, 60]))
    def the_policy_is_changed(self, count_from: str, increment_seconds: int) -> None:
        policy = Policy(increment_seconds=increment_seconds)
        if count_from == "answer":
            policy = replace(policy, count_from="answer")
        self.pool.set_policy(policy, self.now_ms)

    # What holds

    @invariant()
    def a_higher_revision_replaces_a_lower_one_and_each_is_told_once(self) -> None:
        """R15, R26."""
        self.keep_books()

    def keep_books(self) -> None:
        records, reopened = self.listed
        for item in self.pool.reopened[reopened:]:
            key = (item.call_id, item.admitted_at_ms)
            assert key not in self.reopened
            assert self.saved[key].revision == item.revision
            self.reopened[key] = item
        for record in self.pool.records[records:]:
            key = (record.call_id, record.admitted_at_ms)
            before = self.saved.get(key)
            assert record.revision == (before.revision + 1 if before else 1)
            assert before is None or before.ended_by != "hangup"
            assert before is None or record.ended_at_ms >= before.ended_at_ms
            assert before is None or record.cycle_start_ms == before.cycle_start_ms
            self.saved[key] = record
            self.reopened.pop(key, None)
        self.listed = len(self.pool.records), len(self.pool.reopened)

    @invariant()
    def the_records_that_stand_sum_up_to_what_is_settled(self) -> None:
        """R27: those of calls that came back and go on count in no sum."""
        self.keep_books()
        view = self.view()
        assert self.billed_in(view.cycle.start_ms) == view.settled_seconds

    def billed_in(self, cycle_start_ms: int) -> int:
        return sum(
            record.billed_seconds
            for key, record in self.saved.items()
            if record.cycle_start_ms == cycle_start_ms and key not in self.reopened
        )

    @invariant()
    def live_use_is_what_is_settled_and_what_the_calls_in_progress_cost_right_now(self) -> None:
        """R4."""
        view = self.view()
        live = [
            billed_seconds(
                duration_ms(view.policy, call.admitted_at_ms, call.answered_at_ms, view.at_ms), view.policy
            )
            for call in view.calls
            if not call.emergency and call.admitted_at_ms >= view.cycle.start_ms
        ]
        assert view.used_seconds == view.settled_seconds + sum(live)

    @invariant()
    def a_call_in_progress_has_no_record_that_stands(self) -> None:
        self.keep_books()
        for call in self.view().calls:
            key = (call.call_id, call.admitted_at_ms)
            assert (key in self.saved) == (key in self.reopened)
            assert call.revision == (self.saved[key].revision if key in self.saved else 0)

    @invariant()
    def the_version_only_grows(self) -> None:
        version = self.view().version
        assert version >= self.version
        self.version = version

    def view(self) -> PoolView:
        return self.pool.read(self.now_ms)

    def state(self, call_id: str) -> CallState:
        return self.pool.state(call_id, self.now_ms)


TestAnyAbsence = AnyAbsence.TestCase
TestAnyAbsence.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
