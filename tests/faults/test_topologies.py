"""The engines that tests fail over, and the proxy that comes between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from tests.support.topologies import Cluster, Replicated, SentinelSetup, is_primary, sees_all
from tests.support.waiting import wait_until_sync


def test_replicas_follow_their_primary(start_replicated: Callable[..., Replicated]) -> None:
    setup = start_replicated(replicas=2)
    setup.primary.client.set("a", "1")
    wait_until_sync(setup.in_step)
    assert [server.client.get("a") for server in setup.replicas] == [b"1", b"1"]


def test_sentinels_promote_a_replica_of_a_primary_that_is_killed(
    start_sentinels: Callable[..., SentinelSetup],
) -> None:
    setup = start_sentinels()
    old = setup.primary
    old.client.set("a", "1")
    wait_until_sync(setup.in_step)
    old.kill()
    new = setup.wait_for_failover(old)
    assert new.client.get("a") == b"1"
    assert not is_primary(old)


def test_a_planned_failover_of_sentinels(start_sentinels: Callable[..., SentinelSetup]) -> None:
    setup = start_sentinels(replicas=1)
    old = setup.primary
    setup.failover()
    assert setup.named is not old


def test_a_replica_takes_the_place_of_a_primary_of_a_cluster_that_is_paused(
    start_cluster: Callable[..., Cluster],
) -> None:
    cluster = start_cluster()
    old = cluster.owner_of("a")
    (replica,) = cluster.replicas_of(old)
    old.pause()
    cluster.wait_for_failover(replica)
    assert cluster.owner_of("a") is replica
    old.resume()
    wait_until_sync(cluster.is_whole, 15)
    assert not is_primary(old)


def test_a_planned_failover_and_a_moved_slot_of_a_cluster(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster()
    old = cluster.owner_of("a")
    new = cluster.failover(old)
    wait_until_sync(cluster.is_whole, 15)
    assert cluster.owner_of("a") is new
    new.client.set("a", "1")
    other = next(server for server in cluster.servers if is_primary(server) and server is not new)
    cluster.move_slot(redis.crc.key_slot(b"a"), other)
    assert cluster.owner_of("a") is other
    assert other.client.get("a") == b"1"


@pytest.mark.slow
def test_a_primary_that_is_cut_off_from_its_sentinels_goes_on_beside_its_successor(
    start_sentinels: Callable[..., SentinelSetup],
) -> None:
    setup = start_sentinels(replicas=1)
    old = setup.primary
    setup.isolate(old)
    new = setup.wait_for_failover(old)
    assert is_primary(old)
    old.client.set("a", "written in the minority")
    assert new.client.get("a") is None
    setup.rejoin(old)
    wait_until_sync(lambda: not is_primary(old), 15)
    wait_until_sync(lambda: old.info("replication")["master_link_status"] == "up", 15)
    assert old.client.get("a") is None


def test_a_primary_of_a_cluster_that_is_cut_off_stops_when_it_notices(
    start_cluster: Callable[..., Cluster],
) -> None:
    cluster = start_cluster()
    old = cluster.owner_of("a")
    (replica,) = cluster.replicas_of(old)
    cluster.isolate(old)
    old.client.set("a", "1")
    cluster.wait_for_failover(replica)
    wait_until_sync(lambda: not sees_all(old), 10)
    with pytest.raises(redis.RedisError, match="down"):
        old.client.set("a", "2")
    cluster.rejoin(old)
    wait_until_sync(cluster.is_whole, 15)
    assert not is_primary(old)
