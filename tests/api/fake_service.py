"""The API in this very process, before a service that answers what a test says: for what a whole gateway
cannot be brought to do.

It is served as `callgate serve` does it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import uvicorn
from websockets import Subprotocol
from websockets.asyncio.client import ClientConnection, connect

from gateway.api.app import create_app
from gateway.api.auth import Authenticator
from gateway.api.device_socket import DeviceSocket
from gateway.api.receipts import Receipts
from gateway.cli.server import server_config
from gateway.domain.answers import Admitted, Answer, Noted, Resumed, Settled
from gateway.domain.asks import Answered, Ask, Asker, End, Resume, Start
from gateway.domain.calls import Caller, CallInProgress
from gateway.domain.errors import CallgateError, CallUnknown
from gateway.service import Callgate, Greeting
from gateway.sessions.devices import DeviceConnections
from gateway.sessions.readers import ReaderConnections
from gateway.sessions.revocations import Revocations
from gateway.settings import Settings
from tests.api.conftest import SECRET, Device
from tests.support.waiting import wait_until

ADMITTED_MS = 1_795_391_940_000
CYCLE_START_MS = 1_794_718_800_000
RECEIPTS = Receipts([SECRET])
ANA = Caller("acme", "ana", "desk")
ADMIN_KEY = "the-admin-key"

Done = Callable[[Answer | CallgateError], None]


def in_progress(call_id: str = "c-1", **changed: Any) -> CallInProgress:
    """A call of ana's desk."""
    known: dict[str, Any] = {
        "account": ANA.account,
        "call_id": call_id,
        "staff": ANA.staff,
        "device": ANA.device,
        "channel": None,
        "to": "+14155550100",
        "admitted_at_ms": ADMITTED_MS,
        "answered_at_ms": None,
        "cycle_start_ms": CYCLE_START_MS,
        "emergency": False,
        "counts": True,
    }
    return CallInProgress(**(known | changed))


@dataclass(frozen=True)
class Lost:
    """What the service was told of calls that nobody vouches for any more."""

    account: str
    call_ids: tuple[str, ...]
    number: int
    heard_ago_ms: int


