"""An engine that has lost calls in progress: what is said of them next brings them back (R28)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import monotonic, time

import asyncpg
import pytest

from gateway.pool.keys import KeySpace
from gateway.service.calls import LOOK_UP_SECONDS
from tests.gateway.conftest import StartGateway
from tests.support.devices import Device, connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.waiting import wait_until


@asynccontextmanager
async def a_device(gateway: GatewayProcess) -> AsyncIterator[tuple[Operator, Device]]:
    """The operator, and a connected device of the one account."""
    async with operating(gateway) as operator:
        await operator.account()
        async with connected(gateway, await operator.token()) as device:
            yield operator, device


def forget(engine: EngineServer, call_id: str) -> None:
    """Have the engine know nothing of a call of `acme`."""
    shard = KeySpace().shard_of("acme")
    assert engine.ask("HDEL", f"cg:{{{shard}}}:calls", f"acme/{call_id}") == 1


@asynccontextmanager
async def nobody_reads(table: str, database_url: str) -> AsyncIterator[None]:
    """Hold what SQL has in a table, so that nobody is told."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table}")
            yield
    finally:
        await connection.close()


async def are_recorded(operator: Operator, *admitted_at_ms: int) -> bool:
    """Whether the calls that SQL has are those that were admitted then."""
    return sorted(each["admitted_at_ms"] for each in await operator.calls()) == [*admitted_at_ms]


async def test_an_end_of_a_call_that_the_engine_has_lost_ends_it(
    start_engine: Callable[..., EngineServer], start_gateway: StartGateway
) -> None:
    """The gateway that it was admitted by knows it."""
    engine = start_engine()
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url)
    async with a_device(gateway) as (operator, device):
        admitted = await device.start("c-1")
        engine.flush()
        settled = await device.request("call.end", call_id="c-1")
        assert (settled["type"], settled["revision"], settled["ended_by"]) == ("call.settled", 1, "hangup")
        await wait_until(lambda: are_recorded(operator, admitted["admitted_at_ms"]))


async def test_an_answer_of_a_call_that_the_engine_has_lost_is_noted(
    start_engine: Callable[..., EngineServer], start_gateway: StartGateway
) -> None:
    """R3: before anybody has noticed the loss, too; and its connection goes on vouching for the call."""
    engine = start_engine()
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url)
    async with a_device(gateway) as (operator, device):
        await device.start("c-1")
        forget(engine, "c-1")
        assert (await device.request("call.answered", call_id="c-1"))["type"] == "call.noted"
        assert (await device.request("call.end", call_id="c-1"))["type"] == "call.settled"
        (record,) = await wait_until(operator.calls)
        assert record["answered_at_ms"] is not None


async def test_a_keepalive_of_a_lost_call_needs_no_receipt_where_it_was_admitted(
    start_engine: Callable[..., EngineServer], start_gateway: StartGateway
) -> None:
    engine = start_engine()
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url)
    async with operating(gateway) as operator:
        await operator.account()
        await operator.start("c-1")
        forget(engine, "c-1")
        asked = {"call_ids": ["c-1", "c-2"]}
        answer = await operator.http.post("/v1/calls/keepalive?account=acme", json=asked)
        assert answer.json()["not_in_progress"] == ["c-2"]


@pytest.mark.parametrize("seconds", [1, LOOK_UP_SECONDS + 1], ids=["slow", "silent"])
async def test_an_end_of_a_lost_call_is_as_of_when_it_was_told_however_long_sql_takes(
    start_engine: Callable[..., EngineServer],
    start_gateway: StartGateway,
    make_postgres: Callable[[], str],
    seconds: float,
) -> None:
    """R16: and is answered in time, and kept, where SQL does not say whether it knows the call."""
    engine, database_url = start_engine(), make_postgres()
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url, database_url=database_url)
    async with a_device(gateway) as (operator, device):
        await device.start("c-1")
        forget(engine, "c-1")
        async with nobody_reads("call_records", database_url):
            told_ms = int(time() * 1000)
            ending = asyncio.create_task(device.request("call.end", call_id="c-1"))
            await asyncio.sleep(seconds)
            if seconds > LOOK_UP_SECONDS:
                assert (await ending)["code"] == "database_unavailable"
        (record,) = await wait_until(operator.calls)
        assert (await ending)["type"] == ("error" if seconds > LOOK_UP_SECONDS else "call.settled")
        assert record["ended_at_ms"] - told_ms < 500


