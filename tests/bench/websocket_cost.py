"""What a message of a device costs the gateway, against a bare echo under the same server settings.

64 sockets with 4 calls in flight each: a start, and its end as soon as it is admitted. The echo gets frames
of the same size from the same load. CPU time is the server process's alone (user and system, from /proc); the
engine is another process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.gateways import GatewayProcess

SOCKETS: Final = 64
IN_FLIGHT: Final = 4
SECONDS: Final = 6.0
_TICK_US: Final = 1_000_000 / os.sysconf("SC_CLK_TCK")


def cpu_us(pid: int) -> float:
    """CPU time that a process has used (all its threads)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_US


def load(url: str, tokens: list[str], sockets: int = SOCKETS, in_flight: int = IN_FLIGHT) -> dict[str, Any]:
    """Run the load in a process of its own."""
    given = {"url": url, "tokens": tokens, "sockets": sockets, "in_flight": in_flight, "seconds": SECONDS}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.device_load"],
        input=json.dumps(given).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def prepare(gateway: GatewayProcess) -> list[str]:
    """An account with minutes enough, and a token for each device."""
    with gateway.client() as client:
        plan = {"name": "Big", "minutes": 10_000_000, "connected_channels": 1, "staff_seats": 1}
        client.put("/v1/plans/big", json=plan).raise_for_status()
        client.put("/v1/accounts/acme", json={"name": "Acme", "plan": "big"}).raise_for_status()
        client.put("/v1/accounts/acme/staff/ana", json={}).raise_for_status()
        tokens = []
        for at in range(SOCKETS):
            asked = {
                "account": "acme",
                "staff": "ana",
                "device": f"d{at}",
                "scopes": ["call"],
                "ttl_seconds": 3600,
            }
            tokens.append(client.post("/v1/tokens", json=asked).raise_for_status().json()["token"])
        return tokens


def measure_gateway(log_level: str) -> dict[str, Any]:
    """Messages through the gateway."""
    with (
        tempfile.TemporaryDirectory() as folder,
        GatewayProcess(Path(folder), "--log-level", log_level) as gateway,
    ):
        tokens = prepare(gateway)
        url = f"{gateway.websocket_url}/v1/device"
        load(url, tokens)
        before = cpu_us(gateway.process.pid)
        found = load(url, tokens)
        found["cpu_us"] = (cpu_us(gateway.process.pid) - before) / found["messages"]
        return found


def measure_echo() -> dict[str, Any]:
    """The same load against the echo, which answers each frame with itself: its `re` is the frame's `id`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.echo_server", str(port)])
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                httpx.get(f"http://127.0.0.1:{port}/")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        url = f"ws://127.0.0.1:{port}/"
        load(url, [])
        before = cpu_us(process.pid)
        found = load(url, [])
        found["cpu_us"] = (cpu_us(process.pid) - before) / found["messages"]
        return found
    finally:
        process.terminate()
        process.wait()


def run() -> None:
    """Print the figures of one run."""
    echo = measure_echo()
    gateways = ((f"gateway, log level {level}", measure_gateway(level)) for level in ("info", "warning"))
    rows = [("bare echo", echo), *gateways]
    print(f"{'':<28}{'CPU us/message':>15}{'ratio':>7}{'messages/s':>12}{'p50 ms':>8}{'p99 ms':>8}")
    for name, found in rows:
        print(
            f"{name:<28}{found['cpu_us']:>15.1f}{found['cpu_us'] / echo['cpu_us']:>7.2f}"
            f"{found['messages'] / found['seconds']:>12.0f}{found['p50_ms']:>8.1f}{found['p99_ms']:>8.1f}"
        )


if __name__ == "__main__":
    run()
