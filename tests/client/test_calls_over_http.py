"""What a server-side client asks over HTTP, as the contract has it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.client import AdmittedCall, CallRefused, CallsClient, Settlement, UnexpectedAnswer
from gateway.domain.errors import CallIdUsed

TO = "+14155550100"


class Peer:
    """Answers HTTP requests with what it was told, in turn, and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        assert fields["authorization"] == "bearer secret"
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        self.asked.append((method, target, json.loads(body)))
        status, answer = self.answers.pop(0)
        content = json.dumps(answer).encode()
        writer.write(
            f"HTTP/1.1 {status} -\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(content)
        await writer.drain()
        writer.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    async with server:
        peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield peer


async def test_a_call_from_its_start_to_its_end(peer: Peer) -> None:
    admitted = {
        "type": "call.admitted",
        "call_id": "c:1/a",
        "admitted_at_ms": 7,
        "remaining_seconds": None,
        "receipt": "r-1",
        "replayed": False,
        "admitted_offline": True,
        "lease_seconds": 15,
    }
    settled = {
        "type": "call.settled",
        "call_id": "c:1/a",
        "duration_ms": 90_000,
        "billed_seconds": 90,
        "counted": True,
        "ended_by": "hangup",
        "revision": 2,
        "replayed": False,
        "remaining_seconds": 510,
    }
    peer.answers = [
        (200, admitted),
        (200, {"type": "call.noted", "call_id": "c:1/a"}),
        (200, {"type": "call.resumed", "call_id": "c:1/a", "admitted_at_ms": 7, "receipt": "r-2"}),
        (200, {"lease_seconds": 15, "not_in_progress": ["c-2"]}),
        (200, settled),
    ]
    async with CallsClient(peer.url, "secret", account="acme") as calls:
        call = await calls.start("c:1/a", TO, channel="main", staff="ana", device="pbx")
        assert call == AdmittedCall(
            call_id="c:1/a",
            admitted_at_ms=7,
            remaining_seconds=None,
            replayed=False,
            admitted_offline=True,
            receipt="r-1",
            lease_seconds=15,
        )
        await calls.answered("c:1/a", ago_ms=200)
        assert (await calls.resume("c:1/a", "r-1")).receipt == "r-2"
        assert await calls.keepalive(["c:1/a", "c-2"], {"c-2": "r-3"}) == ["c-2"]
        settlement = await calls.end("c:1/a", ago_ms=300)
        assert settlement == Settlement("c:1/a", 90_000, 90, True, "hangup", 2, False, 510)
    path = "/v1/calls/c%3A1%2Fa"
    who = {"account": "acme", "staff": "ana", "device": "pbx"}
    assert peer.asked == [
        ("POST", "/v1/calls", {"call_id": "c:1/a", "to": TO, "channel": "main", **who}),
        ("POST", f"{path}/answered?account=acme", {"answered_ago_ms": 200}),
        ("POST", f"{path}/resume?account=acme", {"receipt": "r-1"}),
        (
            "POST",
            "/v1/calls/keepalive?account=acme",
            {"call_ids": ["c:1/a", "c-2"], "receipts": {"c-2": "r-3"}},
        ),
        ("POST", f"{path}/end?account=acme", {"ended_ago_ms": 300}),
    ]


async def test_a_token_says_itself_whose_calls_they_are(peer: Peer) -> None:
    peer.answers = [
        (200, {"lease_seconds": 15, "not_in_progress": []}),
        (200, {"type": "call.resumed", "call_id": "c-1", "admitted_at_ms": 7, "receipt": "r-1"}),
    ]
    async with CallsClient(peer.url, "secret") as calls:
        assert await calls.keepalive(["c-1"]) == []
        await calls.resume("c-1")
    assert peer.asked == [
        ("POST", "/v1/calls/keepalive", {"call_ids": ["c-1"]}),
        ("POST", "/v1/calls/c-1/resume", {}),
    ]


async def test_a_refusal_and_an_error_are_raised(peer: Peer) -> None:
    refused = {"reason": "minutes_held", "message": "They are held.", "remaining_seconds": 40}
    peer.answers = [
        (200, {"type": "call.refused", "call_id": "c-1", **refused}),
        (409, {"code": "call_id_used", "detail": "It has ended."}),
        (200, {"type": "something else"}),
    ]
    async with CallsClient(peer.url, "secret") as calls:
        with pytest.raises(CallRefused) as refusal:
            await calls.start("c-1", TO)
        assert (refusal.value.reason, refusal.value.remaining_seconds) == ("minutes_held", 40)
        with pytest.raises(CallIdUsed):
            await calls.resume("c-1", "r-1")
        with pytest.raises(UnexpectedAnswer):
            await calls.start("c-1", TO)