async def test_an_end_that_nobody_knew_the_call_of_leaves_its_receipt_good(
    start_engine: Callable[..., EngineServer], start_twin: Callable[..., GatewayProcess]
) -> None:
    """Another gateway asks for the receipt by not knowing the call; its client resumes, and ends it then.

    As of when it hung up (R16), however long the client takes: the gateway renews no lease of it meanwhile.
    """
    engine = start_engine()
    gateway = await asyncio.to_thread(start_twin, engine.url)
    other = await asyncio.to_thread(start_twin, engine.url, "--lease-seconds", "1")
    async with operating(gateway) as operator:
        await operator.account()
        token = await operator.token()
        async with connected(gateway, token) as device:
            admitted = await device.start("c-1")
        await asyncio.to_thread(gateway.kill)
    async with connected(other, token) as device:
        engine.flush()
        assert (await device.request("call.end", call_id="c-1"))["code"] == "call_unknown"
        hung_up = monotonic()
        resumed = await device.request("call.resume", call_id="c-1", receipt=admitted["receipt"])
        assert (resumed["type"], resumed["admitted_at_ms"]) == ("call.resumed", admitted["admitted_at_ms"])
        seconds, micros = engine.client.time()
        for _ in range(3):
            await device.request("ping")
            await asyncio.sleep(0.5)
        ago_ms = int((monotonic() - hung_up) * 1000)
        settled = await device.request("call.end", call_id="c-1", ended_ago_ms=ago_ms)
        assert settled["type"] == "call.settled"
        assert admitted["admitted_at_ms"] + settled["duration_ms"] <= seconds * 1000 + micros // 1000


async def test_a_device_is_welcomed_while_sql_does_not_say_what_its_lost_pool_is_made_from(
    start_engine: Callable[..., EngineServer], start_gateway: StartGateway, make_postgres: Callable[[], str]
) -> None:
    engine, database_url = start_engine(), make_postgres()
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url, database_url=database_url)
    async with operating(gateway) as operator:
        await operator.account()
        token = await operator.token()
        engine.flush()
        async with nobody_reads("accounts", database_url), connected(gateway, token) as device:
            assert (await device.welcome())["remaining_seconds"] is None
        async with connected(gateway, token) as device:
            assert (await device.welcome())["remaining_seconds"] is not None


async def test_a_lost_call_is_not_taken_for_an_earlier_one_of_its_id(
    start_engine: Callable[..., EngineServer], start_gateway: StartGateway
) -> None:
    """R9: SQL has the earlier one, and only the gateway the one that is lost."""
    engine = start_engine()
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url)
    async with a_device(gateway) as (operator, device):
        first = (await device.start("c-1"))["admitted_at_ms"]
        await device.request("call.end", call_id="c-1")
        await wait_until(lambda: are_recorded(operator, first))
        engine.flush()
        second = (await device.start("c-1"))["admitted_at_ms"]
        assert second > first
        engine.flush()
        assert (await device.request("call.end", call_id="c-1"))["type"] == "call.settled"
        await wait_until(lambda: are_recorded(operator, first, second))


async def test_an_end_that_breaks_on_a_damaged_record_is_answered(
    start_engine: Callable[..., EngineServer], start_gateway: StartGateway, tmp_path: Path
) -> None:
    """What nobody foresaw keeps no client waiting, and is logged as a fault."""
    engine = start_engine()
    gateway = await asyncio.to_thread(start_gateway, data_dir=tmp_path, redis_url=engine.url)
    async with a_device(gateway) as (operator, device):
        admitted = await device.start("c-1")
        await device.end("c-1")
        await wait_until(lambda: are_recorded(operator, admitted["admitted_at_ms"]))
        with closing(sqlite3.connect(tmp_path / "callgate.db")) as books, books:
            books.execute("UPDATE call_records SET ended_by = 'nothing known'")
        forget(engine, "c-1")
        assert (await device.end("c-1"))["code"] == "engine_unavailable"
        answer = await operator.http.post("/v1/calls/c-1/end?account=acme")
        assert (answer.status_code, answer.json()["code"]) == (503, "engine_unavailable")
        assert "call.broken" in gateway.log()
