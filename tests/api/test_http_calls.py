"""Calls over HTTP, their records, and how much of a number each reader sees."""

from __future__ import annotations

import csv
import io
import sqlite3
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.api.conftest import MASKED, NUMBER, SECRET, Acme, start
from tests.support.waiting import wait_until_sync


def advance(admin: httpx.Client, ms: int) -> int:
    """Move the billing clock, and return what it shows then."""
    moved = admin.post("/v1/simulation/clock", json={"advance_ms": ms}).raise_for_status()
    return int(moved.json()["now_ms"])


def ask(client: httpx.Client, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """POST, and return the answer."""
    answer: dict[str, Any] = client.post(path, json={} if body is None else body).raise_for_status().json()
    return answer


def test_a_call_over_http_is_answered_as_over_the_websocket(acme: Acme) -> None:
    now_ms = advance(acme.admin, 0)
    with acme.client(acme.token()) as client:
        admitted = ask(client, "/v1/calls", {"call_id": "c-1", "to": NUMBER, "channel": "main"})
        assert admitted.pop("receipt").startswith("r1.")
        assert admitted == {
            "type": "call.admitted",
            "call_id": "c-1",
            "admitted_at_ms": now_ms,
            "remaining_seconds": 6000,
            "replayed": False,
            "lease_seconds": 15,
        }
        advance(acme.admin, 60_000)
        noted = ask(client, "/v1/calls/c-1/answered", {"answered_ago_ms": 50_000})
        assert noted == {"type": "call.noted", "call_id": "c-1"}
        # It was alive until the clock was moved, and so it ended no earlier (R16).
        assert ask(client, "/v1/calls/c-1/end", {"ended_ago_ms": 10_000}) == {
            "type": "call.settled",
            "call_id": "c-1",
            "duration_ms": 60_000,
            "billed_seconds": 60,
            "counted": True,
            "ended_by": "hangup",
            "revision": 1,
            "replayed": False,
            "remaining_seconds": 5940,
        }
        refused = ask(client, "/v1/calls", {"call_id": "c-2", "to": "nowhere"})
        assert (refused["type"], refused["reason"]) == ("call.refused", "destination_invalid")


def test_a_body_that_holds_only_defaults_may_be_left_out(acme: Acme) -> None:
    with acme.client(acme.token()) as client:
        ask(client, "/v1/calls", {"call_id": "c-1", "to": NUMBER})
        assert client.post("/v1/calls/c-1/answered").json()["type"] == "call.noted"
        assert client.post("/v1/calls/c-1/end").json()["type"] == "call.settled"
        assert client.post("/v1/calls").json()["code"] == "bad_json"


async def test_a_call_can_be_ended_over_http_that_was_started_over_the_websocket(acme: Acme) -> None:
    async with acme.device() as device:
        await device.ask(start())
    with acme.client(acme.token()) as client:
        assert ask(client, "/v1/calls/c-1/end")["type"] == "call.settled"


def test_a_token_s_calls_are_its_device_s_own(acme: Acme) -> None:
    with acme.client(acme.token()) as desk, acme.client(acme.token(device="mobile")) as mobile:
        ask(desk, "/v1/calls", {"call_id": "c-1", "to": NUMBER})

        for path in ("/v1/calls/c-1/end", "/v1/calls/c-1/answered", "/v1/calls/never/end"):
            answer = mobile.post(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "call_unknown")
        answer = mobile.post("/v1/calls", json={"call_id": "c-2", "to": NUMBER, "device": "desk"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        answer = mobile.post("/v1/calls/c-1/end?account=another")
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        own = {"call_id": "c-3", "to": NUMBER, "account": acme.id, "staff": "ana", "device": "mobile"}
        assert ask(mobile, "/v1/calls", own)["type"] == "call.admitted"


def test_the_admin_says_whose_call_it_is(acme: Acme) -> None:
    whose = {"account": acme.id, "staff": "ana", "device": "desk"}
    answer = acme.admin.post("/v1/calls", json={"to": NUMBER})
    assert {error["field"] for error in answer.json()["errors"]} == {"call_id", "account", "staff", "device"}

    assert ask(acme.admin, "/v1/calls", {"call_id": "c-1", "to": NUMBER} | whose)["type"] == "call.admitted"
    answer = acme.admin.post("/v1/calls/c-1/end")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "account")
    assert ask(acme.admin, f"/v1/calls/c-1/end?account={acme.id}")["type"] == "call.settled"


def test_the_admin_is_told_of_an_unknown_account_by_a_refusal(admin: httpx.Client) -> None:
    whose = {"account": "nobody", "staff": "ana", "device": "desk"}

    refused = ask(admin, "/v1/calls", {"call_id": "c-1", "to": NUMBER} | whose)

    assert (refused["reason"], refused["remaining_seconds"]) == ("account_unknown", 0)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"call_id", "to"}),
        ({"call_id": "c 1", "to": 5, "channel": ""}, {"call_id", "to", "channel"}),
        ({"call_id": "c" * 129, "to": "1" * 257, "chanel": "main"}, {"call_id", "to", "chanel"}),
    ],
)
def test_all_wrong_fields_of_a_start_are_named(acme: Acme, body: dict[str, Any], fields: set[str]) -> None:
    with acme.client(acme.token()) as client:
        answer = client.post("/v1/calls", json=body)

    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == fields


