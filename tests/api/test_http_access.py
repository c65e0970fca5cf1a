"""Who may ask what over HTTP, and what holds for every address."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from gateway.api.operations import AnyOperation
from gateway.api.routes import ALL_OPERATIONS
from tests.api.conftest import ALLOWED_ORIGIN, NUMBER, SECRET, Acme
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync

PATH = {
    "plan": "p",
    "staff": "ana",
    "channel": "main",
    "call_id": "c-1",
    "cycle_start": "2026-11-15T05:00:00Z",
}
GUARDED = [operation for operation in ALL_OPERATIONS if operation.access != "open"]


def name_of(operation: AnyOperation) -> str:
    return f"{operation.method} {operation.path}"


def address(operation: AnyOperation, account: str) -> str:
    return operation.path.format(account=account, **PATH)


@pytest.fixture
def nobody(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    """A client without a credential."""
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("operation", GUARDED, ids=name_of)
def test_without_a_credential_an_address_is_closed(operation: AnyOperation, nobody: httpx.Client) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}):
        answer = nobody.request(operation.method, address(operation, "acme"), headers=headers)

        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("operation", [each for each in GUARDED if each.access == "admin"], ids=name_of)
def test_an_admin_address_takes_no_token(operation: AnyOperation, acme: Acme) -> None:
    with acme.client(acme.token("call", "watch", "numbers")) as client:
        answer = client.request(operation.method, address(operation, acme.id), json={})

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("operation", [each for each in GUARDED if each.access == "watch"], ids=name_of)
def test_reading_takes_the_scope_watch_and_the_own_account(operation: AnyOperation, acme: Acme) -> None:
    with acme.client(acme.token("call")) as client:
        assert client.get(address(operation, acme.id)).status_code == 403
    with acme.client(acme.token("watch")) as client:
        assert client.get(address(operation, "another")).status_code == 403
        assert client.get(address(operation, acme.id)).status_code in (200, 404)


def test_a_token_that_is_expired_foreign_or_revoked_is_refused(acme: Acme) -> None:
    revoked = acme.token("watch")
    acme.admin.post("/v1/tokens/revoke", json={"account": acme.id}).raise_for_status()

    for token in (acme.token("watch", ttl_seconds=-1), acme.token("watch", secret=SECRET[::-1]), revoked):
        with acme.client(token) as client:
            assert client.get(f"{acme.url}/pool").status_code == 401


def test_a_token_made_over_http_is_good_and_says_until_when(acme: Acme) -> None:
    asked = {"account": acme.id, "scopes": ["watch"]}
    answer = acme.admin.post("/v1/tokens", json=asked)

    assert answer.status_code == 201
    with acme.client(answer.json()["token"]) as client:
        assert client.get(f"{acme.url}/pool").status_code == 200


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ({}, {"account", "scopes"}),
        ({"account": "acme", "scopes": []}, {"scopes"}),
        ({"account": "acme", "scopes": ["sing"]}, {"scopes[0]"}),
        ({"account": "acme", "scopes": ["call"]}, {"staff", "device"}),
        ({"account": "acme", "scopes": ["watch"], "device": "desk"}, {"staff"}),
        ({"account": "acme", "scopes": ["watch"], "ttl_seconds": 59}, {"ttl_seconds"}),
        ({"account": "acme", "scopes": ["watch"], "ttl_seconds": 31_536_001}, {"ttl_seconds"}),
        ({"account": "a b", "scopes": ["watch"], "extra": 1}, {"account", "extra"}),
    ],
)
def test_a_token_that_cannot_be_made_names_all_wrong_fields(
    admin: httpx.Client, asked: dict[str, object], fields: set[str]
) -> None:
    answer = admin.post("/v1/tokens", json=asked)

    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == fields


def test_a_token_is_made_only_for_who_exists(acme: Acme) -> None:
    for asked in ({"account": "nobody"}, {"account": acme.id, "staff": "nobody"}):
        answer = acme.admin.post("/v1/tokens", json=asked | {"scopes": ["watch"]})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_revoking_names_a_device_by_its_staff_member(acme: Acme) -> None:
    answer = acme.admin.post("/v1/tokens/revoke", json={"account": acme.id, "device": "desk"})
    assert answer.status_code == 422

    answer = acme.admin.post("/v1/tokens/revoke", json={"account": acme.id, "staff": "ana", "device": "desk"})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("operation", ALL_OPERATIONS, ids=name_of)
def test_a_method_that_an_address_does_not_take_is_405(operation: AnyOperation, admin: httpx.Client) -> None:
    answer = admin.request("PATCH", address(operation, "acme"))

    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert operation.method in answer.headers["allow"].split(", ")


def test_options_says_what_an_address_takes(admin: httpx.Client) -> None:
    answer = admin.options("/v1/plans/p")

    assert answer.status_code == 204
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, PUT"


def test_head_is_get_without_the_body(admin: httpx.Client) -> None:
    answer = admin.head("/v1/plans")

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/", "/v1/plans/", "/v1/nothing", "/v1/accounts/a/b/c", "/v2/plans"]
)
def test_an_address_that_does_not_exist_is_404(admin: httpx.Client, path: str) -> None:
    answer = admin.get(path)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("plan", ["a b", "a%00b", "%FF", "é", "a" * 129, "a,b", "a%0A"])
def test_an_id_in_a_path_is_checked(admin: httpx.Client, plan: str) -> None:
    answer = admin.get(f"/v1/plans/{plan}")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "plan"


def test_ids_are_read_from_percent_encoding(admin: httpx.Client) -> None:
    plan = {"name": "P", "minutes": 1, "connected_channels": 1, "staff_seats": 1}
    assert admin.put("/v1/plans/a%40b%2Bc%3Ad~e", json=plan).json()["plan"] == "a@b+c:d~e"
    assert admin.get("/v1/plans/a@b+c:d~e").status_code == 200


def test_an_unknown_or_repeated_parameter_is_named(admin: httpx.Client) -> None:
    answer = admin.get("/v1/plans?limti=5")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "limti")

    answer = admin.get("/v1/plans?limit=5&limit=6")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "limit")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b"[]", 400, "bad_json"),
        (b"\xff", 400, "bad_json"),
        (b"[" * 1_000, 400, "bad_json"),
        (b'{"name": "' + b"x" * 65_536 + b'"}', 413, "too_large"),
        (b'{"nmae": 1, "minutes": "2"}', 422, "invalid_field"),
    ],
)
def test_a_body_that_is_wrong_changes_nothing(acme: Acme, body: bytes, status: int, code: str) -> None:
    before = acme.admin.get(f"/v1/plans/{acme.id}").json()

    answer = acme.admin.put(f"/v1/plans/{acme.id}", content=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert acme.admin.get(f"/v1/plans/{acme.id}").json() == before


def test_a_body_without_a_length_is_cut_off_too(acme: Acme) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1_024

    answer = acme.admin.put(f"/v1/plans/{acme.id}", content=pieces())

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_body_is_read_whatever_its_content_type(acme: Acme) -> None:
    answer = acme.admin.put(
        f"{acme.url}/staff/eve",
        content=b'{"name": "Eve"}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )

    assert (answer.status_code, answer.json()) == (201, {"staff": "eve", "name": "Eve"})


def test_a_foreign_page_is_refused_and_an_allowed_one_is_not(admin: httpx.Client) -> None:
    assert admin.get("/v1/plans", headers={"Origin": "https://evil.example"}).status_code == 403

    answer = admin.get("/v1/plans", headers={"Origin": ALLOWED_ORIGIN})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN


def test_answers_are_not_kept_by_caches(acme: Acme) -> None:
    for address in (f"{acme.url}/pool", "/readyz", "/metrics", "/openapi.json", "/v1/device", "/v1/nothing"):
        assert acme.admin.get(address).headers["cache-control"] == "no-store"


def test_health_and_metrics_are_open(nobody: httpx.Client, acme: Acme) -> None:
    assert nobody.get("/healthz").json() == {"status": "ok"}
    assert nobody.get("/readyz").json() == {"status": "ok", "engine": "ok", "database": "ok"}
    metrics = nobody.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "callgate_connections" in metrics.text
    assert acme.id not in metrics.text


def test_the_description_is_open(nobody: httpx.Client) -> None:
    assert nobody.get("/openapi.json").json()["openapi"] == "3.1.0"
    assert nobody.options("/openapi.json").headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("address", ["/v1/device", "/v1/live"])
def test_a_websockets_address_asks_for_an_upgrade_whatever_is_sent_to_it(
    nobody: httpx.Client, address: str
) -> None:
    for method in ("GET", "POST", "OPTIONS", "DELETE"):
        answer = nobody.request(method, address)
        assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required")


def test_the_log_tells_of_every_call_and_of_no_token_and_no_number(acme: Acme) -> None:
    token = acme.token()
    with acme.client(token) as client:
        client.post("/v1/calls", json={"call_id": "logged", "to": NUMBER}).raise_for_status()
        client.post("/v1/calls/logged/end").raise_for_status()

    def lines() -> list[str]:
        return [line for line in acme.gateway.log().splitlines() if acme.id in line and "logged" in line]

    wait_until_sync(lambda: len(lines()) == 2)
    assert token not in acme.gateway.log()
    assert NUMBER not in acme.gateway.log()
