"""The database is away: calls go on, changes are refused, and what ended meanwhile is recorded afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from gateway.pool.keys import KeySpace
from tests.gateway.outages.deployments import events, problem, readiness, ready_again, real_time_ms
from tests.gateway.outages.test_emergency_calls import CLOCKS_APART_MS, recorded
from tests.support.devices import Device, connected
from tests.support.engines import EngineServer, engine_binary
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.postgres import PostgresServer
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    """A PostgreSQL that the tests stop."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.discard()


@pytest.fixture(scope="module")
def gateway(database: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with that database."""
    engine = EngineServer(engine_binary("valkey"))
    address = database.url(database.create_database())
    environ = {"CALLGATE_REDIS_URL": engine.url, "CALLGATE_DATABASE_URL": address}
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), environ=environ)
    try:
        engine.start()
        yield gateway.start()
    finally:
        gateway.end()
        engine.discard()


@pytest.fixture
async def operator(gateway: GatewayProcess, database: PostgresServer) -> AsyncIterator[Operator]:
    """An operator of a gateway that has its database; it has it back when the test is over."""
    async with operating(gateway) as operator:
        yield operator
        database.stop()  # else a test that failed before it gave it back would leave two
        database.start()
        await ready_again(gateway)


@pytest.fixture
async def device(gateway: GatewayProcess, operator: Operator, account: str) -> AsyncIterator[Device]:
    """Ana's desk phone."""
    await operator.account(account)
    async with connected(gateway, await operator.token(account)) as device:
        yield device


async def test_calls_go_on_and_are_recorded_afterwards(
    gateway: GatewayProcess, database: PostgresServer, operator: Operator, device: Device, account: str
) -> None:
    """R26."""
    await device.start("before")
    database.stop()
    settled = [await device.end("before")]
    for number in range(20):
        assert (await device.start(f"c-{number}"))["type"] == "call.admitted"
        settled.append(await device.end(f"c-{number}"))
    assert (await operator.start("c-http", account))["type"] == "call.admitted"
    settled.append(await operator.end("c-http", account))
    assert {frame["type"] for frame in settled} == {"call.settled"}
    assert (await device.end("c-0"))["replayed"]
    assert (await operator.call("c-0", account))["state"] == "ended"
    assert (await operator.pool(account))["calls_in_progress"] == 0
    assert problem(await operator.http.get(f"/v1/accounts/{account}/calls")) == (503, "database_unavailable")

    database.start()
    await ready_again(gateway)
    ended = {frame["call_id"]: frame["duration_ms"] for frame in settled}

    async def all_recorded() -> bool:
        records = await operator.calls(account)
        return {record["call_id"]: record["duration_ms"] for record in records} == ended

    await wait_until(all_recorded, 20)
    assert len(await operator.calls(account)) == len(ended)


async def test_an_admin_change_is_refused_and_changes_nothing(
    gateway: GatewayProcess, database: PostgresServer, operator: Operator, device: Device, account: str
) -> None:
    database.stop()
    http, address = operator.http, f"/v1/accounts/{account}"
    plan = {"name": "Large", "minutes": 9000, "connected_channels": 9, "staff_seats": 9}
    for answer in (
        await http.put("/v1/plans/large", json=plan),
        await http.put(address, json={"status": "suspended"}),
        await http.put(f"{address}/staff/ben", json={}),
        await http.delete(f"{address}/staff/ana"),
        await http.post("/v1/tokens", json={"account": account, "scopes": ["watch"]}),
        await http.post("/v1/tokens/revoke", json={"account": account}),
    ):
        assert problem(answer) == (503, "database_unavailable")
    assert (await device.start("c-1"))["type"] == "call.admitted"

    database.start()
    await ready_again(gateway)
    assert (await http.get("/v1/plans/large")).status_code == 404
    assert (await http.get(address)).json()["status"] == "active"
    assert [member["staff"] for member in await operator.listed(f"{address}/staff", "staff")] == ["ana"]
    assert device.is_open


async def test_an_end_that_only_the_database_could_know_of_is_not_unknown(
    database: PostgresServer, operator: Operator, device: Device
) -> None:
    """R17: "could not ask" is never "there is no such call"."""
    database.stop()
    answer = await device.end("ended-long-ago")
    assert (answer["type"], answer["code"]) == ("error", "database_unavailable")


async def test_an_emergency_call_of_an_account_that_is_not_loaded_passes(
    database: PostgresServer, operator: Operator
) -> None:
    """R30. Whether there is such an account only the database knows."""
    database.stop()
    answer = await operator.start("help", "an-account-that-never-called", to="112")
    assert (answer["type"], answer["emergency"]) == ("call.admitted", True)
    ordinary = {
        "account": "a-second-one",
        "staff": "ana",
        "device": "desk",
        "call_id": "c",
        "to": "+14155550100",
    }
    refused = await operator.http.post("/v1/calls", json=ordinary)
    assert problem(refused) == (503, "database_unavailable")


async def test_it_stays_ready_and_says_what_is_amiss(
    gateway: GatewayProcess, database: PostgresServer, operator: Operator
) -> None:
    database.stop()

    async def degraded() -> bool:
        status, said = await readiness(gateway)
        assert status == 200
        return said == {"status": "degraded", "engine": "ok", "database": "down"}

    await wait_until(degraded)
    status = (await operator.http.get("/v1/status")).json()
    assert (status["engine"], status["database"]) == ("ok", "down")
    database.start()
    await ready_again(gateway)
    assert [line["database"] for line in events(gateway, "health.changed")][-2:] == ["down", "ok"]


def lose_all(engine: EngineServer) -> None:
    """Have it emptied."""
    engine.flush()


def forget_the_call(engine: EngineServer) -> None:
    """Have it keep the pool, and lose the call."""
    shard = KeySpace().shard_of("acme")
    assert engine.ask("HDEL", f"cg:{{{shard}}}:calls", "acme/c-1") == 1


@pytest.mark.parametrize("lose", [lose_all, forget_the_call])
async def test_an_end_that_only_the_database_could_tell_of_is_kept(
    database: PostgresServer,
    start_engine: Callable[..., EngineServer],
    start_gateway: Callable[..., GatewayProcess],
    lose: Callable[[EngineServer], None],
) -> None:
    """Its device is gone for good: the gateway delivers it, as of when it was told (R16, R26)."""
    engine = start_engine()
    address = database.url(database.create_database())
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url, database_url=address)
    try:
        async with operating(gateway) as operator:
            await operator.account()
            async with connected(gateway, await operator.token()) as device:
                await device.start("c-1")
                database.stop()
                lose(engine)
                assert (await device.end("c-1"))["code"] == "database_unavailable"
                ended_ms = real_time_ms()
            await wait_until(lambda: real_time_ms() > ended_ms + 2 * CLOCKS_APART_MS)
            database.start()
            await ready_again(gateway)
            record = await recorded(operator, "acme", "c-1")
    finally:
        database.stop()
        database.start()
    assert (record["ended_by"], record["revision"]) == ("hangup", 1)
    assert record["ended_at_ms"] < ended_ms + CLOCKS_APART_MS
