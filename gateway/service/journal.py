"""Calls that were let through without the engine: kept in the data directory, and told to it when it is back.

Emergency calls (R30) always are, others where the deployment says so (`when_engine_down`).

Each process has a journal of its own, a line for each thing that happened. A journal left behind by a process
that died is taken over by another of the same data directory, and a call that one worker has admitted can be
ended at another, which copies what was written of it. Telling twice is telling once: the engine knows such a
call by its id and the instant it was admitted at.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal, NoReturn

import msgspec
import structlog

from gateway import metrics, turns
from gateway.domain.answers import Admitted, Answer, Noted, Resumed, Settled
from gateway.domain.asks import Answered, Ask, End, Resume, Start
from gateway.domain.calls import CallInProgress
from gateway.domain.errors import CallgateError, CallUnknown, DatabaseUnavailable, EngineUnavailable, NotFound

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 1.0
FOLDER: Final = "emergencies"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened to a call; `at_ms` is billing time by this gateway's reckoning.

    `offline` tells a call that was let through unchecked from an emergency.
    """

    what: Literal["start", "answered", "end"]
    account: str
    call_id: str
    at_ms: int
    staff: str = ""
    device: str = ""
    to: str = ""
    channel: str | None = None
    fresh_call_id: str = ""
    offline: bool = False


_decoder: Final = msgspec.json.Decoder(Entry)

AskPool = Callable[[Ask], Awaitable[Answer]]
CycleStart = Callable[[str, int], Awaitable[int]]
"""Where the cycle of an account began that holds an instant. Raises NotFound, DatabaseUnavailable."""


