"""A script whose writes are waited for: so many replicas have them before it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import date
from hashlib import sha1
from time import monotonic

import pytest
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.domain.answers import Admitted, Settled
from gateway.domain.asks import End, Start
from gateway.domain.policy import Policy
from gateway.pool.engine import Engine, connect
from gateway.pool.scripts import Script, script
from tests.support.engines import KINDS
from tests.support.pool_model import ANA, T0, TO, a_plan
from tests.support.pools import live_accounts
from tests.support.topologies import Cluster, Replicated
from tests.support.waiting import wait_until

WAIT_MS = 300


class Counting(Script):
    """Counts a key up once for each id, and answers what it is then: asked twice it counts once."""

    def __init__(self) -> None:
        super().__init__("server_time")
        self.source = """#!lua
        local found = redis.call('HGET', KEYS[1], ARGV[1])
        if found then return 'again ' .. found end
        local count = redis.call('HINCRBY', KEYS[1], 'count', 1)
        redis.call('HSET', KEYS[1], ARGV[1], count)
        return tostring(count)
        """
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def counting() -> Counting:
    return Counting()


@pytest.fixture(params=KINDS)
def setup(request: pytest.FixtureRequest, start_replicated: Callable[..., Replicated]) -> Replicated:
    return start_replicated(replicas=2, kind=request.param)


@pytest.fixture
async def reached(setup: Replicated) -> AsyncIterator[Engine]:
    engine = connect(f"redis://127.0.0.1:{setup.servers[0].port}")
    yield engine
    await engine.close()


async def test_what_was_answered_is_on_all_replicas(
    setup: Replicated, reached: Engine, counting: Counting
) -> None:
    for number in range(1, 101):
        reply = await reached.run_script(counting, ["{a}k"], [f"id-{number}"], replicas="all")
        assert reply == str(number).encode()
        assert [server.client.hget("{a}k", "count") for server in setup.servers[1:]] == [reply, reply]


async def test_a_batch_is_carried_out_once_though_the_engine_has_forgotten_the_script_that_is_waited_by(
    setup: Replicated,
) -> None:
    """An engine forgets scripts one by one. R9: the answers of a second run would be those of repeats."""
    server = setup.servers[0]
    async with live_accounts(f"redis://127.0.0.1:{server.port}", Policy(), shards=1, replicas=1) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=date(2026, 11, 15), plan=a_plan(100))
        server.client.script_flush()
        server.client.script_load(script("calls_decide").source)
        started, ended = await accounts.ask_all([Start("acme", *ANA, "c", TO), End("acme", "c", ANA)])
    assert isinstance(started, Admitted)
    assert isinstance(ended, Settled)
    assert (started.replayed, ended.replayed) == (False, False)


async def test_a_paused_replica_makes_the_outcome_unknown_and_asking_again_waits_again(
    setup: Replicated, reached: Engine, counting: Counting
) -> None:
    """Also over another connection, which wrote nothing itself."""
    await reached.run_script(counting, ["{a}k"], ["id-0"], replicas="all")
    paused = setup.servers[2]
    paused.pause()
    try:
        began = monotonic()
        with pytest.raises(RedisTimeoutError, match="1 of 2 replicas"):
            await reached.run_script(counting, ["{a}k"], ["id-1"], replicas="all", wait_ms=WAIT_MS)
        assert monotonic() - began < 1
        another = connect(f"redis://127.0.0.1:{setup.servers[0].port}")
        for each in (reached, another):
            with pytest.raises(RedisTimeoutError):
                await each.run_script(counting, ["{a}k"], ["id-1"], replicas="all", wait_ms=WAIT_MS)
        await another.close()
        # One is enough for who wants one.
        assert await reached.run_script(counting, ["{a}k"], ["id-1"], replicas=1) == b"again 2"
    finally:
        paused.resume()

    async def is_on_all() -> bool:
        try:
            reply = await reached.run_script(counting, ["{a}k"], ["id-1"], replicas="all", wait_ms=WAIT_MS)
        except RedisTimeoutError:
            return False
        assert reply == b"again 2"
        return True

    await wait_until(is_on_all, 5)
    assert paused.client.hget("{a}k", "id-1") == b"2"


async def test_a_replica_that_is_gone_is_not_waited_for_by_all_but_is_by_number(
    setup: Replicated, reached: Engine, counting: Counting
) -> None:
    await reached.run_script(counting, ["{a}k"], ["id-0"], replicas="all")
    setup.servers[2].kill()

    async def is_answered() -> bool:
        try:
            await reached.run_script(counting, ["{a}k"], ["id-1"], replicas="all", wait_ms=100)
        except RedisTimeoutError:
            return False
        return True

    # It is known within a second.
    await wait_until(is_answered, 3)
    with pytest.raises(RedisTimeoutError):
        await reached.run_script(counting, ["{a}k"], ["id-2"], replicas=2, wait_ms=100)


async def test_a_primary_that_lost_all_its_replicas_counts_alone_only_after_a_while(
    setup: Replicated, reached: Engine, counting: Counting
) -> None:
    """Else one that is cut off from them would go on, and all that it is told be lost."""
    reached.alone_after_seconds = 2.5
    await reached.run_script(counting, ["{a}k"], ["id-0"], replicas="all")
    began = monotonic()
    for server in setup.servers[1:]:
        server.kill()
    while monotonic() - began < 2:
        with pytest.raises(RedisTimeoutError):
            await reached.run_script(counting, ["{a}k"], ["id-1"], replicas="all", wait_ms=100)

    async def is_answered() -> bool:
        try:
            await reached.run_script(counting, ["{a}k"], ["id-1"], replicas="all", wait_ms=100)
        except RedisTimeoutError:
            return False
        return True

    await wait_until(is_answered, 5)


async def test_many_scripts_at_once_each_wait_for_their_own(
    setup: Replicated, reached: Engine, counting: Counting
) -> None:
    began = monotonic()
    replies = await asyncio.gather(
        *(reached.run_script(counting, ["{a}k"], [f"id-{n}"], replicas="all") for n in range(200))
    )
    assert sorted(int(reply) for reply in replies) == list(range(1, 201))
    # Not a WAIT behind a WAIT: each of those would take as long as replicas take to speak up by themselves.
    assert monotonic() - began < 5
    assert setup.servers[1].client.hget("{a}k", "count") == b"200"


async def test_what_a_script_refuses_is_raised_and_its_key_for_waiting_does_not_stay(
    setup: Replicated, reached: Engine, counting: Counting
) -> None:
    with pytest.raises(ResponseError):
        await reached.run_script(counting, ["{a}k"], [], replicas="all")
    await reached.run_script(counting, ["{a}k"], ["id-1"], replicas="all")
    await wait_until(lambda: setup.servers[0].client.keys() == [b"{a}k"], 3)


async def test_without_replicas_nothing_is_waited_for(engine_url: str, counting: Counting) -> None:
    engine = connect(engine_url)
    assert await engine.run_script(counting, ["{a}k"], ["id-1"]) == b"1"
    assert await engine.run_script(counting, ["{a}k"], ["id-2"], replicas="all") == b"2"
    assert [key async for key in engine.client.scan_iter()] == [b"{a}k"]
    with pytest.raises(RedisTimeoutError, match="0 of 1"):
        await engine.run_script(counting, ["{a}k"], ["id-3"], replicas=1, wait_ms=50)
    await engine.close()


async def test_in_a_cluster_the_replicas_of_the_shard_are_waited_for(
    start_cluster: Callable[..., Cluster], counting: Counting
) -> None:
    cluster = start_cluster()
    engine = connect(cluster.url)
    for name in "abcdefgh":
        key = f"{{{name}}}k"
        assert await engine.run_script(counting, [key], ["id-1"], replicas="all") == b"1"
        (replica,) = cluster.replicas_of(cluster.owner_of(key))
        replica.ask("READONLY")
        assert replica.client.dbsize() > 0
    old = cluster.owner_of("{a}k")
    (replica,) = cluster.replicas_of(old)
    replica.pause()
    with pytest.raises(RedisTimeoutError):
        await engine.run_script(counting, ["{a}k"], ["id-2"], replicas="all", wait_ms=100)
    replica.resume()
    # A planned failover: the script goes where it is redirected, with its WAIT.
    await wait_until(cluster.is_whole)
    cluster.failover(old)

    async def is_answered() -> bool:
        try:
            return bool(await engine.run_script(counting, ["{a}k"], ["id-2"], replicas=1) == b"again 2")
        except (RedisError, OSError):
            return False

    await wait_until(is_answered, 10)
    await engine.close()
