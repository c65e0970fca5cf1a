"""R19, R28: pools that an engine has lost are made anew with nobody asking, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.domain.policy import Policy
from gateway.pool.scripts import script
from gateway.records.exclusive import FileLock
from gateway.service import rebuilding
from gateway.service.rebuilding import Rebuilder
from tests.support.engines import EngineServer
from tests.support.pool_model import T0, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

ACCOUNTS = [f"account-{number:02}" for number in range(25)]
SHARDS = 4


class Sql:
    """What a rebuilder asks SQL, of the accounts that `LiveAccounts` has; and the lock between gateways."""

    def __init__(self, accounts: LiveAccounts, directory: Path) -> None:
        self._accounts = accounts
        self._directory = directory
        self.accounts = self.database = self

    async def list_ids(
        self, _: str | None, after: str | None, limit: int
    ) -> tuple[Sequence[str], str | None]:
        """A page of ids."""
        left = sorted(each for each in self._accounts.configs if each > (after or ""))
        page = left[:limit]
        return page, page[-1] if len(left) > limit else None

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[FileLock]:
        """A lock as that of SQLite."""
        lock = FileLock(self._directory / name)
        try:
            yield lock
        finally:
            await lock.release()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "OTHERS_SECONDS", (0.3, 0.5))
    monkeypatch.setattr(rebuilding, "ACCOUNTS_AT_ONCE", 10)


@asynccontextmanager
async def a_gateway(server: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(server.url, Policy(), shards=SHARDS, lease_ms=1500) as accounts:
        yield accounts


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with a_gateway(engine) as accounts:
        await accounts.at(T0)
        for account in ACCOUNTS:
            await accounts.make(account, billing_date=date(2026, 11, 15), plan=a_plan(100))
        yield accounts


@asynccontextmanager
async def rebuilding_for(accounts: LiveAccounts, directory: Path) -> AsyncIterator[Rebuilder]:
    rebuilder = Rebuilder(cast(Any, Sql(accounts, directory)), accounts.pool)
    task = asyncio.create_task(rebuilder.run())
    try:
        yield rebuilder
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def are_made(accounts: LiveAccounts) -> bool:
    """In this epoch, so that they reset on time."""
    return not await accounts.pool.not_made(ACCOUNTS, await accounts.pool.epochs())


async def test_pools_are_made_though_the_gateway_that_found_out_did_not_hear_so(
    accounts: LiveAccounts, engine: EngineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = script("shards_open")
    run = opening.run

    async def is_lost(*given: Any) -> Any:
        await run(*given)
        monkeypatch.setattr(opening, "run", run)
        raise RedisTimeoutError("no reply")

    async with rebuilding_for(accounts, tmp_path):
        await asyncio.sleep(1)
        monkeypatch.setattr(opening, "run", is_lost)
        engine.flush()
        await wait_until(lambda: are_made(accounts), 15)


async def test_pools_are_made_by_another_gateway_if_the_one_that_found_out_is_gone(
    accounts: LiveAccounts, engine: EngineServer, tmp_path: Path
) -> None:
    heard: list[bool] = []
    async with a_gateway(engine) as other:
        other.configs = accounts.configs
        async with rebuilding_for(other, tmp_path):
            await asyncio.sleep(1)
            other.pool.on_new_epoch(lambda changed: heard.extend(changed.values()))
            engine.flush()
            # It finds out, and makes none of them.
            await accounts.pool._shards.confirm([0])
            await wait_until(lambda: are_made(other), 15)
    assert not any(heard)


async def test_a_gateway_that_starts_makes_what_the_one_before_did_not_come_to(
    accounts: LiveAccounts, engine: EngineServer, tmp_path: Path
) -> None:
    engine.flush()
    await accounts.pool._shards.confirm([0])
    async with a_gateway(engine) as started:
        started.configs = accounts.configs
        assert not await are_made(started)
        async with rebuilding_for(started, tmp_path):
            await wait_until(lambda: are_made(started), 15)


async def test_others_wait_for_who_is_at_work_and_make_nothing_twice(
    accounts: LiveAccounts, engine: EngineServer, tmp_path: Path
) -> None:
    async with a_gateway(engine) as other:
        other.configs = accounts.configs
        async with rebuilding_for(accounts, tmp_path), rebuilding_for(other, tmp_path):
            await asyncio.sleep(1)
            accounts.loads.clear()
            accounts.database_answers.clear()
            engine.flush()
            await accounts.pool._shards.confirm([0])
            await wait_until(lambda: accounts.loads, 5)
            await asyncio.sleep(1.5)
            assert other.loads == []
            accounts.database_answers.set()
            await wait_until(lambda: are_made(accounts), 15)
            await asyncio.sleep(1)
            assert other.loads == []
    assert sorted(set(accounts.loads)) == ACCOUNTS


async def test_pools_that_are_there_are_not_read(
    accounts: LiveAccounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, and however many gateways start."""
    reading = script("pools_read")

    async def is_not_asked(*_: Any) -> Any:
        raise AssertionError("read")

    sql = cast(Any, Sql(accounts, tmp_path))
    monkeypatch.setattr(reading, "run", is_not_asked)
    told: list[int] = []
    rebuilder = Rebuilder(sql, accounts.pool)
    assert await rebuilder.rebuild(set(range(SHARDS)), told.append) == len(ACCOUNTS)
    assert told == [10, 20, 25]
    monkeypatch.undo()


async def test_pools_of_an_older_epoch_are_made_anew(accounts: LiveAccounts, tmp_path: Path) -> None:
    await accounts.pool.renew_epochs()
    assert not await are_made(accounts)
    await Rebuilder(cast(Any, Sql(accounts, tmp_path)), accounts.pool).rebuild(set(range(SHARDS)))
    assert await are_made(accounts)
