"""Dashboards at several gateways, over failovers and drains."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest

from gateway.cli.server import run_gateway
from gateway.pool.keys import KeySpace
from gateway.settings import Settings
from tests.gateway.conftest import StartGateway
from tests.support.dashboards import Watcher, handshake, watching
from tests.support.devices import connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.topologies import Cluster, SentinelSetup
from tests.support.waiting import wait_until

FAILED_OVER_WITHIN = 15.0


@asynccontextmanager
async def dashboard(
    gateway: GatewayProcess, operator: Operator, account: str = "acme", staff: str = "ana"
) -> AsyncIterator[Watcher]:
    """A dashboard of a staff member, which has been sent its first pool."""
    token = await operator.token(account, staff, "desk", "watch")
    async with watching(gateway.websocket_url, token) as watcher:
        await watcher.pool()
        yield watcher


async def test_what_happens_at_one_gateway_is_seen_at_all(
    valkey: EngineServer, start_twin: StartGateway
) -> None:
    """Calls, the clock, a removed staff member and a revoked token, without delay."""
    one, other = await asyncio.gather(
        *(asyncio.to_thread(start_twin, valkey.url, "--simulate") for _ in range(2))
    )
    async with operating(one) as operator, AsyncExitStack() as opened:
        await operator.account(people=("ana", "bob", "eve"))
        here = await opened.enter_async_context(dashboard(one, operator))
        there = await opened.enter_async_context(dashboard(other, operator))
        bob = await opened.enter_async_context(dashboard(other, operator, staff="bob"))
        eve = await opened.enter_async_context(dashboard(other, operator, staff="eve"))
        device = await opened.enter_async_context(connected(one, await operator.token()))
        await device.start("c-1")
        assert await here.pool(calls_in_progress=1) == await there.pool(calls_in_progress=1)
        await operator.pass_by(60)
        for watcher in (here, there, bob):
            await watcher.pool(used_seconds=60)
        await operator.http.delete("/v1/accounts/acme/staff/bob")
        assert await bob.closed() == 4403
        await operator.http.post("/v1/tokens/revoke", json={"account": "acme", "staff": "eve"})
        assert await eve.closed() == 4401
        await operator.pass_by(40 * 86_400)
        for watcher in (here, there):
            assert (await watcher.notice("cycle_reset"))["cycle"]["start"]
            told = [(frame["kind"], frame.get("percent"), frame["at_ms"]) for frame in watcher.of("notice")]
            assert len(told) == len(set(told))


async def test_a_removal_that_nobody_told_is_found_in_the_database(
    start_gateway: StartGateway, operators_database: Callable[[GatewayProcess], sqlite3.Connection]
) -> None:
    gateway = await asyncio.to_thread(start_gateway)
    async with operating(gateway) as operator:
        await operator.account(people=("ana", "bob"))
        async with dashboard(gateway, operator) as ana, dashboard(gateway, operator, staff="bob") as bob:
            with operators_database(gateway) as database:
                database.execute("DELETE FROM staff WHERE staff = 'bob'")
            assert await bob.closed() == 4403
            assert (await ana.answer({"type": "ping", "id": 1}))["type"] == "pong"


@pytest.fixture
def operators_database() -> Callable[[GatewayProcess], sqlite3.Connection]:
    return lambda gateway: sqlite3.connect(gateway.data_dir / "callgate.db", timeout=10)


async def test_a_gateway_that_stops_says_so_and_closes(start_gateway: StartGateway) -> None:
    gateway = await asyncio.to_thread(start_gateway)
    async with operating(gateway) as operator:
        await operator.account()
        token = await operator.token("acme", "ana", "desk", "watch")
        async with handshake(gateway.websocket_url, token) as connection:
            watcher = Watcher(connection)
            await watcher.pool()
            stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
            assert await watcher.closed() == 1012
            assert watcher.frames[-1]["kind"] == "going_away"
            assert await stopping == 0


async def test_a_gateway_with_workers_shows_all_of_them_everything(start_gateway: StartGateway) -> None:
    gateway = await asyncio.to_thread(start_gateway, "--workers", "2")
    async with operating(gateway) as operator, AsyncExitStack() as opened:
        await operator.account()
        watchers = [await opened.enter_async_context(dashboard(gateway, operator)) for _ in range(8)]
        await operator.start("c-1")
        for watcher in watchers:
            await watcher.pool(calls_in_progress=1)


@asynccontextmanager
async def gateway_that_buffers_little(data_dir: Path) -> AsyncIterator[tuple[str, str]]:
    """A whole gateway in this process, whose system keeps next to nothing of what it sends: port and key."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    settings = Settings(data_dir=data_dir, admin_key="the key", token_secrets=("s" * 32,))
    ready = asyncio.Event()
    serving = asyncio.create_task(run_gateway(settings, [listener], ready.set))
    try:
        await ready.wait()
        yield f"127.0.0.1:{listener.getsockname()[1]}", "the key"
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        await serving
        faulthandler.cancel_dump_traceback_later()  # this process goes on


