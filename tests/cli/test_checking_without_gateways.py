"""`callgate check` where no gateway runs, so that whatever is wrong, or waits, stays as it is."""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from gateway.pool.keys import KeySpace
from tests.cli.conftest import Callgate
from tests.support.engines import EngineServer, engine_binary
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync

KEYS: Final = KeySpace()
SHARD: Final = KEYS.shard_of("acme")
POOL, ORDER, *_ = KEYS.of_account("acme", SHARD)
CALLS, RECORDS = KEYS.named(SHARD, "calls", "records")
CALLS_AT: Final = 123
"""Where in a pool the number of its calls stands (lua/lib/pool.lua, POOL)."""
ENDED: Final = "UPDATE call_records SET call_id = 'c-1' WHERE call_id = 'c-2'"
"""SQL has a record of c-1: the clock stood still, so both calls were admitted at the same instant."""


@dataclass(frozen=True)
class Deployment:
    """Acme with a call in progress (c-1) and one that has ended (c-2), Globex with none; no gateway runs."""

    engine: EngineServer
    database: Path
    callgate: Callgate

    def found(self) -> list[tuple[str | None, str, str, str]]:
        """What `callgate check` finds."""
        told = json.loads(self.callgate.check("--json"))
        return [(each["account"], each["what"], each["redis"], each["sql"]) for each in told]

    def agrees(self) -> bool:
        """Whether `callgate check` finds nothing."""
        return self.callgate("check").stdout.startswith("Redis and SQL agree. Accounts compared: 2.")

    def change(self, statement: str) -> None:
        """Change one row of the database."""
        with closing(sqlite3.connect(self.database)) as database, database:
            assert database.execute(statement).rowcount == 1

    def append(self, shard: int, entry_id: str, **fields: bytes) -> None:
        """Append to a shard's records once more what is the latest of acme's, but for these fields."""
        latest: Any = self.engine.client.xrevrange(RECORDS, count=1)
        changed: dict[Any, Any] = {name.encode(): value for name, value in fields.items()}
        self.engine.client.xadd(KEYS.named(shard, "records")[0], {**latest[0][1], **changed}, entry_id)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineServer, Path]]:
    """The deployment, made once, and what its database was then."""
    data_dir = tmp_path_factory.mktemp("data")
    engine = EngineServer(engine_binary("valkey"))
    engine.start()
    try:
        process = GatewayProcess(data_dir, "--simulate", "--redis-url", engine.url)
        with process as gateway, gateway.client() as http:
            _make(http)
        yield engine, data_dir
    finally:
        engine.discard()


def _make(http: httpx.Client) -> None:
    plan = {"name": "Ten", "minutes": 10, "connected_channels": 1, "staff_seats": 1}
    http.put("/v1/plans/ten", json=plan).raise_for_status()
    for account in ("acme", "globex"):
        http.put(f"/v1/accounts/{account}", json={"name": account, "plan": "ten"}).raise_for_status()
    http.put("/v1/accounts/acme/staff/ana").raise_for_status()
    for call_id in ("c-1", "c-2"):
        asked = {
            "account": "acme",
            "staff": "ana",
            "device": "desk",
            "call_id": call_id,
            "to": "+14155550100",
        }
        assert http.post("/v1/calls", json=asked).json()["type"] == "call.admitted"
    http.post("/v1/calls/c-2/end?account=acme").raise_for_status()
    wait_until_sync(lambda: http.get("/v1/accounts/acme/calls").json()["calls"])


