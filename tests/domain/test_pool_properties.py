"""What holds of a pool whatever is done to it, in whatever order."""

from __future__ import annotations

from collections import Counter
from datetime import date
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.domain.admission import RefusalReason
from gateway.domain.answers import Admitted, PoolView, Refused
from gateway.domain.asks import Start
from gateway.domain.billing import billed_seconds, duration_ms
from gateway.domain.calls import CallEvent, CallState, next_state
from gateway.domain.errors import CallIdConflict, CallIdUsed, CallUnknown
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from tests.support.pool_model import ACCOUNT, ANA, BOB, T0, TO, a_plan, a_pool, answered, end

CALL_IDS = st.sampled_from(["c-0", "c-1", "c-2", "c-3"])
DEVICES = st.sampled_from([ANA, ANA, ANA, BOB])
PLANS = st.sampled_from(
    [a_plan(minutes) for minutes in (0, 1, 2, 10)] + [a_plan(10, plan="two-calls", max_concurrent_calls=2)]
)
POLICIES = st.builds(
    Policy,
    free_seconds=st.sampled_from([0, 30]),
    increment_seconds=st.sampled_from([1, 6, 60]),
    hold_seconds=st.sampled_from([0, 60, 120]),
    count_from=st.sampled_from(["admission", "answer"]),
)
WAITS_MS = st.one_of(
    st.integers(0, 200_000), st.sampled_from([0, 1, 30_000, 60_001, 3_600_000, 86_400_000, 40 * 86_400_000])
)
AGO_MS = st.one_of(st.just(0), st.integers(-1000, 400_000))