@pytest.mark.slow
async def test_a_reader_that_reads_nothing_gets_the_newest_and_nothing_that_it_missed(tmp_path: Path) -> None:
    """Of thousands of changes: what waits for it is one pool."""
    async with gateway_that_buffers_little(tmp_path) as (address, key), AsyncExitStack() as opened:
        http = await opened.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{address}", headers={"Authorization": f"Bearer {key}"})
        )
        operator = Operator(http)
        await operator.account(minutes=1_000_000)
        for number in range(100):
            await operator.start(f"{number:0128}")
        here = cast(GatewayProcess, SimpleNamespace(websocket_url=f"ws://{address}"))
        device = await opened.enter_async_context(connected(here, await operator.token(device="mobile")))
        query = "?account=acme"
        reads = await opened.enter_async_context(watching(here.websocket_url, key, query=query))
        await reads.pool(calls_in_progress=100)
        slow = await opened.enter_async_context(
            handshake(
                here.websocket_url,
                key,
                query=query,
                sock=small_socket(address),
                max_queue=1,
                ping_interval=None,
            )
        )
        assert json.loads(await slow.recv())["calls_in_progress"] == 100
        changes = 0
        while len(reads.of("pool")) < 20:
            changes += 1
            asked = [await device.ask("call.start", call_id=f"more-{changes}", to="123")]
            asked.append(await device.ask("call.end", call_id=f"more-{changes}"))
            await asyncio.gather(*asked)
        await operator.start("last")
        newest = await reads.until(lambda frame: any(call["call_id"] == "last" for call in frame["calls"]))
        received = [json.loads(await slow.recv())]
        while received[-1]["version"] < newest["version"]:
            received.append(json.loads(await slow.recv()))
        assert received[-1]["version"] == newest["version"]
        assert len(received) < len(reads.of("pool")) / 2


def small_socket(address: str) -> socket.socket:
    """A connection whose system takes in next to nothing that was not read."""
    host, port = address.split(":")
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    small.connect((host, int(port)))
    small.setblocking(False)
    return small


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sentinels", "cluster"])
async def test_what_happens_after_a_failover_is_seen(
    request: pytest.FixtureRequest, start_gateway: StartGateway, kind: str
) -> None:
    start: Callable[..., SentinelSetup | Cluster] = request.getfixturevalue(f"start_{kind}")
    setup = await asyncio.to_thread(start)
    gateway = await asyncio.to_thread(start_gateway, redis_url=setup.url)
    async with operating(gateway) as operator:
        await operator.account("acme")
        await operator.account("other")
        async with dashboard(gateway, operator) as watcher, dashboard(gateway, operator, "other") as other:
            for account, each in (("acme", watcher), ("other", other)):
                await operator.start("c-1", account)
                await each.pool(calls_in_progress=1)
            await asyncio.to_thread(_kill_a_primary, setup)

            async def is_admitted() -> bool:
                body = {"account": "acme", "staff": "ana", "device": "desk", "call_id": "c-2", "to": "123"}
                return (await operator.http.post("/v1/calls", json=body)).status_code == 200

            await wait_until(is_admitted, FAILED_OVER_WITHIN)
            await watcher.pool(calls_in_progress=2)
            # What is heard of late is not seen late for ever.
            await operator.end("c-2")
            await watcher.until(lambda frame: frame["calls_in_progress"] == 1 and len(watcher.frames) > 3)
            await operator.start("c-2", "other")
            await other.pool(calls_in_progress=2)
            assert not watcher.of("error")


def _kill_a_primary(setup: SentinelSetup | Cluster) -> None:
    if isinstance(setup, SentinelSetup):
        old = setup.primary
        old.kill()
        setup.wait_for_failover(old)
        return
    keys = KeySpace()
    old = setup.owner_of(keys.of_account("acme", keys.shard_of("acme"))[0])
    (replica,) = setup.replicas_of(old)
    old.kill()
    setup.wait_for_failover(replica)
