"""Plans, accounts, members, tokens, policy and clock from the command line."""

import json

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.cli.conftest import Callgate
from tests.support.gateways import GatewayProcess


def test_a_plan_is_made_changed_shown_and_listed(callgate: Callgate) -> None:
    made = callgate(
        *("plan", "put", "gold", "--name", "Gold", "--minutes", "1000", "--channels", "3", "--seats", "7"),
        *("--max-calls", "4", "--price", "49.00", "--currency", "USD"),
    )
    assert "minutes        1000" in made.output
    assert "price          49.00 USD" in made.output
    callgate("plan", "put", "gold", "--name", "Gold [2026]", "--no-max-calls")
    shown = json.loads(callgate("plan", "show", "gold", "--json").output)
    assert shown == {
        "plan": "gold",
        "name": "Gold [2026]",
        "minutes": 1000,
        "connected_channels": 3,
        "staff_seats": 7,
        "max_concurrent_calls": None,
        "monthly_price": {"amount": "49.00", "currency": "USD"},
    }
    assert "Gold [2026]" in callgate("plan", "list").output
    assert shown in json.loads(callgate("plan", "list", "--json").output)


def test_an_account_is_made_changed_shown_and_listed(callgate: Callgate, business: str) -> None:
    zone = "America/New_York"
    callgate(
        *("account", "put", "here", "--name", "Here & Co", "--plan", "ten"),
        *("--billing-date", "2026-01-31", "--time-zone", zone),
    )
    callgate("account", "put", "here", "--status", "suspended")
    shown = json.loads(callgate("account", "show", "here", "--json").output)
    assert shown["account"]["billing_date"] == "2026-01-31"
    assert shown["account"]["time_zone"] == zone
    assert shown["account"]["status"] == "suspended"
    assert shown["pool"]["allocated_seconds"] == 600
    assert "remaining          10:00 min" in callgate("account", "show", "here").output
    assert [each["account"] for each in listed(callgate, "--search", "HERE & c")] == ["here"]
    assert {"here", business} <= {each["account"] for each in listed(callgate)}
    assert "Here & Co" in callgate("account", "list").output
    by_use = ("--sort", "used_percent")
    assert {"here", business} <= {each["account"] for each in listed(callgate, *by_use)}
    assert len(listed(callgate, *by_use, "--limit", "1")) == 1


