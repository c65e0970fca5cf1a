"""Devices that place calls through whatever happens, each keeping its own books.

They are the product's own phones, all in the test's event loop. The books are by the host's clock, which is
the engine's too: instants in them (ms) can be compared with those of call records.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from gateway.client import CallRefused, Softphone
from gateway.client.call import Call, Settlement
from gateway.client.errors import PhoneClosed
from gateway.client.timing import Timing
from gateway.domain.errors import CallgateError
from tests.faults.balancer import Balancer

TIMING = Timing(
    connect_seconds=4.0,
    answer_seconds=30.0,
    close_seconds=10.0,
    ping_after_seconds=1.0,
    dead_after_seconds=4.0,
    backoff_seconds=0.2,
    backoff_most_seconds=1.0,
)
_NOWHERE = "ws://127.0.0.1:9"
_LOOK_SECONDS = 0.25
FREEZE_AT = 5_000
"""After so many calls the garbage collector need not look through them any more: it took seconds."""


def now_ms() -> float:
    """What the clock of this host shows."""
    return time.time_ns() / 1e6


@dataclass(slots=True)
class Booked:
    """One call in a device's books."""

    account: str
    device: str
    call_id: str
    asked_ms: float
    told_ms: float | None = None
    """When it was told of its admission."""
    admitted_at_ms: int | None = None
    refused: str | None = None
    failed: str | None = None
    """Why it gave up asking: whether the call was admitted it does not know."""
    ended_ms: float | None = None
    settled_ms: float | None = None
    """When it was told what the call came to."""
    settlement: Settlement | None = None
    end_failed: str | None = None
    left_ms: float | None = None
    """When it fell silent for good, with the call up: nobody will say that it ended."""
    silently: bool = False
    """It fell silent without its connection breaking."""
    elsewhere: bool = False
    away: bool = False
    """It was away in mid-call for longer than lease and grace, and came back."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What the devices do: how long their calls are, and how often (of all calls) something else happens."""

    shortest_seconds: float = 0.1
    longest_seconds: float = 3.0
    leave: float = 0.0
    """The device goes and never speaks of its call again, its connection broken or (as often) just dead."""
    go_away: float = 0.0
    """It is out of reach for `away_seconds` in mid-call, and comes back with the call up."""
    away_seconds: float = 12.0


@dataclass(slots=True)
class Books:
    """All calls of all devices."""

    calls: list[Booked] = field(default_factory=list)
    admissions: int = 0
    """How many were told of their admission."""
    phones_ended: list[str] = field(default_factory=list)
    """Phones that were told to connect no more, though nobody meant them to."""
    clock_set_ms: float = 0.0
    """By how much the host's clock was set meanwhile, against one that nobody sets."""

    @property
    def admitted(self) -> list[Booked]:
        """Those that were told of their admission."""
        return [each for each in self.calls if each.admitted_at_ms is not None]


