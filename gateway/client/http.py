"""The HTTP addresses of a gateway: one request, its JSON, its error."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
from msgspec import UNSET

from gateway.client.addresses import Address, parse_address
from gateway.client.errors import GatewayUnreachable, NoAnswer, UnexpectedAnswer
from gateway.client.problems import problem_error

R = TypeVar("R")

REQUEST_SECONDS: Final = 30.0


class HttpClient:
    """Asks a gateway over HTTP, with a credential: the admin key, or a token. An async context manager.

    Every method raises the error that the gateway answers with, by its code (`gateway.domain.errors`), and
    GatewayUnreachable, NoAnswer, UnexpectedAnswer. Nothing is asked again by itself.
    """

    def __init__(
        self,
        url: str,
        credential: str | None = None,
        *,
        request_seconds: float = REQUEST_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address: Address = parse_address(url)
        self._seconds = request_seconds
        self._client = httpx2.AsyncClient(
            base_url=self.address.http,
            headers={"Authorization": f"Bearer {credential}"} if credential else {},
            timeout=request_seconds,
            verify=_tls(self.address, tls),
            trust_env=not self.address.loopback,
        )

    async def __aenter__(self) -> Self:
        """Be ready; nothing is sent."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        kind: type[R],
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> R:
        """Ask, and read the answer as `kind`. What is UNSET in body or query is left out."""
        return self.read(await self.fetch(method, path, body=body, query=query), kind)

    def read(self, content: bytes, kind: type[R]) -> R:
        """Read the body of an answer as `kind`."""
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise UnexpectedAnswer(
                f"{self.address.http} answered with something else than expected: {error}."
            ) from error

    async def fetch(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Ask, and return the answer's body as it is."""
        answer = await self._ask(method, path, body, query)
        if answer.is_success:
            return answer.content
        raise problem_error(answer.status_code, answer.content)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> httpx2.Response:
        """Ask, and return the answer whatever its status."""
        try:
            return await self._client.request(
                method,
                path,
                content=None if body is None else msgspec.json.encode(_given(body)),
                headers={} if body is None else {"Content-Type": "application/json"},
                params={name: str(value) for name, value in _given(query or {}).items()},
            )
        except httpx2.ConnectTimeout as failure:
            raise GatewayUnreachable(
                f"{self.address.http} did not answer within {self._seconds:g} s."
            ) from failure
        except httpx2.TimeoutException as failure:
            raise NoAnswer(
                f"{self.address.http} did not answer {method} {path} within {self._seconds:g} s."
            ) from failure
        except httpx2.HTTPError as failure:
            reason = str(failure) or type(failure).__name__
            raise GatewayUnreachable(f"{self.address.http} cannot be reached: {reason}.") from failure

    async def pages(
        self, path: str, name: str, kind: type[R], query: Mapping[str, Any] | None = None
    ) -> AsyncIterator[R]:
        """Give the items of a list under its plural `name`, page after page."""
        after: Any = UNSET
        while True:
            page = await self.request("GET", path, dict[str, Any], query={**(query or {}), "after": after})
            for item in page.get(name, ()):
                yield msgspec.convert(item, kind)
            after = page.get("next")
            if after is None:
                return


def path_of(*parts: str) -> str:
    """Return an address made of these parts, each of them quoted."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not UNSET}


def _tls(address: Address, given: ssl.SSLContext | None) -> ssl.SSLContext | bool:
    # The same certificates that the WebSocket goes by; without TLS none are loaded, which takes time.
    if not address.secure:
        return False
    return given if given is not None else ssl.create_default_context()
