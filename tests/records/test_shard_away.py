"""A real Cluster one of whose nodes is away, with nothing in its place: all others are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import date

import pytest

from gateway.domain.asks import End, Start
from gateway.domain.errors import EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.pool.keys import hash_tag
from gateway.pool.leases import Vouching
from gateway.records.database import Database
from gateway.records.recorder import Recorder
from tests.records.making import rows
from tests.support.pool_model import ANA, T0, TO, a_plan
from tests.support.pools import live_accounts
from tests.support.topologies import Cluster
from tests.support.waiting import wait_until

ACCOUNTS = [f"account-{number}" for number in range(12)]
SHARDS = 16

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("way", ["killed", "paused"])
async def test_a_node_that_is_away_holds_up_only_its_own_accounts(
    database: Database, start_cluster: Callable[..., Cluster], way: str
) -> None:
    """The one that the clock is read of, too."""
    cluster = await asyncio.to_thread(start_cluster, persistent=True, full_coverage=False)
    dead = cluster.owner_of(hash_tag(0))
    async with live_accounts(cluster.url, Policy(), shards=SHARDS, lease_ms=3_600_000) as accounts:
        await accounts.at(T0)
        for account in ACCOUNTS:
            await accounts.make(account, billing_date=date(2026, 11, 15), plan=a_plan(100))
            for call_id in ("ends", "goes-on"):
                await accounts.pool.ask(Start(account, *ANA, call_id, TO, connection=7))

        async def now_ms() -> int:
            return (await accounts.pool.clock()).now_ms

        recorder = Recorder(database, accounts.pool.records, now_ms)
        await recorder.drain()
        far = [each for each in ACCOUNTS if cluster.owner_of(accounts.pool.channel_of(each)) is dead]
        near = [each for each in ACCOUNTS if each not in far]
        assert far
        assert near
        (replica,) = cluster.replicas_of(dead)
        replica.kill()
        (dead.kill if way == "killed" else dead.pause)()

        async def are_settled(of: Sequence[str]) -> bool:
            try:
                for account in of:
                    await accounts.pool.ask(End(account, "ends"))
            except EngineUnavailable:
                return False
            return True

        await wait_until(lambda: are_settled(near), 15)

        async def recorded() -> set[str]:
            return {account for (account,) in await rows(database, "SELECT account FROM call_records")}

        recording = asyncio.create_task(recorder.run())
        try:

            async def are_recorded() -> bool:
                return await recorded() == set(near)

            await wait_until(are_recorded, 15)
            await wait_until(lambda: "are away" in str(recorder.status().failing), 15)
            for account in near:
                await recorder.drain(accounts.pool.shard_of(account))
            for account in far:
                with pytest.raises(EngineUnavailable):
                    await recorder.drain(accounts.pool.shard_of(account))
            renewed = await accounts.pool.renew([Vouching(each, "goes-on", 7, 0) for each in ACCOUNTS])
            assert dict(zip(ACCOUNTS, renewed, strict=True)) == {
                **dict.fromkeys(near, Renewed.RENEWED),
                **dict.fromkeys(far, Renewed.UNDECIDED),
            }

            if way == "killed":
                await asyncio.to_thread(dead.start)
            else:
                dead.resume()

            async def all_are_recorded() -> bool:
                return await are_settled(far) and await recorded() == set(ACCOUNTS)

            await wait_until(all_are_recorded, 30)
            await wait_until(lambda: recorder.status().failing is None, 15)
        finally:
            recording.cancel()
            await asyncio.wait([recording])
