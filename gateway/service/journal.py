"""Calls that were let through without the engine: kept in the data directory, and told to it when it is back.

Emergency calls (R30) always are, others where the deployment says so (`when_engine_down`).

Each process has a journal of its own. A journal left behind by a process that died is taken over by another
of the same data directory, and a call that one worker has admitted can be ended at another, which copies what
was written of it. Telling twice is telling once: the engine knows such a call by its id and the instant it
was admitted at.

What is to be told is what stands in memory; the file (`journal_files`) is what outlives the process. So a
disk that is full or broken keeps nothing from being told, and what it does not take now is tried again.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal, NoReturn, TypeVar

import structlog

from gateway import metrics, turns
from gateway.domain.answers import Admitted, Answer, Noted, Resumed, Settled
from gateway.domain.asks import Answered, Ask, End, Resume, Start
from gateway.domain.calls import CallInProgress
from gateway.domain.errors import CallgateError, CallUnknown, DatabaseUnavailable, EngineUnavailable, NotFound
from gateway.service.journal_files import Entry, JournalFiles, LeftBehind, TornError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0
"""A folder that takes longer to be looked into holds up no answer any more."""
AT_ONCE: Final = 50
"""Calls of which the engine is told at once. Where it hears of none of so many, the others wait."""
OFFLINE_A_DEVICE: Final = 2
"""Calls of one device that may be in progress let through without the engine: they are counted by nobody."""

_T = TypeVar("_T")

AskPool = Callable[[Ask], Awaitable[Answer]]
CycleStart = Callable[[str, int], Awaitable[int]]
"""Where the cycle of an account began that holds an instant. Raises NotFound, DatabaseUnavailable."""


class Journal:
    """The calls that this process admitted without the engine and has not told it of yet."""

    def __init__(
        self, data_dir: Path, ask: AskPool, now_ms: Callable[[], int], cycle_start_ms: CycleStart
    ) -> None:
        self._files = JournalFiles(data_dir)
        self._ask = ask
        self._now_ms = now_ms
        self._cycle_start_ms = cycle_start_ms
        self._calls: dict[tuple[str, str], list[Entry]] = {}
        # When calls were last heard of whose connection is gone (billing time).
        self._heard_ms: dict[tuple[str, str], int] = {}
        # What is in no file of this process yet, by a number that nothing else has had.
        self._unwritten: dict[int, Entry] = {}
        self._numbers = itertools.count()
        # The file has what was told meanwhile, or a torn line.
        self._is_outdated = False
        # Journals of processes that are gone, which hold what this one has not written down yet.
        self._adopted: list[LeftBehind] = []
        self._writing = asyncio.Lock()
        self._recalling = asyncio.Lock()
        # Names of hosts are looked up by the same few threads: a folder that hangs must not have them all.
        self._recalling_for_emergencies = asyncio.Semaphore(2)
        # Calls that are not admitted before they are written down.
        self._admitting: set[tuple[str, str]] = set()
        self._at_work: set[asyncio.Task[Any]] = set()
        self._saving: asyncio.Task[None] | None = None
        # Calls of which the engine could not be told, and in which order that was.
        self._failed: dict[tuple[str, str], int] = {}
        self._waiting = asyncio.Event()

    def __len__(self) -> int:
        return len(self._calls)

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
        self._heard_ms.pop((ask.account, ask.call_id), None)
        return Resumed(_call(start, 0), late=False)

    def lost(self, account: str, call_ids: Iterable[str], heard_ago_ms: int) -> None:
        """Hear that nobody vouches for calls any more, and how long ago their device was last heard of.

        By that a call of the journal is settled, should it never come back (R14).
        """
        heard_ms = self._now_ms() - heard_ago_ms
        self._heard_ms |= {(account, each): heard_ms for each in call_ids if self.holds(account, each)}

    async def admit(self, ask: Start, until: float = math.inf) -> Admitted:
        """Let a call through that is no emergency, and return once it is safely written down.

        Raises OSError if it can't be, not until then (`monotonic`) either, and EngineUnavailable if its
        device has too many of them.
        """
        await self.recall(ask.account, ask.call_id, until)
        known = self._calls.get((ask.account, ask.call_id))
        if known is not None:
            if (ask.account, ask.call_id) in self._admitting:
                raise EngineUnavailable  # asked twice at once: how the first ends nobody knows yet
            return _admitted(ask, known[0], replayed=True)
        if self.count_in_progress(ask.account, ask.staff, ask.device) >= OFFLINE_A_DEVICE:
            raise EngineUnavailable
        entry = self._start_of(ask)
        number = self._note(entry)
        self._admitting.add((ask.account, ask.call_id))
        try:
            await self._write(number, until)
        except BaseException:
            # Nobody is told that it was admitted, so it was not; it may be written all the same, by a disk
            # that goes on, or along with another's.
            self._calls.pop((ask.account, ask.call_id), None)
            self._unwritten.pop(number, None)
            self._is_outdated = True
            metrics.EMERGENCY_JOURNAL.set(len(self._calls))
            raise
        finally:
            self._admitting.discard((ask.account, ask.call_id))
        return _admitted(ask, entry, replayed=False)

    async def admit_emergency(self, ask: Start, until: float) -> Admitted:
        """Admit an emergency call, and return once it is safely written down, or can't be (R30).

        Never later than `until` (`monotonic`): a disk may hang for seconds. Writing goes on, and the engine
        is told of it in any case, if this process lives to see it back.
        """
        await self._is_done_by(until, self._recall_for_emergency(ask, until))
        known = self._calls.get((ask.account, ask.call_id))
        if known is not None:
            return _admitted(ask, known[0], replayed=True)
        entry = self._start_of(ask)
        number = self._note(entry)
        if not await self._is_done_by(until, self._write_emergency(ask, number)):
            log.warning("emergency.not_written_yet", account=ask.account, call_id=ask.call_id)
        return _admitted(ask, entry, replayed=False)

    async def note(self, ask: Answered | End, until: float = math.inf) -> Noted | Settled:
        """Write down an answer or an end of a call that the journal holds.

        Raises CallUnknown, OSError if it could not be written down until then (`monotonic`; it is told to the
        engine all the same, if this process lives), and EngineUnavailable for an end of a call that bills
        something: what it comes to is known when the engine has been told of it.
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
            await self._write(self._note(Entry(what, ask.account, ask.call_id, at_ms)), until)
        elif told in self._unwritten.values():
            await self._save_unless(lambda: self._is_saved, until)
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

    async def recall(self, account: str, call_id: str, until: float = math.inf) -> bool:
        """Tell whether this journal holds a call;

        what others' have of it beyond that is copied. Raises OSError, also where a disk that hangs keeps it
        from being known until then (`monotonic`), or for `LOOK_SECONDS`: `holds` tells what is known.
        """
        until = min(until, monotonic() + LOOK_SECONDS)
        # One at a time, in the order of the asks (R6), and so that an emergency finds a thread that is free.
        async with asyncio.timeout(max(0.0, until - monotonic())):
            await self._recalling.acquire()
        recalling = self._begin(self._recall(account, call_id))
        # Not before its thread has come back.
        recalling.add_done_callback(lambda _: self._recalling.release())
        await self._result(recalling, until)
        return self.holds(account, call_id)

    async def _recall(self, account: str, call_id: str) -> None:
        # A disk that hangs may hold up even whoever looks into a folder.
        found = await asyncio.to_thread(self._files.find_elsewhere, account, call_id)
        numbers = self._take_in(found)
        if numbers:
            await self._write(numbers[-1])

    async def adopt(self) -> None:
        """Go on from the journals of processes of this data directory that are gone.

        Where they can't be copied they stay, and hold what is to be told until it can be, or was told.
        """
        for left_behind in await asyncio.to_thread(self._files.find_left_behind):
            self._take_in(left_behind.entries)
            self._adopted.append(left_behind)
        await self._try_to_save()

    async def run(self) -> NoReturn:
        """Tell the engine of what the journal has, as soon as it can be asked, until cancelled."""
        while True:
            if not self._calls and self._is_saved and not self._writing.locked():
                self._waiting.clear()
                await turns.wait("journal", self._waiting)
            await self.tell()
            if self._calls or not self._is_saved:
                await asyncio.sleep(RETRY_SECONDS)

    async def tell(self) -> None:
        """Tell the engine of what the journal has, emergencies first; what it can't be told now stays.

        A shard of a Cluster may be away: what fails comes last in the next round. A disk that hangs is waited
        for no longer than until that.
        """
        keys = sorted(self._calls, key=lambda key: (self._failed.get(key, -1), self._calls[key][0].offline))
        failed: dict[str, list[tuple[str, str]]] = {}
        for first in range(0, len(keys), AT_ONCE):
            together = keys[first : first + AT_ONCE]
            codes = await asyncio.gather(*(self._tell(key) for key in together))
            failed_at = next(self._numbers)
            for key, code in zip(together, codes, strict=True):
                if code is None:
                    self._failed.pop(key, None)
                else:
                    self._failed[key] = failed_at
                    failed.setdefault(code, []).append(key)
            if None not in codes:
                break
        for code, in_vain in failed.items():
            # Not a line for each: an outage may have many calls, and has a round every second or two.
            account, call_id = in_vain[0]
            log.warning(
                "journal.not_told_yet",
                calls=len(in_vain),
                waiting=len(self._calls),
                code=code,
                account=account,
                call_id=call_id,
            )
        if self._saving is None or self._saving.done():
            self._saving = self._begin(self._try_to_save())
        await asyncio.wait({self._saving}, timeout=RETRY_SECONDS)

    async def save(self) -> None:
        """Write down what is to be told, and let go of what was. Raises OSError."""
        await self._save_unless(lambda: self._is_saved)

    async def _tell(self, key: tuple[str, str]) -> str | None:
        """Tell of a call; answer the code of what keeps it from being told, None if nothing does.

        Of one that is not admitted yet there is nothing to tell.
        """
        told = 0
        call_id = key[1]
        entries = self._calls.get(key, [])
        if not entries or key in self._admitting:
            return None
        start = entries[0]
        try:
            while told < len(entries):
                call_id = await self._tell_one(entries[told], start, call_id)
                told += 1
        except (EngineUnavailable, DatabaseUnavailable) as failure:
            return failure.code
        del self._calls[key]
        self._heard_ms.pop(key, None)
        self._unwritten = {
            number: entry
            for number, entry in self._unwritten.items()
            if (entry.account, entry.call_id) != key
        }
        self._is_outdated = True
        metrics.EMERGENCY_JOURNAL.set(len(self._calls))
        log.info("journal.told", account=key[0], call_id=call_id)
        return None

    async def _tell_one(self, entry: Entry, start: Entry, call_id: str) -> str:
        """Tell of one thing that happened to a call, and return the id that the call goes by."""
        try:
            return (await self._ask(await self._ask_of(entry, start, call_id))).call_id
        except (EngineUnavailable, DatabaseUnavailable):
            raise
        except CallgateError as refusal:
            # It was told of already by another worker, in another order; asking again would change nothing.
            log.warning(
                "journal.refused",
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
            heard_ms = self._heard_ms.get((start.account, call_id), 0)
            return Resume(start.account, call_id, None, 0, call, vouched=False, alive_at_ms=heard_ms)
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

    def _start_of(self, ask: Start) -> Entry:
        return Entry(
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

    def _note(self, entry: Entry) -> int:
        """Have something told to the engine, and answer the number under which it is to be written down."""
        number = next(self._numbers)
        self._unwritten[number] = entry
        self._calls.setdefault((entry.account, entry.call_id), []).append(entry)
        metrics.EMERGENCY_JOURNAL.set(len(self._calls))
        self._waiting.set()
        return number

    def _take_in(self, entries: Iterable[Entry]) -> list[int]:
        """Note what is not known yet of what another journal has."""
        return [
            self._note(entry)
            for entry in entries
            if entry.what not in {known.what for known in self._calls.get((entry.account, entry.call_id), ())}
        ]

    async def _recall_for_emergency(self, ask: Start, until: float) -> None:
        try:
            async with self._recalling_for_emergencies:
                if monotonic() < until:
                    await self._recall(ask.account, ask.call_id)
        except Exception as failure:
            # Whatever it is, somebody needs help.
            log.exception("journal.not_read", account=ask.account, call_id=ask.call_id, error=str(failure))

    async def _write_emergency(self, ask: Start, number: int) -> None:
        try:
            await self._write(number)
        except Exception as failure:
            # Admitted all the same: a record is not worth a life.
            log.exception(
                "emergency.not_written", account=ask.account, call_id=ask.call_id, error=str(failure)
            )

    def _begin(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Begin something that no caller who goes can stop: a thread cannot be cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        return task

    async def _result(self, task: asyncio.Task[_T], until: float) -> _T:
        """Wait for something that was begun. Raises TimeoutError at that instant; it goes on."""
        await asyncio.wait({task}, timeout=max(0.0, until - monotonic()))
        if not task.done():
            task.add_done_callback(_failed_late)
            raise TimeoutError("The disk has not answered in time.")
        return task.result()

    async def _is_done_by(self, until: float, work: Coroutine[Any, Any, None]) -> bool:
        """Do it, and answer whether it is done at that instant; it goes on otherwise."""
        try:
            await self._result(self._begin(work), until)
        except TimeoutError:
            return False
        return True

    async def _write(self, number: int, until: float = math.inf) -> None:
        """Return once what was noted under that number is written down, or told. Raises OSError."""
        # It may have gone with what others had to write.
        await self._save_unless(lambda: number not in self._unwritten, until)

    async def _save_unless(self, is_done: Callable[[], bool], until: float = math.inf) -> None:
        # No other may begin before the thread has ended, whoever waits for it.
        await self._result(self._begin(self._save_in_turn(is_done)), until)

    async def _save_in_turn(self, is_done: Callable[[], bool]) -> None:
        async with self._writing:
            if not is_done():
                await self._save()

    async def _try_to_save(self) -> None:
        try:
            await self.save()
        except OSError as failure:
            log.warning("journal.not_written", error=str(failure), calls=len(self._calls))
        except Exception as failure:
            # Whatever it is: with this process would go what it has not written down.
            log.exception("journal.not_written", error=str(failure), calls=len(self._calls))

    @property
    def _is_saved(self) -> bool:
        return not (self._unwritten or self._is_outdated or self._adopted)

    async def _save(self) -> None:
        """Make the files say what memory does, as it is now; hold `_writing`. Raises OSError."""
        unwritten = dict(self._unwritten)
        everything = [entry for entries in self._calls.values() for entry in entries]
        is_outdated, self._is_outdated = self._is_outdated, False
        try:
            if is_outdated:
                await asyncio.to_thread(self._files.rewrite, everything)
            elif unwritten:
                await asyncio.to_thread(self._files.append, list(unwritten.values()))
        except TornError:
            self._is_outdated = True
            raise
        except BaseException:
            self._is_outdated |= is_outdated
            raise
        for number in unwritten:
            self._unwritten.pop(number, None)
        adopted, self._adopted = self._adopted, []
        for left_behind in adopted:
            try:
                await asyncio.to_thread(self._files.remove, left_behind)
            except OSError as failure:
                # Its calls are told again by whoever adopts it next, which changes nothing.
                log.warning("journal.not_removed", path=str(left_behind.path), error=str(failure))
                self._adopted.append(left_behind)


def _failed_late(task: asyncio.Task[Any]) -> None:
    failure = None if task.cancelled() else task.exception()
    if failure is not None:
        log.warning("journal.failed_late", error=str(failure))


def _admitted(ask: Start, entry: Entry, *, replayed: bool) -> Admitted:
    return Admitted(
        ask.call_id,
        entry.at_ms,
        None,
        replayed=replayed,
        emergency=ask.emergency,
        admitted_offline=not ask.emergency,
    )


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
