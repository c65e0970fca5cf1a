"""Sentinels and Clusters: which server is asked, before, during and after a failover, with no restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError

from gateway.live.control import CHANNEL, Control, DeviceConnected, Message
from gateway.pool.cluster import ClusterClient, key_of
from gateway.pool.connections import Server
from gateway.pool.engine import Engine, connect
from gateway.pool.keys import hash_tag
from tests.support.engines import EngineServer
from tests.support.proxy import FaultyProxy
from tests.support.topologies import SERVICE, Cluster, SentinelSetup
from tests.support.waiting import wait_until

FAILED_OVER_WITHIN = 15.0

pytestmark = pytest.mark.slow


@asynccontextmanager
async def engine_at(url: str) -> AsyncIterator[Engine]:
    engine = connect(url)
    try:
        yield engine
    finally:
        await engine.close()


async def answers(engine: Engine, *command: Any) -> bool:
    """Whether a command is carried out now."""
    try:
        await engine.client.execute_command(*command)
    except (RedisError, OSError):
        return False
    return True


async def all_that_gateways_send_is_understood(engine: Engine) -> None:
    client = engine.client
    assert [await client.execute_command("INCR", "n") for _ in range(2)] == [1, 2]
    assert [await client.hsetnx("h", "a", "1"), await client.hsetnx("h", "a", "2")] == [1, 0]
    assert await client.hget("h", "a") == b"1"
    assert await client.execute_command("HSET", "h", "b", b"2") == 1
    assert await client.hgetall("h") == {b"a": b"1", b"b": b"2"}
    assert await client.hdel("h", "a", "b") == 2
    await client.execute_command("ZADD", "z", 1, "x", 2, "y")
    assert await client.zrem("z", "x") == 1
    await client.execute_command("XADD", "s", "1-1", "f", "v")
    assert await client.execute_command("XREAD", "COUNT", 1, "STREAMS", "s", "0-0")
    assert await client.execute_command("PING")
    keys = [f"cg:{{{shard}}}:k" for shard in range(64)]
    assert await engine.run_all([("SET", key, key) for key in keys]) == [True] * 64
    assert await engine.run_all([("GET", key) for key in keys]) == [key.encode() for key in keys]
    assert {key async for key in client.scan_iter(match="cg:{*}:k", count=7)} == {
        key.encode() for key in keys
    }
    assert await client.execute_command("EVAL", "return KEYS[2]", 2, "{a}1", "{a}2") == b"{a}2"


# Sentinels


async def test_a_client_follows_sentinels_over_a_planned_failover_and_the_death_of_a_primary(
    start_sentinels: Callable[..., SentinelSetup],
) -> None:
    setup = start_sentinels()
    async with engine_at(setup.url) as engine:
        assert isinstance(engine.client, Server)
        await all_that_gateways_send_is_understood(engine)
        setup.failover()
        await wait_until(lambda: answers(engine, "SET", "a", "1"), FAILED_OVER_WITHIN)

        async def is_with_the_primary() -> bool:
            await engine.client.execute_command("SET", "a", "2")
            return setup.named.client.get("a") == b"2"

        await wait_until(is_with_the_primary, 5)
        before = setup.named
        before.kill()
        after = setup.wait_for_failover(before)
        await wait_until(lambda: answers(engine, "SET", "a", "3"), 5)
        assert after.client.get("a") == b"3"


async def test_a_primary_that_wakes_up_after_its_successor_was_named_is_told_nothing(
    start_sentinels: Callable[..., SentinelSetup],
) -> None:
    setup = start_sentinels(replicas=1)
    async with engine_at(setup.url) as engine:
        old = setup.primary
        await asyncio.gather(*(engine.client.execute_command("PING") for _ in range(8)))
        old.pause()
        setup.wait_for_failover(old)
        await wait_until(lambda: answers(engine, "SET", "a", "1"), 5)
        old.resume()
        for number in range(200):
            await engine.client.execute_command("SET", f"b-{number}", "1")
        new = setup.named
        assert all(new.client.get(f"b-{number}") == b"1" for number in range(200))


async def test_one_silent_sentinel_and_one_dead_one_cost_nothing(
    start_sentinels: Callable[..., SentinelSetup], start_proxy: Callable[..., FaultyProxy]
) -> None:
    setup = start_sentinels(replicas=1)
    silent = start_proxy(setup.sentinels[0].port)
    silent.stall()
    setup.sentinels[1].kill()
    ports = [silent.port, setup.sentinels[1].port, setup.sentinels[2].port]
    began = monotonic()
    async with engine_at(SentinelSetup.url_by(ports)) as engine:
        await engine.client.execute_command("SET", "a", "1")
        assert monotonic() - began < 0.5


async def test_a_service_that_no_sentinel_knows_is_said(
    start_sentinels: Callable[..., SentinelSetup],
) -> None:
    setup = start_sentinels(replicas=1)
    async with engine_at(setup.url.replace(f"/{SERVICE}", "/another")) as engine:
        with pytest.raises(RedisError, match="another"):
            await engine.client.execute_command("PING")


async def test_a_primary_that_is_cut_off_from_its_sentinels_is_left_though_it_still_answers(
    start_sentinels: Callable[..., SentinelSetup],
) -> None:
    """What it is told then is lost."""
    setup = start_sentinels(replicas=1)
    async with engine_at(setup.url) as engine:
        await engine.client.execute_command("SET", "a", "1")
        old = setup.primary
        setup.isolate(old)
        new = setup.wait_for_failover(old)

        async def is_with_the_new_one() -> bool:
            await engine.client.execute_command("SET", "a", "2")
            return new.client.get("a") == b"2"

        await wait_until(is_with_the_new_one, 2.5)
        await asyncio.gather(*(engine.client.execute_command("INCR", "n") for _ in range(100)))
        assert new.client.get("n") == b"100"
        setup.rejoin(old)


async def test_user_and_password_are_the_engine_s(
    start_sentinels: Callable[..., SentinelSetup], start_cluster: Callable[..., Cluster]
) -> None:
    setup: SentinelSetup | Cluster
    for setup in (start_sentinels(replicas=1), start_cluster()):
        for server in setup.servers:
            server.ask("ACL", "SETUSER", "gate", "on", ">p@ss", "~*", "&*", "+@all")
        nodes = setup.url.rpartition("@")[2].removeprefix("redis+cluster://")
        scheme = setup.url.partition("://")[0]
        async with engine_at(f"{scheme}://gate:p%40ss@{nodes}") as engine:
            await engine.client.execute_command("SET", "a", "1")
            assert await engine.client.execute_command("GET", "a") == b"1"
            (primary, *_) = await engine.primaries()
            assert await primary.execute_command("ACL", "WHOAMI") == b"gate"
        async with engine_at(f"{scheme}://gate:wrong@{nodes}") as engine:
            with pytest.raises(RedisError):
                await engine.client.execute_command("SET", "a", "1")


# Clusters


async def test_a_client_follows_a_cluster_over_failovers_with_only_one_node_named(
    start_cluster: Callable[..., Cluster],
) -> None:
    cluster = start_cluster()
    async with engine_at(f"redis+cluster://127.0.0.1:{cluster.servers[0].port}") as engine:
        assert isinstance(engine.client, ClusterClient)
        await all_that_gateways_send_is_understood(engine)
        # The very node that was named dies.
        named = cluster.servers[0]
        (replica,) = cluster.replicas_of(named)
        key = next(f"k-{n}" for n in range(1000) if cluster.owner_of(f"k-{n}") is named)
        named.kill()
        cluster.wait_for_failover(replica)
        await wait_until(lambda: answers(engine, "SET", key, "1"), 5)
        assert replica.client.get(key) == b"1"
        # And comes back, and takes its place again.
        named.start()
        await wait_until(cluster.is_whole, 15)
        cluster.failover(replica)
        await wait_until(lambda: answers(engine, "SET", key, "2"), 5)
        assert named.client.get(key) == b"2"

        async def knows_three_primaries() -> bool:
            return len(await engine.primaries()) == 3

        await wait_until(knows_three_primaries, 5)


async def test_a_node_that_is_cut_off_from_its_cluster_is_left_when_it_notices(
    start_cluster: Callable[..., Cluster],
) -> None:
    cluster = start_cluster()
    async with engine_at(cluster.url) as engine:
        old = cluster.owner_of("a")
        (replica,) = cluster.replicas_of(old)
        await engine.client.execute_command("SET", "a", "1")
        cluster.isolate(old)
        cluster.wait_for_failover(replica)

        async def is_with_the_new_one() -> bool:
            return await answers(engine, "SET", "a", "2") and replica.client.get("a") == b"2"

        await wait_until(is_with_the_new_one, 5)
        cluster.rejoin(old)


@pytest.mark.parametrize("way", ["killed", "paused"])
async def test_one_dead_shard_does_not_disturb_the_others(
    start_cluster: Callable[..., Cluster], way: str
) -> None:
    # The others go on only where the Cluster is set up so.
    cluster = start_cluster(full_coverage=False)
    dead = cluster.servers[1]
    (replica,) = cluster.replicas_of(dead)
    replica.kill()
    keys = [f"k-{n}" for n in range(300)]
    async with engine_at(cluster.url) as engine:
        await engine.run_all([("SET", key, "1") for key in keys])
        lost = [key for key in keys if cluster.owner_of(key) is dead]
        left = [key for key in keys if key not in lost]
        if way == "killed":
            dead.kill()
        else:
            dead.pause()
        failing = [asyncio.create_task(answers(engine, "GET", key)) for key in lost[:40]]
        slowest = 0.0
        refused = 0
        while not all(task.done() for task in failing):
            for key in left[:50]:
                began = monotonic()
                refused += not await answers(engine, "GET", key)
                slowest = max(slowest, monotonic() - began)
            await asyncio.sleep(0.01)
        for _ in range(10):
            began = monotonic()
            found = await asyncio.gather(
                *(answers(engine, "GET", key) for key in left), return_exceptions=True
            )
            refused += found.count(False)
            slowest = max(slowest, monotonic() - began)
        assert refused == 0
        assert slowest < 0.5
        assert not any(task.result() for task in failing)
        if way == "killed":
            dead.start()
        else:
            dead.resume()
        await wait_until(lambda: answers(engine, "SET", lost[0], "1"), 5)


async def test_a_slot_that_no_node_owns_is_away_alone(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster(full_coverage=False)
    for server in cluster.servers:
        server.ask("CLUSTER", "DELSLOTS", key_slot(hash_tag(0).encode()))
    async with engine_at(cluster.url) as engine:

        async def ask(shards: Sequence[int]) -> Any:
            (shard,) = shards
            return await engine.client.execute_command("SET", f"{hash_tag(shard)}a", shard)

        asked = await engine.ask_shards(range(16), ask)
        assert sorted(asked.said) == [([shard], True) for shard in range(1, 16)]
        assert list(asked.away) == [0]
        assert not await answers(engine, "SET", hash_tag(0), "1")


async def test_slots_that_move_are_followed_also_while_they_are_on_their_way(
    start_cluster: Callable[..., Cluster],
) -> None:
    cluster = start_cluster()
    source = cluster.owner_of("{a}1")
    target = next(server for server in cluster.servers[:3] if server is not source)
    async with engine_at(cluster.url) as engine:
        for number in range(50):
            await engine.client.execute_command("SET", f"{{a}}{number}", number)
        answered: list[Any] = []

        async def while_it_moves() -> None:
            # Not there yet: ASK.
            await engine.client.execute_command("SET", "{a}new", "1")
            answered.append(await engine.client.execute_command("GET", "{a}new"))
            answered.extend(await engine.run_all([("GET", "{a}new"), ("GET", "{a}7")]))

        loop = asyncio.get_running_loop()
        await asyncio.to_thread(
            cluster.move_slot,
            key_slot(b"a"),
            target,
            lambda: asyncio.run_coroutine_threadsafe(while_it_moves(), loop).result(5),
        )
        assert answered == [b"1", b"1", b"7"]
        assert await engine.run_all([("GET", f"{{a}}{number}") for number in range(50)]) == [
            str(number).encode() for number in range(50)
        ]
        assert target.client.get("{a}7") == b"7"


async def test_a_cluster_out_of_reach_is_said_in_time_and_found_again(
    start_cluster: Callable[..., Cluster],
) -> None:
    cluster = start_cluster()
    async with engine_at(cluster.url) as engine:
        for server in cluster.servers:
            server.pause()
        began = monotonic()
        assert not await answers(engine, "SET", "a", "1")
        assert monotonic() - began < 2
        for server in cluster.servers:
            server.resume()
        await wait_until(lambda: answers(engine, "SET", "a", "1"), FAILED_OVER_WITHIN)


async def test_many_who_ask_at_once_look_for_the_nodes_once(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster()
    async with engine_at(cluster.url) as engine:
        assert all(await asyncio.gather(*(answers(engine, "SET", f"k-{n}", n) for n in range(200))))
        looks = sum(
            server.info("commandstats").get("cmdstat_cluster|slots", {"calls": 0})["calls"]
            for server in cluster.servers
        )
        assert looks <= len(cluster.servers)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "a"), "a"),
        (("EVALSHA", "sha", 2, "b", "c", "arg"), "b"),
        (("xread", "COUNT", 1, "STREAMS", "s", "0"), "s"),
    ],
)
def test_the_key_of_a_command(command: tuple[Any, ...], key: str) -> None:
    assert key_of(command) == key


@pytest.mark.parametrize("command", [("EVAL", "return 1", 0), ("DBSIZE",)])
def test_a_command_without_a_key_goes_nowhere(command: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="names no key"):
        key_of(command)


# The control channel


class Listening:
    """A gateway that listens on the channel, and one that speaks."""

    def __init__(self, engine: Engine) -> None:
        self.joined = 0
        self.heard: list[Message] = []
        self.speaker = Control(engine.client, "speaker")
        self._task = asyncio.create_task(
            Control(engine.client, "listener").listen(self.heard.append, self._join)
        )
        self._number = 0

    def _join(self) -> None:
        self.joined += 1

    async def hears(self) -> bool:
        """Say something, and whether it was heard."""
        self._number += 1
        message = DeviceConnected("speaker", "acme", "ana", "desk", self._number)
        try:
            await self.speaker.send(message)
            await self.speaker.send(DeviceConnected("listener", "acme", "ana", "desk", 0))
        except (RedisError, OSError):
            return False
        for _ in range(20):
            if message in self.heard:
                return True
            await asyncio.sleep(0.01)
        return False

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        assert self._task.cancelled()
        assert all(message.gateway == "speaker" for message in self.heard)


async def test_the_channel_is_heard_again_after_a_failover_of_sentinels(
    start_sentinels: Callable[..., SentinelSetup],
) -> None:
    setup = start_sentinels(replicas=1)
    async with engine_at(setup.url) as engine:
        listening = Listening(engine)
        await wait_until(listening.hears, 5)
        old = setup.primary
        old.pause()
        setup.wait_for_failover(old)
        await wait_until(listening.hears, 8)
        assert listening.joined >= 2
        await listening.stop()


@pytest.mark.parametrize("way", ["killed", "paused", "planned"])
async def test_the_channel_is_heard_again_after_a_failover_of_its_shard(
    start_cluster: Callable[..., Cluster], way: str
) -> None:
    cluster = start_cluster()
    async with engine_at(cluster.url) as engine:
        listening = Listening(engine)
        await wait_until(listening.hears, 5)
        old = cluster.owner_of(CHANNEL)
        (replica,) = cluster.replicas_of(old)
        if way == "planned":
            cluster.failover(old)
        else:
            (old.kill if way == "killed" else old.pause)()
            cluster.wait_for_failover(replica)
        await wait_until(listening.hears, 8)
        old.resume() if way == "paused" else None
        await listening.stop()


async def test_a_subscription_that_went_half_open_is_noticed(
    valkey: EngineServer, start_proxy: Callable[..., FaultyProxy]
) -> None:
    """Its connection is open, and never says anything again."""
    proxy = start_proxy(path=valkey.socket)
    async with engine_at(f"redis://127.0.0.1:{proxy.port}") as engine:
        listening = Listening(engine)
        await wait_until(listening.hears, 5)
        # The one connection that is open stays so; others are let through.
        proxy.lose_open_connections()
        await wait_until(listening.hears, 8)
        assert listening.joined == 2
        await listening.stop()


async def test_what_a_newer_gateway_says_is_passed_over(engine_url: str) -> None:
    async with engine_at(engine_url) as engine:
        listening = Listening(engine)
        await wait_until(listening.hears, 5)
        for said in ('{"type":"of_a_later_version"}', '{"type":"tokens_revoked"}', "no JSON", ""):
            await engine.client.execute_command("PUBLISH", CHANNEL, said)
        assert await listening.hears()
        assert listening.joined == 1
        await listening.stop()