@dataclass
class FakeService:
    """Answers asks as `answers` says, by their call ids, and else as if all went well.

    What is asked of a call in `held` waits in `waiting` until the test answers it. `connects` are what
    `connect_device` does, one after another: a connection number, or an error to raise; after the last of
    them the numbers go on.
    """

    devices: DeviceConnections = field(default_factory=DeviceConnections)
    readers: ReaderConnections = field(default_factory=ReaderConnections)
    revocations: Revocations = field(default_factory=Revocations)
    asked: list[Ask] = field(default_factory=list)
    answers: dict[str, Answer | CallgateError] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    waiting: dict[str, Done] = field(default_factory=dict)
    connects: list[int | CallgateError] = field(default_factory=list)
    connected: int = 0
    lost_calls: list[Lost] = field(default_factory=list)
    kept: list[tuple[str, Asker | None, list[str], dict[str, CallInProgress]]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    leaving: bool = False

    def submit(self, ask: Ask, done: Done) -> None:
        self.asked.append(ask)
        if ask.call_id in self.held:
            self.waiting[ask.call_id] = done
        else:
            asyncio.get_running_loop().call_soon(done, self.answer(ask))

    async def ask(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        answer = self.answer(ask)
        if isinstance(answer, CallgateError):
            raise answer
        return answer

    def answer(self, ask: Ask) -> Answer | CallgateError:
        if ask.call_id in self.answers:
            return self.answers[ask.call_id]
        if isinstance(ask, Start):
            return Admitted(
                ask.call_id, ADMITTED_MS, 6000, False, ask.emergency, cycle_start_ms=CYCLE_START_MS
            )
        if isinstance(ask, Resume):
            return Resumed(in_progress(ask.call_id), late=False)
        if isinstance(ask, End):
            return settled(ask.call_id)
        return Noted(ask.call_id) if isinstance(ask, Answered) else CallUnknown()

    async def connect_device(self, caller: Caller) -> Greeting:
        self.connected += 1
        number: int | CallgateError = self.connects.pop(0) if self.connects else self.connected
        if isinstance(number, CallgateError):
            raise number
        return Greeting(ADMITTED_MS, 6000, [], number)

    def lost(self, account: str, call_ids: Sequence[str], number: int, heard_ago_ms: int) -> None:
        self.lost_calls.append(Lost(account, tuple(sorted(call_ids)), number, heard_ago_ms))

    async def keepalive(
        self,
        account: str,
        device: Asker | None,
        call_ids: Sequence[str],
        receipts: Mapping[str, CallInProgress],
    ) -> list[str]:
        self.kept.append((account, device, list(call_ids), dict(receipts)))
        return self.missing

    def server_time_ms(self) -> int:
        return ADMITTED_MS

    def socket(self) -> DeviceSocket:
        """The one device that is connected."""
        (connection,) = self.devices
        assert isinstance(connection, DeviceSocket)
        return connection


def settled(call_id: str) -> Settled:
    """A settlement."""
    return Settled(
        call_id=call_id,
        duration_ms=90_000,
        billed_seconds=90,
        counted=True,
        ended_by="hangup",
        revision=1,
        replayed=False,
        remaining_seconds=5910,
        ended_at_ms=ADMITTED_MS + 90_000,
        admitted_at_ms=ADMITTED_MS,
        emergency=False,
    )


@dataclass(frozen=True)
class Served:
    """The API, served; `tokens` are ana's desk's unless told otherwise."""

    service: FakeService
    port: int

    def token(self, caller: Caller = ANA, *scopes: str) -> str:
        """A token."""
        authenticator = Authenticator((SECRET,), None, Revocations())
        return authenticator.issue(
            caller.account, caller.staff, caller.device, scopes or ("call",), 3600
        ).token

    @asynccontextmanager
    async def device(self, caller: Caller = ANA) -> AsyncIterator[Device]:
        """A device that is connected and welcomed."""
        async with self.connect(caller) as connection:
            yield Device(connection, json.loads(await connection.recv()))

    def connect(self, caller: Caller = ANA) -> connect:
        """A handshake; enter it for the connection. The client sends no pings of its own."""
        return connect(
            f"ws://127.0.0.1:{self.port}/v1/device",
            additional_headers={"Authorization": f"Bearer {self.token(caller)}"},
            subprotocols=[Subprotocol("callgate.v1")],
            compression=None,
            ping_interval=None,
            proxy=None,
        )

    def http(self, credential: str | None = None) -> httpx.AsyncClient:
        """A client that holds a token, or the admin key."""
        bearer = self.token() if credential is None else credential
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {bearer}"},
            timeout=30,
            trust_env=False,
        )


@asynccontextmanager
async def serving(
    service: FakeService, ping_seconds: float = 10.0, *, ours: bool = True
) -> AsyncIterator[Served]:
    """Serve the API in front of `service`, pinging every so often; not `ours`, by uvicorn's own WebSocket."""
    settings = Settings(token_secrets=(SECRET,), admin_key=ADMIN_KEY)
    config = server_config(create_app(cast(Callgate, service), settings))
    config.port = 0
    config.ws_ping_interval = ping_seconds
    config.ws_ping_timeout = 30
    if not ours:
        config.ws = "websockets-sansio"
    server = uvicorn.Server(config)
    serving_task = asyncio.create_task(server._serve())
    await wait_until(lambda: server.started)
    try:
        yield Served(service, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await serving_task


def stall(connection: ClientConnection) -> None:
    """Have a client read nothing more, so that it answers no ping: as one whose process was stopped."""
    connection.transport.pause_reading()


def resume(call_id: str = "c-1", **more: Any) -> dict[str, Any]:
    """A frame that resumes a call."""
    return {"type": "call.resume", "id": 4, "call_id": call_id} | more


def answered(call_id: str = "c-1") -> dict[str, Any]:
    """A frame that tells of an answer."""
    return {"type": "call.answered", "id": 3, "call_id": call_id}
