"""`callgate rebuild`: pools are then as SQL has them, and calls in progress go on."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from gateway.pool.keys import KeySpace
from tests.cli.conftest import Callgate
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync

KEYS: Final = KeySpace()
BILLED: Final = 60
"""What each call of these tests bills: nothing is free, and a minute is the increment."""
PLAN: Final[dict[str, object]] = {
    "name": "Ten",
    "minutes": 10,
    "connected_channels": 1,
    "staff_seats": 1,
}


@pytest.fixture
def engine(start_engine: Callable[..., EngineServer]) -> EngineServer:
    return start_engine()


@pytest.fixture
def start(
    engine: EngineServer,
    start_gateway: Callable[..., GatewayProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], GatewayProcess]:
    """Starts a gateway on the same engine and data each time; commands find both by themselves."""
    monkeypatch.setenv("CALLGATE_REDIS_URL", engine.url)
    monkeypatch.setenv("CALLGATE_DATA_DIR", str(tmp_path))
    flags = ("--free-seconds", "0", "--increment-seconds", str(BILLED), "--grace-seconds", "300")
    return lambda: start_gateway(*flags, redis_url=engine.url, data_dir=tmp_path)


@pytest.fixture
def gateway(start: Callable[[], GatewayProcess]) -> GatewayProcess:
    return start()


@pytest.fixture
def http(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with gateway.client() as client:
        client.put("/v1/plans/ten", json=PLAN).raise_for_status()
        client.put("/v1/accounts/acme", json={"name": "Acme", "plan": "ten"}).raise_for_status()
        client.put("/v1/accounts/acme/staff/ana").raise_for_status()
        yield client


def place(http: httpx.Client, call_id: str, device: str = "desk") -> str:
    """Start a call, and return its receipt."""
    asked = {"account": "acme", "staff": "ana", "device": device, "call_id": call_id, "to": "+14155550100"}
    admitted = http.post("/v1/calls", json=asked).raise_for_status().json()
    assert admitted["type"] == "call.admitted", admitted
    return str(admitted["receipt"])


def end(http: httpx.Client, call_id: str) -> dict[str, object]:
    settled: dict[str, object] = http.post(f"/v1/calls/{call_id}/end?account=acme").raise_for_status().json()
    return settled


def pool_of(http: httpx.Client) -> tuple[int, list[str]]:
    """Settled seconds, and the calls in progress."""
    found = http.get("/v1/accounts/acme/pool").raise_for_status().json()
    assert found["calls_in_progress"] == len(found["calls"])
    return found["settled_seconds"], sorted(call["call_id"] for call in found["calls"])


def wait_until_saved(http: httpx.Client, count: int) -> None:
    wait_until_sync(lambda: len(http.get("/v1/accounts/acme/calls").json()["calls"]) >= count)


def test_pools_are_made_anew_under_running_gateways_and_calls_go_on(
    http: httpx.Client, engine: EngineServer, tmp_path: Path
) -> None:
    callgate = Callgate()
    for call_id in ("c-1", "c-2", "c-3"):
        place(http, call_id)
    end(http, "c-1")
    wait_until_saved(http, 1)
    # A pool that went wrong: it counted other than what its records say.
    with sqlite3.connect(tmp_path / "callgate.db") as database:
        database.execute("UPDATE call_records SET billed_seconds = 120")
    database.close()
    assert json.loads(callgate.check("--json"))[0]["what"] == "settled seconds"

    assert callgate("rebuild").stdout == "The pools are made anew. Accounts: 1.\n"

    assert pool_of(http) == (2 * BILLED, ["c-2", "c-3"])
    assert end(http, "c-2")["billed_seconds"] == BILLED
    assert pool_of(http) == (3 * BILLED, ["c-3"])
    place(http, "c-4")
    wait_until_saved(http, 2)
    assert "Redis and SQL agree" in callgate("check").stdout


def test_gateways_tell_again_what_they_answered(http: httpx.Client, engine: EngineServer) -> None:
    """Nobody else knows this call after its keys were lost. They hear of the new epoch by themselves."""
    place(http, "c-1")
    shard = KEYS.shard_of("acme")
    engine.client.delete(KEYS.named(shard, "calls")[0], *KEYS.of_account("acme", shard)[1:3])
    Callgate()("rebuild")
    wait_until_sync(lambda: pool_of(http) == (0, ["c-1"]))
    assert end(http, "c-1")["billed_seconds"] == BILLED


def test_an_engine_that_went_back_while_no_gateway_ran_has_the_database_s_policy(
    http: httpx.Client, gateway: GatewayProcess, engine: EngineServer, start: Callable[[], GatewayProcess]
) -> None:
    metas = [KEYS.of_shard(shard)[0] for shard in range(KEYS.shards)]
    older: Any = dict(zip(metas, engine.client.mget(metas), strict=True))
    http.put("/v1/policy", json={"hold_seconds": 30}).raise_for_status()
    assert gateway.stop() == 0
    engine.client.mset(older)
    callgate = Callgate()
    assert "hold 60 s" in callgate.check()
    callgate("rebuild")
    assert "Redis and SQL agree" in callgate("check").stdout
    with start().client() as again:
        assert again.get("/v1/policy").json()["hold_seconds"] == 30


def test_an_engine_that_was_emptied_while_no_gateway_ran_is_filled(
    http: httpx.Client, gateway: GatewayProcess, engine: EngineServer, start: Callable[[], GatewayProcess]
) -> None:
    callgate = Callgate()
    receipt = place(http, "c-1")
    place(http, "c-2")
    end(http, "c-2")
    wait_until_saved(http, 1)
    assert gateway.stop() == 0
    engine.flush()
    assert "256 of its 256 shards are not there" in callgate("check", status=1).stderr

    callgate("rebuild")

    assert "Redis and SQL agree" in callgate("check").stdout
    gateway = start()
    with gateway.client() as again:
        assert pool_of(again) == (BILLED, [])
        # What was in progress comes back with its device.
        resumed = again.post("/v1/calls/c-1/resume?account=acme", json={"receipt": receipt})
        assert resumed.raise_for_status().json()["type"] == "call.resumed"
        assert pool_of(again) == (BILLED, ["c-1"])
        assert end(again, "c-1")["billed_seconds"] == BILLED
        assert pool_of(again) == (2 * BILLED, [])


def test_nothing_is_lost_or_counted_twice_by_rebuilding_while_calls_come_and_go(
    http: httpx.Client, gateway: GatewayProcess
) -> None:
    callgate = Callgate()
    http.put("/v1/plans/many", json=PLAN | {"minutes": 1_000_000}).raise_for_status()
    http.put("/v1/accounts/acme/plan", json={"plan": "many"}).raise_for_status()
    done = threading.Event()

    def place_calls(device: str) -> int:
        """Return what they billed: nothing where a call began and ended within one millisecond."""
        number = billed = 0
        with gateway.client() as own:
            while not done.is_set():
                number += 1
                place(own, f"{device}-{number}", device)
                settled = end(own, f"{device}-{number}")
                assert settled["billed_seconds"] == (BILLED if settled["duration_ms"] else 0)
                billed += BILLED if settled["duration_ms"] else 0
        return billed

    with ThreadPoolExecutor() as pool:
        placing = [pool.submit(place_calls, f"d{number}") for number in range(4)]
        try:
            for _ in range(5):
                callgate("rebuild")
        finally:
            done.set()
        billed = sum(each.result() for each in placing)
    assert pool_of(http) == (billed, [])
    assert "Redis and SQL agree" in callgate("check").stdout


def test_after_a_database_was_restored_pools_follow_it_again(
    http: httpx.Client, gateway: GatewayProcess, tmp_path: Path, start: Callable[[], GatewayProcess]
) -> None:
    """As docs/operations.md says: the records since then come back, and changes since then are gone."""
    callgate = Callgate()
    place(http, "c-1")
    database, copy = tmp_path / "callgate.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    end(http, "c-1")
    place(http, "c-2")
    wait_until_saved(http, 1)
    http.put("/v1/accounts/acme", json={"status": "suspended"}).raise_for_status()
    assert gateway.stop() == 0
    copy.replace(database)
    for left in ("-wal", "-shm"):
        database.with_name(database.name + left).unlink(missing_ok=True)

    with start().client() as again:
        wait_until_saved(again, 1)
        callgate("rebuild")
        assert pool_of(again) == (BILLED, ["c-2"])
        place(again, "c-3")
        end(again, "c-2")
        end(again, "c-3")
        assert pool_of(again) == (3 * BILLED, [])
        assert "Redis and SQL agree" in callgate("check").stdout


def test_without_a_deployment_it_says_so(tmp_path: Path) -> None:
    told = Callgate()("rebuild", "--data-dir", str(tmp_path / "none"), "--redis-url", "redis://x", status=1)
    assert "There is no database" in told.stderr


def test_an_engine_that_cannot_be_reached_is_told(http: httpx.Client) -> None:
    told = Callgate()("rebuild", "--redis-url", "unix:///nowhere", status=1)
    assert "cannot be reached" in told.stderr
