"""The live pool in a real engine and the plain model never differ, whatever is asked of them.

CALLGATE_PROPERTY_EXAMPLES says how many histories are tried on each engine; they are then always new ones.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gateway.domain.asks import Answered, Ask, Asker, End, Reap, Resume, Retell, Start
from gateway.domain.billing import billed_seconds, duration_ms
from gateway.domain.calls import OVERTAKEN_MS, UNHEARD_MS, CallInProgress, CallRecord, EndedBy
from gateway.domain.plans import Plan
from gateway.domain.policy import CountFrom, Policy
from tests.pool.side_by_side import CHANNELS, STAFF, SideBySide
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, BOB, HOUR, SECOND, T0, TO, a_plan
from tests.support.real_time import STEPS_MS

EXAMPLES = os.environ.get("CALLGATE_PROPERTY_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 50),
    stateful_step_count=60,
    derandomize=EXAMPLES is None,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

ACCOUNTS = {
    # Names that begin alike; boundaries that differ by months' lengths and by hours.
    "acme": (date(2026, 10, 31), "America/Havana"),
    "acme-2": (date(2026, 11, 15), "UTC"),
    "a": (date(2024, 2, 29), "Asia/Tokyo"),
}
# Most happens to one of them: it takes many calls, of many ages, to reach the edges of its minutes.
ACCOUNT = st.sampled_from(["acme", "acme", "acme", "acme-2", "a"])
FIRST_PLANS = st.sampled_from(
    [
        *(a_plan(minutes) for minutes in (10, 5, 3, 60)),
        a_plan(10, plan="three-calls", max_concurrent_calls=3),
    ]
)
PLANS = FIRST_PLANS | st.sampled_from(
    [
        *(a_plan(minutes) for minutes in (2, 1, 0)),
        a_plan(5, plan="no-calls", max_concurrent_calls=0),
        a_plan(4, plan="one-seat", staff_seats=1, connected_channels=1),
    ]
)
POLICIES = st.builds(
    Policy,
    free_seconds=st.sampled_from([30, 0, 45]),
    increment_seconds=st.sampled_from([1, 6, 7, 60]),
    hold_seconds=st.sampled_from([60, 0, 20, 100]),
    count_from=st.sampled_from(["answer", "admission"]),
)
TIME_ZONES = st.sampled_from(
    ["UTC", "Asia/Tokyo", "America/Havana", "Pacific/Kiritimati", "Pacific/Honolulu"]
)
AWAY_MS = st.sampled_from([0, 1000, 31_000, 100_000, 12 * HOUR - 60_000, 12 * HOUR, 12 * HOUR + 1, 49 * HOUR])
AGO_MS = st.one_of(
    st.just(0),
    st.sampled_from([1, 999, 1000, 29_999, 30_000, 30_001, 60_000, 90_001, 40 * 24 * HOUR]),
    st.integers(0, 120_000),
)
APART_MS = st.sampled_from([0, 0, 1, -1, UNHEARD_MS - 1, UNHEARD_MS, 100_000])
DEVICES = st.sampled_from([ANA, ANA, ANA, ANA, ANA, BOB, ("ana", "desk2"), ("an", "a"), None])

CONNECTIONS = st.sampled_from([0, 0, 1, 2, 3])

Return = Literal["resume", "end", "answer", "start", "reap"]
RETURNS: st.SearchStrategy[Return] = st.sampled_from(["resume", "end", "answer", "start", "reap"])

Kind = Literal["start", "emergency", "answered", "end", "resume", "reap"]


@dataclass(frozen=True, slots=True)
class Saying:
    """What a device says of a call; which call that is depends on what was said before."""

    kind: Kind
    account: str
    call: int
    """One of four ids that come again and again, or else one of the calls in progress."""
    device: Asker | None
    to: str
    channel: str | None
    ago_ms: int
    is_late: bool
    """An emergency that is told of after it was placed."""
    is_again: bool
    """Means the emergency that goes by a fresh id, not the call whose id it was asked with."""
    connection: int


def sayings(kinds: list[Kind], account: st.SearchStrategy[str] = ACCOUNT) -> st.SearchStrategy[Saying]:
    return st.builds(
        Saying,
        kind=st.sampled_from(kinds),
        account=account,
        call=st.integers(0, 9),
        device=DEVICES,
        to=st.sampled_from([TO, TO, TO, TO, "+14155550101", "nowhere"]),
        channel=st.sampled_from([None, None, None, None, "main", "side"]),
        ago_ms=AGO_MS,
        is_late=st.booleans(),
        is_again=st.booleans(),
        connection=CONNECTIONS,
    )


ANYTHING = sayings(
    ["start", "start", "start", "answered", "end", "end", "emergency", "resume", "resume", "reap"]
)
REPEATED = sayings(["start", "end", "emergency", "resume", "reap"], st.just("acme"))


class AnyAccounts(RuleBasedStateMachine):
    """Does anything to the accounts of one shard, in the engine and in the model."""

    server: EngineServer

    def __init__(self) -> None:
        super().__init__()
        self.both = SideBySide(self.server, T0)
        self.fresh_ids: dict[tuple[str, str], str] = {}
        self.ids = 0

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.both.compare_records()
        finally:
            self.both.close()

    @initialize(plans=st.tuples(FIRST_PLANS, FIRST_PLANS, st.none() | PLANS), policy=POLICIES)
    def the_accounts_are_made(self, plans: tuple[Plan | None, ...], policy: Policy) -> None:
        self.both.set_policy(policy)
        for (account, (billing_date, time_zone)), plan in zip(ACCOUNTS.items(), plans, strict=True):
            self.both.make(account, billing_date, time_zone, plan)

    # Calls

    @rule(said=st.lists(ANYTHING, min_size=1, max_size=3), look_first=st.booleans())
    def a_few_things_are_said(self, said: list[Saying], look_first: bool) -> None:
        self._say(said, look_first)

    @rule(said=st.lists(ANYTHING, min_size=6, max_size=24), look_first=st.booleans())
    def much_is_said_at_once(self, said: list[Saying], look_first: bool) -> None:
        self._say(said, look_first)

    @rule(said=REPEATED, times=st.integers(2, 4))
    def the_same_is_said_again_and_again(self, said: Saying, times: int) -> None:
        self._say([said] * times, look_first=True)

    @rule(account=ACCOUNT, count=st.sampled_from([3, 7, 12, 40]), look_first=st.booleans())
    def many_calls_begin(self, account: str, count: int, look_first: bool) -> None:
        self.both.ask([self._new_start(account) for _ in range(count)], look_first=look_first)

    @rule(account=ACCOUNT, every=st.integers(1, 3), ago_ms=AGO_MS, look_first=st.booleans())
    def many_calls_are_answered_and_others_begin(
        self, account: str, every: int, ago_ms: int, look_first: bool
    ) -> None:
        calls = self.both.models[account].read(self.both.now_ms).calls[::every]
        answers = [Answered(account, call.call_id, None, ago_ms) for call in calls]
        self.both.ask([*answers, *(self._new_start(account) for _ in range(3))], look_first=look_first)

    @rule(account=ACCOUNT, every=st.integers(1, 4), ago_ms=AGO_MS, look_first=st.booleans())
    def many_calls_end_and_others_begin(
        self, account: str, every: int, ago_ms: int, look_first: bool
    ) -> None:
        calls = self.both.models[account].read(self.both.now_ms).calls[::every]
        asks: list[Ask] = []
        for call in calls:
            asks += [End(account, call.call_id, None, ago_ms), self._new_start(account)]
        self.both.ask(asks, look_first=look_first)

    def _say(self, said: list[Saying], look_first: bool) -> None:
        self.both.ask((self._ask(saying) for saying in said), look_first=look_first)

    def _ask(self, saying: Saying) -> Ask:
        account, model, now_ms = saying.account, self.both.models[saying.account], self.both.now_ms
        call_id = f"c-{saying.call % 4}"
        if saying.call > 3 and model._calls:
            call_id = list(model._calls)[saying.call % len(model._calls)]
        fresh_id = self.fresh_ids.get((account, call_id), "")
        named_id = fresh_id if saying.is_again and fresh_id else call_id
        if saying.kind in ("answered", "end"):
            kind = Answered if saying.kind == "answered" else End
            return kind(account, named_id, saying.device, saying.ago_ms, saying.connection)
        if saying.kind == "resume":
            return Resume(account, named_id, saying.device, saying.connection)
        if saying.kind == "reap":
            return Reap(account, named_id)
        device, channel = saying.device or ANA, saying.channel
        if saying.kind == "start":
            is_valid = saying.to != "nowhere"
            return Start(
                *(account, *device, call_id, saying.to, channel),
                destination_valid=is_valid,
                connection=saying.connection,
            )
        told_at_ms = max(now_ms - saying.ago_ms, model.cycles[0].cycle_start_ms) if saying.is_late else None
        began = [each.cycle_start_ms for each in model.cycles if each.cycle_start_ms <= (told_at_ms or 0)]
        emergency = Start(
            *(account, *device, call_id, "112", channel, True, True, fresh_id, told_at_ms),
            connection=saying.connection,
            cycle_start_ms=began[-1] if began else None,
        )
        call = model._calls.get(fresh_id)
        if saying.is_again and call and (call.staff, call.device, call.channel) == (*device, channel):
            return emergency
        self.ids += 1
        self.fresh_ids[account, call_id] = f"f-{self.ids}"
        return replace(emergency, fresh_call_id=f"f-{self.ids}")

    # Calls that nobody vouches for, and those that come back

    @rule(ms=st.sampled_from(STEPS_MS))
    def real_time_passes(self, ms: int) -> None:
        self.both.pass_real_time(ms)

    @rule()
    def the_engine_was_away(self) -> None:
        self.both.be_away()

    @rule(
        account=ACCOUNT, every=st.integers(1, 3), connection=CONNECTIONS, device=DEVICES, lost=st.booleans()
    )
    def calls_are_renewed(
        self, account: str, every: int, connection: int, device: Asker | None, *, lost: bool
    ) -> None:
        model = self.both.models[account]
        known = [*list(model._calls)[-4:], *list(model._ended)[-4:], *model._overtaken_at_ms, "unheard-of"]
        for call_id in dict.fromkeys(known[::every]):
            self.both.renew(account, call_id, connection, device, lost=lost)

    @rule(account=ACCOUNT, look_first=st.booleans())
    def all_calls_are_reaped_that_may_be(self, account: str, *, look_first: bool) -> None:
        calls = list(self.both.models[account]._calls)
        self.both.ask([Reap(account, call_id) for call_id in calls], look_first=look_first)

    @rule(
        account=ACCOUNT,
        connection=CONNECTIONS,
        is_told=st.booleans(),
        away_ms=AWAY_MS,
        ago_ms=AGO_MS,
        is_lost=st.booleans(),
        returns=st.lists(RETURNS, min_size=1, max_size=3),
        look_first=st.booleans(),
    )
    def calls_are_settled_in_their_absence_and_come_back(
        self,
        account: str,
        connection: int,
        *,
        is_told: bool,
        away_ms: int,
        ago_ms: int,
        is_lost: bool,
        returns: list[Return],
        look_first: bool,
    ) -> None:
        starts = [replace(self._new_start(account), connection=connection) for _ in range(3)]
        self.both.ask(starts, look_first=look_first)
        self._wait_until(self.both.now_ms + 61_000)
        ids = [start.call_id for start in starts]
        if is_told:
            for call_id in ids[:2]:
                self.both.renew(account, call_id, connection, lost=True)
        self._wait_until(self.both.now_ms + min(away_ms, HOUR))
        self.both.pass_real_time(max(STEPS_MS))
        self.both.ask([Reap(account, call_id) for call_id in ids], look_first=look_first)
        self._wait_until(self.both.now_ms + away_ms)
        if is_lost:
            self.both.lose_ended_call(account, ids[0])
        for step, back in enumerate(returns):
            number = max(0, connection - step)
            asks = [self._return(back, account, call_id, number, ago_ms) for call_id in ids]
            self.both.ask(asks, look_first=look_first)
            self._wait_until(self.both.now_ms + ago_ms % 40_000)
        self.both.look(account)

    def _return(self, back: Return, account: str, call_id: str, connection: int, ago_ms: int) -> Ask:
        match back:
            case "resume":
                return Resume(account, call_id, ANA, connection)
            case "end":
                return End(account, call_id, None, ago_ms, connection)
            case "answer":
                return Answered(account, call_id, ANA, ago_ms, connection)
            case "start":
                return Start(account, *ANA, call_id, TO, connection=connection)
            case "reap":
                return Reap(account, call_id)

    @rule(
        account=ACCOUNT,
        before_ms=st.integers(1, 300_000),
        after_ms=st.integers(0, 300_000),
        reaped_before=st.booleans(),
        resumes=st.booleans(),
        ago_ms=AGO_MS,
    )
    def calls_come_back_in_another_cycle(
        self,
        account: str,
        before_ms: int,
        after_ms: int,
        *,
        reaped_before: bool,
        resumes: bool,
        ago_ms: int,
    ) -> None:
        end_ms = self.both.models[account].read(self.both.now_ms).cycle.end_ms
        self._wait_until(end_ms - before_ms)
        starts = [self._new_start(account) for _ in range(2)]
        self.both.ask(starts, look_first=False)
        reaps: list[Ask] = [Reap(account, start.call_id) for start in starts]
        self.both.pass_real_time(max(STEPS_MS))
        self._wait_until(end_ms - before_ms // 2)
        if reaped_before:
            self.both.ask(reaps, look_first=False)
        self._wait_until(end_ms + after_ms)
        self.both.ask(reaps, look_first=True)
        if resumes:
            self.both.ask([Resume(account, start.call_id) for start in starts], look_first=False)
            self.both.look(account)
        self.both.ask([End(account, start.call_id, ANA, ago_ms) for start in starts], look_first=False)

    @rule(
        account=ACCOUNT,
        which=st.integers(0, 9),
        ago_ms=AGO_MS,
        connection=CONNECTIONS,
        device=DEVICES,
        emergency=st.sampled_from([False, False, True]),
        revision=st.integers(0, 3),
        is_answered=st.booleans(),
        is_offline=st.booleans(),
        is_known=st.booleans(),
        vouched=st.booleans(),
        alive_ago_ms=AGO_MS,
    )
    def a_call_is_made_again_by_its_receipt(
        self,
        account: str,
        which: int,
        ago_ms: int,
        connection: int,
        device: Asker | None,
        emergency: bool,
        revision: int,
        is_answered: bool,
        is_offline: bool,
        is_known: bool,
        vouched: bool,
        alive_ago_ms: int,
    ) -> None:
        model, now_ms = self.both.models[account], self.both.now_ms
        known = [*model._calls, *model._ended, *model._overtaken_at_ms]
        call_id = known[which % len(known)] if is_known and known else self._new_start(account).call_id
        admitted_ms = now_ms - ago_ms
        receipt = CallInProgress(
            account=account,
            call_id=call_id,
            staff=ANA[0],
            device=ANA[1],
            channel=None,
            to="112" if emergency else TO,
            admitted_at_ms=admitted_ms,
            answered_at_ms=now_ms - ago_ms // 2 if is_answered else None,
            cycle_start_ms=self._cycle_start_ms(account, admitted_ms),
            emergency=emergency,
            counts=not emergency,
            revision=revision,
            admitted_offline=is_offline,
        )
        if (account, call_id) not in self.both.lost:
            alive_at_ms = now_ms - alive_ago_ms
            ask = Resume(account, call_id, device, connection, receipt, vouched, alive_at_ms=alive_at_ms)
            self.both.ask([ask, ask, self._new_start(account)], look_first=True)

    @rule(
        account=ACCOUNT,
        which=st.integers(0, 9),
        answered_ago_ms=AGO_MS,
        ago_ms=AGO_MS,
        ends=st.booleans(),
        vouched=st.booleans(),
        look_first=st.booleans(),
    )
    def an_answer_is_told_that_the_engine_lost(
        self,
        account: str,
        which: int,
        answered_ago_ms: int,
        ago_ms: int,
        *,
        ends: bool,
        vouched: bool,
        look_first: bool,
    ) -> None:
        """R3: beside a call that goes on, or with its end."""
        told_ms = self.both.now_ms - answered_ago_ms
        asks: list[Ask] = []
        for call in list(self.both.models[account]._calls.values())[which : which + 3]:
            found = replace(call, answered_at_ms=told_ms)
            asks.append(Resume(account, call.call_id, None, 0, found, vouched))
            if ends:
                asks[-1] = End(account, call.call_id, None, ago_ms, answered_at_ms=told_ms)
        self.both.ask(asks, look_first=look_first)
        self.both.look(account)

    @rule(account=ACCOUNT, which=st.integers(0, 9), saved=st.booleans(), look_first=st.booleans())
    def settlements_are_told_again(self, account: str, which: int, *, saved: bool, look_first: bool) -> None:
        """Nothing was lost: that changes nothing."""
        records = self.both.models[account].records[which::5]
        self.both.ask([Retell(record, saved) for record in records], look_first=look_first)

    @rule(
        account=ACCOUNT,
        which=st.integers(0, 9),
        ago_ms=AGO_MS,
        revision=st.integers(1, 4),
        of=st.sampled_from(["a call in progress", "an ended call", "a lost call"]),
        by=st.sampled_from(["hangup", "connection_lost", "lease_expired"]),
    )
    def a_settlement_is_told_that_the_engine_lost(
        self, account: str, which: int, ago_ms: int, revision: int, of: str, by: EndedBy
    ) -> None:
        model, now_ms, policy = self.both.models[account], self.both.now_ms, self.both.policy
        known: list[CallInProgress | CallRecord] = []
        if of != "a lost call":
            known = [*(model._calls if of == "a call in progress" else model._ended).values()]
        # SQL knows of no cycle before the first.
        admitted_ms = max(now_ms - ago_ms, model.cycles[0].cycle_start_ms)
        call = Start(account, *ANA, self._new_start(account).call_id, TO)
        if known:
            told = known[which % len(known)]
            admitted_ms = told.admitted_at_ms
            call = Start(account, told.staff, told.device, told.call_id, told.to, told.channel)
            answered_ms, is_emergency, cycle_start_ms = (
                told.answered_at_ms,
                told.emergency,
                told.cycle_start_ms,
            )
        else:
            answered_ms, is_emergency = None, False
            cycle_start_ms = self._cycle_start_ms(account, admitted_ms)
        ended_ms = max(admitted_ms, now_ms - ago_ms // 2)
        duration = duration_ms(policy, admitted_ms, answered_ms, ended_ms)
        billed = 0 if is_emergency else billed_seconds(duration, policy)
        record = CallRecord(
            account=account,
            call_id=call.call_id,
            staff=call.staff,
            device=call.device,
            channel=call.channel,
            to=call.to,
            admitted_at_ms=admitted_ms,
            answered_at_ms=answered_ms,
            ended_at_ms=ended_ms,
            settled_at_ms=now_ms,
            duration_ms=duration,
            billed_seconds=billed,
            counted=billed > 0,
            ended_by=by,
            emergency=is_emergency,
            cycle_start_ms=cycle_start_ms,
            revision=revision,
            policy=policy,
        )
        self.both.ask([Retell(record, saved=False)] * 2, look_first=True)
        self.both.look(account)

    @rule(
        account=ACCOUNT,
        which=st.integers(0, 9),
        is_earlier=st.booleans(),
        apart_ms=APART_MS,
        length_ms=AGO_MS,
        revision=st.integers(1, 3),
        to=st.sampled_from([None, None, None, "+14155550101"]),
        is_offline=st.booleans(),
        saved=st.booleans(),
        by=st.sampled_from(["hangup", "connection_lost"]),
        ends_then=st.booleans(),
    )
    def settlements_are_told_of_other_calls_of_an_id(
        self,
        account: str,
        which: int,
        is_earlier: bool,
        apart_ms: int,
        length_ms: int,
        revision: int,
        to: str | None,
        is_offline: bool,
        saved: bool,
        by: EndedBy,
        ends_then: bool,
    ) -> None:
        """R9: of a call that was lost before its id was given again; or of one that has an older one's."""
        model, now_ms, policy = self.both.models[account], self.both.now_ms, self.both.policy
        known = [*(model._calls if is_earlier else model._ended).values()]
        if not known:
            return
        one = known[which % len(known)]
        if isinstance(one, CallRecord) and not is_earlier:
            admitted_ms = min(one.settled_at_ms + apart_ms, now_ms)
            ended_ms, settled_ms = min(admitted_ms + length_ms, now_ms), now_ms
        else:
            admitted_ms = max(one.admitted_at_ms - apart_ms - length_ms, model.cycles[0].cycle_start_ms)
            ended_ms = settled_ms = max(one.admitted_at_ms - apart_ms, admitted_ms)
        duration = duration_ms(policy, admitted_ms, None, ended_ms)
        billed = 0 if one.emergency else billed_seconds(duration, policy)
        record = CallRecord(
            account=account,
            call_id=one.call_id,
            staff=one.staff,
            device=one.device,
            channel=one.channel,
            to=to or one.to,
            admitted_at_ms=admitted_ms,
            answered_at_ms=None,
            ended_at_ms=ended_ms,
            settled_at_ms=settled_ms,
            duration_ms=duration,
            billed_seconds=billed,
            counted=billed > 0,
            ended_by=by,
            emergency=one.emergency,
            cycle_start_ms=self._cycle_start_ms(account, admitted_ms),
            revision=revision,
            policy=policy,
            admitted_offline=is_offline,
        )
        self.both.ask([Retell(record, saved)] * 2, look_first=True)
        self.both.look(account)
        if ends_then and is_earlier:
            self.both.ask([End(account, one.call_id)], look_first=False)
        later = replace(record, revision=revision + 1)
        self.both.ask([Retell(record, saved=False), Retell(later, saved=False)] * 2, look_first=True)
        self.both.look(account)

    def _cycle_start_ms(self, account: str, at_ms: int) -> int:
        """Of the cycle that holds an instant, or of the oldest that is known."""
        self.both.look(account)  # which brings it to the cycle of now
        cycles = self.both.models[account].cycles
        return max(
            (cycle.cycle_start_ms for cycle in cycles if cycle.cycle_start_ms <= at_ms),
            default=cycles[0].cycle_start_ms,
        )

    # Accounts

    @rule(account=ACCOUNT, plan=PLANS, withdraws=st.booleans())
    def the_plan_is_changed(self, account: str, plan: Plan, withdraws: bool) -> None:
        self.both.change_plan(account, plan)
        if withdraws:
            self.both.withdraw_pending(account)

    @rule(account=ACCOUNT, said=st.lists(ANYTHING, min_size=1, max_size=3))
    def the_account_is_suspended_for_a_while(self, account: str, said: list[Saying]) -> None:
        self.both.set_status(account, "suspended")
        self._say([replace(saying, account=account) for saying in said], look_first=True)
        self.both.set_status(account, "active")

    @rule(
        account=ACCOUNT,
        staff=st.sampled_from([STAFF, frozenset({"an"}), frozenset[str]()]),
        channels=st.sampled_from([frozenset({"side", "main"}), frozenset[str]()]),
        said=st.lists(ANYTHING, min_size=1, max_size=3),
    )
    def members_are_away_for_a_while(
        self, account: str, staff: frozenset[str], channels: frozenset[str], said: list[Saying]
    ) -> None:
        self.both.set_members(account, staff, channels)
        self._say([replace(saying, account=account) for saying in said], look_first=True)
        self.both.set_members(account, STAFF, CHANNELS)

    @rule(account=ACCOUNT, time_zone=TIME_ZONES)
    def the_account_moves(self, account: str, time_zone: str) -> None:
        self.both.set_time_zone(account, time_zone)

    @rule(account=ACCOUNT)
    def a_pool_is_lost_and_made_again(self, account: str) -> None:
        self.both.lose_pool(account)

    @rule(
        policy=POLICIES,
        names=st.sets(st.sampled_from([field.name for field in fields(Policy)]), min_size=1),
        for_good=st.booleans(),
    )
    def the_policy_is_changed(self, policy: Policy, names: set[str], for_good: bool) -> None:
        before = self.both.policy
        self.both.set_policy(replace(before, **{name: getattr(policy, name) for name in names}))
        for account in ACCOUNTS:
            self.both.look(account)
        if not for_good:
            self.both.set_policy(before)

    # Time

    @rule(
        ms=st.integers(0, 100_000)
        | st.sampled_from([1, 999, 1000, 29_999, 30_000, 30_001, OVERTAKEN_MS, OVERTAKEN_MS + 1])
    )
    def a_short_time_passes(self, ms: int) -> None:
        self._wait_until(self.both.now_ms + ms)

    @rule(
        account=ACCOUNT,
        which=st.integers(0, 20),
        edge=st.integers(1, 6),
        off_ms=st.sampled_from([-1, 0, 0, 1]),
        then=st.sampled_from(["look", "look", "end", "start"]),
    )
    def a_call_comes_to_an_edge(self, account: str, which: int, edge: int, off_ms: int, then: str) -> None:
        self.both.ask([start := self._new_start(account), Answered(account, start.call_id)], look_first=False)
        policy, now_ms = self.both.policy, self.both.now_ms
        calls = self.both.models[account].read(now_ms).calls
        if not calls:
            return
        call = calls[which % len(calls)]
        origin_ms = call.admitted_at_ms if policy.count_from == "admission" else call.answered_at_ms
        if origin_ms is None:
            return
        increment_ms = policy.increment_seconds * SECOND
        increments_ms = ((now_ms - origin_ms) // increment_ms + edge) * increment_ms
        ages_ms = [policy.free_seconds * SECOND, policy.hold_seconds * SECOND, increments_ms]
        coming = [age_ms for age_ms in ages_ms if origin_ms + age_ms > now_ms]
        self._wait_until(origin_ms + coming[edge % len(coming)] + off_ms)
        if then == "look":
            self.both.look(account)
        elif then == "end":
            self.both.ask([End(account, call.call_id), self._new_start(account)], look_first=False)
        else:
            self.both.ask([self._new_start(account) for _ in range(4)], look_first=False)

    @rule(
        account=ACCOUNT,
        before_ms=st.integers(1, 90_000),
        off_ms=st.sampled_from([-1, 0, 1, 5_000]),
        after_ms=st.integers(0, 100_000),
        are_answered=st.booleans(),
        looks=st.booleans(),
        refolds=st.booleans(),
        at_once=st.booleans(),
    )
    def a_cycle_ends_amid_calls(
        self,
        account: str,
        before_ms: int,
        off_ms: int,
        after_ms: int,
        are_answered: bool,
        looks: bool,
        refolds: bool,
        at_once: bool,
    ) -> None:
        end_ms = self.both.models[account].read(self.both.now_ms).cycle.end_ms
        begun: list[Start] = []
        for at_ms in (end_ms - before_ms, end_ms + off_ms):
            self._wait_until(at_ms, at_once=at_once)
            starts = [self._new_start(account) for _ in range(3)]
            self.both.ask(starts, look_first=looks)
            begun += starts
            if are_answered:
                # Of the older ones some are answered only in the new cycle, where they count no more (R20).
                self.both.ask([Answered(account, start.call_id) for start in begun[::2]], look_first=False)
        self._wait_until(end_ms + off_ms + after_ms, at_once=at_once)
        if refolds:
            self._count_from("admission" if self.both.policy.count_from == "answer" else "answer")
            self._count_from("admission" if self.both.policy.count_from == "answer" else "answer")
        self.both.look(account)

    def _count_from(self, count_from: CountFrom) -> None:
        self.both.set_policy(replace(self.both.policy, count_from=count_from))
        for account in ACCOUNTS:
            self.both.look(account)

    @rule(account=ACCOUNT, cycles=st.integers(0, 8), off_ms=st.integers(-1, 1), at_once=st.booleans())
    def cycles_go_by(self, account: str, cycles: int, off_ms: int, at_once: bool) -> None:
        end_ms = self.both.models[account].read(self.both.now_ms).cycle.end_ms
        self._wait_until(end_ms + cycles * 30 * 24 * HOUR + off_ms, at_once=at_once)

    @rule(
        account=ACCOUNT,
        off_ms=st.integers(-1, 1),
        which=st.integers(0, 3),
        sweeps=st.sampled_from(["never", "first", "afterwards"]),
    )
    def a_call_is_almost_forgotten(self, account: str, off_ms: int, which: int, sweeps: str) -> None:
        model = self.both.models[account]
        over_ms = {call_id: at_ms + OVERTAKEN_MS for call_id, at_ms in model._overtaken_at_ms.items()}
        over_ms |= {record.call_id: record.settled_at_ms + 48 * HOUR for record in model.records}
        coming = [(at_ms, call_id) for call_id, at_ms in over_ms.items() if at_ms > self.both.now_ms]
        if not coming:
            return
        at_ms, call_id = sorted(coming)[which % len(coming)]
        self._wait_until(at_ms + off_ms)
        if sweeps == "first":
            self.both.sweep()
        again = Start(account, *ANA, call_id, TO)
        self.both.ask([again, End(account, call_id), again], look_first=False)
        if sweeps == "afterwards":
            self.both.sweep()

    def _new_start(self, account: str) -> Start:
        self.ids += 1
        return Start(account, *ANA, f"b-{self.ids}", TO)

    def _wait_until(self, now_ms: int, *, at_once: bool = False) -> None:
        if now_ms > self.both.now_ms:
            self.both.wait_until(now_ms, at_once=at_once)

    # Looking

    @rule(account=ACCOUNT)
    def somebody_looks(self, account: str) -> None:
        self.both.look(account)

    @rule(account=ACCOUNT)
    def somebody_looks_closely(self, account: str) -> None:
        self.both.look_closely(account, [ANA, BOB, ("ana", "desk2"), ("an", "a")])


@pytest.mark.timeout(1800 if EXAMPLES else 300)
def test_the_live_pool_and_the_model_never_differ(
    engine: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4-R10, R12-R17, R19-R26, R28, R30."""
    # What is compared are decisions. A machine that is busy with other things must not make them time out.
    for deadline in ("operations.DEADLINE", "operations.EMERGENCY_DEADLINE", "connections.TIMEOUT"):
        monkeypatch.setattr(f"gateway.pool.{deadline}_SECONDS", 60.0)
    # Nor must it be long enough at it that ended calls are forgotten without the model knowing of it.
    monkeypatch.setattr("gateway.pool.housekeeping.FORGET_SECONDS", 3600.0)

    class OnThisEngine(AnyAccounts):
        server = engine

    run_state_machine_as_test(OnThisEngine, settings=SETTINGS)
