"""Where a request carries its credential."""

import pytest
from starlette.datastructures import Headers

from gateway.api.credentials import bearer_credential, websocket_credential


@pytest.mark.parametrize(
    ("header", "credential"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER   abc ", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("abc", None),
        ("", None),
    ],
)
def test_the_credential_follows_bearer(header: str, credential: str | None) -> None:
    assert bearer_credential(Headers({"Authorization": header})) == credential


def test_without_the_header_there_is_no_credential() -> None:
    assert bearer_credential(Headers({})) is None


def test_a_browser_sends_its_token_as_a_subprotocol() -> None:
    assert websocket_credential(Headers({}), ["callgate.v1", "bearer.a.b.c"]) == "a.b.c"
    assert websocket_credential(Headers({}), ["callgate.v1"]) is None
    assert websocket_credential(Headers({}), ["callgate.v1", "bearer."]) is None


def test_the_header_comes_before_the_subprotocol() -> None:
    headers = Headers({"Authorization": "Bearer x"})

    assert websocket_credential(headers, ["callgate.v1", "bearer.y"]) == "x"