def test_ids_used_and_in_use_are_conflicts(acme: Acme) -> None:
    with acme.client(acme.token()) as client:
        ask(client, "/v1/calls", {"call_id": "c-1", "to": NUMBER})
        assert ask(client, "/v1/calls", {"call_id": "c-1", "to": NUMBER})["replayed"] is True
        answer = client.post("/v1/calls", json={"call_id": "c-1", "to": "+4930123456"})
        assert (answer.status_code, answer.json()["code"]) == (409, "call_id_conflict")
        ask(client, "/v1/calls/c-1/end")
        answer = client.post("/v1/calls", json={"call_id": "c-1", "to": NUMBER})
        assert (answer.status_code, answer.json()["code"]) == (409, "call_id_used")


def test_an_emergency_call_asks_only_for_a_signed_token(acme: Acme) -> None:
    revoked = acme.token()
    acme.admin.post("/v1/tokens/revoke", json={"account": acme.id}).raise_for_status()
    tokens = (
        revoked,
        acme.token(ttl_seconds=-1),
        acme.token("watch", staff=None, device=None),
    )

    for number, token in enumerate(tokens):
        with acme.client(token) as client:
            assert client.post("/v1/calls", json={"call_id": "c-1", "to": NUMBER}).status_code in (401, 403)
            assert client.post("/v1/calls", content=b"{").status_code in (401, 403)
            for body in ({"call_id": f"e-{number}", "to": "112"}, {"to": "911", "channel": 5, "x": 1}):
                admitted = ask(client, "/v1/calls", body)
                assert (admitted["type"], admitted["emergency"]) == ("call.admitted", True)


@pytest.mark.parametrize("token", ["nonsense", "foreign"])
def test_an_emergency_call_without_a_signed_token_is_not_asked_for(acme: Acme, token: str) -> None:
    credential = acme.token(secret=SECRET[::-1]) if token == "foreign" else token
    with acme.client(credential) as client:
        assert client.post("/v1/calls", json={"call_id": "e-1", "to": "112"}).status_code == 401


def test_the_admin_s_emergency_call_asks_only_for_the_account(acme: Acme) -> None:
    assert ask(acme.admin, "/v1/calls", {"to": "112", "account": acme.id})["emergency"] is True
    assert acme.admin.post("/v1/calls", json={"to": "112"}).status_code == 422


def test_numbers_are_masked_but_for_those_who_may_see_them(acme: Acme) -> None:
    with acme.client(acme.token()) as client:
        ask(client, "/v1/calls", {"call_id": "c-1", "to": NUMBER})
        advance(acme.admin, 40_000)
        ask(client, "/v1/calls/c-1/end")
        ask(client, "/v1/calls", {"call_id": "c-2", "to": NUMBER})
    wait_until_sync(lambda: acme.admin.get(f"{acme.url}/calls").json()["calls"])
    (statement,) = acme.admin.get(f"{acme.url}/statements").json()["statements"]
    start_of_cycle = statement["cycle"]["start"]

    def seen(client: httpx.Client) -> set[str]:
        pool = client.get(f"{acme.url}/pool").json()["calls"]
        records = client.get(f"{acme.url}/calls").json()["calls"]
        one = [client.get(f"{acme.url}/calls/{call_id}").json() for call_id in ("c-1", "c-2")]
        lines = csv.DictReader(io.StringIO(client.get(f"{acme.url}/statements/{start_of_cycle}.csv").text))
        assert len(pool) == 1
        assert len(records) == 1
        return {call["to"] for call in (*pool, *records, *one, *lines)}

    assert seen(acme.admin) == {NUMBER}
    for token, shown in (
        (acme.token("watch", "numbers", staff=None, device=None), NUMBER),
        (acme.token("watch"), NUMBER),  # its own calls
        (acme.token("watch", device="mobile"), MASKED),
        (acme.token("watch", staff=None, device=None), MASKED),
    ):
        with acme.client(token) as client:
            assert seen(client) == {shown}


def test_a_call_is_found_from_its_admission_on(acme: Acme) -> None:
    with acme.client(acme.token("call", "watch")) as client:
        admitted = ask(client, "/v1/calls", {"call_id": "c-1", "to": NUMBER, "channel": "main"})
        now_ms = advance(acme.admin, 31_000)
        in_progress = client.get(f"{acme.url}/calls/c-1").json()
        cycle_start = client.get(f"{acme.url}/pool").json()["cycle"]["start"]
        assert in_progress == {
            "call_id": "c-1",
            "account": acme.id,
            "staff": "ana",
            "device": "desk",
            "channel": "main",
            "to": NUMBER,
            "state": "in_progress",
            "admitted_at_ms": admitted["admitted_at_ms"],
            "answered_at_ms": None,
            "ended_at_ms": None,
            "duration_ms": 31_000,
            "billed_seconds": 31,
            "counted": None,
            "ended_by": None,
            "emergency": False,
            "cycle_start": cycle_start,
            "revision": None,
        }

        ask(client, "/v1/calls/c-1/end")
        assert client.get(f"{acme.url}/calls/c-1").json() == in_progress | {
            "state": "ended",
            "ended_at_ms": now_ms,
            "counted": True,
            "ended_by": "hangup",
            "revision": 1,
        }
        assert client.get(f"{acme.url}/calls/c-2").status_code == 404


