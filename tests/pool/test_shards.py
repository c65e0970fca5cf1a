"""The shards as a whole: what is kept with the data, and the one clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from gateway.domain.asks import AccountConfig, Start
from gateway.domain.calls import CycleOpened
from gateway.domain.errors import DatabaseUnavailable, InvalidField, StartRefused
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from gateway.pool.engine import connect
from gateway.pool.live_pool import LivePool
from gateway.pool.shards import SavedNumbers, Shards, none_saved
from gateway.records.ingest import Progress
from tests.support.engines import EngineServer
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

NOON = 1_795_392_000_000
SECOND = 1000
DAY = 86_400 * SECOND
TEN_MINUTES = Plan("ten", "Ten", 10, 5, 5)


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(engine.url, Policy()) as accounts:
        await accounts.at(NOON)
        yield accounts


@asynccontextmanager
async def a_gateway_s_shards(
    engine: EngineServer, accounts: LiveAccounts, saved_numbers: SavedNumbers = none_saved
) -> AsyncIterator[Shards]:
    """The same shards, as another gateway will see them."""
    client = connect(engine.url)
    try:
        yield Shards(client, accounts.keys, Policy(), simulate=True, saved_numbers=saved_numbers)
    finally:
        await client.close()


async def no_account(_: str) -> AccountConfig | None:
    return None


async def open_again(engine: EngineServer, policy: Policy, *, simulate: bool, shards: int = 256) -> None:
    other = connect(engine.url)
    try:
        await LivePool(other, no_account, policy, simulate=simulate, shards=shards).open()
    finally:
        await other.close()


async def test_a_new_simulated_clock_stands_still_whoever_looked_for_alarms_before(
    engine: EngineServer,
) -> None:
    client = connect(engine.url)
    try:
        pool = LivePool(client, no_account, Policy(), simulate=True)
        _, next_ms = await pool._alarms.fire_due()
        assert next_ms == 0
        await pool.open()
        assert (await pool.clock()).speed == 0
    finally:
        await client.close()


async def test_what_was_compared_while_sql_was_away_is_compared_once_it_is_back(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R26: SQL may have what the engine lacks, and nobody would find out before the next restart."""
    failure: DatabaseUnavailable | None = DatabaseUnavailable()
    in_sql = {0: 1_000}

    async def saved_numbers() -> Mapping[int, int]:
        if failure is not None:
            raise failure
        return in_sql

    heard: list[Mapping[int, bool]] = []
    async with a_gateway_s_shards(engine, accounts, saved_numbers) as shards:
        shards.on_new_epoch(heard.append)
        await shards.open()
        with pytest.raises(DatabaseUnavailable):
            await shards.confirm_blind()
        assert heard == []
        failure = None
        for _ in range(2):
            await shards.confirm_blind()
            assert heard == [{0: True}]
        in_sql = {0: 2_000}
        await shards.confirm_blind()
        assert heard == [{0: True}], "that is for others to find: all this one has was compared"


