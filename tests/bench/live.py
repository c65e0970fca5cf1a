"""What it costs to show one pool to many dashboards, and how soon they have what is newest.

50 changes a second (starts and ends of calls) of one account's pool. CPU time is the gateway process's alone;
what the changes themselves cost is measured without readers, and taken off. The bare loop sends as many bytes
as often to as many sockets, with the frame made once for all.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from websockets import Subprotocol
from websockets.asyncio.client import connect

from tests.bench.live_readers import request_for
from tests.bench.websocket_cost import cpu_us
from tests.support.gateways import GatewayProcess

READERS: Final = (500, 2000)
CHANGES_A_SECOND: Final = 50
SECONDS: Final = 10.0
SILENT_READERS: Final = 100
BETWEEN_SECONDS: Final = 0.25
BARE_BYTES: Final = 900
"""About what the pool of the run takes: one call in progress."""


class Account:
    """The account whose pool is shown."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        with gateway.client() as client:
            plan = {"name": "Big", "minutes": 10_000_000, "connected_channels": 1, "staff_seats": 1}
            client.put("/v1/plans/big", json=plan).raise_for_status()
            client.put("/v1/accounts/acme", json={"name": "Acme", "plan": "big"}).raise_for_status()
            client.put("/v1/accounts/acme/staff/ana", json={}).raise_for_status()
            asked = {"account": "acme", "staff": "ana", "device": "desk", "scopes": ["call", "watch"]}
            self.token: str = client.post("/v1/tokens", json=asked).raise_for_status().json()["token"]

    def version(self) -> int:
        """Its pool's version now."""
        with self.gateway.client() as client:
            return int(client.get("/v1/accounts/acme/pool").raise_for_status().json()["version"])

    async def change(self, seconds: float) -> list[float]:
        """Start and end a call by turns, evenly; return when each change was answered."""
        answered: list[float] = []
        async with connect(
            f"{self.gateway.websocket_url}/v1/device",
            subprotocols=[Subprotocol("callgate.v1")],
            additional_headers={"Authorization": f"Bearer {self.token}"},
            compression=None,
            proxy=None,
        ) as device:
            await device.recv()
            run = time.time_ns()
            began = time.perf_counter()
            for number in range(int(seconds * CHANGES_A_SECOND)):
                await asyncio.sleep(max(0.0, began + number / CHANGES_A_SECOND - time.perf_counter()))
                kind = "call.end" if number % 2 else "call.start"
                frame = {"type": kind, "id": number, "call_id": f"{run}-{number // 2}", "to": "+14155550100"}
                await device.send(json.dumps(frame))
                answer = json.loads(await device.recv())
                assert answer["type"] in ("call.admitted", "call.settled"), answer
                answered.append(time.time())
        return answered

    async def hold(self, calls: int) -> None:
        """Start so many calls, which go on."""
        with self.gateway.client() as client:
            for number in range(calls):
                body = {"account": "acme", "staff": "ana", "device": "pbx", "to": "+14155550100"}
                client.post("/v1/calls", json=body | {"call_id": f"held-{number}"}).raise_for_status()


@contextmanager
def readers_of(url: str, token: str, readers: int, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process of readers that have all had a pool."""
    given = {"url": url, "token": token, "readers": readers, "seconds": seconds}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.live_readers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(given).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def result_of(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the readers say at the end."""
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def lags_ms(arrived: list[list[tuple[float, int]]], changes: list[tuple[float, int]]) -> list[float]:
    """How long after each change each reader had it, or something newer."""
    lags = []
    for reader in arrived:
        at = 0
        for changed_at, version in changes:
            while at < len(reader) and reader[at][1] < version:
                at += 1
            lags.append((reader[at][0] - changed_at) * 1000 if at < len(reader) else float("inf"))
    return sorted(lags)


def memory_kb(pid: int) -> int:
    """What a process has in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def measure_readers(account: Account, readers: int, idle_us: float) -> None:
    """Print what so many readers have, and cost."""
    gateway = account.gateway
    url = f"{gateway.websocket_url}/v1/live"
    with readers_of(url, account.token, readers, 2 * SECONDS) as process:
        first = account.version()
        before = cpu_us(gateway.process.pid)
        answered = asyncio.run(account.change(SECONDS))
        spent = cpu_us(gateway.process.pid) - before - idle_us
        found = result_of(process)
    changes = [(at, first + 1 + number) for number, at in enumerate(answered)]
    lags = lags_ms(found["arrived"], changes)
    sent = found["messages"] - readers
    p50, p99 = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    print(
        f"{readers:>6} readers: newest after p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {lags[-1]:.0f} ms; "
        f"{sent / readers / SECONDS:.1f} pools a second each; CPU {spent / sent:.1f} us a pool sent, "
        f"{spent / len(changes) / 1000:.2f} ms a change; {found['lost']} lost",
        flush=True,
    )


def measure_bare(readers: int) -> None:
    """Print what the bare loop costs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.live_bare", str(port)], stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        with readers_of(f"ws://127.0.0.1:{port}/", "none", readers, SECONDS) as process:
            before = cpu_us(server.pid)
            found = result_of(process)
            spent = cpu_us(server.pid) - before
        sent = SECONDS / BETWEEN_SECONDS * readers
        print(
            f"{readers:>6} sockets, bare loop: CPU {spent / sent:.1f} us a frame sent ({found['lost']} lost)"
        )
    finally:
        server.kill()
        server.wait()


def measure_silent(account: Account) -> None:
    """Print what readers that read nothing take of memory, while the pool, with 100 calls, changes."""
    pid = account.gateway.process.pid
    asyncio.run(account.hold(100))
    asyncio.run(account.change(3))
    before = memory_kb(pid)
    address = account.gateway.url.rpartition("/")[2].split(":")
    sockets = []
    for _ in range(SILENT_READERS):
        silent = socket.socket()
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((address[0], int(address[1])))
        silent.sendall(request_for(f"{account.gateway.websocket_url}/v1/live", account.token))
        sockets.append(silent)
    asyncio.run(account.change(3))
    early = memory_kb(pid)
    asyncio.run(account.change(8))
    late = memory_kb(pid)
    asyncio.run(account.change(12))
    print(
        f"memory with {SILENT_READERS} readers that read nothing: {before / 1024:.1f} MB before them, "
        f"{early / 1024:.1f} MB after 3 s, {late / 1024:.1f} MB after 11 s, "
        f"{memory_kb(pid) / 1024:.1f} MB once they were dropped"
    )
    for silent in sockets:
        silent.close()


@contextmanager
def account_of_its_own() -> Iterator[Account]:
    """An account of a gateway that was just started."""
    with (
        tempfile.TemporaryDirectory() as folder,
        GatewayProcess(Path(folder), "--log-level", "warning") as gateway,
    ):
        yield Account(gateway)


def run() -> None:
    """Print the figures of one run."""
    with account_of_its_own() as account:
        pid = account.gateway.process.pid
        asyncio.run(account.change(2))
        before = cpu_us(pid)
        asyncio.run(account.change(SECONDS))
        idle_us = cpu_us(pid) - before
        print(f"{CHANGES_A_SECOND} changes a second alone: CPU {idle_us / SECONDS / 1000:.0f} ms a second")
        for readers in READERS:
            measure_readers(account, readers, idle_us)
    for readers in READERS:
        measure_bare(readers)
    with account_of_its_own() as account:
        measure_silent(account)


if __name__ == "__main__":
    run()
