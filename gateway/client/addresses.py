"""Where a gateway is: its URL as people write it, and what becomes of it for HTTP and for WebSockets."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit, urlunsplit

_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}


@dataclass(frozen=True, slots=True)
class Address:
    """A gateway's address. `path` is what a proxy put before ours, without a slash at its end."""

    secure: bool
    netloc: str
    host: str
    path: str

    @property
    def http(self) -> str:
        """The base of its HTTP addresses."""
        return urlunsplit(("https" if self.secure else "http", self.netloc, self.path, "", ""))

    @property
    def device(self) -> str:
        """The device WebSocket."""
        return self._websocket("device", "")

    def live(self, account: str | None) -> str:
        """The dashboard WebSocket; the account is named where the credential does not say it."""
        return self._websocket("live", "" if account is None else urlencode({"account": account}))

    def _websocket(self, name: str, query: str) -> str:
        scheme = "wss" if self.secure else "ws"
        return urlunsplit((scheme, self.netloc, f"{self.path}/v1/{name}", query, ""))

    @property
    def loopback(self) -> bool:
        """Whether only this machine is at the other end, so that no proxy is asked and no secret leaves."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(url: str) -> Address:
    """Read a gateway's URL: `http`, `https`, `ws` or `wss`, with an optional path before `/v1/…`.

    Raises ValueError for anything else, also for one with a user name: a token is not for addresses.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.scheme not in _SECURE or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a gateway, such as http://127.0.0.1:8080")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"The URL of a gateway has no user name, query or fragment: {parts.hostname}")
    path = parts.path.rstrip("/").removesuffix("/v1/device").removesuffix("/v1/live").removesuffix("/v1")
    return Address(_SECURE[parts.scheme], parts.netloc, parts.hostname.lower(), path)
