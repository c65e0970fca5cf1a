"""Deployments whose engine can be taken away and given back, in two ways."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import httpx

from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until

How = Literal["killed", "paused"]

T = TypeVar("T")


@dataclass(frozen=True)
class Deployment:
    """One gateway with an engine of its own, which keeps what it was told."""

    gateway: GatewayProcess
    engine: EngineServer
    how: How

    def take_engine_away(self) -> None:
        """Kill the engine, or let it hang with its connections open."""
        if self.how == "killed":
            self.engine.kill()
        else:
            self.engine.pause()

    def give_engine_back(self) -> None:
        """Start the engine again, or let it go on. Having it already changes nothing."""
        if self.engine.process.poll() is None:
            self.engine.resume()
        else:
            self.engine.start()


async def readiness(gateway: GatewayProcess) -> tuple[int, dict[str, str]]:
    """Ask whether the gateway is ready: the status, and what it says."""
    async with gateway.async_client() as http:
        answer = await http.get("/readyz")
        return answer.status_code, answer.json()


async def ready_again(gateway: GatewayProcess) -> None:
    """Wait until nothing is amiss any more."""

    async def is_ready() -> bool:
        return (await readiness(gateway))[1]["status"] == "ok"

    await wait_until(is_ready, 20)


def events(gateway: GatewayProcess, name: str) -> list[dict[str, Any]]:
    """Return the log lines of one kind."""
    lines = [json.loads(line) for line in gateway.log().splitlines()]
    return [line for line in lines if line["event"] == name]


async def timed(asked: Awaitable[T]) -> tuple[T, float]:
    """Wait for an answer, and tell how many seconds it took."""
    began = time.monotonic()
    answer = await asked
    return answer, time.monotonic() - began


def real_time_ms() -> int:
    """What a clock on the wall shows."""
    return time.time_ns() // 1_000_000


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Return an HTTP error's status and code; it must say when to ask again if it is a 503."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1
    return answer.status_code, answer.json()["code"]
