"""An engine without memory left: nothing new begins, but what goes on can end, and is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from gateway import metrics
from gateway.domain.answers import Admitted, Answer, Settled
from gateway.domain.asks import End, Start
from gateway.domain.errors import CallgateError, EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.live.gateways import Gateways, Heartbeat
from gateway.pool.engine import Engine, connect
from gateway.pool.inspection import Inspection
from gateway.pool.leases import Vouching
from gateway.pool.scripts import script, script_folder
from gateway.pool.shards import Shards
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.support.engines import KINDS, EngineServer
from tests.support.pool_model import ANA, CYCLE_END, MINUTE, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.topologies import Replicated
from tests.support.waiting import wait_until

BILLING_DATE = date(2026, 11, 15)
NAMES = sorted(path.stem for path in Path(str(script_folder())).glob("*.lua"))
REFUSED_WITHOUT_MEMORY = {"calls_decide"}
"""Scripts that are for what is new: `calls_decide` is sent again, with its flag, for all that is not."""


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, start_engine: Callable[..., EngineServer]) -> EngineServer:
    """An engine of the test's own, whose memory it can fill."""
    return start_engine(request.param)


@pytest.fixture
async def accounts(server: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(server.url, Policy()) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100))
        yield accounts


def fill(server: EngineServer) -> None:
    """Have it use more than it may."""
    server.client.config_set("maxmemory", "100kb")
    assert server.info("memory")["used_memory"] > 100 * 1024


@asynccontextmanager
async def reached(server: EngineServer) -> AsyncIterator[Engine]:
    """The engine, by connections of the test's own."""
    engine = connect(server.url)
    try:
        yield engine
    finally:
        await engine.close()


async def test_no_script_but_the_one_that_begins_calls_needs_memory(server: EngineServer) -> None:
    """One that only reads is refused, too, if it does not say otherwise."""
    fill(server)
    refused = set()
    async with reached(server) as engine:
        for name in NAMES:
            try:
                await script(name).run(engine.client, [])
            except OutOfMemoryError:
                refused.add(name)
            except ResponseError:
                """It ran, and had nothing to work on."""
    assert refused == REFUSED_WITHOUT_MEMORY


async def test_calls_end_and_are_vouched_for_without_memory_left_and_emergencies_pass(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    assert isinstance(await accounts.pool.ask(Start("acme", *ANA, "c-1", TO, connection=7)), Admitted)
    await accounts.at(T0 + 40 * SECOND)
    fill(server)
    assert await accounts.pool.renew([Vouching("acme", "c-1", 7, 0)]) == [Renewed.RENEWED]
    emergency = Start("acme", *ANA, "help", "112", emergency=True, fresh_call_id="fresh")
    refused, settled, admitted = await accounts.ask_all(
        [Start("acme", *ANA, "c-2", TO), End("acme", "c-1", ANA, connection=7), emergency]
    )
    assert isinstance(refused, EngineUnavailable)
    assert isinstance(settled, Settled)
    assert settled.billed_seconds == 40
    assert isinstance(admitted, Admitted)
    server.client.config_set("maxmemory", "0")
    assert isinstance(await accounts.pool.ask(Start("acme", *ANA, "c-2", TO)), Admitted)


async def test_what_ended_is_recorded_and_memory_falls_again(
    accounts: LiveAccounts, server: EngineServer, tmp_path: Path
) -> None:
    """SQL was away for long, and what waits for it fills the engine: it must get out of that by itself."""
    call_ids = [f"c-{number}" for number in range(300)]
    await accounts.ask_all([Start("acme", *ANA, call_id, TO) for call_id in call_ids])
    fill(server)
    await accounts.ask_all([End("acme", call_id) for call_id in call_ids])
    key = accounts.keys.named(accounts.keys.shard_of("acme"), "records")[0]
    assert server.client.xlen(key)

    async def now_ms() -> int:
        return (await accounts.pool.clock()).now_ms

    records = Records(tmp_path / "callgate.db")
    await records.open()
    recorder = Recorder(records.database, accounts.pool.records, now_ms)
    recording = asyncio.create_task(recorder.run())
    try:
        await wait_until(lambda: not server.client.xlen(key), 10)
        assert await recorder.as_of_ms() == await now_ms()
        assert recorder.status().failing is None
    finally:
        recording.cancel()
        await asyncio.wait([recording])
        await records.close()


async def test_the_rest_of_a_gateway_goes_on(accounts: LiveAccounts, server: EngineServer) -> None:
    await accounts.pool.ask(Start("acme", *ANA, "c-1", TO, connection=7))
    fill(server)
    pool = accounts.pool
    assert await pool.policy() == Policy()
    assert await pool.next_connection("acme") > 0
    assert [call.call_id for call in await pool.calls_of_device("acme", *ANA)] == ["c-1"]
    assert await pool.find_call("acme", "c-1") is not None
    assert await pool.oldest_calls(["acme"]) == {"acme": T0}
    assert await pool.count_calls() == 1
    assert await pool.records.engine_ms() > 0
    shard = accounts.keys.shard_of("acme")
    assert await Inspection(accounts.engine, accounts.keys).count(shard, ["acme"]) == (1, 1)
    # R19: with nobody asking.
    await accounts.at(CYCLE_END + MINUTE)
    assert (await pool.read("acme")).cycle.start_ms == CYCLE_END

    gateways = Gateways(accounts.engine.client)
    heartbeat = Heartbeat("a-gateway", at_ms=T0, connections=1, calls_in_progress=1)
    await gateways.beat(heartbeat)
    assert await gateways.alive(T0) == [heartbeat]
    await gateways.leave("a-gateway")
    assert await gateways.alive(T0) == []


async def test_a_gateway_opens_and_beats_where_there_was_one_before(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    fill(server)
    async with reached(server) as engine:
        shards = Shards(engine, accounts.keys, Policy(), simulate=True)
        await shards.open()
        assert await shards.beat(15_000) == frozenset()


async def test_what_is_refused_counts_as_a_failure_of_the_engine(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    """Alerts go by that."""
    before = metrics.ENGINE_FAILURES._value.get()
    fill(server)
    (refused,) = await accounts.ask_all([Start("acme", *ANA, "c-1", TO)])
    assert isinstance(refused, EngineUnavailable)
    assert metrics.ENGINE_FAILURES._value.get() == before + 1


@pytest.mark.parametrize("kind", KINDS)
async def test_ends_are_answered_where_replicas_are_waited_for(
    start_replicated: Callable[..., Replicated], kind: str
) -> None:
    """So that a replica has them, a write of this very connection is waited for: also that needs memory."""
    setup = await asyncio.to_thread(start_replicated, replicas=1, kind=kind)
    url = f"redis://127.0.0.1:{setup.primary.port}"
    async with live_accounts(url, Policy(), replicas="all") as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100))
        assert isinstance(await accounts.pool.ask(Start("acme", *ANA, "c-1", TO)), Admitted)
        fill(setup.primary)
        answers: list[Answer | CallgateError] = await accounts.ask_all([End("acme", "c-1")])
        assert [type(answer) for answer in answers] == [Settled]
        key = accounts.keys.named(accounts.keys.shard_of("acme"), "calls")[0]
        (replica,) = setup.replicas
        assert replica.client.hget(key, "acme/c-1") == setup.primary.client.hget(key, "acme/c-1")
