"""Resuming calls and keeping them alive over HTTP, for clients without a connection (R12, R15)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.api.wire.requests import MAX_CALLS_VOUCHED_FOR
from gateway.domain.answers import Admitted, Resumed
from gateway.domain.asks import Answered, End, Resume, Start
from gateway.domain.errors import CallIdUsed, CallUnknown, EngineUnavailable
from tests.api.fake_service import (
    ADMIN_KEY,
    ADMITTED_MS,
    ANA,
    RECEIPTS,
    FakeService,
    Served,
    in_progress,
    serving,
)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def served(service: FakeService) -> AsyncIterator[Served]:
    async with serving(service) as served:
        yield served


START = {"call_id": "c-1", "to": "+14155550100"}
WHOSE = {"account": "acme", "staff": "ana", "device": "desk"}


async def test_an_admission_says_how_long_its_lease_is(served: Served, service: FakeService) -> None:
    service.answers = {"c-2": Admitted("c-2", ADMITTED_MS, None, False, False, admitted_offline=True)}
    async with served.http() as client:
        assert (await client.post("/v1/calls", json=START)).json() == {
            "type": "call.admitted",
            "call_id": "c-1",
            "admitted_at_ms": ADMITTED_MS,
            "remaining_seconds": 6000,
            "receipt": RECEIPTS.issue(in_progress()),
            "replayed": False,
            "lease_seconds": 15,
        }
        offline = (await client.post("/v1/calls", json=START | {"call_id": "c-2"})).json()
        assert (offline["admitted_offline"], offline["remaining_seconds"]) == (True, None)
        for path in ("answered", "end"):
            assert "lease_seconds" not in (await client.post(f"/v1/calls/c-1/{path}")).json()

    assert [ask.connection for ask in service.asked if isinstance(ask, Start | Answered | End)] == [0] * 4


async def test_a_call_is_resumed_as_over_the_websocket(served: Served, service: FakeService) -> None:
    async with served.http() as client:
        resumed = await client.post("/v1/calls/c-1/resume")

    assert (resumed.status_code, resumed.json()) == (
        200,
        {
            "type": "call.resumed",
            "call_id": "c-1",
            "admitted_at_ms": ADMITTED_MS,
            "receipt": RECEIPTS.issue(in_progress()),
        },
    )
    assert service.asked == [Resume("acme", "c-1", ("ana", "desk"))]


@pytest.mark.parametrize("admin", [True, False])
async def test_with_its_receipt_the_pool_is_told_all_of_the_call(
    served: Served, service: FakeService, admin: bool
) -> None:
    service.answers = {"c-1": Resumed(in_progress(), late=True)}
    path = "/v1/calls/c-1/resume" + ("?account=acme" if admin else "")
    async with served.http(ADMIN_KEY if admin else None) as client:
        answer = await client.post(path, json={"receipt": RECEIPTS.issue(in_progress())})

    assert answer.status_code == 200
    device = None if admin else (ANA.staff, ANA.device)
    assert service.asked == [Resume("acme", "c-1", device, found=in_progress())]


@pytest.mark.parametrize(
    ("receipt", "status", "code"),
    [
        ("nonsense", 422, "invalid_field"),
        (5, 422, "invalid_field"),
        (RECEIPTS.issue(in_progress("c-2")), 422, "invalid_field"),
        (RECEIPTS.issue(in_progress(account="other")), 403, "forbidden"),
        (RECEIPTS.issue(in_progress(staff="bob")), 403, "forbidden"),
    ],
)
async def test_a_receipt_that_is_not_this_call_s_is_refused(
    served: Served, service: FakeService, receipt: Any, status: int, code: str
) -> None:
    async with served.http() as client:
        answer = await client.post("/v1/calls/c-1/resume", json={"receipt": receipt})

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if status == 422:
        assert [error["field"] for error in answer.json()["errors"]] == ["receipt"]
    assert service.asked == []


@pytest.mark.parametrize(
    ("error", "status"), [(CallUnknown(), 404), (CallIdUsed(), 409), (EngineUnavailable(), 503)]
)
async def test_a_call_that_cannot_be_resumed_is_a_problem(
    served: Served, service: FakeService, error: Any, status: int
) -> None:
    service.answers = {"c-1": error}
    async with served.http() as client:
        answer = await client.post("/v1/calls/c-1/resume")

    assert (answer.status_code, answer.json()["code"]) == (status, error.code)


@pytest.mark.parametrize("path", ["/v1/calls/c-1/resume", "/v1/calls/keepalive"])
async def test_both_ask_for_the_account_and_the_scope(
    served: Served, service: FakeService, path: str
) -> None:
    body = {"call_ids": ["c-1"]} if path.endswith("keepalive") else {}
    async with served.http(ADMIN_KEY) as admin:
        answer = await admin.post(path, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "account")
        assert (await admin.post(f"{path}?account=acme", json=body)).status_code == 200
    async with served.http() as desk:
        assert (await desk.post(f"{path}?account=acme", json=body)).status_code == 200
        assert (await desk.post(f"{path}?account=other", json=body)).status_code == 403
    async with served.http(served.token(ANA, "watch")) as watcher:
        assert (await watcher.post(path, json=body)).status_code == 403
    async with served.http("nonsense") as nobody:
        assert (await nobody.post(path, json=body)).status_code == 401
    assert len(service.asked) + len(service.kept) == 2


async def test_a_keepalive_vouches_for_calls_and_names_those_not_in_progress(
    served: Served, service: FakeService
) -> None:
    service.missing = ["c-2"]
    body = {"call_ids": ["c-1", "c-2", "c-1"], "receipts": {"c-1": RECEIPTS.issue(in_progress())}}
    async with served.http() as client:
        answer = await client.post("/v1/calls/keepalive", json=body)
    async with served.http(ADMIN_KEY) as client:
        await client.post("/v1/calls/keepalive?account=acme", json={"call_ids": ["c-9"]})

    assert (answer.status_code, answer.json()) == (200, {"lease_seconds": 15, "not_in_progress": ["c-2"]})
    assert service.kept == [
        ("acme", ("ana", "desk"), ["c-1", "c-2"], {"c-1": in_progress()}),
        ("acme", None, ["c-9"], {}),
    ]


async def test_a_receipt_that_cannot_be_used_keeps_no_call_from_being_vouched_for(
    served: Served, service: FakeService
) -> None:
    receipts = {
        "c-1": RECEIPTS.issue(in_progress()),
        "c-2": RECEIPTS.issue(in_progress("c-3")),
        "c-3": RECEIPTS.issue(in_progress("c-3", device="mobile")),
        "c-4": "signed with a secret that is no more",
    }
    async with served.http() as client:
        answer = await client.post(
            "/v1/calls/keepalive", json={"call_ids": list(receipts), "receipts": receipts}
        )

    assert answer.status_code == 200
    assert service.kept == [("acme", ("ana", "desk"), list(receipts), {"c-1": in_progress()})]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "call_ids"),
        ({"call_ids": []}, "call_ids"),
        ({"call_ids": "c-1"}, "call_ids"),
        ({"call_ids": ["c-1", "c 2"]}, "call_ids[1]"),
        ({"call_ids": ["c"] * (MAX_CALLS_VOUCHED_FOR + 1)}, "call_ids"),
        ({"call_ids": ["c-1"], "receipts": {"c-1": 5}}, "receipts[...]"),
        ({"call_ids": ["c-1"], "receipts": ["c-1"]}, "receipts"),
        ({"call_ids": ["c-1"], "recipts": {}}, "recipts"),
    ],
)
async def test_what_is_wrong_with_a_keepalive_is_named(
    served: Served, service: FakeService, body: dict[str, Any], field: str
) -> None:
    async with served.http() as client:
        answer = await client.post("/v1/calls/keepalive", json=body)

    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, [field])
    assert service.kept == []


async def test_the_largest_keepalive_is_taken_and_other_bodies_are_small(
    served: Served, service: FakeService
) -> None:
    call_ids = [f"{number:0>128}" for number in range(MAX_CALLS_VOUCHED_FOR)]
    receipts = {call_id: RECEIPTS.issue(in_progress(call_id)) for call_id in call_ids}
    async with served.http() as client:
        answer = await client.post("/v1/calls/keepalive", json={"call_ids": call_ids, "receipts": receipts})
        assert answer.status_code == 200
        assert len(service.kept[0][2]) == len(service.kept[0][3]) == MAX_CALLS_VOUCHED_FOR

        answer = await client.post("/v1/calls/keepalive", content=b" " * (8 * 1024 * 1024 + 1))
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert "8192 KiB" in answer.json()["detail"]
        for path in ("/v1/calls", "/v1/calls/c-1/resume", "/v1/calls/c-1/end"):
            answer = await client.post(path, content=b" " * (64 * 1024 + 1))
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_keepalive_may_be_the_id_of_a_call(served: Served, service: FakeService) -> None:
    async with served.http() as client:
        for path in ("answered", "end", "resume"):
            assert (await client.post(f"/v1/calls/keepalive/{path}")).json()["call_id"] == "keepalive"