class AnyPool(RuleBasedStateMachine):
    """Does anything to a pool, and looks at it after each."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = a_pool(2, billing_date=date(2026, 10, 31), time_zone="America/Havana")
        self.now_ms = T0
        self.fresh = 0
        self.latest: tuple[int, tuple[object, ...]] | None = None
        self.admitted: Counter[str] = Counter()

    @rule(ms=WAITS_MS)
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(call_id=CALL_IDS, device=DEVICES)
    def a_call_is_asked_for(self, call_id: str, device: tuple[str, str]) -> None:
        before, state = self.view(), self.pool.state(call_id, self.now_ms)
        try:
            answer = self.pool.start(Start(ACCOUNT, *device, call_id, TO), self.now_ms)
        except CallIdConflict:
            assert state is CallState.IN_PROGRESS
            assert self.view() == before
            return
        except CallIdUsed:
            assert state in (CallState.ENDED, CallState.OVERTAKEN)
            assert self.view() == before
            return
        if isinstance(answer, Refused):
            event = CallEvent.REFUSED
            assert self.view() == before
            assert (answer.reason is RefusalReason.MINUTES_EXHAUSTED) <= (before.remaining_seconds == 0)
        elif answer.replayed:
            event = CallEvent.STARTED_AGAIN
            assert self.view() == before
        else:
            event = CallEvent.ADMITTED
            assert before.remaining_seconds > before.held_seconds
            self.admitted[call_id] += 1
        assert answer.remaining_seconds == before.remaining_seconds
        assert self.pool.state(call_id, self.now_ms) is next_state(state, event)

    @rule(call_id=CALL_IDS)
    def an_emergency_is_asked_for(self, call_id: str) -> None:
        self.fresh += 1
        before = self.view()
        answer = self.pool.start(
            Start(ACCOUNT, *ANA, call_id, "112", emergency=True, fresh_call_id=f"fresh-{self.fresh}"),
            self.now_ms,
        )
        assert isinstance(answer, Admitted)
        assert self.view().remaining_seconds == before.remaining_seconds
        assert self.view().held_seconds == before.held_seconds
        if not answer.replayed:
            self.admitted[answer.call_id] += 1

    @rule(call_id=CALL_IDS, device=DEVICES, ago_ms=AGO_MS)
    def a_call_is_answered(self, call_id: str, device: tuple[str, str], ago_ms: int) -> None:
        state = self.pool.state(call_id, self.now_ms)
        try:
            answered(self.pool, call_id, self.now_ms, device, ago_ms)
        except CallUnknown:
            return
        if state is not CallState.UNKNOWN:
            assert self.pool.state(call_id, self.now_ms) is next_state(state, CallEvent.ANSWERED)

    @rule(call_id=CALL_IDS, device=DEVICES, ago_ms=AGO_MS)
    def a_call_ends(self, call_id: str, device: tuple[str, str], ago_ms: int) -> None:
        before, state = self.view(), self.pool.state(call_id, self.now_ms)
        records = len(self.pool.records)
        try:
            settled = end(self.pool, call_id, self.now_ms, device, ago_ms)
        except CallUnknown:
            assert self.view() == before
            return
        if settled.replayed:
            assert self.view() == before
            assert len(self.pool.records) == records
        else:
            assert self.pool.state(call_id, self.now_ms) is next_state(state, CallEvent.ENDED)
            assert len(self.pool.records) == records + 1
        assert settled.admitted_at_ms <= settled.ended_at_ms <= self.now_ms
        assert end(self.pool, call_id, self.now_ms, device).replayed

    @rule(plan=PLANS)
    def the_plan_is_changed(self, plan: Plan) -> None:
        self.pool.change_plan(plan, self.now_ms)

    @rule(policy=POLICIES)
    def the_policy_is_changed(self, policy: Policy) -> None:
        self.pool.set_policy(policy, self.now_ms)

    @rule(suspended=st.booleans())
    def the_account_is_suspended_or_restored(self, suspended: bool) -> None:
        calls = self.view().calls
        self.pool.set_status("suspended" if suspended else "active", self.now_ms)
        assert self.view().calls == calls

    @rule(time_zone=st.sampled_from(["UTC", "Asia/Tokyo", "America/Havana"]))
    def the_account_moves(self, time_zone: str) -> None:
        end_ms = self.view().cycle.end_ms
        self.pool.set_time_zone(time_zone, self.now_ms)
        assert self.view().cycle.end_ms == end_ms

    @invariant()
    def live_use_is_what_the_calls_shown_cost_right_now(self) -> None:
        """R4, R5."""
        view = self.view()
        ages = [
            duration_ms(view.policy, call.admitted_at_ms, call.answered_at_ms, view.at_ms)
            for call in view.calls
            if call.counts
        ]
        assert view.used_seconds == view.settled_seconds + sum(
            billed_seconds(age, view.policy) for age in ages
        )
        assert view.remaining_seconds - view.overrun_seconds == view.allocated_seconds - view.used_seconds
        assert min(view.remaining_seconds, view.overrun_seconds) == 0
        assert view.held_seconds >= 0

    @invariant()
    def the_records_of_the_cycle_sum_up_to_what_is_settled(self) -> None:
        """R27."""
        view = self.view()
        billed = [r.billed_seconds for r in self.pool.records if r.cycle_start_ms == view.cycle.start_ms]
        assert sum(billed) == view.settled_seconds

    @invariant()
    def every_admitted_call_is_in_progress_or_one_record(self) -> None:
        """R26."""
        known = Counter(record.call_id for record in self.pool.records)
        known.update(call.call_id for call in self.view().calls)
        assert known == self.admitted
        keys = [(record.call_id, record.admitted_at_ms) for record in self.pool.records]
        assert len(set(keys)) == len(keys)

    @invariant()
    def thresholds_rise_within_the_cycle_and_are_passed_by_now(self) -> None:
        """R29."""
        view = self.view()
        assert all(view.cycle.start_ms <= each.at_ms <= view.at_ms for each in view.thresholds)
        passed = {each.percent for each in view.thresholds}
        for percent in (50, 80, 100):
            if view.allocated_seconds and view.used_seconds * 100 >= view.allocated_seconds * percent:
                assert percent in passed

    @invariant()
    def the_cycles_join_without_a_gap(self) -> None:
        """R18, R19."""
        assert self.view().cycle.start_ms <= self.now_ms < self.view().cycle.end_ms
        opened = {cycle.cycle_index: cycle for cycle in self.pool.cycles}
        assert list(opened) == list(range(min(opened), max(opened) + 1))
        for one, next_one in pairwise(opened.values()):
            assert one.cycle_end_ms == next_one.cycle_start_ms
        last = self.pool.cycles[-1]
        assert (last.plan, last.allocated_seconds) == (self.view().plan, self.view().allocated_seconds)

    @invariant()
    def the_version_grows_exactly_when_something_changed(self) -> None:
        version, state = self.view().version, (self.pool.time_zone, *changing(self.view()))
        if self.latest is not None:
            assert (version > self.latest[0]) == (state != self.latest[1])
        self.latest = version, state

    @precondition(lambda self: self.view().empty_at_ms is not None)
    @invariant()
    def the_pool_is_empty_from_then_on(self) -> None:
        view = self.view()
        assert view.empty_at_ms is not None
        if view.remaining_seconds == 0:
            assert view.empty_at_ms <= view.at_ms
        else:
            assert view.at_ms < view.empty_at_ms < view.cycle.end_ms

    def view(self) -> PoolView:
        return self.pool.read(self.now_ms)


def changing(view: PoolView) -> tuple[object, ...]:
    """Return the part of a view that does not change merely because time passes."""
    return (
        view.plan,
        view.pending_plan,
        view.cycle,
        view.policy,
        view.allocated_seconds,
        view.settled_seconds,
        view.calls,
        view.thresholds,
        view.status,
    )


TestAnyPool = AnyPool.TestCase
TestAnyPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
