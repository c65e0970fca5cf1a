import pytest

from gateway.client.addresses import parse_address


@pytest.mark.parametrize(
    ("url", "http", "device"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/device"),
        ("https://calls.example.com/", "https://calls.example.com", "wss://calls.example.com/v1/device"),
        ("ws://[::1]:9000", "http://[::1]:9000", "ws://[::1]:9000/v1/device"),
        ("wss://example.com/gate/v1/device", "https://example.com/gate", "wss://example.com/gate/v1/device"),
        ("http://example.com/gate/v1", "http://example.com/gate", "ws://example.com/gate/v1/device"),
    ],
)
def test_one_url_serves_http_and_websockets(url: str, http: str, device: str) -> None:
    address = parse_address(url)
    assert (address.http, address.device) == (http, device)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8080",
        "ftp://example.com",
        "http://",
        "http://example.com:99999",
        "http://[::1",
        "http://x:0",
    ],
)
def test_what_is_no_gateway_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a gateway"):
        parse_address(url)


@pytest.mark.parametrize("url", ["http://token@example.com", "http://example.com/?token=x", "http://x/#a"])
def test_no_secret_goes_into_an_address(url: str) -> None:
    with pytest.raises(ValueError, match="no user name, query or fragment") as refused:
        parse_address(url)
    assert "token" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("http://LocalHost", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example.com", False),
    ],
)
def test_loopback_is_told_apart(url: str, loopback: bool) -> None:
    assert parse_address(url).loopback is loopback
