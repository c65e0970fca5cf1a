"""The proxy that does to connections what networks do."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.engines import EngineServer
from tests.support.proxy import FaultyProxy
from tests.support.waiting import wait_until_sync


@pytest.fixture
def proxy(valkey: EngineServer, start_proxy: Callable[..., FaultyProxy]) -> FaultyProxy:
    return start_proxy(path=valkey.socket)


@pytest.fixture
def client(proxy: FaultyProxy) -> redis.Redis:
    return redis.Redis(port=proxy.port, protocol=2, socket_timeout=0.3, retry=Retry(NoBackoff(), 0))


def test_it_passes_all_on_and_counts(proxy: FaultyProxy, client: redis.Redis) -> None:
    client.set("a", "x" * 200_000)
    assert client.get("a") == b"x" * 200_000
    assert proxy.counters.connections == 1
    assert proxy.counters.to_server > 200_000
    assert proxy.counters.to_client > 200_000


def test_a_cut_connection_is_reset_and_a_new_one_works(proxy: FaultyProxy, client: redis.Redis) -> None:
    client.ping()
    proxy.cut()
    # The client looks at a connection before it uses it.
    assert client.ping()
    assert (proxy.counters.resets, proxy.counters.connections) == (1, 2)


def test_refused_connections(proxy: FaultyProxy, client: redis.Redis) -> None:
    proxy.refuse()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    assert proxy.counters.refused == 1
    proxy.heal()
    assert client.ping()


def test_what_is_stalled_arrives_when_it_is_healed(
    proxy: FaultyProxy, client: redis.Redis, valkey: EngineServer
) -> None:
    client.ping()
    proxy.stall()
    with pytest.raises(redis.TimeoutError):
        client.set("a", "1")
    assert valkey.client.get("a") is None
    proxy.heal()
    wait_until_sync(lambda: valkey.client.get("a") == b"1")


def test_a_partition_of_one_way_lets_the_other_through(
    proxy: FaultyProxy, client: redis.Redis, valkey: EngineServer
) -> None:
    client.ping()
    proxy.stall("to_client")
    with pytest.raises(redis.TimeoutError):
        client.set("a", "1")
    assert valkey.client.get("a") == b"1"


def test_a_half_open_connection_never_answers_and_is_reset_when_healed(
    proxy: FaultyProxy, client: redis.Redis, valkey: EngineServer
) -> None:
    pubsub = client.pubsub()  # type: ignore[no-untyped-call]  # untyped in redis-py
    pubsub.subscribe("c")
    assert pubsub.get_message(timeout=1) is not None
    proxy.swallow()
    valkey.client.publish("c", "lost")
    assert pubsub.get_message(timeout=0.1) is None
    proxy.heal()
    with pytest.raises(redis.ConnectionError):
        pubsub.connection.read_response()
    assert proxy.counters.swallowed > 0
    pubsub.close()


def test_latency_is_each_piece_s(proxy: FaultyProxy, client: redis.Redis) -> None:
    client.ping()
    proxy.slow(0.1)
    began = monotonic()
    client.ping()
    assert monotonic() - began >= 0.2


def test_a_reset_in_the_middle_of_a_reply_loses_the_rest_once(
    proxy: FaultyProxy, client: redis.Redis, valkey: EngineServer
) -> None:
    client.ping()
    proxy.reset_in_reply(after_bytes=2)
    with pytest.raises(redis.ConnectionError):
        client.incr("a")
    assert valkey.client.get("a") == b"1"
    assert client.incr("a") == 2
