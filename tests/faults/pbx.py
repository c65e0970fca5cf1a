"""A PBX that places calls over HTTP, each line on a connection that it keeps, and notes what it is denied."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from types import TracebackType
from typing import Self

import httpx

from gateway.client.call import Settlement
from tests.faults.balancer import Balancer
from tests.faults.load import Booked, Books, now_ms
from tests.support.operators import Json

_VOUCH_SECONDS = 0.5
"""Far less than what a gateway that goes still serves: every connection is told of it in time."""
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60)


class Pbx:
    """Its lines call until the block ends. It asks nothing twice: `denied` has what was not answered."""

    def __init__(
        self, balancer: Balancer, books: Books, admin_key: str, account: str, lines: int, seed: int = 0
    ) -> None:
        self.denied: list[str] = []
        self.requests = 0
        self._balancer = balancer
        self._books = books
        self._headers = {"Authorization": f"Bearer {admin_key}"}
        self._account = account
        self._lines = lines
        self._random = random.Random(seed)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Have all lines call."""
        self._tasks = [asyncio.create_task(self._line(f"line-{number}")) for number in range(self._lines)]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Have them end their calls."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _line(self, device: str) -> None:
        async with httpx.AsyncClient(
            base_url=self._balancer.url, headers=self._headers, limits=_ONE, timeout=30
        ) as http:
            number = 0
            while not self._stopping.is_set():
                number += 1
                await self._call(http, device, f"{device}-{number}")

    async def _call(self, http: httpx.AsyncClient, device: str, call_id: str) -> None:
        booked = Booked(self._account, device, call_id, now_ms())
        self._books.calls.append(booked)
        of_account = f"account={self._account}"
        caller = {"account": self._account, "staff": "ana", "device": device}
        told = await self._ask(http, "/v1/calls", {**caller, "call_id": call_id, "to": "+14155550100"})
        if told is None or told["type"] != "call.admitted":
            booked.failed = str(told)
            await self._pause()
            return
        booked.told_ms, booked.admitted_at_ms = now_ms(), told["admitted_at_ms"]
        self._books.admissions += 1
        for _ in range(self._random.randint(1, 6)):
            await self._pause()
            await self._ask(http, f"/v1/calls/keepalive?{of_account}", {"call_ids": [call_id]})
        booked.ended_ms = now_ms()
        told = await self._ask(http, f"/v1/calls/{call_id}/end?{of_account}", {})
        if told is not None:
            booked.settled_ms = now_ms()
            booked.settlement = Settlement(**{name: told[name] for name in Settlement.__slots__})

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_VOUCH_SECONDS):
                await self._stopping.wait()

    async def _ask(self, http: httpx.AsyncClient, address: str, body: Json) -> Json | None:
        self.requests += 1
        try:
            answer = await http.post(address, json=body)
        except httpx.TransportError as error:
            self.denied.append(f"{address}: {error!r}")
            return None
        if answer.status_code != 200:
            self.denied.append(f"{address}: {answer.status_code} {answer.text}")
            return None
        told: Json = answer.json()
        return told