def test_records_are_listed_newest_first_page_by_page(acme: Acme) -> None:
    for i, staff in enumerate(("ana", "bob", "ana")):
        with acme.client(acme.token(staff=staff)) as client:
            ask(client, "/v1/calls", {"call_id": f"c-{i}", "to": NUMBER})
            advance(acme.admin, 1_000)
            ask(client, f"/v1/calls/c-{i}/end")
    url = f"{acme.url}/calls"
    wait_until_sync(lambda: len(acme.admin.get(url).json()["calls"]) == 3)

    def ids(query: str) -> list[str]:
        return [call["call_id"] for call in acme.admin.get(f"{url}?{query}").json()["calls"]]

    first = acme.admin.get(f"{url}?limit=2").json()
    assert [call["call_id"] for call in first["calls"]] == ["c-2", "c-1"]
    assert isinstance(first["as_of_ms"], int)
    second = acme.admin.get(url, params={"limit": 2, "after": first["next"]}).json()
    assert ([call["call_id"] for call in second["calls"]], second["next"]) == (["c-0"], None)
    assert ids("staff=ana") == ["c-2", "c-0"]
    assert ids(f"cycle={first['calls'][0]['cycle_start']}") == ["c-2", "c-1", "c-0"]
    assert ids("cycle=2001-01-01T00:00:00Z") == []
    assert acme.admin.get(f"{url}?cycle=yesterday").status_code == 422
    assert acme.admin.get(f"{url}?after=nonsense").status_code == 422


def test_a_call_that_came_back_is_listed_as_in_progress_and_is_in_no_sum(acme: Acme) -> None:
    """R15. Here the engine has forgotten it, so that SQL alone tells."""
    with acme.client(acme.token()) as client:
        for call_id in ("c-1", "c-2"):
            ask(client, "/v1/calls", {"call_id": call_id, "to": NUMBER})
            advance(acme.admin, 31_000)
            ask(client, f"/v1/calls/{call_id}/end")
    url = f"{acme.url}/calls"
    wait_until_sync(lambda: len(acme.admin.get(url).json()["calls"]) == 2)

    with closing(sqlite3.connect(acme.gateway.data_dir / "callgate.db")) as database, database:
        came_back = "UPDATE call_records SET reopened = 1 WHERE account = ? AND call_id = 'c-1'"
        assert database.execute(came_back, (acme.id,)).rowcount == 1
    advance(acme.admin, 9_000)
    newer, older = acme.admin.get(url).json()["calls"]

    assert (newer["call_id"], newer["state"]) == ("c-2", "ended")
    assert (older["call_id"], older["state"], older["duration_ms"]) == ("c-1", "in_progress", 71_000)
    assert {older[field] for field in ("ended_at_ms", "counted", "ended_by", "revision")} == {None}
    cycle = f"{acme.url}/statements/{older['cycle_start']}"
    assert acme.admin.get(cycle).json()["used_seconds"] == 31
    lines = acme.admin.get(f"{cycle}.csv").text.splitlines()
    assert [line.split(",")[0] for line in lines] == ["call_id", "c-2"]


def test_the_running_cycle_s_statement_is_open_and_says_as_of_when(acme: Acme) -> None:
    listed = wait_until_sync(lambda: acme.admin.get(f"{acme.url}/statements").json()["statements"])
    pool = acme.admin.get(f"{acme.url}/pool").json()

    assert listed == [
        {
            "account": acme.id,
            "plan": acme.id,
            "cycle": pool["cycle"],
            "closed": False,
            "closed_at_ms": None,
            "allocated_seconds": 6000,
            "used_seconds": 0,
            "overrun_seconds": 0,
            "calls_counted": 0,
            "calls_free": 0,
        }
    ]
    one = acme.admin.get(f"{acme.url}/statements/{pool['cycle']['start']}").json()
    as_of_ms = one.pop("as_of_ms")
    assert isinstance(as_of_ms, int)
    assert one == listed[0]


def test_a_statement_that_is_not_there_is_not_found(acme: Acme) -> None:
    for name in ("2001-01-01T00:00:00Z", "2001-01-01T00:00:00Z.csv"):
        assert acme.admin.get(f"{acme.url}/statements/{name}").status_code == 404
    for name in ("2001-01-01", "yesterday.csv"):
        answer = acme.admin.get(f"{acme.url}/statements/{name}")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "cycle_start")


def test_of_an_unknown_account_nothing_is_found(admin: httpx.Client) -> None:
    for path in ("", "/pool", "/calls", "/calls/c-1", "/statements", "/staff", "/channels"):
        answer = admin.get(f"/v1/accounts/nobody{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
