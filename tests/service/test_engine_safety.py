"""What an engine's settings may lose is said: at start in the log, and by the status."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from gateway.pool.engine import Replicas, connect
from gateway.service.engine_safety import engine_warnings
from tests.support.engines import KINDS, EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.topologies import Cluster, Replicated, SentinelSetup


async def warned(url: str, wait_replicas: Replicas = 0) -> list[str]:
    engine = connect(url)
    try:
        return await engine_warnings(engine, wait_replicas)
    finally:
        await engine.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_an_engine_that_syncs_every_write_and_evicts_nothing_is_safe(
    start_engine: Callable[..., EngineServer], kind: str
) -> None:
    assert await warned(start_engine(kind, persistent=True).url) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"appendonly": "no"}, ["no AOF: a restart loses all calls"]),
        ({"appendonly": "no", "save": "60 1"}, ["only snapshots"]),
        ({"appendfsync": "everysec"}, ["appendfsync is everysec", "one or two seconds"]),
        ({"appendfsync": "no"}, ["appendfsync is no", "half a minute"]),
        ({"maxmemory-policy": "allkeys-lru"}, ["maxmemory-policy is allkeys-lru"]),
        ({"maxmemory-policy": "volatile-ttl"}, ["maxmemory-policy is volatile-ttl"]),
    ],
)
async def test_each_unsafe_setting_is_said(
    start_engine: Callable[..., EngineServer], settings: dict[str, str], words: list[str]
) -> None:
    server = start_engine(persistent=True)
    for name, value in settings.items():
        server.ask("CONFIG", "SET", name, value)
    (sentence,) = await warned(server.url)
    assert all(word in sentence for word in words)


async def test_memory_that_is_nearly_used_up_is_said(start_engine: Callable[..., EngineServer]) -> None:
    server = start_engine(persistent=True)
    used = server.info("memory")["used_memory"]
    server.ask("CONFIG", "SET", "maxmemory", used * 2)
    assert await warned(server.url) == []
    server.ask("CONFIG", "SET", "maxmemory", used + used // 10)
    (sentence,) = await warned(server.url)
    assert "80 % of its maxmemory" in sentence


async def test_an_engine_that_may_not_be_asked_is_said_to_be_unchecked(
    start_engine: Callable[..., EngineServer],
) -> None:
    server = start_engine(persistent=True)
    server.ask("ACL", "SETUSER", "gate", "on", ">secret", "~*", "&*", "+@all", "-config")
    (sentence,) = await warned(f"unix://gate:secret@{server.socket}")
    assert "could not be checked" in sentence
    assert "appendfsync" in sentence
    assert "cluster-require-full-coverage" in sentence
    server.ask("ACL", "SETUSER", "gate", "-info")
    (sentence,) = await warned(f"unix://gate:secret@{server.socket}")
    assert "could not be checked" in sentence


async def test_replicas_that_nobody_waits_for_are_said(
    start_replicated: Callable[..., Replicated],
) -> None:
    setup = start_replicated(replicas=2, persistent=True)
    url = f"redis://127.0.0.1:{setup.primary.port}"
    (sentence,) = await warned(url)
    assert sentence.startswith("2 replicas are connected, and none is waited for")
    assert await warned(url, "all") == []
    assert await warned(url, 2) == []
    (sentence,) = await warned(url, 1)
    assert "another of them loses" in sentence
    (sentence,) = await warned(url, 3)
    assert "nothing is answered" in sentence
    setup.primary.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    assert await warned(url) == []


async def test_a_primary_that_would_wipe_its_replicas_is_said(
    start_sentinels: Callable[..., SentinelSetup],
) -> None:
    setup = start_sentinels(replicas=1)
    found = await warned(setup.url, "all")
    assert [sentence for sentence in found if "empties them" in sentence]


async def test_the_primaries_of_a_cluster_are_named(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster(persistent=True, full_coverage=False)
    assert await warned(cluster.url, "all") == []
    cluster.servers[1].ask("CONFIG", "SET", "cluster-allow-replica-migration", "yes")
    (sentence,) = await warned(cluster.url, "all")
    assert sentence.startswith(f"127.0.0.1:{cluster.servers[1].port}: cluster-allow-replica-migration is yes")
    # One that is away says nothing, and keeps nobody from speaking.
    cluster.servers[2].kill()
    assert await warned(cluster.url, "all") == [sentence]


async def test_a_cluster_that_stops_whole_where_one_shard_is_away_is_said(
    start_cluster: Callable[..., Cluster],
) -> None:
    cluster = start_cluster(persistent=True, full_coverage=True)
    (sentence,) = await warned(cluster.url, "all")
    assert "cluster-require-full-coverage is yes" in sentence
    assert all(f"127.0.0.1:{server.port}" in sentence for server in cluster.servers[:3])


async def test_replicas_that_are_waited_for_and_are_not_there_are_said(
    start_engine: Callable[..., EngineServer],
) -> None:
    """Answers count on one copy then, which is what `all` was set against."""
    (sentence,) = await warned(start_engine(persistent=True).url, "all")
    assert sentence.startswith("wait_replicas is all, and no replica is connected")


def test_a_gateway_says_so_in_its_log_and_its_status(
    start_gateway: Callable[..., GatewayProcess], start_engine: Callable[..., EngineServer]
) -> None:
    gateway = start_gateway(redis_url=start_engine().url)
    with gateway.client() as client:
        (sentence,) = _warnings(client)
    assert "no AOF" in sentence
    assert "engine.unsafe" in gateway.log()
    assert "no AOF" in gateway.log()


def test_the_embedded_engine_is_safe(start_gateway: Callable[..., GatewayProcess]) -> None:
    gateway = start_gateway()
    with gateway.client() as client:
        assert _warnings(client) == []


def _warnings(client: httpx.Client) -> list[str]:
    answer = client.get("/v1/status")
    assert answer.status_code == 200
    found: list[str] = answer.json()["warnings"]
    return found
