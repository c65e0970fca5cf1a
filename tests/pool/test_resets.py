"""Pools reset at the boundaries of their cycles, also when nobody calls (R18-R20, R23)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from itertools import pairwise

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.domain.answers import Admitted, Settled
from gateway.domain.asks import End, Start
from gateway.domain.calls import CallRecord, CycleOpened
from gateway.domain.cycles import boundary_ms, parse_rfc3339
from gateway.domain.errors import CallgateError, DatabaseUnavailable, EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool import pool_reading
from gateway.pool.shards import Clock
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, CYCLE_END, HOUR, MINUTE, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

BILLING_DATE = date(2026, 11, 15)
DAY = 24 * HOUR
TEN_YEARS = 120


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(engine.url, Policy()) as accounts:
        await accounts.at(T0)
        yield accounts


def boundary(k: int, time_zone: str = "UTC") -> int:
    return boundary_ms(BILLING_DATE, time_zone, k)


async def cycles_opened(accounts: LiveAccounts, account: str = "acme") -> list[CycleOpened]:
    return [
        item
        for item in await accounts.recorded()
        if isinstance(item, CycleOpened) and item.account == account
    ]


@pytest.mark.parametrize("cycles", [1, 3, 4, 5, TEN_YEARS])
async def test_cycles_in_which_nobody_was_there_turn_one_by_one_at_the_first_ask(
    accounts: LiveAccounts, cycles: int
) -> None:
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await accounts.pool.ask(Start("acme", *ANA, "c-1", TO))
    now_ms = boundary(cycles) + 5 * SECOND
    await accounts.at_once(now_ms)
    answer = await accounts.pool.ask(Start("acme", *ANA, "c-2", TO))
    assert isinstance(answer, Admitted)
    assert (answer.admitted_at_ms, answer.remaining_seconds, answer.replayed) == (now_ms, 600, False)
    assert await cycles_opened(accounts) == [
        CycleOpened("acme", boundary(k), boundary(k + 1), k, "minutes-10", 600) for k in range(cycles + 1)
    ]
    view = await accounts.pool.read("acme")
    assert [(call.call_id, call.counts) for call in view.calls] == [("c-2", True), ("c-1", False)]


async def test_ten_years_pass_on_the_clock_and_every_reset_happens_at_its_instant(
    accounts: LiveAccounts,
) -> None:
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    before = (await accounts.pool.read("acme")).version
    await accounts.at(boundary(TEN_YEARS))
    opened = await cycles_opened(accounts)
    assert [(each.cycle_index, each.cycle_start_ms) for each in opened] == [
        (k, boundary(k)) for k in range(TEN_YEARS + 1)
    ]
    assert (await accounts.pool.read("acme")).version >= before + TEN_YEARS


async def test_reading_a_pool_turns_its_cycle(accounts: LiveAccounts) -> None:
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await accounts.pool.ask(Start("acme", *ANA, "c-1", TO))
    await accounts.at(CYCLE_END - 1)
    before = await accounts.pool.read("acme")
    assert (before.cycle.index, before.remaining_seconds, before.overrun_seconds) == (0, 0, 2_591_400)
    await accounts.at_once(CYCLE_END)
    after = await accounts.pool.read("acme")
    assert (after.cycle.index, after.used_seconds, after.remaining_seconds) == (1, 0, 600)
    assert after.version > before.version
    assert (after.calls_in_progress, after.held_seconds) == (1, 0)
    assert after == await accounts.pool.read("acme"), "once"


async def test_a_pool_resets_with_nobody_asking(accounts: LiveAccounts, engine: EngineServer) -> None:
    """R19. Any gateway sees to it, and it happens once."""
    async with live_accounts(engine.url, Policy()) as other:
        for account in ("acme", "acme-2"):
            await accounts.make(account, billing_date=BILLING_DATE, plan=a_plan(10))
        other.configs = accounts.configs
        await accounts.at_once(CYCLE_END)

        async def have_reset() -> bool:
            return len(await accounts.recorded()) >= 4

        await wait_until(have_reset)
        await other.pool.read_many(["acme", "acme-2"])
        await accounts.pool.read_many(["acme", "acme-2"])
        for account in ("acme", "acme-2"):
            assert [each.cycle_index for each in await cycles_opened(accounts, account)] == [0, 1]


async def test_what_falls_due_while_the_clock_moves_happens_in_its_order(accounts: LiveAccounts) -> None:
    zones = {"acme": "UTC", "tokyo": "Asia/Tokyo", "honolulu": "Pacific/Honolulu", "acme-2": "UTC"}
    for account, zone in zones.items():
        await accounts.make(account, billing_date=BILLING_DATE, time_zone=zone, plan=a_plan(10))
    await accounts.at(boundary(3) + DAY)
    opened = [item for item in await accounts.recorded() if isinstance(item, CycleOpened)]
    by_shard: dict[int, list[int]] = {}
    for each in opened[len(zones) :]:
        by_shard.setdefault(accounts.keys.shard_of(each.account), []).append(each.cycle_start_ms)
    assert all(starts == sorted(starts) for starts in by_shard.values())
    for account, zone in zones.items():
        starts = [each.cycle_start_ms for each in await cycles_opened(accounts, account)]
        first = starts[0]
        expected = [boundary(k, zone) for k in range(-1, 5)]
        assert starts == [at_ms for at_ms in expected if first <= at_ms <= boundary(3) + DAY]


async def test_events_of_one_shard_are_recorded_in_the_order_in_which_they_fall_due(
    engine: EngineServer,
) -> None:
    async with live_accounts(engine.url, Policy(), shards=1) as accounts:
        await accounts.at(T0)
        for day in range(16, 29):
            await accounts.make(f"day-{day}", billing_date=date(2026, 11, day), plan=a_plan(10))
        await accounts.at(T0 + 200 * DAY)
        opened = [item for item in await accounts.recorded() if isinstance(item, CycleOpened)][13:]
        starts = [each.cycle_start_ms for each in opened]
        assert len(starts) == 7 * 13
        assert starts == sorted(starts)


async def test_a_call_that_spans_boundaries_bills_to_the_cycle_it_was_admitted_in(
    accounts: LiveAccounts,
) -> None:
    """R20."""
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await accounts.at(CYCLE_END - 1)
    await accounts.pool.ask(Start("acme", *ANA, "old", TO))
    await accounts.at(CYCLE_END)
    await accounts.pool.ask(Start("acme", *ANA, "new", TO))
    await accounts.at(CYCLE_END + 2 * MINUTE)
    settled, ended = await accounts.ask_all([End("acme", "old"), End("acme", "new")])
    assert isinstance(settled, Settled)
    assert isinstance(ended, Settled)
    assert (settled.billed_seconds, settled.remaining_seconds) == (121, 480)
    assert (ended.billed_seconds, ended.remaining_seconds) == (120, 480)
    records = [item for item in await accounts.recorded() if isinstance(item, CallRecord)]
    assert [(record.call_id, record.cycle_start_ms) for record in records] == [
        ("old", T0),
        ("new", CYCLE_END),
    ]
    assert (await accounts.pool.read("acme")).settled_seconds == 120


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_smaller_plan_holds_from_the_boundary_on_whoever_is_there(
    accounts: LiveAccounts, at_once: bool
) -> None:
    """R23."""
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    assert await accounts.change_plan("acme", a_plan(2, max_concurrent_calls=1)) == "next_cycle"
    await (accounts.at_once if at_once else accounts.at)(boundary(6))
    view = await accounts.pool.read("acme")
    assert (view.plan, view.pending_plan, view.allocated_seconds) == ("minutes-2", None, 120)
    assert [(each.plan, each.allocated_seconds) for each in await cycles_opened(accounts)] == [
        ("minutes-10", 600),
        *[("minutes-2", 120)] * 6,
    ]


async def test_a_changed_time_zone_leaves_the_end_of_the_running_cycle_as_it_is(
    accounts: LiveAccounts,
) -> None:
    """R18."""
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await accounts.change("acme", time_zone="Pacific/Honolulu")
    assert (await accounts.pool.read("acme")).cycle.end_ms == CYCLE_END
    await accounts.at(CYCLE_END)
    cycle = (await accounts.pool.read("acme")).cycle
    assert (cycle.start_ms, cycle.end_ms) == (CYCLE_END, parse_rfc3339("2027-01-15T10:00:00Z"))


async def test_a_time_zone_that_changes_before_a_reset_was_seen_to_leaves_the_end_of_its_cycle(
    accounts: LiveAccounts,
) -> None:
    """R18: the cycle that runs when the zone changes ends as it would have, also if nobody turned it yet."""
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await accounts.at_once(CYCLE_END + SECOND)
    await accounts.change("acme", time_zone="Pacific/Honolulu")
    cycle = (await accounts.pool.read("acme")).cycle
    assert (cycle.start_ms, cycle.end_ms) == (CYCLE_END, boundary(2))
    await accounts.at(boundary(2))
    cycle = (await accounts.pool.read("acme")).cycle
    assert (cycle.start_ms, cycle.end_ms) == (boundary(2), boundary(3, "Pacific/Honolulu"))


async def test_the_cycles_of_a_pool_join_without_a_gap(accounts: LiveAccounts) -> None:
    await accounts.make("acme", billing_date=date(2026, 8, 31), time_zone="America/Havana", plan=a_plan(10))
    for months, zone in ((5, "Asia/Tokyo"), (9, "Pacific/Kiritimati"), (14, "America/Havana")):
        await accounts.at(T0 + months * 30 * DAY)
        await accounts.change("acme", time_zone=zone)
    await accounts.at(T0 + 24 * 30 * DAY)
    opened = await cycles_opened(accounts)
    assert len(opened) > 20
    for one, other in pairwise(opened):
        assert (one.cycle_end_ms, one.cycle_index + 1) == (other.cycle_start_ms, other.cycle_index)


async def test_a_clock_whose_move_fails_halfway_goes_on_at_the_speed_it_had(accounts: LiveAccounts) -> None:
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await accounts.pool.move_clock(None, 60)
    accounts.database_failure = DatabaseUnavailable()
    with pytest.raises(DatabaseUnavailable):
        await accounts.pool.move_clock(boundary(12), None)
    assert (await accounts.pool.clock()).speed == 60
    accounts.database_failure = None
    moved = await accounts.pool.move_clock(boundary(12), 0)
    assert await accounts.pool.clock() == moved == Clock(boundary(12), 0)
    assert [each.cycle_index for each in await cycles_opened(accounts)] == list(range(13))


async def test_an_alarm_of_an_account_that_sql_does_not_know_holds_nothing_up(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """A database that was restored to an earlier day does not know its newest accounts."""
    for account in ("acme", "gone"):
        await accounts.make(account, billing_date=BILLING_DATE, plan=a_plan(10))
    engine.client.delete(accounts.keys.of_account("gone", accounts.keys.shard_of("gone"))[0])
    del accounts.configs["gone"]
    accounts.loads.clear()
    async with asyncio.timeout(10):
        await accounts.at(boundary(2))
    assert [each.cycle_index for each in await cycles_opened(accounts)] == [0, 1, 2]
    assert accounts.loads.count("gone") < 20


@pytest.mark.parametrize(
    "failing", [DatabaseUnavailable(), EngineUnavailable(), RedisConnectionError("away")]
)
async def test_accounts_whose_pools_cannot_be_made_hold_up_no_others(
    accounts: LiveAccounts,
    engine: EngineServer,
    monkeypatch: pytest.MonkeyPatch,
    failing: CallgateError | RedisConnectionError,
) -> None:
    """R19: however many fall due at once."""
    monkeypatch.setattr(pool_reading, "READ_AT_ONCE", 3)
    named = [f"account-{number:02}" for number in range(10)]
    for account in named:
        await accounts.make(account, billing_date=BILLING_DATE, plan=a_plan(10))
    gone = named[:4]
    engine.client.delete(*(accounts.pool.channel_of(account) for account in gone))
    supply = accounts.pool._accounts.supply

    async def fails(account: str, code: int) -> bool:
        if account in gone:
            raise failing
        return await supply(account, code)

    with monkeypatch.context() as patched:
        patched.setattr(accounts.pool._accounts, "supply", fails)
        await accounts.at_once(boundary(1))
        failed = await accounts.pool._reader.turn_cycles(named)
        expected = type(failing) if isinstance(failing, CallgateError) else EngineUnavailable
        assert {account: type(why) for account, why in failed.items()} == dict.fromkeys(gone, expected)
        for account in named[4:]:
            assert [each.cycle_index for each in await cycles_opened(accounts, account)] == [0, 1]


async def test_while_sql_is_away_it_is_not_asked_for_every_account_that_is_due(
    accounts: LiveAccounts, engine: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take long to say so, and what falls due meanwhile waits."""
    monkeypatch.setattr(pool_reading, "SUPPLIED_AT_ONCE", 2)
    named = [f"account-{number:02}" for number in range(10)]
    for account in named:
        await accounts.make(account, billing_date=BILLING_DATE, plan=a_plan(10))
    engine.client.delete(*(accounts.pool.channel_of(account) for account in named))
    accounts.loads.clear()
    accounts.database_failure = DatabaseUnavailable()
    failed = await accounts.pool._reader.turn_cycles(named)
    assert {account: type(why) for account, why in failed.items()} == dict.fromkeys(
        named, DatabaseUnavailable
    )
    assert len(accounts.loads) <= 2
    accounts.database_failure = None
    assert await accounts.pool._reader.turn_cycles(named) == {}
    assert max(accounts.loads) == named[-1]
