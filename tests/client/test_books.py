"""However a gateway breaks off, forgets and delays, and the program stops: its books are the gateway's."""

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed

from gateway.client import Call, EndsUndelivered, Softphone, Timing
from tests.client.scripted import Device, Hours, ScriptedGateway
from tests.support.waiting import wait_until

CALLS = 12
RUNS = 3
TIMING = Timing(
    answer_seconds=20, close_seconds=0.05, backoff_seconds=0.003, backoff_most_seconds=0.01, beat_seconds=0.01
)
RARE = {
    "broken before",
    "broken after",
    "forgotten",
    "resumed",
    "made again",
    "ended twice",
    "left untold",
    "call.end: call_unknown",
    "call.answered: call_unknown",
    "call.resume: engine_unavailable",
    "call.end: engine_unavailable",
}


class Books:
    """A gateway's calls, kept as the rulebook has it, over connections that break at any frame."""

    def __init__(self, hours: Hours, seed: int, hung_up: Callable[[str], bool]) -> None:
        self._hung_up = hung_up
        self.random = random.Random(seed)
        self.away = False
        """Whether it breaks off whatever it hears, so that nobody can be told anything."""
        self.answered_at: dict[str, int] = {}
        self.ended_at: dict[str, int] = {}
        self.unvouched: set[str] = set()
        """Calls of which something was said before they were resumed on that connection (R12)."""
        self.seen: set[str] = set()
        self._hours = hours
        self._owner: dict[str, int] = {}
        self._connection = 0

    async def serve(self, device: Device) -> None:
        self._connection += 1
        connection = self._connection
        while True:
            frame = await device.hear()
            if self._break(device, "before"):
                return
            answer = self._answer(connection, frame)
            if self._break(device, "after"):
                return
            await answer(device, frame)

    def _break(self, device: Device, when: str) -> bool:
        if not self.away and self.random.random() > 0.15:
            return False
        self.seen.add(f"broken {when}")
        device.vanish()
        self._hours.pass_by(self.random.choice([0, 1, 9]))
        if self.random.random() < 0.15:
            self.seen.add("forgotten")
            self._owner.clear()  # all that was in progress, and what is settled is in the database
        return True

    def _answer(self, connection: int, frame: dict[str, Any]) -> Callable[..., Coroutine[Any, Any, None]]:
        call_id, kind = frame["call_id"], frame["type"]
        now_ms = self._hours.elapsed_ms

        def fail(code: str) -> Callable[..., Coroutine[Any, Any, None]]:
            self.seen.add(f"{kind}: {code}")
            return lambda device, frame: device.fail(frame, code)

        if self.random.random() < 0.1:
            return fail("engine_unavailable")
        known = call_id in self._owner
        match kind:
            case "call.start" if call_id in self.ended_at:
                return fail("call_id_used")
            case "call.start":
                self._owner[call_id] = connection
                return Device.admit
            case "call.resume" if call_id in self.ended_at:
                return fail("call_id_used")
            case "call.resume" if not known and not frame.get("receipt"):
                return fail("call_unknown")
            case "call.resume":
                self.seen.add("resumed" if known else "made again")
                self._owner[call_id] = connection
                return Device.resume
            case "call.answered" if call_id in self.ended_at:
                return Device.note
            case "call.answered" if known:
                if self._owner[call_id] != connection and not self._hung_up(call_id):
                    self.unvouched.add(call_id)
                self.answered_at.setdefault(call_id, now_ms - frame["answered_ago_ms"])
                return Device.note
            case "call.end" if call_id in self.ended_at:
                self.seen.add("ended twice")
                return Device.settle
            case "call.end" if known:
                del self._owner[call_id]
                self.ended_at[call_id] = now_ms - frame["ended_ago_ms"]
                return Device.settle
        return fail("call_unknown")


class Program:
    """Makes calls, in several runs; what it knows of them itself is in `answered_at` and `ended_at`."""

    def __init__(self, url: str, path: Path, hours: Hours, seed: int) -> None:
        self._random = random.Random(f"program {seed}")
        self._url = url
        self._path = path
        self._hours = hours
        self.answered_at: dict[str, int] = {}
        self.ended_at: dict[str, int] = {}
        self._up: dict[str, int] = {}

    async def run(self, number: int, leave: Callable[[], None]) -> None:
        phone = Softphone(
            self._url,
            "token",
            still_up=lambda _: True,
            keep_in=self._path,
            hang_up_on_exit=False,
            timing=TIMING,
            clock=self._hours.clock,
        )
        async with asyncio.timeout(20), phone:
            calls = [self._go_on(call) for call in phone.left_over]
            calls += [self._place(phone, f"c-{number}-{each}") for each in range(CALLS // RUNS)]
            tasks = [asyncio.create_task(each) for each in calls]
            if number == RUNS:
                await asyncio.gather(*tasks)
                await wait_until(lambda: not phone.calls, timeout=15)
                return
            # How far calls have come by then is also a matter of how fast the machine is.
            for _ in range(self._random.randrange(self._random.choice([100, 1000]))):
                await asyncio.sleep(0)
            leave()
            for _ in range(self._random.randrange(200)):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _place(self, phone: Softphone, call_id: str) -> None:
        await self._go_on(await phone.start("+14155550100", call_id=call_id))

    async def _go_on(self, call: Call) -> None:
        for step in range(self._up.get(call.call_id, 0), 2):
            for _ in range(self._random.randrange(30)):
                await asyncio.sleep(0)
            self._up[call.call_id] = step + 1
            now_ms = self._hours.elapsed_ms
            if step == 0:
                self.answered_at[call.call_id] = now_ms
                call.answered()
            else:
                self.ended_at[call.call_id] = now_ms
                call.end()


async def _serve(books: Books, device: Device) -> None:
    with contextlib.suppress(ConnectionClosed, TimeoutError):
        await books.serve(device)


async def _play(scripted: ScriptedGateway, path: Path, seed: int) -> set[str]:
    """Play a history and compare the books; return which rare things happened in it."""
    hours = Hours()
    program = Program(scripted.url, path, hours, seed)
    books = Books(hours, seed, lambda call_id: call_id in program.ended_at)

    async def gateway() -> None:
        async with asyncio.TaskGroup() as connections:
            while True:
                with contextlib.suppress(TimeoutError):
                    connections.create_task(_serve(books, await scripted.connection()))

    serving = asyncio.create_task(gateway())
    for number in range(1, RUNS + 1):
        try:
            await program.run(number, lambda: setattr(books, "away", books.random.random() < 0.5))
        except EndsUndelivered as untold:
            if program.ended_at.keys() & set(untold.call_ids):
                books.seen.add("left untold")
        hours.pass_by(5)
        books.away = False
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    ended_at = {call_id: books.ended_at.get(call_id) for call_id in program.ended_at}
    assert ended_at == program.ended_at, f"seed {seed}"
    assert books.answered_at == program.answered_at, f"seed {seed}"
    assert not books.unvouched, f"seed {seed}"
    return books.seen


async def test_books_agree(scripted: ScriptedGateway, tmp_path: Path) -> None:
    """`CALLGATE_HISTORIES=1000` plays so many, `CALLGATE_SEED=7` from there on; a failure names its seed."""
    first = int(os.environ.get("CALLGATE_SEED", "0"))
    enough = first + int(os.environ.get("CALLGATE_HISTORIES", "20"))
    seen: set[str] = set()
    seed = first
    # On until all has happened that this is for.
    while seed < enough or (RARE - seen and seed < enough + 200):
        seen |= await _play(scripted, tmp_path / f"{seed}.jsonl", seed)
        seed += 1
    assert seen >= RARE