def listed(callgate: Callgate, *flags: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(callgate("account", "list", "--json", *flags).output)
    return found


def test_plans_are_moved_between(callgate: Callgate, business: str) -> None:
    for name, minutes in (("small", "5"), ("big", "60")):
        flags = ("--minutes", minutes, "--channels", "5", "--seats", "5")
        callgate("plan", "put", name, "--name", name, *flags)
    assert f"{business} is on the plan big since" in callgate("account", "plan", business, "big").output
    pending = callgate("account", "plan", business, "small").output
    assert "moves to the plan small at" in pending
    assert "until then big" in pending
    assert "small from" in callgate("account", "show", business).output
    assert "stays on its plan" in callgate("account", "withdraw", business).output
    assert "pending plan       -" in callgate("account", "show", business).output


def test_staff_and_channels_are_added_up_to_the_limit_and_removed(callgate: Callgate, business: str) -> None:
    assert "Ben Okafor" in callgate("staff", "put", business, "ben", "--name", "Ben Okafor").output
    full = callgate("staff", "put", business, "chloe", status=1)
    assert "2" in full.stderr
    assert "Ben Okafor" in callgate("staff", "list", business).output
    assert "no longer" in callgate("staff", "remove", business, "ben").output
    assert [each["staff"] for each in json.loads(callgate("staff", "list", business, "--json").output)] == [
        "ana"
    ]
    changed = callgate("channel", "put", business, "main", "--label", "Main", "--number", "+14155550100")
    assert "+14155550100" in changed.output
    assert "Main" in callgate("channel", "list", business).output
    callgate("channel", "put", business, "second", status=1)
    callgate("channel", "remove", business, "main")
    assert "has no channels" in callgate("channel", "list", business).stderr


def test_a_token_stands_alone_on_standard_output(
    callgate: Callgate, business: str, gateway: GatewayProcess
) -> None:
    issued = callgate("token", business, "--staff", "ana", "--device", "desk", "--ttl", "1h")
    token = issued.stdout.strip()
    assert "Good for call, watch, until" in issued.stderr
    headers = {"Authorization": f"Bearer {token}"}
    subprotocols = [Subprotocol("callgate.v1")]
    url = f"{gateway.websocket_url}/v1/device"
    with connect(url, subprotocols=subprotocols, additional_headers=headers) as device:
        assert json.loads(device.recv(10))["staff"] == "ana"
    assert callgate("watch", business, "--once", "--token", token).exit_code == 0
    callgate("token", business, "--revoke")
    refused = callgate("watch", business, "--once", CALLGATE_TOKEN=token, status=1)
    assert "revoked" in refused.stderr


def test_a_token_only_to_watch_needs_no_device(callgate: Callgate, business: str) -> None:
    issued = json.loads(callgate("token", business, "--json").output)
    assert set(issued) == {"token", "expires_at_ms"}


@pytest.mark.parametrize(
    "wrong",
    [
        ["token", "acme", "--device", "desk"],
        ["token", "acme", "--revoke", "--ttl", "1h"],
        ["token", "acme", "--ttl", "soon"],
        ["token", "ac me"],
        ["plan", "put", "p", "--price", "5"],
        ["plan", "put", "p", "--max-calls", "5", "--no-max-calls"],
        ["policy", "set"],
        ["clock", "--at", "2026-12-15T05:00:00Z", "--advance", "1h"],
        ["clock", "--at", "tomorrow"],
        ["call", "+14155550100"],
        ["call", "+14155550100", "--account", "acme"],
        ["plan", "list", "--url", "localhost"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told_before_anything_is_sent(callgate: Callgate, wrong: list[str]) -> None:
    told = callgate(*wrong, status=2)
    assert "Error: " in told.stderr
    assert "Usage: callgate" in told.stderr


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["plan", "show", "none"], "There is no plan none."),
        (["plan", "put", "new"], "minutes: is"),
        (["account", "show", "none"], "There is no account none."),
        (["account", "put", "new", "--name", "New", "--time-zone", "Mars"], "time_zone: "),
        (["account", "plan", "none", "ten"], "There is no account none."),
        (["token", "none"], "There is no account none."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_gateway_refuses_is_said_in_one_line(
    callgate: Callgate, asked: list[str], said: str
) -> None:
    assert said in callgate(*asked, status=1).stderr


def test_no_gateway_is_said_in_one_line(callgate: Callgate) -> None:
    told = callgate("plan", "list", "--url", "http://127.0.0.1:9", status=1)
    assert "http://127.0.0.1:9 cannot be reached" in told.stderr
    assert "Is `callgate serve` running there?" in told.stderr


def test_a_wrong_key_says_where_it_was_from(callgate: Callgate, gateway: GatewayProcess) -> None:
    assert str(gateway.data_dir) not in callgate("plan", "list", "--admin-key", "wrong", status=1).stderr


def test_the_kept_key_is_for_this_machine_only(callgate: Callgate) -> None:
    told = callgate("plan", "list", "--url", "https://callgate.example.com", status=2)
    assert "--admin-key" in told.stderr


def test_without_a_key_it_is_said_how_to_give_one(callgate: Callgate, tmp_path: object) -> None:
    told = callgate("plan", "list", "--data-dir", str(tmp_path), status=2)
    assert "--data-dir" in told.stderr
    assert "CALLGATE_ADMIN_KEY" in told.stderr


def test_the_policy_is_shown_and_set(callgate: Callgate) -> None:
    before = json.loads(callgate("policy", "show", "--json").output)
    assert before["free_seconds"] == 30
    assert "free_seconds       20" in callgate("policy", "set", "--free-seconds", "20").output
    assert json.loads(callgate("policy", "show", "--json").output) == {**before, "free_seconds": 20}
    callgate("policy", "set", "--hold-seconds", "3600", status=1)
    callgate("policy", "set", "--free-seconds", "30")


def test_the_clock_of_a_simulation_is_shown_and_moved(callgate: Callgate) -> None:
    before = json.loads(callgate("clock", "--json").output)
    assert before["speed"] == 0
    moved = json.loads(callgate("clock", "--advance", "2h", "--json").output)
    assert moved["now_ms"] == before["now_ms"] + 7_200_000
    assert "speed  60" in callgate("clock", "--speed", "60").output
    callgate("clock", "--speed", "0")
    callgate("account", "put", "clocked", "--name", "Without an account it may be set back")
    back = callgate("clock", "--at", "2001-01-01T00:00:00Z", status=1)
    assert "at_ms" in back.stderr
