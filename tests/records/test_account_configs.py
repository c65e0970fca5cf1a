"""What a live pool is made from."""

from dataclasses import replace
from datetime import date

import pytest

from gateway.domain.asks import AccountConfig
from gateway.domain.calls import Threshold, ThresholdsPassed
from gateway.domain.cycles import Cycle, boundary_ms
from gateway.domain.errors import NotFound
from gateway.domain.plans import Plan
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.records.making import (
    CYCLE_MS,
    DAY_MS,
    NEXT_CYCLE_MS,
    NOW_MS,
    MemoryStream,
    a_cycle,
    a_record,
    make_plans,
    reopened,
)

TEAM = Plan("team", "Team", 1000, 2, 3)
SMALL = Plan("small", "Small", 100, 1, 1)
BILLING_DATE = date(2026, 2, 15)


@pytest.fixture
async def acme(records: Records) -> Records:
    """Records with the account acme, in New York and on the plan team."""
    await make_plans(records)
    await records.accounts.put_account(
        "acme",
        {"name": "Acme", "plan": "team", "billing_date": BILLING_DATE, "time_zone": "America/New_York"},
        NOW_MS,
    )
    return records


async def test_an_account_that_sql_does_not_know_has_none(records: Records) -> None:
    assert await records.configs.config("acme", NOW_MS) is None
    with pytest.raises(NotFound):
        await records.configs.running_cycle("acme", NOW_MS)


async def test_it_holds_all_that_sql_knows_of_an_account(acme: Records, stream: MemoryStream) -> None:
    await acme.members.put_staff("acme", "ana", {}, NOW_MS)
    await acme.members.put_channel("acme", "main", {}, NOW_MS)
    await acme.plan_changes.change_plan("acme", "small", NOW_MS, NEXT_CYCLE_MS)
    stream.add(a_record("a"), a_record("b", billed_seconds=31))
    stream.add(a_record("other", account="other"), a_record("old", cycle_start_ms=CYCLE_MS - 1))
    await Recorder(acme.database, stream, stream.now_ms).drain()

    assert await acme.configs.config("acme", NOW_MS) == AccountConfig(
        account="acme",
        revision=4,
        status="active",
        billing_date=BILLING_DATE,
        time_zone="America/New_York",
        plan=TEAM,
        pending_plan=SMALL,
        pending_from_ms=NEXT_CYCLE_MS,
        staff=frozenset({"ana"}),
        channels=frozenset({"main"}),
        running_cycle=Cycle(9, CYCLE_MS, NEXT_CYCLE_MS),
        settled_seconds=121,
    )


async def test_calls_that_came_back_are_in_it_and_not_in_the_sum(acme: Records, stream: MemoryStream) -> None:
    """R15."""
    back = a_record("a", ended_by="connection_lost")
    ended_again = replace(back, call_id="b")
    stream.add(a_cycle(cycle_start_ms=CYCLE_MS - DAY_MS), a_cycle(), a_cycle(cycle_start_ms=NEXT_CYCLE_MS))
    stream.add(replace(a_record("c", cycle_start_ms=CYCLE_MS - DAY_MS), revision=2))
    stream.add(a_record("d", cycle_start_ms=NEXT_CYCLE_MS))
    stream.add(back, reopened(back), ended_again, reopened(ended_again), replace(ended_again, revision=2))
    await Recorder(acme.database, stream, stream.now_ms).drain()
    config = await acme.configs.config("acme", NOW_MS)
    assert config is not None
    assert config.reopened == (back,)
    assert await acme.calls.find_resettled("acme") == [replace(ended_again, revision=2)]
    assert config.settled_seconds == ended_again.billed_seconds


async def test_a_coming_plan_whose_instant_has_come_is_the_plan(acme: Records) -> None:
    await acme.plan_changes.change_plan("acme", "small", NOW_MS, NEXT_CYCLE_MS)

    config = await acme.configs.config("acme", NEXT_CYCLE_MS)

    assert config is not None
    assert (config.plan, config.pending_plan, config.pending_from_ms) == (SMALL, None, None)


async def test_settled_are_the_seconds_of_the_running_cycle_or_of_the_one_asked_for(
    acme: Records, stream: MemoryStream
) -> None:
    stream.add(a_record("a"), a_record("b", cycle_start_ms=NEXT_CYCLE_MS, billed_seconds=31))
    await Recorder(acme.database, stream, stream.now_ms).drain()

    async def settled(now_ms: int, cycle_start_ms: int | None = None) -> int:
        config = await acme.configs.config("acme", now_ms, cycle_start_ms)
        assert config is not None
        return config.settled_seconds

    assert await settled(NOW_MS) == 90
    assert await settled(NEXT_CYCLE_MS) == 31
    assert await settled(NEXT_CYCLE_MS, CYCLE_MS) == 90
    assert await settled(CYCLE_MS - 1) == 0


async def test_the_running_cycle_is_the_calendars_until_a_pool_opened_one(acme: Records) -> None:
    assert await acme.configs.running_cycle("acme", NOW_MS) == Cycle(9, CYCLE_MS, NEXT_CYCLE_MS)


async def test_a_changed_time_zone_leaves_the_end_of_the_running_cycle_as_it_is(
    acme: Records, stream: MemoryStream
) -> None:
    """R18."""
    stream.add(a_cycle())
    await Recorder(acme.database, stream, stream.now_ms).drain()
    await acme.accounts.put_account("acme", {"time_zone": "Asia/Tokyo"}, NOW_MS)
    after = boundary_ms(BILLING_DATE, "Asia/Tokyo", 11)

    assert await acme.configs.running_cycle("acme", NEXT_CYCLE_MS - 1) == Cycle(9, CYCLE_MS, NEXT_CYCLE_MS)
    assert await acme.configs.running_cycle("acme", NEXT_CYCLE_MS) == Cycle(10, NEXT_CYCLE_MS, after)
    assert (await acme.configs.running_cycle("acme", after)).start_ms == after


async def test_it_holds_the_thresholds_last_told_of_the_running_cycle(
    acme: Records, stream: MemoryStream
) -> None:
    """R29."""
    fifty, eighty = Threshold(50, NOW_MS - 2), Threshold(80, NOW_MS - 1)
    recorder = Recorder(acme.database, stream, stream.now_ms)
    told = [
        ThresholdsPassed("acme", CYCLE_MS, (fifty,)),
        ThresholdsPassed("acme", CYCLE_MS, (fifty, eighty)),
        ThresholdsPassed("other", CYCLE_MS, (eighty,)),
    ]
    stream.add(a_cycle(), *told)
    await recorder.drain()
    config = await acme.configs.config("acme", NOW_MS)
    assert config is not None
    assert config.thresholds == (fifty, eighty)
    # Another allocation: what is told then is all that holds.
    stream.add(ThresholdsPassed("acme", CYCLE_MS, ()))
    await recorder.drain()
    config = await acme.configs.config("acme", NOW_MS)
    assert config is not None
    assert config.thresholds == ()
