"""R28: pools that are made anew, and what they are made from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import date

import pytest

from gateway.domain.answers import Settled
from gateway.domain.asks import AccountConfig, End, Start
from gateway.domain.calls import CallRecord
from gateway.domain.errors import EngineUnavailable, NotFound
from gateway.domain.policy import Policy
from gateway.pool.accounts import Accounts
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

BILLING_DATE = date(2026, 11, 15)


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(engine.url, Policy(), shards=4) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100))
        yield accounts


async def use_100_seconds(accounts: LiveAccounts) -> None:
    await accounts.pool.ask(Start("acme", *ANA, "c-1", TO))
    await accounts.at(T0 + 100 * SECOND)
    assert isinstance(await accounts.pool.ask(End("acme", "c-1", ANA)), Settled)


def changed(accounts: LiveAccounts) -> AccountConfig:
    """A change that SQL has, read together with what was settled when nothing was."""
    config = replace(accounts.configs["acme"], revision=2, plan=a_plan(200))
    accounts.configs["acme"] = config
    return config


async def test_a_change_finds_no_pool_of_this_epoch_and_makes_it_from_what_sql_has_since(
    accounts: LiveAccounts,
) -> None:
    change = changed(accounts)
    await use_100_seconds(accounts)
    await accounts.pool.renew_epochs()
    view = await accounts.pool.apply(change)
    assert (view.settled_seconds, view.allocated_seconds) == (100, 200 * 60)


async def test_a_change_of_an_account_whose_engine_was_emptied(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    change = changed(accounts)
    await use_100_seconds(accounts)
    await accounts.keep_records()
    engine.flush()
    view = await accounts.pool.apply(change)
    assert (view.settled_seconds, view.allocated_seconds) == (100, 200 * 60)


async def test_a_change_of_a_pool_that_is_there_asks_sql_for_nothing(accounts: LiveAccounts) -> None:
    loads = len(accounts.loads)
    assert (await accounts.pool.apply(changed(accounts))).allocated_seconds == 200 * 60
    assert len(accounts.loads) == loads


async def test_a_pool_is_read_anew_if_the_epoch_ends_while_it_is_read(accounts: LiveAccounts) -> None:
    await use_100_seconds(accounts)
    await accounts.pool.renew_epochs()
    accounts.loads.clear()
    accounts.database_answers.clear()
    reading = asyncio.create_task(accounts.pool.read("acme"))

    async def is_asked() -> bool:
        return bool(accounts.loads)

    await wait_until(is_asked, 10)
    await accounts.pool.renew_epochs()
    accounts.database_answers.set()
    assert (await reading).settled_seconds == 100
    assert accounts.loads == ["acme"] * 2


async def test_who_knows_the_epoch_reads_once(accounts: LiveAccounts) -> None:
    await accounts.pool.renew_epochs()
    accounts.loads.clear()
    await accounts.pool.read("acme")
    assert accounts.loads == ["acme"]


async def no_calls(_: str) -> Sequence[CallRecord]:
    return ()


async def test_a_pool_whose_epochs_end_as_fast_as_it_is_read_is_unavailable(accounts: LiveAccounts) -> None:
    async def load(account: str) -> AccountConfig | None:
        await accounts.pool.renew_epochs()
        return await accounts.load(account)

    shards = accounts.pool._shards
    making = Accounts(accounts.engine, accounts.keys, shards, load, no_calls, unvouched_ms=1000)
    await accounts.pool.renew_epochs()
    with pytest.raises(EngineUnavailable):
        await making.apply(changed(accounts))


async def test_a_pool_that_sql_has_forgotten_is_not_made_from_what_was_read_before(
    accounts: LiveAccounts,
) -> None:
    change = accounts.configs.pop("acme")
    await accounts.pool.renew_epochs()
    with pytest.raises(NotFound):
        await accounts.pool.apply(change)
