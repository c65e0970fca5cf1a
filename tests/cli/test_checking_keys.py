"""`callgate check` looks at calls in progress and their indexes, at all keys, and at closed statements."""

from __future__ import annotations

import itertools
import json
import sqlite3
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest
import redis

from gateway.embedded import engine_socket
from gateway.pool.keys import KeySpace
from tests.cli.conftest import Callgate
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync

KEYS: Final = KeySpace()
IN_PROGRESS_AT: Final = 71
"""Where in a shard's meta the number of its calls in progress stands (lua/lib/shard.lua, META)."""


@pytest.fixture
def engine(gateway: GatewayProcess) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(engine_socket(gateway.data_dir)), protocol=2) as client:
        yield client


@pytest.fixture
def call(gateway: GatewayProcess, business: str) -> Iterator[str]:
    """A call of the business that is in progress for as long as the test, as keys have it."""
    asked = {"account": business, "staff": "ana", "device": "desk", "call_id": "c-1", "to": "+14155550100"}
    with gateway.client() as http:
        assert http.post("/v1/calls", json=asked).json()["type"] == "call.admitted"
        yield f"{business}/c-1"
        http.post(f"/v1/calls/c-1/end?account={business}").raise_for_status()


def keys_of(account: str) -> dict[str, str]:
    shard = KEYS.shard_of(account)
    leases, calls, meta = KEYS.named(shard, "leases", "calls", "meta")
    pool, order, phase, members = KEYS.of_account(account, shard)
    return {
        "leases": leases,
        "calls": calls,
        "meta": meta,
        "pool": pool,
        "order": order,
        "phase": phase,
        "members": members,
    }


def told(callgate: Callgate) -> set[tuple[str | None, str, str]]:
    return {(each["account"], each["what"], each["redis"]) for each in json.loads(callgate.check("--json"))}


def change_database(gateway: GatewayProcess, statement: str, *values: object) -> None:
    database = sqlite3.connect(gateway.data_dir / "callgate.db")
    with database:
        assert database.execute(statement, values).rowcount == 1
    database.close()


def test_calls_in_progress_agree_with_their_indexes(callgate: Callgate, call: str) -> None:
    callgate("check")


def test_nothing_is_told_of_calls_that_come_and_go_meanwhile(
    callgate: Callgate, business: str, gateway: GatewayProcess
) -> None:
    done = threading.Event()

    def place_calls(device: str) -> int:
        asked = {"account": business, "staff": "ana", "device": device, "to": "+14155550100"}
        with gateway.client() as http:
            for number in itertools.count():
                call_id = f"{device}-{number}"
                answered = http.post("/v1/calls", json={**asked, "call_id": call_id}).raise_for_status()
                if done.is_set():
                    return number
                http.post(f"/v1/calls/{call_id}/end?account={business}").raise_for_status()
                assert answered.json()["type"] == "call.admitted"
        raise AssertionError("there is no last number")

    with ThreadPoolExecutor() as pool:
        placed = [pool.submit(place_calls, f"d{number}") for number in range(4)]
        try:
            for _ in range(3):
                callgate("check")
        finally:
            done.set()
        assert all(each.result() > 1 for each in placed)


def test_a_call_that_nothing_would_reap_is_found(
    callgate: Callgate, business: str, call: str, engine: redis.Redis
) -> None:
    leases = keys_of(business)["leases"]
    engine.rename(leases, "aside")
    assert told(callgate) == {(business, "lease of call c-1", "in progress, not there")}
    engine.rename("aside", leases)
    callgate("check")


def test_a_call_that_cannot_be_read_is_found(
    callgate: Callgate, business: str, call: str, engine: redis.Redis
) -> None:
    calls = keys_of(business)["calls"]
    whole = engine.hget(calls, call)
    assert isinstance(whole, bytes)
    engine.hset(calls, call, whole[:60])
    assert told(callgate) == {(business, "call c-1", "cannot be read")}
    engine.hset(calls, call, whole)
    callgate("check")


