"""Thresholds and exhaustion come at their instants with nobody asking, and are told once: R11, R22, R29."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pytest

from gateway.domain.asks import End, Start
from gateway.domain.calls import PoolNotice, Threshold, ThresholdsPassed
from gateway.domain.policy import Policy
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, CYCLE_END, HOUR, MINUTE, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

BILLING_DATE = date(2026, 11, 15)


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(engine.url, Policy()) as accounts:
        await accounts.at(T0)
        yield accounts


async def start(accounts: LiveAccounts, call_id: str = "c-1", account: str = "acme") -> None:
    await accounts.pool.ask(Start(account, *ANA, call_id, TO))


async def end(accounts: LiveAccounts, call_id: str = "c-1", ago_ms: int = 0) -> None:
    await accounts.pool.ask(End("acme", call_id, ANA, ended_ago_ms=ago_ms))


async def kinds(accounts: LiveAccounts) -> list[tuple[str, int | None, int, int]]:
    """Kind, percent, how many ms after T0, and what was used then, of all that webhooks are to tell."""
    return [
        (each.kind, each.percent, each.at_ms - T0, each.used_seconds)
        for each in await accounts.noticed()
        if isinstance(each, PoolNotice)
    ]


async def test_each_is_passed_at_its_instant_while_the_clock_moves_on(accounts: LiveAccounts) -> None:
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await start(accounts)
    await accounts.at(T0 + HOUR)
    assert (await accounts.pool.read("acme")).thresholds == (
        Threshold(50, T0 + 299_001),
        Threshold(80, T0 + 479_001),
        Threshold(100, T0 + 599_001),
    )
    assert await kinds(accounts) == [
        ("threshold", 50, 299_001, 300),
        ("threshold", 80, 479_001, 480),
        ("threshold", 100, 599_001, 600),
        ("minutes_exhausted", 100, 599_001, 600),
    ]


async def test_they_are_found_at_their_instants_though_nobody_was_there_for_an_hour(
    accounts: LiveAccounts,
) -> None:
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await start(accounts)
    await accounts.at_once(T0 + HOUR)
    await accounts.pool.read("acme")
    assert [at_ms for _, _, at_ms, _ in await kinds(accounts)] == [299_001, 479_001, 599_001, 599_001]


async def test_they_are_passed_on_real_time_with_nobody_asking(engine: EngineServer) -> None:
    plan = a_plan(1)
    async with live_accounts(engine.url, Policy(free_seconds=0, hold_seconds=0), simulate=False) as accounts:
        await accounts.make("acme", billing_date=date(2026, 1, 1), plan=plan)
        for call in range(60):
            await start(accounts, f"c-{call}")

        async def exhausted() -> bool:
            return len(await kinds(accounts)) == 4

        await wait_until(exhausted)


async def test_what_sql_has_of_them_outlives_the_engine_and_none_is_told_twice(
    accounts: LiveAccounts,
) -> None:
    """R28."""
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await start(accounts)
    await accounts.at(T0 + 8 * MINUTE)
    await end(accounts)
    told = await kinds(accounts)
    assert await accounts.pool.renew_epochs() > 0
    view = await accounts.pool.read("acme")
    assert [each.percent for each in view.thresholds] == [50, 80]
    await start(accounts, "c-2")
    await accounts.at(T0 + 9 * MINUTE)
    assert await kinds(accounts) == told


async def test_an_upgrade_ends_exhaustion_and_re_arms_what_use_is_below_again(accounts: LiveAccounts) -> None:
    """R22, R29."""
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await start(accounts)
    await accounts.at(T0 + 11 * MINUTE)
    await accounts.change_plan("acme", a_plan(20))
    view = await accounts.pool.read("acme")
    assert [each.percent for each in view.thresholds] == [50]
    assert (await kinds(accounts))[-2:] == [
        ("plan_changed", None, 11 * MINUTE, 660),
        ("minutes_restored", None, 11 * MINUTE, 660),
    ]
    passed = [each for each in await accounts.noticed() if isinstance(each, ThresholdsPassed)]
    assert passed[-1].thresholds == view.thresholds
    await accounts.at(T0 + 17 * MINUTE)
    assert (await kinds(accounts))[-1][:2] == ("threshold", 80)


async def test_a_reset_ends_exhaustion_at_the_boundary(accounts: LiveAccounts) -> None:
    """R19, R29: what was passed in the old cycle just before is told as of then."""
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await accounts.at(CYCLE_END - 10 * MINUTE)
    await start(accounts)
    await accounts.at_once(CYCLE_END + HOUR)
    assert (await accounts.pool.read("acme")).thresholds == ()
    told = [(kind, percent, at_ms + T0 - CYCLE_END) for kind, percent, at_ms, _ in await kinds(accounts)]
    assert told == [
        ("threshold", 50, -10 * MINUTE + 299_001),
        ("threshold", 80, -10 * MINUTE + 479_001),
        ("threshold", 100, -999),
        ("minutes_exhausted", 100, -999),
        ("minutes_restored", None, 0),
    ]


async def test_a_dearer_policy_passes_them_when_it_is_set(accounts: LiveAccounts) -> None:
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await start(accounts)
    await accounts.at(T0 + MINUTE)
    await accounts.pool.set_policy(Policy(increment_seconds=600))
    await accounts.at(T0 + 2 * MINUTE)
    assert [at_ms for _, _, at_ms, _ in await kinds(accounts)] == [MINUTE] * 4


async def test_devices_are_told_once_on_the_notices_of_the_shard(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R11."""
    (channel,) = accounts.keys.named(accounts.keys.shard_of("acme"), "notices")
    client: Any = engine.client
    heard = client.pubsub()
    heard.ssubscribe(channel)
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(1))
    await start(accounts)
    await accounts.at(T0 + 5 * MINUTE)
    await accounts.change_plan("acme", a_plan(10))
    told = []
    while (message := heard.get_sharded_message(timeout=1)) is not None:
        if message["type"] == "smessage":
            told.append(message["data"])
    heard.close()
    assert told == [b"minutes_exhausted acme", b"minutes_restored acme"]


async def test_a_long_call_wakes_the_gateways_a_few_times_and_not_each_second(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """No polling of pools: an instant is computed ahead, and looked at again only near it."""
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(20_000))
    await start(accounts)
    (alarms,) = accounts.keys.named(accounts.keys.shard_of("acme"), "alarms")
    fired, now_ms = 0, T0
    while now_ms < CYCLE_END - SECOND and len((await accounts.pool.read("acme")).thresholds) < 3:
        found: Any = engine.client.zrange(alarms, 0, 0, withscores=True)
        now_ms = int(found[0][1])
        await accounts.at(now_ms)
        fired += 1
    assert [each.percent for each in (await accounts.pool.read("acme")).thresholds] == [50, 80, 100]
    assert fired < 100
