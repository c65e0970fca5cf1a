"""A gateway on a simulated clock for all tests of this directory, and accounts of their own in it."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets import Subprotocol
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from gateway.api.auth import Authenticator
from gateway.sessions.revocations import Revocations
from tests.support.gateways import GatewayProcess

SECRET = "0123456789abcdef0123456789abcdef"
ALLOWED_ORIGIN = "https://app.example"
NUMBER = "+14155550100"
MASKED = "+1•••••••0100"


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway on a clock that stands still; its token secret is `SECRET`."""
    process = GatewayProcess(
        tmp_path_factory.mktemp("api"),
        "--simulate",
        environ={"CALLGATE_TOKEN_SECRET": SECRET, "CALLGATE_ALLOWED_ORIGINS": ALLOWED_ORIGIN},
    )
    try:
        yield process.start()
    finally:
        process.end()


@pytest.fixture
def admin(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    """A client that holds the admin key."""
    with gateway.client() as client:
        yield client


class Device:
    """A device at the other end of a WebSocket, after its welcome."""

    def __init__(self, connection: ClientConnection, welcome: dict[str, Any]) -> None:
        self.connection = connection
        self.welcome = welcome

    async def send(self, *sent: dict[str, Any] | str | bytes) -> None:
        """Send frames without waiting for answers."""
        for each in sent:
            await self.connection.send(json.dumps(each) if isinstance(each, dict) else each)

    async def hear(self) -> dict[str, Any]:
        """The next frame from the gateway."""
        heard: dict[str, Any] = json.loads(await self.connection.recv())
        return heard

    async def ask(self, frame: dict[str, Any] | str) -> dict[str, Any]:
        """Send one frame, and return the next from the gateway."""
        await self.send(frame)
        return await self.hear()

    async def close_code(self) -> int | None:
        """Wait for the gateway to close, and return why."""
        await self.connection.wait_closed()
        return self.connection.close_code


@dataclass(frozen=True)
class Acme:
    """An account of its own for one test: a plan of 100 minutes, ana and bob, the channel main."""

    gateway: GatewayProcess
    admin: httpx.Client
    id: str

    @property
    def url(self) -> str:
        """Where the account is."""
        return f"/v1/accounts/{self.id}"

    def token(
        self,
        *scopes: str,
        staff: str | None = "ana",
        device: str | None = "desk",
        ttl_seconds: int = 3600,
        secret: str = SECRET,
    ) -> str:
        """A token signed as the gateway signs them."""
        issued = Authenticator((secret,), None, Revocations()).issue(
            self.id, staff, device, scopes or ("call",), ttl_seconds
        )
        return issued.token

    def client(self, token: str) -> httpx.Client:
        """A client that holds a token; close it."""
        return httpx.Client(
            base_url=self.gateway.url, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    @asynccontextmanager
    async def device(self, token: str | None = None) -> AsyncIterator[Device]:
        """A device that is connected, by default ana's desk."""
        credential = self.token() if token is None else token
        async with self.connect({"Authorization": f"Bearer {credential}"}) as connection:
            yield Device(connection, json.loads(await connection.recv()))

    def connect(
        self, headers: dict[str, str] | None = None, subprotocols: Sequence[str] = ("callgate.v1",)
    ) -> connect:
        """A handshake; enter it for the connection."""
        return connect(
            f"{self.gateway.websocket_url}/v1/device",
            additional_headers=headers,
            subprotocols=[Subprotocol(name) for name in subprotocols],
            compression=None,
            max_size=None,
        )


@pytest.fixture
def make_account(gateway: GatewayProcess, admin: httpx.Client) -> Callable[..., Acme]:
    """A factory of accounts: `make_account(minutes=100)`."""

    def make(minutes: int = 100, **plan: Any) -> Acme:
        acme = Acme(gateway, admin, f"acme-{uuid.uuid4().hex[:12]}")
        fields = {"name": "Team", "minutes": minutes, "connected_channels": 2, "staff_seats": 3} | plan
        admin.put(f"/v1/plans/{acme.id}", json=fields).raise_for_status()
        admin.put(acme.url, json={"name": "Acme", "plan": acme.id}).raise_for_status()
        for staff in ("ana", "bob"):
            admin.put(f"{acme.url}/staff/{staff}").raise_for_status()
        admin.put(f"{acme.url}/channels/main").raise_for_status()
        return acme

    return make


@pytest.fixture
def acme(make_account: Callable[..., Acme]) -> Acme:
    """An account of its own."""
    return make_account()


def start(call_id: str = "c-1", to: str = NUMBER, **more: Any) -> dict[str, Any]:
    """A frame that asks for admission."""
    return {"type": "call.start", "id": 1, "call_id": call_id, "to": to} | more


def end(call_id: str = "c-1", **more: Any) -> dict[str, Any]:
    """A frame that ends a call."""
    return {"type": "call.end", "id": 2, "call_id": call_id} | more


async def refusal(handshake: connect) -> dict[str, Any]:
    """The problem that a handshake is refused with."""
    with pytest.raises(InvalidStatus) as refused:
        async with handshake:
            pass
    response = refused.value.response
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(response.body)
    assert problem["status"] == response.status_code
    return problem
