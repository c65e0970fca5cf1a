"""SQL that does not answer for long: all who wait for the same wait once, and for no longer than it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import date
from typing import Any, cast

import pytest

from gateway.domain.answers import Admitted
from gateway.domain.asks import Start
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool import operations
from gateway.pool.engine import Engine, connect
from gateway.pool.keys import KeySpace
from gateway.pool.shards import Shards
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

ACCOUNTS = [f"account-{number:02}" for number in range(20)]
HANGS_SECONDS = 0.4


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(engine.url, Policy(), shards=4, lease_ms=600_000) as accounts:
        accounts.saved_policy = Policy()
        await accounts.at(T0)
        for account in ACCOUNTS:
            await accounts.make(account, billing_date=date(2026, 11, 15), plan=a_plan(100))
        yield accounts


class Silent:
    """SQL that fails only after a while."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self) -> Any:
        """Whatever is asked."""
        self.asked += 1
        await asyncio.sleep(HANGS_SECONDS)
        raise DatabaseUnavailable


async def test_all_pools_that_need_the_policy_wait_for_one_answer(
    accounts: LiveAccounts, engine: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = Silent()
    monkeypatch.setattr(accounts.pool._shards.policies, "_saved", sql.ask)
    engine.flush()
    await accounts.pool._shards.confirm([0])
    asked_at = time.monotonic()
    asks = [accounts.pool.ask(Start(account, *ANA, "c-1", TO)) for account in ACCOUNTS]
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert {type(answer) for answer in answers} <= {DatabaseUnavailable, EngineUnavailable}
    lanes = accounts.pool._batcher._lanes
    await wait_until(lambda: not any(lane._parked for lane in lanes), 10)
    # Who asks while it is under way waits for the next; `keep_all` asks, too.
    assert sql.asked <= 5
    assert time.monotonic() - asked_at < len(ACCOUNTS) * HANGS_SECONDS / 2


async def test_shards_that_are_to_be_compared_wait_for_one_answer(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """In a Cluster each is compared as it is met."""
    connected = connect(engine.url)
    try:
        by_one = Engine(cast(Any, connected.client), spans_shards=False)
        sql = Silent()
        shards = Shards(by_one, KeySpace(4), Policy(), simulate=True, saved_numbers=sql.ask)
        await shards.open()
        engine.flush()
        sql.asked = 0
        await asyncio.gather(*(shards.confirm([shard]) for shard in range(4)))
        assert sql.asked <= 2
        assert len((await shards.states()).there) == 4
    finally:
        await connected.close()


async def test_a_shard_whose_policy_cannot_be_set_holds_up_none_but_itself(
    engine: EngineServer, accounts: LiveAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though all of them wait for the same answer of SQL."""
    connected = connect(engine.url)

    async def saved() -> Policy:
        return Policy()

    try:
        by_one = Engine(cast(Any, connected.client), spans_shards=False)
        shards = Shards(by_one, KeySpace(4), Policy(), simulate=True, saved_policy=saved)
        await shards.open()
        epochs = [await shards.epoch(shard) for shard in range(4)]
        engine.client.delete(accounts.keys.of_shard(2)[0])

        async def fails(of: Any) -> None:
            raise EngineUnavailable

        monkeypatch.setattr(shards, "confirm", fails)
        done = await asyncio.gather(
            *(shards.policies.keep(shard, epochs[shard]) for shard in range(4)), return_exceptions=True
        )
        assert [type(each) for each in done] == [type(None), type(None), EngineUnavailable, type(None)]
    finally:
        await connected.close()


async def test_asks_that_were_answered_are_not_kept_while_a_pool_is_loaded(
    accounts: LiveAccounts, engine: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "DEADLINE_SECONDS", 0.3)
    accounts.database_answers.clear()
    engine.flush()
    await accounts.pool._shards.confirm([0])
    asks = [accounts.pool.ask(Start("account-00", *ANA, f"c-{number}", TO)) for number in range(50)]
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert all(isinstance(answer, EngineUnavailable) for answer in answers)
    lanes = accounts.pool._batcher._lanes
    await wait_until(lambda: [kept for lane in lanes for kept in lane._parked.values()] == [[]], 5)
    # What comes after them still waits for the pool.
    monkeypatch.setattr(operations, "DEADLINE_SECONDS", 10.0)
    later = asyncio.create_task(accounts.pool.ask(Start("account-00", *ANA, "later", TO)))
    await asyncio.sleep(0.2)
    accounts.database_answers.set()
    assert isinstance(await later, Admitted)


async def test_a_policy_that_was_set_back_is_repaired(
    accounts: LiveAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whom is not known: whoever set it back read SQL before the new one was there, and died."""
    monkeypatch.setattr("gateway.pool.policies.POLICY_SECONDS", 0.5)
    accounts.saved_policy = Policy(increment_seconds=60)
    await accounts.pool.set_policy(Policy(increment_seconds=60))
    await asyncio.sleep(3)
    await accounts._shards.policies.set_all(Policy())

    async def is_repaired() -> bool:
        return await accounts.pool.policy() == Policy(increment_seconds=60)

    await wait_until(is_repaired, 10)


async def test_a_policy_that_is_just_being_set_is_not_set_back_by_who_compares(
    engine: EngineServer, accounts: LiveAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is asked first: what it has by then, SQL has had before."""
    monkeypatch.setattr("gateway.pool.policies.POLICY_SECONDS", 0)
    new = Policy(increment_seconds=60)
    asked = []

    async def saved() -> Policy:
        asked.append(await accounts.pool.policy())
        accounts.saved_policy = new
        await accounts.pool.set_policy(new)
        return new

    connected = connect(engine.url)
    try:
        shards = Shards(connected, KeySpace(4), Policy(), simulate=True, saved_policy=saved)
        await shards.open()
        monkeypatch.setattr(shards.policies, "_given_in", {s: await shards.epoch(s) for s in range(4)})
        await shards.policies.keep_all()
        assert asked[0] == Policy()
        assert await accounts.pool.policy() == new
        asked.clear()
        await shards.policies.keep_all()
        assert len(asked) == 1, "nothing differs"
    finally:
        await connected.close()
