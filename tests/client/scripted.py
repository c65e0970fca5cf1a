"""A peer that speaks the device WebSocket as a test tells it to: breaks off, stays silent, answers late."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from gateway.client import Timing
from gateway.client.elapsed import Clock

QUICK = Timing(
    connect_seconds=5,
    answer_seconds=5,
    close_seconds=2,
    ping_after_seconds=1,
    dead_after_seconds=3,
    backoff_seconds=0.01,
    backoff_most_seconds=0.02,
)


class Hours:
    """A phone's time, moved by hand. `wall_ms` is the time of day, which can be set apart."""

    def __init__(self) -> None:
        self.elapsed_ms = 1_000_000
        self.wall_ms = 1_795_392_000_000
        self.clock = Clock(lambda: self.elapsed_ms, lambda: self.wall_ms)

    def pass_by(self, seconds: float) -> None:
        """Let time go by, on every clock."""
        self.elapsed_ms += round(seconds * 1000)
        self.wall_ms += round(seconds * 1000)


class Device:
    """One connection of a phone, seen from the gateway's side."""

    def __init__(self, socket: ServerConnection, grace_seconds: int = 30) -> None:
        self.socket = socket
        self.grace_seconds = grace_seconds
        self.heard_bytes = 0

    @property
    def token(self) -> str:
        assert self.socket.request is not None
        return self.socket.request.headers["Authorization"].removeprefix("Bearer ")

    async def welcome(self, remaining_seconds: int | None = 6000, **more: Any) -> None:
        welcome = {
            "type": "welcome",
            "account": "acme",
            "staff": "ana",
            "device": "desk",
            "server_time_ms": 1_795_392_000_000,
            "grace_seconds": self.grace_seconds,
            "remaining_seconds": remaining_seconds,
            "calls": [],
        }
        await self.say(**{**welcome, **more})

    async def hear(self) -> dict[str, Any]:
        """Return the next frame of the device, as JSON has it."""
        async with asyncio.timeout(5):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
        return frame

    async def hear_nothing_until_closed(self) -> int:
        """Expect no frame any more, and return the code that the device closes with."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionClosed):
                heard = await self.socket.recv()
                raise AssertionError(f"heard {heard!r}")
            await self.socket.wait_closed()
        assert self.socket.close_code is not None
        return self.socket.close_code

    async def say(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def admit(self, start: dict[str, Any], **more: Any) -> None:
        """Answer a `call.start` with an admission."""
        admitted = {
            "admitted_at_ms": 1_795_392_000_000,
            "remaining_seconds": 5940,
            "receipt": f"receipt of {start['call_id']}",
            "replayed": False,
        }
        asked = {"type": "call.admitted", "re": start["id"], "call_id": start["call_id"]}
        await self.say(**{**asked, **admitted, **more})

    async def resume(self, resume: dict[str, Any], **more: Any) -> None:
        """Answer a `call.resume`: the call goes on."""
        asked = {"type": "call.resumed", "re": resume["id"], "call_id": resume["call_id"]}
        resumed = {"admitted_at_ms": 1_795_392_000_000, "receipt": f"receipt of {resume['call_id']}, anew"}
        await self.say(**{**asked, **resumed, **more})

    async def note(self, answered: dict[str, Any]) -> None:
        """Answer a `call.answered`."""
        await self.say(type="call.noted", re=answered["id"], call_id=answered["call_id"])

    async def fail(self, asked: dict[str, Any], code: str) -> None:
        """Answer a request with an error."""
        await self.say(type="error", re=asked["id"], code=code, message=f"It is {code}.")

    async def settle(self, end: dict[str, Any], **more: Any) -> None:
        """Answer a `call.end` with a settlement."""
        asked = {"type": "call.settled", "re": end["id"], "call_id": end["call_id"]}
        settled = {
            "duration_ms": 90_000,
            "billed_seconds": 90,
            "counted": True,
            "ended_by": "hangup",
            "revision": 1,
            "replayed": False,
            "remaining_seconds": 5910,
        }
        await self.say(**{**asked, **settled, **more})

    async def close(self, code: int) -> None:
        await self.socket.close(code)

    def vanish(self) -> None:
        """Break the connection off, with no closing handshake."""
        self.socket.transport.abort()

    def fall_silent(self) -> None:
        """Keep the connection open, and neither read nor answer, not even pings."""
        self.socket.transport.pause_reading()


class ScriptedGateway:
    """Listens where a gateway would. `connection()` gives the next device that connects."""

    def __init__(self) -> None:
        self.handshakes: list[Request] = []
        self._connections: asyncio.Queue[Device] = asyncio.Queue()
        self._refusals: list[Response] = []
        self._server: Server | None = None
        self.greets = True
        """Whether devices are welcomed as soon as they connect."""
        self.answering = asyncio.Event()
        """Whether handshakes are answered; until then they wait for that."""
        self.answering.set()
        self.grace_seconds = 30
        self.calls_in_progress: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        assert self._server is not None
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def refuse(self, status: int, problem: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """Refuse the next handshake (call it again for one more)."""
        content = msgspec.json.encode(problem) if problem is not None else body
        headers = Headers({"Content-Length": str(len(content))})
        self._refusals.append(Response(status, "", headers, content))

    async def connection(self) -> Device:
        async with asyncio.timeout(5):
            return await self._connections.get()

    async def _handle(self, socket: ServerConnection) -> None:
        device = Device(socket, self.grace_seconds)
        if self.greets:
            await device.welcome(calls=self.calls_in_progress)
        self._connections.put_nowait(device)
        await socket.wait_closed()

    async def _process(self, _: ServerConnection, request: Request) -> Response | None:
        self.handshakes.append(request)
        await self.answering.wait()
        return self._refusals.pop(0) if self._refusals else None


@contextlib.asynccontextmanager
async def scripted_gateway(
    select: Callable[..., Any] | None = None, *, port: int = 0
) -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway()
    async with serve(
        gateway._handle,
        "127.0.0.1",
        port,
        subprotocols=[Subprotocol("callgate.v1")],
        select_subprotocol=select,
        process_request=gateway._process,
        ping_interval=None,
        close_timeout=1,
    ) as server:
        gateway._server = server
        yield gateway
