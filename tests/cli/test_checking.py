"""`callgate check`: it agrees with a deployment in good order, and says what is wrong in another."""

import json
import sqlite3
from collections.abc import Iterator

import pytest
import redis

from gateway.embedded import engine_socket
from gateway.pool.keys import KeySpace
from tests.cli.conftest import Callgate
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync

KEYS = KeySpace()


@pytest.fixture
def engine(gateway: GatewayProcess) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(engine_socket(gateway.data_dir)), protocol=2) as client:
        yield client


def change_database(gateway: GatewayProcess, statement: str, *values: object) -> None:
    database = sqlite3.connect(gateway.data_dir / "callgate.db")
    with database:
        assert database.execute(statement, values).rowcount == 1
    database.close()


def pool_key(account: str) -> str:
    return KEYS.of_account(account, KEYS.shard_of(account))[0]


def place_call(callgate: Callgate, account: str) -> None:
    """Have Ana make a call. The clock stands still, so it bills nothing."""
    flags = ("--account", account, "--staff", "ana", "--ring", "0", "--talk", "0", "--json")
    callgate("call", "+14155550100", *flags)


def test_a_deployment_in_good_order_agrees(callgate: Callgate, business: str) -> None:
    place_call(callgate, business)
    told = callgate("check")
    assert told.stdout.startswith("Redis and SQL agree. Accounts compared: ")
    assert json.loads(callgate("check", "--json").stdout) == []


def test_a_record_that_bills_more_than_the_pool_counted_is_found(
    callgate: Callgate, business: str, gateway: GatewayProcess
) -> None:
    place_call(callgate, business)
    wait_until_sync(lambda: json.loads(callgate("account", "calls", business, "--json").stdout))
    change_database(gateway, "UPDATE call_records SET billed_seconds = 7 WHERE account = ?", business)
    told = json.loads(callgate.check("--json"))
    assert told == [
        {"account": business, "what": "settled seconds", "redis": "0", "sql": "7, and 0 not saved yet"}
    ]
    change_database(gateway, "UPDATE call_records SET billed_seconds = 0 WHERE account = ?", business)


def test_a_record_that_sql_refused_is_told_of(callgate: Callgate, gateway: GatewayProcess) -> None:
    letter = """INSERT INTO dead_letters (shard, entry_id, "index", body, error, at_ms)
        VALUES (0, '1-1', 0, '{}', 'too large', 1)"""
    change_database(gateway, letter)
    told = json.loads(callgate.check("--json"))
    change_database(gateway, "DELETE FROM dead_letters WHERE at_ms = 1")
    refused = "1 refused: see the table dead_letters"
    assert told == [{"account": None, "what": "dead letters", "redis": "-", "sql": refused}]


def test_a_record_that_is_saved_stays_in_the_stream_and_does_not_count_as_waiting(
    callgate: Callgate, business: str, engine: redis.Redis
) -> None:
    place_call(callgate, business)
    wait_until_sync(lambda: json.loads(callgate("account", "calls", business, "--json").stdout))
    stream = KEYS.named(KEYS.shard_of(business), "records")[0]
    assert engine.xlen(stream) >= 1
    assert "not saved" not in callgate("check").stdout


def test_a_pool_that_is_gone_and_one_of_nobody_are_found(
    callgate: Callgate, business: str, engine: redis.Redis
) -> None:
    pool = engine.get(pool_key(business))
    assert isinstance(pool, bytes)
    engine.rename(pool_key(business), pool_key("nobody"))
    assert {
        (each["account"], each["redis"], each["sql"]) for each in json.loads(callgate.check("--json"))
    } == {
        (business, "there is none", "there is the account"),
        ("nobody", "there is one", "there is no such account"),
    }
    engine.rename(pool_key("nobody"), pool_key(business))
    callgate("check")


def test_members_and_plans_that_differ_are_found(
    callgate: Callgate, business: str, gateway: GatewayProcess
) -> None:
    change_database(gateway, "DELETE FROM staff WHERE account = ?", business)
    change_database(gateway, "UPDATE accounts SET status = 'suspended' WHERE account = ?", business)
    found = json.loads(callgate.check("--json"))
    assert {(each["what"], each["redis"], each["sql"]) for each in found} == {
        ("staff seats in use", "1", "0"),
        ("status", "active", "suspended"),
    }
    change_database(gateway, "UPDATE accounts SET status = 'active' WHERE account = ?", business)
    callgate("staff", "put", business, "ana")


def test_what_differs_is_shown_to_people_as_a_table(
    callgate: Callgate, business: str, gateway: GatewayProcess
) -> None:
    change_database(gateway, "DELETE FROM staff WHERE account = ?", business)
    told = callgate.check()
    assert told.splitlines()[0].split() == ["ACCOUNT", "WHAT", "REDIS", "SQL"]
    assert business in told
    callgate("staff", "put", business, "ana")


def test_without_a_gateway_it_says_that_it_needs_one(callgate: Callgate, tmp_path: object) -> None:
    assert "There is no database" in callgate("check", "--data-dir", str(tmp_path), status=1).stderr


def test_a_wrong_address_is_told(callgate: Callgate) -> None:
    assert "--redis-url: must be" in callgate("check", "--redis-url", "http://x", status=2).stderr