def test_a_call_that_counts_nowhere_is_found(
    callgate: Callgate, business: str, call: str, engine: redis.Redis
) -> None:
    order = keys_of(business)["order"]
    score = engine.zscore(order, call)
    assert score is not None
    engine.zrem(order, call)
    assert told(callgate) == {
        (business, "order of call c-1", "in progress, not there"),
        (business, "calls in progress", "1 counted, 0 there"),
        (None, f"calls in progress of shard {KEYS.shard_of(business)}", "1 counted, 0 there"),
    }
    engine.zadd(order, {call: score})
    callgate("check")


def test_what_counts_as_a_call_and_is_none_is_found(
    callgate: Callgate, business: str, call: str, engine: redis.Redis
) -> None:
    keys = keys_of(business)
    engine.zadd(keys["order"], {f"{business}/ghost": 1_795_391_940_000})
    found = told(callgate)
    assert (business, "order of call ghost", "there, and not in progress") in found
    assert (None, f"calls in progress of shard {KEYS.shard_of(business)}", "1 counted, 2 there") in found
    engine.zrem(keys["order"], f"{business}/ghost")
    callgate("check")


def test_a_shard_that_counted_wrong_is_found(
    callgate: Callgate, business: str, call: str, engine: redis.Redis
) -> None:
    meta = keys_of(business)["meta"]
    engine.setrange(meta, IN_PROGRESS_AT, struct.pack("<d", 7))
    assert told(callgate) == {
        (None, f"calls in progress of shard {KEYS.shard_of(business)}", "7 counted, 1 there")
    }
    engine.setrange(meta, IN_PROGRESS_AT, struct.pack("<d", 1))
    callgate("check")


def test_keys_that_are_nobodys_are_found(callgate: Callgate, business: str, engine: redis.Redis) -> None:
    elsewhere = KEYS.of_account(business, (KEYS.shard_of(business) + 1) % KEYS.shards)[0]
    strays = ["cg:misplaced", "cg:{3}:nonsense", "cg:{256}:meta", elsewhere]
    for key in strays:
        engine.set(key, "x")
    nobody = keys_of("nobody")
    engine.sadd(nobody["members"], "s/ana")
    engine.zadd(nobody["phase"], {"nobody/c-1": 1})
    engine.zadd(nobody["order"], {"nobody/c-1": 1})
    found = {(each["account"], each["what"]) for each in json.loads(callgate.check("--json"))}
    assert found >= {(None, f"key {key}") for key in strays}
    assert found >= {("nobody", "members"), ("nobody", "phase"), ("nobody", "order")}
    engine.delete(*strays, nobody["members"], nobody["phase"], nobody["order"])
    callgate("check")


def test_emergency_calls_of_an_unknown_account_are_in_order(
    callgate: Callgate, gateway: GatewayProcess
) -> None:
    asked = {"account": "unheard-of", "staff": "eve", "device": "desk", "call_id": "e-1", "to": "112"}
    with gateway.client() as http:
        assert http.post("/v1/calls", json=asked).json()["type"] == "call.admitted"
        callgate("check")
        http.post("/v1/calls/e-1/end?account=unheard-of").raise_for_status()


def test_a_closed_statement_that_its_records_do_not_come_to_is_found(
    callgate: Callgate, business: str, gateway: GatewayProcess
) -> None:
    flags = ("--account", business, "--staff", "ana", "--ring", "0", "--talk", "0", "--json")
    callgate("call", "+14155550100", *flags)
    callgate("clock", "--advance", "40d")

    def closed() -> list[dict[str, object]]:
        statements = json.loads(callgate("account", "statements", business, "--json").stdout)
        return [each for each in statements if each["closed"]]

    wait_until_sync(closed)
    (statement,) = closed()
    start = statement["cycle"]["start"]  # type: ignore[index]
    change_database(gateway, "UPDATE call_records SET billed_seconds = 7 WHERE account = ?", business)
    assert json.loads(callgate.check("--json")) == [
        {
            "account": business,
            "what": f"statement {start}",
            "redis": "-",
            "sql": "0 s, 0 calls counted, 1 free; its records: 7 s, 0 counted, 1 free",
        }
    ]
    change_database(
        gateway, "UPDATE call_records SET billed_seconds = 0, reopened = 1 WHERE account = ?", business
    )
    (found,) = json.loads(callgate.check("--json"))
    assert found["sql"].endswith("0 s, 0 counted, 0 free, 1 in progress again")
    change_database(gateway, "UPDATE call_records SET reopened = 0 WHERE account = ?", business)
    callgate("check")