class Journal:
    """The calls that this process admitted without the engine and has not told it of yet."""

    def __init__(
        self, data_dir: Path, ask: AskPool, now_ms: Callable[[], int], cycle_start_ms: CycleStart
    ) -> None:
        self._folder = data_dir / FOLDER
        self._ask = ask
        self._now_ms = now_ms
        self._cycle_start_ms = cycle_start_ms
        self._path = self._folder / f"{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        self._file: int | None = None
        self._calls: dict[tuple[str, str], list[Entry]] = {}
        self._writing = asyncio.Lock()
        self._waiting = asyncio.Event()

    def holds(self, account: str, call_id: str) -> bool:
        """Whether the journal has a call, so that what is said of it belongs here."""
        return (account, call_id) in self._calls

    def count_in_progress(self, account: str, staff: str, device: str) -> int:
        """How many calls of a device, emergencies aside, the journal has let through that have not ended."""
        return sum(
            entries[0].offline
            and (entries[0].account, entries[0].staff, entries[0].device) == (account, staff, device)
            and not any(entry.what == "end" for entry in entries)
            for entries in self._calls.values()
        )

    def resume(self, ask: Resume) -> Resumed | CallUnknown:
        """Answer a device that comes back to a call which the engine has not been told of yet."""
        start = self._calls[ask.account, ask.call_id][0]
        if ask.device not in (None, (start.staff, start.device)):
            return CallUnknown()
        return Resumed(_call(start, 0), late=False)

    async def admit(self, ask: Start) -> Admitted:
        """Admit a call, and return once it is safely written down.

        Raises OSError if it can't be.
        """
        await self.recall(ask.account, ask.call_id)
        known = self._calls.get((ask.account, ask.call_id))
        if known is None:
            entry = Entry(
                what="start",
                account=ask.account,
                call_id=ask.call_id,
                at_ms=self._now_ms(),
                staff=ask.staff,
                device=ask.device,
                to=ask.to,
                channel=ask.channel,
                fresh_call_id=ask.fresh_call_id,
                offline=not ask.emergency,
            )
            await self._write(entry)
        else:
            entry = known[0]
        return Admitted(
            ask.call_id,
            entry.at_ms,
            None,
            replayed=known is not None,
            emergency=ask.emergency,
            admitted_offline=not ask.emergency,
        )

    async def note(self, ask: Answered | End) -> Noted | Settled:
        """Write down an answer or an end of a call that the journal holds.

        Raises CallUnknown, OSError, and EngineUnavailable for an end of a call that bills something: what it
        comes to is known when the engine has been told of it.
        """
        entries = self._calls[ask.account, ask.call_id]
        start = entries[0]
        if ask.device is not None and ask.device != (start.staff, start.device):
            raise CallUnknown
        what: Literal["answered", "end"] = "end" if isinstance(ask, End) else "answered"
        ago_ms = ask.ended_ago_ms if isinstance(ask, End) else ask.answered_ago_ms
        told = next((entry for entry in entries if entry.what == what), None)
        at_ms = max(start.at_ms, self._now_ms() - ago_ms) if told is None else told.at_ms
        if told is None:
            noted = Entry(what=what, account=ask.account, call_id=ask.call_id, at_ms=at_ms)
            await self._write(noted, of=start)
        if what == "answered":
            return Noted(ask.call_id)
        if start.offline:
            raise EngineUnavailable
        return Settled(
            call_id=ask.call_id,
            duration_ms=at_ms - start.at_ms,
            billed_seconds=0,
            counted=False,
            ended_by="hangup",
            revision=1,
            replayed=told is not None,
            remaining_seconds=None,
            ended_at_ms=at_ms,
            admitted_at_ms=start.at_ms,
            emergency=True,
        )

    async def recall(self, account: str, call_id: str) -> bool:
        """Tell whether this journal holds a call;

        what others' have of it beyond that is copied. Raises OSError.
        """
        if self._journals_of_others():
            found = await asyncio.to_thread(self._find_elsewhere, account, call_id)
            have = {entry.what for entry in self._calls.get((account, call_id), ())}
            await self._write(*(entry for what, entry in found.items() if what not in have))
        return self.holds(account, call_id)

    async def adopt(self) -> None:
        """Go on from the journals of processes of this data directory that are gone."""
        await asyncio.to_thread(self._adopt)
        self._waiting.set()

    async def run(self) -> NoReturn:
        """Tell the engine of what the journal has, as soon as it can be asked, until cancelled."""
        while True:
            if not self._calls:
                self._waiting.clear()
                await turns.wait("journal", self._waiting)
            for key in list(self._calls):
                await self._tell(key)
            if self._calls:
                await asyncio.sleep(RETRY_SECONDS)

    async def _tell(self, key: tuple[str, str]) -> None:
        told = 0
        call_id = key[1]
        entries = self._calls[key]
        start = entries[0]
        try:
            while told < len(entries):
                call_id = await self._tell_one(entries[told], start, call_id)
                told += 1
        except (EngineUnavailable, DatabaseUnavailable) as failure:
            log.warning("emergency.not_told_yet", account=key[0], call_id=key[1], code=failure.code)
            return
        async with self._writing:
            if len(entries) > told:
                return
            del self._calls[key]
            metrics.EMERGENCY_JOURNAL.set(len(self._calls))
            await asyncio.to_thread(self._rewrite)
        log.info("emergency.told", account=key[0], call_id=call_id)

    async def _tell_one(self, entry: Entry, start: Entry, call_id: str) -> str:
        """Tell of one thing that happened to a call, and return the id that the call goes by."""
        try:
            return (await self._ask(await self._ask_of(entry, start, call_id))).call_id
        except (EngineUnavailable, DatabaseUnavailable):
            raise
        except CallgateError as refusal:
            # It was told of already by another worker, in another order; asking again would change nothing.
            log.warning(
                "emergency.refused",
                account=start.account,
                call_id=call_id,
                what=entry.what,
                code=refusal.code,
            )
            return call_id

    async def _ask_of(self, entry: Entry, start: Entry, call_id: str) -> Ask:
        ago_ms = max(0, self._now_ms() - entry.at_ms)
        if entry.what == "answered":
            return Answered(entry.account, call_id, None, ago_ms)
        if entry.what == "end":
            return End(entry.account, call_id, None, ago_ms)
        if start.offline:
            call = _call(start, await self._cycle_start_ms(start.account, start.at_ms))
            return Resume(start.account, call_id, None, 0, call, vouched=False)
        return Start(
            account=start.account,
            staff=start.staff,
            device=start.device,
            call_id=start.call_id,
            to=start.to,
            channel=start.channel,
            emergency=True,
            fresh_call_id=start.fresh_call_id,
            admitted_at_ms=start.at_ms,
            cycle_start_ms=await self._cycle_start_if_known(start),
        )

    async def _cycle_start_if_known(self, start: Entry) -> int | None:
        # An emergency waits for nothing, nor does it need an account (R30).
        try:
            return await self._cycle_start_ms(start.account, start.at_ms)
        except (DatabaseUnavailable, NotFound):
            return None

    async def _write(self, *entries: Entry, of: Entry | None = None) -> None:
        async with self._writing:
            if of is not None and not self.holds(of.account, of.call_id):
                entries = (of, *entries)  # all so far has just been told; its start is told again with this
            for entry in entries:
                await asyncio.to_thread(self._append, entry)
                self._calls.setdefault((entry.account, entry.call_id), []).append(entry)
            metrics.EMERGENCY_JOURNAL.set(len(self._calls))
        self._waiting.set()

    def _append(self, entry: Entry) -> None:
        if self._file is None:
            self._open()
        assert self._file is not None
        os.write(self._file, msgspec.json.encode(entry) + b"\n")
        os.fsync(self._file)

    def _open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _rewrite(self) -> None:
        """Leave only what is still to be told; nothing left, no file."""
        if self._file is None:
            return
        if not self._calls:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
            return
        lines = [msgspec.json.encode(entry) + b"\n" for entries in self._calls.values() for entry in entries]
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(file, b"".join(lines))
        os.fsync(file)
        fresh.rename(self._path)
        os.close(self._file)
        self._file = file

    def _journals_of_others(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.jsonl") if path != self._path)

    def _find_elsewhere(self, account: str, call_id: str) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for path in self._journals_of_others():
            try:
                entries = _entries(path.read_bytes())
            except FileNotFoundError:  # all of it has just been told
                continue
            for entry in entries:
                if (entry.account, entry.call_id) == (account, call_id):
                    found.setdefault(entry.what, entry)
        # What is left after its start was told is of no use.
        return {
            what: found[what] for what in ("start", "answered", "end") if what in found and "start" in found
        }

    def _adopt(self) -> None:
        """Take over journals of processes that are gone: theirs are not locked any more."""
        for path in self._journals_of_others():
            file = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                for entry in _entries(path.read_bytes()):
                    self._append(entry)
                    self._calls.setdefault((entry.account, entry.call_id), []).append(entry)
                path.unlink(missing_ok=True)
            finally:
                os.close(file)
        metrics.EMERGENCY_JOURNAL.set(len(self._calls))


def _call(start: Entry, cycle_start_ms: int) -> CallInProgress:
    return CallInProgress(
        account=start.account,
        call_id=start.call_id,
        staff=start.staff,
        device=start.device,
        channel=start.channel,
        to=start.to,
        admitted_at_ms=start.at_ms,
        answered_at_ms=None,
        cycle_start_ms=cycle_start_ms,
        emergency=not start.offline,
        counts=start.offline,
        admitted_offline=start.offline,
    )


def _entries(content: bytes) -> list[Entry]:
    """All whole lines: of the last one the process may have written only a part, and answered nobody."""
    entries = []
    for line in content.split(b"\n")[:-1]:
        try:
            entries.append(_decoder.decode(line))
        except msgspec.DecodeError as failure:
            # Without the others' records, and without a gateway, nobody would be better off.
            log.error("emergency.unreadable", error=str(failure))
    return entries
