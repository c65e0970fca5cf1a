"""Which web pages may use the gateway."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from gateway.api.origins import OriginMiddleware, Origins
from gateway.domain.errors import Forbidden

ALLOWED = "https://app.example"


@pytest.fixture
def client() -> TestClient:
    async def hello(_: Request) -> Response:
        return PlainTextResponse("hello")

    app = Starlette(
        routes=[Route("/v1/hello", hello), Route("/healthz", hello)],
        middleware=[Middleware(OriginMiddleware, origins=Origins([ALLOWED]))],
    )
    return TestClient(app, base_url="http://gateway.example:8080")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://gateway.example", "gateway.example"),
        ("https://gateway.example", "gateway.example"),  # TLS ends at a proxy
        ("https://gateway.example", "gateway.example:443"),
        ("http://gateway.example:8080", "gateway.example:8080"),
        ("http://GATEWAY.example", "gateway.EXAMPLE"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("https://app.example", "gateway.example"),
        ("https://APP.example", "gateway.example"),
    ],
)
def test_its_own_pages_and_allowed_ones_pass(origin: str, host: str) -> None:
    Origins([ALLOWED]).require(Headers({"origin": origin, "host": host}))


def test_who_sends_no_origin_is_no_browser_and_passes() -> None:
    Origins().require(Headers({"host": "gateway.example"}))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "gateway.example"),
        ("http://gateway.example:81", "gateway.example"),
        ("http://gateway.example", "gateway.example:8080"),
        ("http://gateway.example.evil.example", "gateway.example"),
        ("http://app.example", "gateway.example"),
        ("null", "gateway.example"),
        ("", "gateway.example"),
        ("http://gateway.example:port", "gateway.example"),
        ("file://", ""),
    ],
)
def test_other_pages_are_refused(origin: str, host: str) -> None:
    with pytest.raises(Forbidden):
        Origins([ALLOWED]).require(Headers({"origin": origin, "host": host}))


def test_a_foreign_page_gets_a_problem(client: TestClient) -> None:
    answer = client.get("/v1/hello", headers={"Origin": "https://evil.example"})

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in answer.headers


def test_the_gateway_s_own_page_needs_no_cors(client: TestClient) -> None:
    answer = client.get("/v1/hello", headers={"Origin": "http://gateway.example:8080"})

    assert answer.text == "hello"
    assert "access-control-allow-origin" not in answer.headers


def test_an_allowed_page_is_answered_with_cors(client: TestClient) -> None:
    answer = client.get("/v1/hello", headers={"Origin": ALLOWED})

    assert answer.text == "hello"
    assert answer.headers["access-control-allow-origin"] == ALLOWED
    assert "origin" in answer.headers["vary"].lower()


def test_an_allowed_page_may_ask_beforehand(client: TestClient) -> None:
    answer = client.options(
        "/v1/hello",
        headers={
            "Origin": ALLOWED,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ALLOWED
    assert "PUT" in answer.headers["access-control-allow-methods"]


def test_health_is_for_everybody(client: TestClient) -> None:
    assert client.get("/healthz", headers={"Origin": "https://evil.example"}).text == "hello"