class Load:
    """Devices at work. `tokens` are one for each device, by account and device."""

    def __init__(
        self, balancer: Balancer, tokens: dict[tuple[str, str], str], habits: Habits, seed: int = 0
    ) -> None:
        self.books = Books()
        self._balancer = balancer
        self._tokens = tokens
        self._habits = habits
        self._random = random.Random(seed)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Have all devices connect, and call until `stop`."""
        self._tasks = [
            asyncio.create_task(self._device(account, device, token))
            for (account, device), token in self._tokens.items()
        ]
        self._tasks.append(asyncio.create_task(self._watch_the_clock()))

    async def stop(self) -> Books:
        """Have them end their calls and leave; returns once every end is settled, and the books."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        return self.books

    def up(self) -> list[Booked]:
        """The calls that are up now, as their devices see it."""
        return [
            each
            for each in self.books.admitted
            if each.ended_ms is None and each.left_ms is None and not each.elsewhere
        ]

    async def _watch_the_clock(self) -> None:
        offsets = []
        while not self._stopping.is_set():
            offsets.append(now_ms() - time.monotonic_ns() / 1e6)
            offsets = [min(offsets), max(offsets)]
            self.books.clock_set_ms = offsets[1] - offsets[0]
            await self._pause(1)

    async def _device(self, account: str, device: str, token: str) -> None:
        while not self._stopping.is_set():
            try:
                async with Softphone(
                    self._balancer.url, token, timing=TIMING, still_up=lambda _: True, hang_up_on_exit=False
                ) as phone:
                    await self._at_work(phone, account, device)
                await self._pause(self._random.uniform(0, 10))
            except CallgateError as error:
                # The first connection, if gateways are down just then, is not tried again by the phone.
                if error.code != "gateway_unreachable":
                    self.books.phones_ended.append(f"{device}: {error!r}")
                await asyncio.sleep(0.2)

    async def _at_work(self, phone: Softphone, account: str, device: str) -> None:
        """Place calls until it is time to stop, or the device goes."""
        settling: set[asyncio.Task[None]] = set()
        while not self._stopping.is_set():
            if phone.ended_by is not None:
                self.books.phones_ended.append(f"{device}: {phone.ended_by!r}")
                return
            booked = Booked(account, device, f"{device}-{len(self.books.calls)}", now_ms())
            self.books.calls.append(booked)
            if len(self.books.calls) % FREEZE_AT == 0:
                gc.freeze()
            call = await self._started(phone, booked)
            if call is None:
                await self._pause(0.2)
                continue
            what = self._random.random()
            await self._up()
            if what < self._habits.leave:
                await asyncio.gather(*settling)
                self._leave(phone, booked)
                return
            if what < self._habits.leave + self._habits.go_away:
                await self._go_away(phone, booked)
            if call.elsewhere:
                booked.elsewhere = True
                continue
            booked.ended_ms = now_ms()
            call.end()
            if call.in_doubt_since_ms is not None:
                # R15: without a gateway for longer than the grace, it ends as of when it last had one.
                booked.ended_ms -= phone._clock.elapsed_ms() - call.in_doubt_since_ms
            task = asyncio.create_task(self._end(call, booked))
            settling.add(task)
            await self._pause(self._random.uniform(0, 0.3))
        await asyncio.gather(*settling)

    async def _started(self, phone: Softphone, booked: Booked) -> Call | None:
        try:
            call = await phone.start("+14155550100", call_id=booked.call_id)
        except CallRefused as refused:
            booked.refused = refused.reason
            return None
        except CallgateError as error:
            booked.failed = repr(error)
            return None
        booked.told_ms = now_ms()
        booked.admitted_at_ms = call.admitted_at_ms
        self.books.admissions += 1
        return call

    async def _end(self, call: Call, booked: Booked) -> None:
        while True:
            try:
                booked.settlement = await call.end()  # as of when it was said first
            except CallgateError as error:
                if error.code in ("no_answer", "engine_unavailable", "database_unavailable", "too_fast"):
                    continue
                booked.end_failed = repr(error)
            booked.settled_ms = now_ms()
            return

    def _leave(self, phone: Softphone, booked: Booked) -> None:
        connection = phone._link._connection
        booked.left_ms = now_ms()
        if not phone._presence._connected:
            # Nothing was heard of it since its gateway was killed, and it never finds another.
            booked.left_ms -= phone._clock.elapsed_ms() - phone._presence._last_ms
        booked.silently = self._random.random() < 0.5
        if connection is not None and booked.silently:
            self._balancer.silence(connection._socket.local_address[1])
        phone._calls.clear()
        phone._link.give_up(PhoneClosed())

    async def _go_away(self, phone: Softphone, booked: Booked) -> None:
        booked.away = True
        home = phone._link._url
        phone._link._url = _NOWHERE
        for _ in range(round(self._habits.away_seconds / _LOOK_SECONDS)):
            phone._link.drop()  # also the one that was just being made
            await asyncio.sleep(_LOOK_SECONDS)
        phone._link._url = home
        phone._link.hurry()
        with suppress(CallgateError, TimeoutError):
            async with asyncio.timeout(20):
                await phone.wait_connected()
        await asyncio.sleep(0.5)

    async def _up(self) -> None:
        await self._pause(self._random.uniform(self._habits.shortest_seconds, self._habits.longest_seconds))

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def by_id(calls: Iterable[Booked]) -> dict[str, Booked]:
    """Calls by their ids, which no two devices give alike."""
    return {each.call_id: each for each in calls}
