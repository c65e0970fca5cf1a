"""A load of devices over WebSocket, in a process of its own: starts and ends, a few in flight on each socket.

Prints one JSON line: messages, seconds, and the wall times from request to answer (ms) of starts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import count

import uvloop
from websockets.asyncio.client import ClientConnection, connect


async def device(url: str, token: str, name: str, in_flight: int, until: float, waits_ms: list[float]) -> int:
    """One device: pairs of start and end until the time is up; answers how many messages it sent."""
    protocols = ["callgate.v1", f"bearer.{token}"] if token else None
    async with connect(url, subprotocols=protocols, compression=None, max_queue=None) as socket:  # type: ignore[arg-type]
        if token:
            await socket.recv()
        return await calls(socket, name, in_flight, until, waits_ms)


async def calls(
    socket: ClientConnection, name: str, in_flight: int, until: float, waits_ms: list[float]
) -> int:
    """So many calls under way on one socket: each started, and ended as soon as it is admitted."""
    numbers = count()
    started: dict[int, tuple[str, float]] = {}
    sent = 0

    async def start() -> None:
        number = next(numbers)
        call_id = f"{name}-{number}"
        started[number] = (call_id, time.perf_counter())
        await socket.send(f'{{"type":"call.start","id":{number},"call_id":"{call_id}","to":"+14155550100"}}')

    for _ in range(in_flight):
        await start()
        sent += 1
    while started:
        answer = json.loads(await socket.recv())
        # An echo has no `re`: its frames come back as they were.
        number = answer.get("re", answer.get("id"))
        if answer["type"] in ("call.admitted", "call.start"):
            call_id, began = started[number]
            waits_ms.append((time.perf_counter() - began) * 1000)
            await socket.send(f'{{"type":"call.end","id":{number},"call_id":"{call_id}","ended_ago_ms":0}}')
            sent += 1
        else:
            del started[number]
            if time.perf_counter() < until:
                await start()
                sent += 1
    return sent


async def main(url: str, tokens: list[str], sockets: int, in_flight: int, seconds: float) -> None:
    """All devices at once."""
    began = time.perf_counter()
    waits_ms: list[float] = []
    run = f"b{time.time_ns() % 10**9}"
    sent = await asyncio.gather(
        *(
            device(url, tokens[at] if tokens else "", f"{run}-{at}", in_flight, began + seconds, waits_ms)
            for at in range(sockets)
        )
    )
    waits_ms.sort()
    print(
        json.dumps(
            {
                "messages": sum(sent),
                "seconds": time.perf_counter() - began,
                "p50_ms": waits_ms[len(waits_ms) // 2],
                "p99_ms": waits_ms[len(waits_ms) * 99 // 100],
            }
        )
    )


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    uvloop.run(main(given["url"], given["tokens"], given["sockets"], given["in_flight"], given["seconds"]))
