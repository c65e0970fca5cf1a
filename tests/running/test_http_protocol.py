"""A peer cannot keep the gateway waiting, or remembering, without limit."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from gateway.cli.http_protocol import BoundedHttp
from tests.support.waiting import wait_until


class Hasty(BoundedHttp):
    request_seconds = 0.4
    header_bytes = 4096


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the length of the body; go on with nobody."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await receive()
        return
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length, more = length + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"%05d" % length})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(
        app,
        http=Hasty,
        ws="websockets-sansio",
        port=0,
        lifespan="off",
        log_config=None,
        timeout_keep_alive=30,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    await wait_until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def closed_after(reader: asyncio.StreamReader) -> tuple[bytes, float]:
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
    return answer, asyncio.get_running_loop().time() - began


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345"],
    ids=["nothing", "half the headers", "half the body"],
)
async def test_a_request_that_does_not_arrive_is_given_up(port: int, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer, seconds = await closed_after(reader)
    assert answer == b""
    assert seconds >= 0.3
    writer.close()


async def test_one_that_trickles_is_given_up_too(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def trickle() -> None:
        writer.write(b"GET / HTTP/1.1\r\n")
        while not writer.is_closing():
            writer.write(b"X-A: b\r\n")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    await closed_after(reader)
    trickling.cancel()
    writer.close()


async def test_headers_without_end_are_refused(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 1000)
    answer, _ = await closed_after(reader)
    assert answer.startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_a_connection_that_has_had_its_answer_is_kept_for_the_next_request(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(3):
        body = b"x" * (10_000 + number)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(5) == b"%05d" % len(body)
        await asyncio.sleep(0.6)  # longer than a request may take, with none under way
    writer.close()


async def test_a_websocket_outlives_it(port: int) -> None:
    from websockets.asyncio.client import connect

    async with connect(f"ws://127.0.0.1:{port}/", compression=None) as websocket:
        await asyncio.sleep(0.6)  # longer than a request may take
        await websocket.send("still here")
        assert await websocket.recv() == "still here"
