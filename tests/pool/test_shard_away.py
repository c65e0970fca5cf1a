"""A shard of a Cluster that is away holds up only its own accounts; on a single server all fail together.

Played on one server that is asked shard by shard: `tests/records/test_shard_away.py` has a real Cluster.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from datetime import date
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.domain.asks import End, Start
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.pool import leases
from gateway.pool.engine import Engine, connect
from gateway.pool.keys import hash_tag
from gateway.pool.leases import Leases, Vouching
from gateway.pool.policies import SavedPolicy, no_policy_saved
from gateway.pool.shards import SavedNumbers, Shards, none_saved
from gateway.records.ingest import Progress
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

NEVER_MS = 3_600_000
SHARDS = 16


class CutOff:
    """A client that can't reach the keys of some shards."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.shards: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        """Carry out a command."""
        if any(hash_tag(shard) in str(each) for shard in self.shards for each in command):
            raise RedisConnectionError("away")
        return await self._client.execute_command(*command, **options)


@asynccontextmanager
async def a_deployment(server: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(server.url, Policy(), shards=SHARDS, lease_ms=NEVER_MS) as accounts:
        await accounts.at(T0)
        for account in ("acme", "other"):
            await accounts.make(account, billing_date=date(2026, 11, 15), plan=a_plan(100))
        assert accounts.pool.shard_of("acme") != accounts.pool.shard_of("other")
        yield accounts


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with a_deployment(engine) as accounts:
        yield accounts


@asynccontextmanager
async def cut_off(
    server: EngineServer,
    accounts: LiveAccounts,
    *,
    spans_shards: bool = False,
    lease_ms: int = NEVER_MS,
    saved_numbers: SavedNumbers = none_saved,
    saved_policy: SavedPolicy = no_policy_saved,
) -> AsyncIterator[tuple[Shards, Leases, CutOff]]:
    """How another gateway sees the shards, which may be cut off from some of them."""
    connected = connect(server.url)
    client = CutOff(connected.client)
    engine = Engine(cast(Any, client), spans_shards=spans_shards)
    shards = Shards(
        engine,
        accounts.keys,
        Policy(),
        simulate=True,
        saved_numbers=saved_numbers,
        saved_policy=saved_policy,
    )
    await shards.open()
    try:
        yield (
            shards,
            Leases(engine, accounts.keys, lambda _: 0, lease_ms=lease_ms, grace_ms=lease_ms),
            client,
        )
    finally:
        await connected.close()


async def test_calls_of_other_shards_are_renewed_and_those_of_the_absent_one_are_undecided(
    engine: EngineServer, accounts: LiveAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R14: whatever comes first, and however many they are."""
    monkeypatch.setattr(leases, "RENEWED_AT_ONCE", 2)
    vouchings = [Vouching(account, f"c-{n}", 7, 0) for n in range(3) for account in ("other", "acme")]
    for each in vouchings:
        await accounts.pool.ask(Start(each.account, *ANA, each.call_id, TO, connection=7))
    async with cut_off(engine, accounts) as (_, renewing, client):
        assert await renewing.renew(vouchings) == [Renewed.RENEWED] * 6
        client.shards = {accounts.pool.shard_of("other")}
        assert await renewing.renew(vouchings) == [Renewed.UNDECIDED, Renewed.RENEWED] * 3
        client.shards = set(range(SHARDS))
        with pytest.raises(RedisConnectionError):
            await renewing.renew(vouchings)


async def test_calls_of_other_shards_that_nobody_vouches_for_are_found(engine: EngineServer) -> None:
    """R14."""
    lost = [Vouching(account, "c-1", 7, heard_ago_ms=0, lost=True) for account in ("acme", "other")]
    async with a_deployment(engine) as accounts:
        for each in lost:
            await accounts.pool.ask(Start(each.account, *ANA, each.call_id, TO, connection=7))
    # No gateway is left that would look at them, and settle them.
    async with cut_off(engine, accounts, lease_ms=1) as (_, renewing, client):
        await renewing.renew(lost)

        async def some_are_due() -> list[tuple[str, str]]:
            return (await renewing.due())[0]

        client.shards = {accounts.pool.shard_of("acme")}
        assert await wait_until(some_are_due, 5) == [("other", "c-1")]
        client.shards = set()
        assert ("acme", "c-1") in await wait_until(some_are_due, 5)
        client.shards = set(range(SHARDS))
        with pytest.raises(RedisConnectionError):
            await renewing.due()


@pytest.mark.parametrize("away", [{0}, {3, 5}, {0, 15}])
async def test_all_shards_that_can_be_reached_are_told_that_a_gateway_is_there(
    engine: EngineServer, accounts: LiveAccounts, away: set[int]
) -> None:
    async with cut_off(engine, accounts) as (shards, _, client):
        assert await shards.beat(10_000) == frozenset()
        for shard in range(SHARDS):
            shards.forget_real_ms(shard)
        client.shards = away
        assert await shards.beat(10_000) == away == shards.away
        assert {shard for shard in range(SHARDS) if shards.real_ms(shard)} == set(range(SHARDS)) - away
        client.shards = set()
        assert await shards.beat(10_000) == frozenset() == shards.away


async def test_one_that_lost_something_is_seen_to_while_another_is_away(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R26: and the other once it is back."""
    async with cut_off(engine, accounts) as (shards, _, client):
        await shards.beat(10_000)
        for shard in (1, 2):
            engine.client.delete(accounts.keys.of_shard(shard)[0])
        heard: list[int] = []
        shards.on_new_epoch(heard.extend)
        client.shards = {0, 2}
        await shards.beat(10_000)
        assert heard == [1]
        client.shards = set()
        await shards.beat(10_000)
        assert heard == [1, 2]


async def test_the_number_of_shards_holds_up_none_but_the_first_while_it_cannot_be_asked(
    engine: EngineServer, accounts: LiveAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R26: it lies in a slot of its own, whose node may be away."""

    async def is_away() -> None:
        raise RedisConnectionError("away")

    async with cut_off(engine, accounts) as (shards, _, client):
        await shards.beat(10_000)
        heard: list[int] = []
        shards.on_new_epoch(heard.extend)
        for shard in (0, 1, 2):
            engine.client.delete(accounts.keys.of_shard(shard)[0])
        with monkeypatch.context() as patched:
            patched.setattr(shards, "_keep_number", is_away)
            client.shards = {2}
            with pytest.raises(RedisConnectionError):
                await shards.confirm([0, 1, 2])
            assert heard == [1]
            client.shards = set()
            assert await shards.beat(10_000) == {0} == shards.away
            assert heard == [1, 2]
        assert await shards.beat(10_000) == frozenset() == shards.away
        assert heard == [1, 2, 0]


async def test_what_was_compared_without_sql_is_compared_again_where_it_is_not_away(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R26."""
    failure: DatabaseUnavailable | None = DatabaseUnavailable()

    async def saved_numbers() -> Mapping[int, int]:
        if failure is not None:
            raise failure
        return {}

    async with cut_off(engine, accounts, saved_numbers=saved_numbers) as (shards, _, client):
        assert shards.blind == set(range(SHARDS))
        failure = None
        client.shards = {2}
        await shards.beat(10_000)
        await shards.confirm_blind()
        assert shards.blind == {2}
        await shards.confirm_blind()
        client.shards = set()
        await shards.beat(10_000)
        await shards.confirm_blind()
        assert shards.blind == set()


@pytest.mark.parametrize("policies_fail", [False, True])
async def test_answers_are_let_go_of_though_a_shard_fails_that_is_not_known_to_be_away(
    accounts: LiveAccounts, monkeypatch: pytest.MonkeyPatch, policies_fail: bool
) -> None:
    """Those of shards that were compared without SQL stay until they are compared with it."""

    async def all_is_saved(_: Set[int]) -> int:
        return T0 + 1

    async def fails() -> None:
        raise RedisConnectionError("away")

    pool = accounts.pool
    for account in ("acme", "other"):
        await pool.ask(Start(account, *ANA, "c-1", TO))
        await pool.ask(End(account, "c-1"))
    assert len(pool._kept) == 2
    monkeypatch.setattr(pool._retelling, "_saved_before_ms", all_is_saved)
    monkeypatch.setattr(pool._shards, "_blind", {pool.shard_of("acme")})
    with monkeypatch.context() as patched:
        # As others see it when SQL is there again, but not the engine.
        patched.setattr(pool._shards, "confirm_blind", fails)
        if policies_fail:
            patched.setattr(pool._shards.policies, "keep_all", fails)
        await wait_until(lambda: len(pool._kept) == 1, 10)
        with pytest.raises(RedisConnectionError):
            await pool._retelling.release()
        assert len(pool._kept) == 1
    await wait_until(lambda: len(pool._kept) == 0, 10)


async def test_who_gave_a_shard_a_new_epoch_knows_it_though_another_is_away(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R28: or nobody would make its pools anew."""
    async with cut_off(engine, accounts) as (shards, _, client):
        heard: list[Mapping[int, bool]] = []
        shards.on_new_epoch(heard.append)
        client.shards = {2}
        with pytest.raises(RedisConnectionError):
            await shards.renew_epochs({shard: Progress("0-0", await shards.epoch(1), 0) for shard in (1, 2)})
        await shards.beat(10_000)
        assert heard == [{1: True}]


async def test_the_clock_is_read_of_any_shard_and_the_others_tell_how_they_are(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    async with cut_off(engine, accounts) as (shards, _, client):
        client.shards = {0}
        for _ in range(2):
            assert (await shards.clock()).now_ms == T0
        found = await shards.states()
        assert set(found.there) == set(range(1, SHARDS))
        assert found.away == {0}
        assert await shards.policies.read() == Policy()
        client.shards = set(range(SHARDS))
        with pytest.raises(RedisConnectionError):
            await shards.clock()
        with pytest.raises(RedisConnectionError):
            await shards.states()


async def test_on_a_single_server_one_failure_is_that_of_all(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    async with cut_off(engine, accounts, spans_shards=True) as (shards, renewing, client):
        client.shards = {15}
        for ask in (lambda: shards.beat(10_000), shards.states, renewing.due):
            with pytest.raises(RedisConnectionError):
                await ask()


async def test_a_shard_that_fails_while_it_is_read_is_not_taken_for_one_that_has_no_more(
    engine: EngineServer, accounts: LiveAccounts
) -> None:
    """R26: its records would seem to be saved."""
    for account in ("acme", "other"):
        await accounts.pool.ask(Start(account, *ANA, "c-1", TO))
        await accounts.pool.ask(End(account, "c-1"))
    near, far = (accounts.pool.shard_of(account) for account in ("acme", "other"))
    client = CutOff(accounts.engine.client)
    accounts.engine.client, accounts.engine.spans_shards = cast(Any, client), False
    stream = accounts.pool.records
    assert {entry.shard for entry in await stream.read({}, 10)} == {near, far}
    client.shards = {far}
    with pytest.raises(EngineUnavailable):
        await stream.read({}, 10)
    assert {entry.shard for entry in await stream.read({}, 10, away={far})} == {near}
    client.shards = set()
