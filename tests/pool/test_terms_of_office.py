"""R26: an engine that was deposed and is the primary again, in one process and with its successor's data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from gateway.domain.policy import Policy
from gateway.pool.engine import connect
from gateway.pool.keys import KeySpace
from gateway.pool.shards import Shards
from tests.support.engines import EngineServer
from tests.support.topologies import Replicated
from tests.support.waiting import wait_until_sync

SHARD = 0
LEASE_MS = 15_000


@asynccontextmanager
async def a_gateway_s_shards(server: EngineServer) -> AsyncIterator[Shards]:
    """The shards as a gateway sees them that reaches this server."""
    engine = connect(f"redis://127.0.0.1:{server.port}")
    try:
        shards = Shards(engine, KeySpace(1), Policy(), simulate=True)
        await shards.open()
        yield shards
    finally:
        await engine.close()


@pytest.fixture
def replicated(start_replicated: Callable[..., Replicated]) -> Replicated:
    return start_replicated(replicas=1)


def depose_for(successor: EngineServer) -> None:
    """It goes on with what it has; the primary does not know yet."""
    successor.ask("REPLICAOF", "NO", "ONE")


def bring_back(primary: EngineServer, successor: EngineServer) -> None:
    """Make the deposed one the primary again, once it has the data of its successor."""
    primary.ask("REPLICAOF", "127.0.0.1", successor.port)
    wait_until_sync(lambda: primary.info("replication")["master_link_status"] == "up", 15)
    primary.ask("REPLICAOF", "NO", "ONE")


async def write_and_see(shards: Shards, times: int = 1) -> None:
    """Have the shard come further, and know how far."""
    for _ in range(times):
        await shards.next_connection(SHARD)
    await shards.states()


async def new_epochs_after(shards: Shards) -> list[Mapping[int, bool]]:
    """Which shards a gateway finds to lack something when it says again that it is there."""
    heard: list[Mapping[int, bool]] = []
    shards.on_new_epoch(heard.append)
    await shards.beat(LEASE_MS)
    return heard


async def test_a_gateway_that_slept_finds_out_that_another_engine_was_the_primary_meanwhile(
    replicated: Replicated,
) -> None:
    """Its numbers are higher by now than those that it saw: only who was in office tells."""
    first, second = replicated.servers
    async with a_gateway_s_shards(first) as sleeping:
        depose_for(second)
        await write_and_see(sleeping)
        async with a_gateway_s_shards(second) as other:
            await write_and_see(other, times=5)
        bring_back(first, second)
        async with a_gateway_s_shards(first):
            assert await new_epochs_after(sleeping) == [{SHARD: True}]


async def test_an_engine_that_lost_what_it_said_while_nobody_asked_another_is_found_out(
    replicated: Replicated,
) -> None:
    """Its data says that this process has written it."""
    first, second = replicated.servers
    async with a_gateway_s_shards(first) as shards:
        depose_for(second)
        await write_and_see(shards)
        bring_back(first, second)
        assert await new_epochs_after(shards) == [{SHARD: True}]
        assert await new_epochs_after(shards) == []


async def test_a_successor_that_had_it_all_is_no_loss(replicated: Replicated) -> None:
    first, second = replicated.servers
    async with a_gateway_s_shards(first) as shards:
        await write_and_see(shards)
        wait_until_sync(replicated.in_step, 15)
        depose_for(second)
        bring_back(first, second)
        assert await new_epochs_after(shards) == []
