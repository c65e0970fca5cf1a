"""Plans, accounts, staff and channels, policy and clock over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.api.conftest import Acme
from tests.support.gateways import GatewayProcess

TEAM = {"name": "Team", "minutes": 1000, "connected_channels": 2, "staff_seats": 5}


@pytest.fixture
def fresh() -> str:
    """An id that nothing has yet."""
    return f"new-{uuid.uuid4().hex[:12]}"


def put(admin: httpx.Client, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = admin.put(path, json=body)
    return answer.status_code, answer.json()


def test_making_is_201_and_changing_200_both_with_the_resource(admin: httpx.Client, fresh: str) -> None:
    price = {"amount": "49.00", "currency": "USD"}
    made = TEAM | {"plan": fresh, "max_concurrent_calls": 3, "monthly_price": price}

    assert put(admin, f"/v1/plans/{fresh}", TEAM | {"max_concurrent_calls": 3, "monthly_price": price}) == (
        201,
        made,
    )
    assert put(admin, f"/v1/plans/{fresh}", {"minutes": 5}) == (200, made | {"minutes": 5})
    assert put(admin, f"/v1/plans/{fresh}", {"monthly_price": None, "max_concurrent_calls": None}) == (
        200,
        made | {"minutes": 5, "monthly_price": None, "max_concurrent_calls": None},
    )
    assert admin.get(f"/v1/plans/{fresh}").json()["minutes"] == 5


def test_a_plan_that_lacks_a_field_is_not_made(admin: httpx.Client, fresh: str) -> None:
    status, problem = put(admin, f"/v1/plans/{fresh}", {"minutes": 5})

    assert status == 422
    assert {error["field"] for error in problem["errors"]} == {"name", "connected_channels", "staff_seats"}
    assert admin.get(f"/v1/plans/{fresh}").status_code == 404


def test_of_a_plan_in_use_only_name_and_price_change(acme: Acme) -> None:
    price = {"amount": "9", "currency": "EUR"}
    status, plan = put(acme.admin, f"/v1/plans/{acme.id}", {"name": "New", "monthly_price": price})
    assert (status, plan["name"], plan["monthly_price"]) == (200, "New", price)

    status, problem = put(acme.admin, f"/v1/plans/{acme.id}", {"minutes": 5})
    assert (status, problem["code"]) == (409, "plan_in_use")


def test_lists_come_page_by_page(admin: httpx.Client) -> None:
    names = [f"page-{uuid.uuid4().hex}" for _ in range(5)]
    for name in names:
        put(admin, f"/v1/plans/{name}", TEAM)

    listed, after = [], ""
    while True:
        page = admin.get("/v1/plans", params={"limit": 2, "after": after}).json()
        listed += [plan["plan"] for plan in page["plans"]]
        assert len(page["plans"]) <= 2
        if page["next"] is None:
            break
        after = page["next"]

    assert set(names) <= set(listed)
    assert listed == sorted(set(listed))


def test_an_account_has_defaults(admin: httpx.Client, fresh: str) -> None:
    status, account = put(admin, f"/v1/accounts/{fresh}", {"name": "Acme"})

    today = account.pop("billing_date")
    created_at_ms = account.pop("created_at_ms")
    assert status == 201
    assert len(today) == len("2026-01-31")
    assert created_at_ms == admin.get("/v1/simulation/clock").json()["now_ms"]
    assert account == {
        "account": fresh,
        "name": "Acme",
        "plan": None,
        "pending_plan": None,
        "pending_from": None,
        "time_zone": "UTC",
        "status": "active",
    }
    pool = admin.get(f"/v1/accounts/{fresh}/pool").json()
    assert (pool["plan"], pool["allocated_seconds"]) == (None, 0)
    assert pool["seats"] == pool["channels"] == {"used": 0, "limit": 0}


def test_an_account_that_is_wrong_is_not_made(admin: httpx.Client, fresh: str) -> None:
    wrong = {
        "name": 5,
        "plan": "a b",
        "billing_date": "2026-02-30",
        "time_zone": "Nowhere",
        "status": "x",
        "y": 1,
    }
    status, problem = put(admin, f"/v1/accounts/{fresh}", wrong)

    assert status == 422
    assert {error["field"] for error in problem["errors"]} == set(wrong)
    assert admin.get(f"/v1/accounts/{fresh}").status_code == 404


def test_billing_date_and_plan_of_an_account_are_fixed(acme: Acme) -> None:
    for field, value in (("billing_date", "2020-02-29"), ("plan", None)):
        status, problem = put(acme.admin, acme.url, {"name": "New", field: value})
        assert (status, problem["code"], problem["field"]) == (409, "immutable_field", field)
    assert acme.admin.get(acme.url).json()["name"] == "Acme"

    same = {key: acme.admin.get(acme.url).json()[key] for key in ("billing_date", "plan")}
    assert put(acme.admin, acme.url, same | {"name": "New"})[1]["name"] == "New"


def test_accounts_are_searched_and_listed_with_their_pools(acme: Acme) -> None:
    found = acme.admin.get("/v1/accounts", params={"q": acme.id}).json()

    assert found["next"] is None
    assert isinstance(found["as_of_ms"], int)
    assert found["accounts"] == [
        {
            "account": acme.id,
            "name": "Acme",
            "plan": acme.id,
            "status": "active",
            "allocated_seconds": 6000,
            "used_seconds": 0,
            "calls_in_progress": 0,
        }
    ]


def test_a_bigger_plan_holds_at_once_and_a_smaller_one_from_the_next_cycle(
    make_account: Callable[..., Acme],
) -> None:
    acme, bigger, smaller = make_account(100), make_account(200), make_account(50)
    now_ms = acme.admin.get("/v1/simulation/clock").json()["now_ms"]

    status, change = put(acme.admin, f"{acme.url}/plan", {"plan": bigger.id})
    assert (status, change["plan"], change["pending"]) == (200, bigger.id, None)
    pool = acme.admin.get(f"{acme.url}/pool").json()
    assert (pool["plan"], pool["allocated_seconds"], pool["at_ms"]) == (bigger.id, 12_000, now_ms)

    status, change = put(acme.admin, f"{acme.url}/plan", {"plan": smaller.id})
    assert (status, change) == (
        200,
        {"plan": bigger.id, "effective_at": pool["cycle"]["end"], "pending": smaller.id},
    )
    assert acme.admin.get(acme.url).json()["pending_plan"] == smaller.id
    assert acme.admin.get(f"{acme.url}/pool").json()["pending_plan"] == smaller.id

    answer = acme.admin.delete(f"{acme.url}/plan/pending")
    assert (answer.status_code, answer.content) == (204, b"")
    assert acme.admin.get(f"{acme.url}/pool").json()["pending_plan"] is None


def test_a_plan_that_is_too_small_is_refused_with_the_numbers(make_account: Callable[..., Acme]) -> None:
    acme, small = make_account(), make_account(1000)
    acme.admin.put(f"/v1/plans/{small.id}-1", json=TEAM | {"staff_seats": 1}).raise_for_status()

    status, problem = put(acme.admin, f"{acme.url}/plan", {"plan": f"{small.id}-1"})

    assert (status, problem["code"], problem["limit"], problem["in_use"]) == (409, "seat_limit", 1, 2)


@pytest.mark.parametrize(
    ("kind", "code", "limit"), [("staff", "seat_limit", 3), ("channels", "channel_limit", 2)]
)
def test_seats_and_channels_are_limits(acme: Acme, kind: str, code: str, limit: int) -> None:
    url = f"{acme.url}/{kind}"
    in_use = len(acme.admin.get(url).json()[kind])
    for i in range(limit - in_use):
        assert acme.admin.put(f"{url}/more-{i}").status_code == 201

    status, problem = put(acme.admin, f"{url}/one-too-many", {})
    assert (status, problem["code"], problem["limit"], problem["in_use"]) == (409, code, limit, limit)
    assert acme.admin.put(f"{url}/more-0").status_code == 200

    assert acme.admin.delete(f"{url}/more-0").status_code == 204
    assert acme.admin.delete(f"{url}/more-0").status_code == 404
    assert acme.admin.put(f"{url}/in-its-place").status_code == 201


def test_staff_and_channels_keep_what_is_left_out(acme: Acme) -> None:
    main = f"{acme.url}/channels/main"
    whole = {"channel": "main", "label": "Front desk", "number": "+14155550199"}
    assert put(acme.admin, main, {"label": "Front desk", "number": "+14155550199"}) == (200, whole)
    assert put(acme.admin, main, {"label": None}) == (200, whole | {"label": None})
    assert put(acme.admin, f"{acme.url}/staff/ana", {"name": "Ana"}) == (200, {"staff": "ana", "name": "Ana"})
    assert acme.admin.get(f"{acme.url}/staff").json() == {
        "staff": [{"staff": "ana", "name": "Ana"}, {"staff": "bob", "name": None}],
        "next": None,
    }


def test_the_policy_is_read_and_changed(admin: httpx.Client) -> None:
    before = admin.get("/v1/policy").json()
    try:
        status, policy = put(admin, "/v1/policy", {"hold_seconds": 90})
        assert (status, policy) == (200, before | {"hold_seconds": 90})
        assert admin.get("/v1/policy").json() == policy

        status, problem = put(admin, "/v1/policy", {"hold_seconds": 3600})
        assert (status, problem["errors"][0]["field"]) == (422, "hold_seconds")
        assert put(admin, "/v1/policy", {"increment_seconds": 0, "count_from": "ring"})[0] == 422
        assert admin.get("/v1/policy").json() == policy
    finally:
        put(admin, "/v1/policy", before)


def test_the_clock_moves_forward_only(acme: Acme) -> None:
    before = acme.admin.get("/v1/simulation/clock").json()
    assert before["speed"] == 0

    moved = acme.admin.post("/v1/simulation/clock", json={"advance_ms": 1_500})
    assert (moved.status_code, moved.json()) == (200, {"now_ms": before["now_ms"] + 1_500, "speed": 0})
    moved = acme.admin.post("/v1/simulation/clock", json={"at_ms": before["now_ms"] + 2_000})
    assert moved.json()["now_ms"] == before["now_ms"] + 2_000

    for body, field in (
        ({"at_ms": before["now_ms"]}, "at_ms"),
        ({"at_ms": 10**15}, "at_ms"),
        ({"at_ms": 0}, "at_ms"),
        ({"advance_ms": -1}, "advance_ms"),
        ({"speed": -1}, "speed"),
        ({"speed": 100_001}, "speed"),
        ({"speed": 0.5}, "speed"),
        ({"at_ms": before["now_ms"], "advance_ms": 1}, "advance_ms"),
        ({}, "at_ms"),
    ):
        answer = acme.admin.post("/v1/simulation/clock", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_without_simulation_there_is_no_clock_to_move(start_gateway: Callable[..., GatewayProcess]) -> None:
    with start_gateway().client() as admin:
        assert admin.get("/v1/simulation/clock").status_code == 404
        assert admin.post("/v1/simulation/clock", json={"advance_ms": 1}).status_code == 404


def test_the_status_names_this_gateway(admin: httpx.Client) -> None:
    status = admin.get("/v1/status").json()

    assert (status["engine"], status["database"]) == ("ok", "ok")
    assert set(status["recorder"]) == {"entries", "seconds"}
    assert isinstance(status["warnings"], list)
