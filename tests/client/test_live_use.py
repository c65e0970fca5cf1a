"""Counting on between two readings of a pool comes to what the pool says then (R4)."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.live_use import LiveUse
from gateway.client.resources import CycleSpan, InUse, Policy, Pool, PoolCall
from gateway.domain import billing
from gateway.domain.policy import Policy as DomainPolicy

AT_MS = 1_795_392_000_000


def call(admitted_at_ms: int, answered_at_ms: int | None = None, counts: bool = True) -> PoolCall:
    return PoolCall(
        "c", "ana", "desk", None, "+14155550100", admitted_at_ms, answered_at_ms, counts, not counts
    )


def pool(calls: list[PoolCall], policy: Policy, settled_seconds: int = 1200, speed: int = 1) -> Pool:
    rules = DomainPolicy(**msgspec.structs.asdict(policy))
    used = settled_seconds + sum(
        billing.billed_seconds(
            billing.duration_ms(rules, each.admitted_at_ms, each.answered_at_ms, AT_MS), rules
        )
        for each in calls
        if each.counts
    )
    return Pool(
        account="acme",
        version=1,
        at_ms=AT_MS,
        clock_speed=speed,
        plan="team",
        pending_plan=None,
        cycle=CycleSpan("2026-11-15T05:00:00Z", "2026-12-15T05:00:00Z"),
        policy=policy,
        allocated_seconds=6000,
        settled_seconds=settled_seconds,
        used_seconds=used,
        remaining_seconds=max(0, 6000 - used),
        overrun_seconds=max(0, used - 6000),
        held_seconds=0,
        calls_in_progress=len(calls),
        calls=calls,
        thresholds=[],
        empty_at_ms=None,
        seats=InUse(1, 5),
        channels=InUse(0, 2),
    )


calls = st.lists(
    st.builds(
        lambda age, answered, counts: call(
            AT_MS - age, None if answered is None else AT_MS - min(age, answered), counts
        ),
        st.integers(0, 200_000),
        st.none() | st.integers(0, 200_000),
        st.booleans(),
    ),
    max_size=6,
)
policies = st.builds(
    Policy,
    st.integers(0, 60),
    st.sampled_from([1, 6, 60]),
    st.just(60),
    st.sampled_from(["admission", "answer"]),
)


@given(calls, policies, st.integers(0, 300_000))
def test_use_at_a_later_instant_is_that_of_the_calls_then(
    in_progress: list[PoolCall], policy: Policy, later_ms: int
) -> None:
    live = LiveUse(pool(in_progress, policy), heard_at_ms=0)
    rules = DomainPolicy(**msgspec.structs.asdict(policy))
    at_ms = AT_MS + later_ms
    expected = 1200 + sum(
        billing.billed_seconds(
            billing.duration_ms(rules, each.admitted_at_ms, each.answered_at_ms, at_ms), rules
        )
        for each in in_progress
        if each.counts
    )
    assert live.used_seconds(at_ms) == expected
    assert live.remaining_seconds(at_ms) == max(0, 6000 - expected)
    assert live.overrun_seconds(at_ms) == max(0, expected - 6000)


def test_time_goes_on_at_the_clocks_speed_and_not_past_the_cycle() -> None:
    rules = Policy(30, 1, 60, "admission")
    live = LiveUse(pool([], rules, speed=60), heard_at_ms=500)
    assert live.now_ms(500) == live.now_ms(0) == AT_MS
    assert live.now_ms(1500) == AT_MS + 60_000
    assert live.now_ms(10**12) == 1_797_310_800_000
    assert LiveUse(pool([], rules, speed=0), heard_at_ms=500).now_ms(10**9) == AT_MS