async def test_data_of_before_the_latest_epoch_is_found_out(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R26: of a restored copy, or of a primary that was deposed before."""
    (meta, *_) = accounts.keys.of_shard(0)
    async with a_gateway_s_shards(engine, accounts) as shards:
        await shards.open()
        older: Any = engine.client.get(meta)
        await shards.renew_epochs()
        await shards.beat(10_000)
        latest = (await shards.states()).there[0].epoch
        engine.client.set(meta, older)
        await shards.confirm([0])
        assert (await shards.states()).there[0].epoch > latest


async def test_an_epoch_is_never_one_that_was_there_before(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R26: also not in an engine whose clock is behind that of the one before."""
    (meta, *_) = accounts.keys.of_shard(0)
    in_an_hour = time.time_ns() // 1_000_000 + 3600 * SECOND
    async with a_gateway_s_shards(engine, accounts) as shards:
        await shards.open()
        older: Any = engine.client.get(meta)
        await shards.renew_epochs({0: Progress("0-0", in_an_hour, 0)})
        await shards.confirm([0])
        latest = await shards.epoch(0)
        assert latest > in_an_hour
        engine.client.set(meta, older)
        await shards.confirm([0])
        assert await shards.epoch(0) > latest


async def test_what_was_read_of_a_stream_is_missed_when_it_is_lost(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R26: also what raised no number, and was no answer to this gateway."""
    (meta, *_) = accounts.keys.of_shard(0)
    async with a_gateway_s_shards(engine, accounts) as shards:
        await shards.open()
        older: Any = engine.client.get(meta)
        async with a_gateway_s_shards(engine, accounts) as others:
            await others.open()
            await others.next_connection(0)
        before = (await shards.states()).there
        engine.client.set(meta, older)
        await shards.confirm([0])
        assert (await shards.states()).there[0].epoch > before[0].epoch


async def test_data_under_another_policy_is_not_opened(engine: EngineServer, accounts: LiveAccounts) -> None:
    await open_again(engine, Policy(), simulate=True)
    with pytest.raises(StartRefused, match=r"free 30 s.*free 6 s"):
        await open_again(engine, Policy(free_seconds=6), simulate=True)


async def test_simulated_data_is_not_opened_without_simulation(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    with pytest.raises(StartRefused, match="--simulate"):
        await open_again(engine, Policy(), simulate=False)


async def test_data_of_other_shards_is_not_opened(engine: EngineServer, accounts: LiveAccounts) -> None:
    with pytest.raises(StartRefused, match="256 shards, not 16"):
        await open_again(engine, Policy(), simulate=True, shards=16)


async def test_a_policy_that_is_set_holds_for_calls_in_progress(accounts: LiveAccounts) -> None:
    """R4: live use follows the new policy at that instant; what is settled stays."""
    await accounts.make("acme", billing_date=date(2026, 11, 23), plan=TEN_MINUTES)
    await accounts.pool.ask(Start("acme", "ana", "desk", "c-1", "+14155550100"))
    await accounts.at(NOON + 61 * SECOND)
    assert (await accounts.pool.read("acme")).used_seconds == 61
    await accounts.pool.set_policy(replace(Policy(), increment_seconds=60))
    assert (await accounts.pool.read("acme")).used_seconds == 120
    await accounts.pool.set_policy(replace(Policy(), count_from="answer"))
    assert (await accounts.pool.read("acme")).used_seconds == 0
    assert await accounts.pool.policy() == replace(Policy(), count_from="answer")


BY_THE_MINUTE = replace(Policy(), increment_seconds=60)


def metas_of(engine: EngineServer, accounts: LiveAccounts) -> dict[str, Any]:
    """What the shards are now, to go back to."""
    metas = [accounts.keys.of_shard(shard)[0] for shard in range(accounts.keys.shards)]
    return {meta: engine.client.get(meta) for meta in metas}


async def go_back(engine: EngineServer, accounts: LiveAccounts, metas: dict[str, Any]) -> None:
    engine.client.mset(metas)
    await accounts.pool._shards.confirm([0])


async def test_an_engine_that_went_back_bills_by_the_policy_that_sql_has(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R26: before there is a pool that would bill by another, and not before SQL can be asked."""
    await accounts.make("acme", billing_date=date(2026, 11, 23), plan=TEN_MINUTES)
    await accounts.pool.ask(Start("acme", "ana", "desk", "c-1", "+14155550100"))
    await accounts.at(NOON + 61 * SECOND)
    older = metas_of(engine, accounts)
    accounts.saved_policy = BY_THE_MINUTE
    await accounts.pool.set_policy(BY_THE_MINUTE)
    accounts.database_failure = DatabaseUnavailable()
    await go_back(engine, accounts, older)
    assert await accounts.pool.policy() == Policy()
    with pytest.raises(DatabaseUnavailable):
        await accounts.pool.read("acme")
    accounts.database_failure = None
    view = await accounts.pool.read("acme")
    assert (view.used_seconds, view.policy) == (120, BY_THE_MINUTE)


async def test_shards_follow_the_policy_that_sql_has_with_nobody_asking(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    older = metas_of(engine, accounts)
    accounts.saved_policy = BY_THE_MINUTE
    await accounts.pool.set_policy(BY_THE_MINUTE)
    await go_back(engine, accounts, older)

    async def is_set() -> bool:
        return await accounts.pool.policy() == BY_THE_MINUTE

    await wait_until(is_set, 10)


async def test_a_policy_that_is_just_being_set_is_not_set_back(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """SQL and then the engine are told of it just after SQL was asked."""
    client = connect(engine.url)
    answers = iter([Policy(), BY_THE_MINUTE, BY_THE_MINUTE])

    async def saved_policy() -> Policy:
        answer = next(answers)
        if answer == Policy():
            await accounts.pool.set_policy(BY_THE_MINUTE)
        return answer

    try:
        shards = Shards(client, accounts.keys, Policy(), simulate=True, saved_policy=saved_policy)
        await shards.open()
        await shards.policies.keep_all()
        assert await accounts.pool.policy() == shards.policies.known == BY_THE_MINUTE
    finally:
        await client.close()


async def test_a_policy_is_set_also_where_the_engine_was_just_emptied(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    engine.flush()
    await accounts.pool.set_policy(BY_THE_MINUTE)
    assert await accounts.pool.policy() == BY_THE_MINUTE


async def test_a_policy_that_was_set_is_missed_when_it_is_lost(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R26."""
    (meta, *_) = accounts.keys.of_shard(0)
    async with a_gateway_s_shards(engine, accounts) as shards:
        await shards.open()
        older: Any = engine.client.get(meta)
        epoch = await shards.epoch(0)
        await shards.policies.set_all(BY_THE_MINUTE)
        engine.client.set(meta, older)
        await shards.confirm([0])
        assert await shards.epoch(0) > epoch


async def test_the_clock_only_moves_forward_once_there_is_an_account(accounts: LiveAccounts) -> None:
    await accounts.at(NOON - DAY)
    await accounts.at(NOON)
    await accounts.make("acme", billing_date=date(2026, 11, 23), plan=TEN_MINUTES)
    with pytest.raises(InvalidField, match="at_ms"):
        await accounts.at(NOON - 1)
    assert (await accounts.pool.clock()).now_ms == NOON


async def test_a_running_clock_is_moved_from_where_it_stands(accounts: LiveAccounts) -> None:
    await accounts.make("acme", billing_date=date(2026, 11, 23), plan=TEN_MINUTES)
    await accounts.pool.move_clock(None, 3600)
    moved = await accounts.pool.move_clock(None, 0, by_ms=DAY)
    assert moved.now_ms >= NOON + DAY
    assert await accounts.pool.clock() == moved


async def test_every_cycle_that_ends_on_the_way_is_turned_with_nobody_calling(accounts: LiveAccounts) -> None:
    """R19."""
    for account, day in (("acme", 23), ("other", 10)):
        await accounts.make(account, billing_date=date(2026, 11, day), plan=TEN_MINUTES)
    await accounts.at(NOON + 100 * DAY)
    opened = [item for item in await accounts.recorded() if isinstance(item, CycleOpened)]
    starts = {
        account: [each.cycle_index for each in opened if each.account == account]
        for account in ("acme", "other")
    }
    assert starts == {"acme": [0, 1, 2, 3], "other": [0, 1, 2, 3]}