@pytest.fixture
def deployment(
    made: tuple[EngineServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    """The deployment as it was made, which each test may spoil."""
    engine, data_dir = made
    for path in data_dir.glob("callgate.db*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setenv("CALLGATE_REDIS_URL", engine.url)
    monkeypatch.setenv("CALLGATE_DATA_DIR", str(tmp_path))
    kept = {key: engine.client.dump(key) for key in engine.client.scan_iter()}
    yield Deployment(engine, tmp_path / "callgate.db", Callgate())
    engine.client.flushall()
    for key, value in kept.items():
        assert isinstance(value, bytes)
        engine.client.restore(key, 0, value)


def test_it_agrees_while_nothing_is_wrong(deployment: Deployment) -> None:
    assert deployment.agrees()


def test_more_calls_than_a_pool_lists_are_counted_all(deployment: Deployment) -> None:
    """A pool shows 100 calls: what it counts beyond that is compared all the same."""
    client = deployment.engine.client
    value: Any = client.hget(CALLS, "acme/c-1")
    score: Any = client.zscore(ORDER, "acme/c-1")
    more = [f"acme/more-{number}" for number in range(149)]
    client.hset(CALLS, mapping=dict.fromkeys(more, value))
    client.zadd(ORDER, dict.fromkeys(more, score))
    client.setrange(POOL, CALLS_AT, struct.pack("<d", 5000))
    assert ("acme", "calls in progress", "5000 counted, 150 there", "-") in deployment.found()
    client.setrange(POOL, CALLS_AT, struct.pack("<d", 150))
    assert "calls in progress" not in {what for _, what, _, _ in deployment.found()}


def test_a_call_that_goes_on_though_sql_has_it_as_ended_is_found(deployment: Deployment) -> None:
    deployment.change(ENDED)
    assert deployment.found() == [("acme", "call c-1", "in progress", "ended")]


def test_a_call_that_came_back_is_in_progress_though_sql_does_not_have_that_yet(
    deployment: Deployment,
) -> None:
    """R15."""
    deployment.change(ENDED)
    with closing(sqlite3.connect(deployment.database)) as database:
        (admitted,) = database.execute(
            "SELECT admitted_at_ms FROM call_records WHERE call_id = 'c-1'"
        ).fetchone()
    came_back = b"Bacme/c-1\0" + struct.pack("<Hd", 1, admitted)
    deployment.append(SHARD, "*", d=came_back, n=b"99")
    assert deployment.agrees()


def test_a_record_that_has_waited_for_over_a_minute_is_found(deployment: Deployment) -> None:
    shard = (SHARD + 1) % KEYS.shards
    began = time.time() - 90
    deployment.append(shard, f"{began * 1000:.0f}-0", n=b"1")
    told = [each for each in deployment.found() if each[1] == "records"]
    assert len(told) == 1
    said = told[0][2]
    assert said.startswith("1 not saved yet, the first for ")
    assert 90 <= int(said.split()[-2]) <= 90 + time.time() - began


def test_a_change_that_reached_only_sql_is_found(deployment: Deployment) -> None:
    deployment.change("UPDATE accounts SET revision = 7 WHERE account = 'globex'")
    assert deployment.found() == [("globex", "change", "not there yet", "revision 7")]


def test_a_policy_that_differs_is_found(deployment: Deployment) -> None:
    deployment.change("UPDATE deployment SET value = '10/1/60/admission' WHERE key = 'policy'")
    assert deployment.found() == [
        (
            None,
            "policy",
            "free 30 s, increment 1 s, hold 60 s, from admission",
            "free 10 s, increment 1 s, hold 60 s, from admission",
        )
    ]


@pytest.mark.parametrize("value", [b"\x63", b"x", b""], ids=["another layout", "cut off", "empty"])
def test_a_pool_that_cannot_be_read_is_told_of_and_the_others_are_compared(
    deployment: Deployment, value: bytes
) -> None:
    client = deployment.engine.client
    whole: Any = client.get(POOL)
    client.set(POOL, value + whole[1:] if value == b"\x63" else value)
    deployment.change("UPDATE accounts SET revision = 7 WHERE account = 'globex'")
    pool, change = sorted(deployment.found(), key=lambda each: each[1] != "pool")
    assert pool[:2] == ("acme", "pool")
    assert pool[2].startswith(f"cannot be read ({POOL}): ")
    assert pool[3] == "there is the account"
    assert change == ("globex", "change", "not there yet", "revision 7")


def test_a_pool_that_cannot_be_read_is_made_anew_once_it_is_deleted(deployment: Deployment) -> None:
    """As docs/operations.md says."""
    client = deployment.engine.client
    client.set(POOL, "x")
    assert "those that cannot be read (acme)" in deployment.callgate("rebuild", status=1).stderr
    client.delete(POOL)
    deployment.callgate("rebuild")
    assert deployment.agrees()


def test_what_counts_as_a_call_and_is_none_goes_with_its_place_in_order_and_a_rebuild(
    deployment: Deployment,
) -> None:
    """As docs/operations.md says."""
    client = deployment.engine.client
    client.zadd(ORDER, {"acme/ghost": 1_795_391_940_000})
    # Made anew it counts the ghost, and no other call suffers from that.
    deployment.callgate("rebuild")
    assert ("acme", "order of call ghost", "there, and not in progress", "-") in deployment.found()
    client.zrem(ORDER, "acme/ghost")
    deployment.callgate("rebuild")
    assert deployment.agrees()
