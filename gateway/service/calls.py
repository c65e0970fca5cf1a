"""What is asked of calls, and what becomes of it when the pool does not know the call, or cannot be asked.

The pool is asked first. What it has forgotten or lost is found in SQL or in a receipt (R15, R17, R28); while
the engine is away, emergency calls pass and are journalled (R30), others if the deployment says so, and
answers and ends are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, Final

import structlog

from gateway.domain.admission import RefusalReason
from gateway.domain.answers import Answer, Refused, settled_before
from gateway.domain.asks import Answered, Ask, Asker, End, Resume, Start
from gateway.domain.calls import CallInProgress, CallRecord, call_meant
from gateway.domain.errors import (
    CallgateError,
    CallIdUsed,
    CallUnknown,
    DatabaseUnavailable,
    EngineFull,
    EngineUnavailable,
    NotFound,
)
from gateway.domain.leases import Renewed
from gateway.pool.leases import Vouching
from gateway.pool.live_pool import LivePool
from gateway.pool.operations import Done, answer_to
from gateway.pool.unreadable import PoolUnreadable
from gateway.records.store import Records
from gateway.service.journal import CycleStart, Journal
from gateway.service.kept_ends import KeptEnds

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

EMERGENCY_SECONDS: Final = 0.28
"""Within this an emergency call is answered, whatever is down (R30): the disk has what is left of it."""

ANSWER_SECONDS: Final = 1.95
"""Within this an answer or an end is answered while the engine is away, also where the disk hangs."""
DISK_SECONDS: Final = 0.1
"""What the disk has of it at least: the engine has been waited for before."""
WRITE_SECONDS: Final = 1.0
"""What the disk has to write what only it can answer for, once the engine has been waited for."""

LOOK_UP_SECONDS: Final = 2.0
"""So long SQL is asked for a call that the engine does not know: it may be SQLite on a disk that hangs."""

_NOT_ASKED: Final = (EngineUnavailable, DatabaseUnavailable)
_REFUSED_BY_THE_ENGINE: Final = (EngineFull, PoolUnreadable)
"""The engine is there. One that is full would take a call that was let through as soon as it is told of it,
so that the next passes as well: no limit would hold."""


class Calls:
    """Calls, as the API asks for them."""

    def __init__(
        self,
        pool: LivePool,
        records: Records,
        journal: Journal,
        cycle_start_ms: CycleStart,
        *,
        admits_offline: bool,
    ) -> None:
        self.journal = journal
        self.kept_ends = KeptEnds(self.ask)
        self._pool = pool
        self._records = records
        self._cycle_start_ms = cycle_start_ms
        self._admits_offline = admits_offline
        self._looking_up: set[asyncio.Task[None]] = set()

    def submit(self, ask: Ask, done: Done) -> None:
        """Ask; returns at once. `done` is called once, on this loop; asks of an account keep their order."""
        if isinstance(ask, Start):
            self._pool.submit(ask, partial(self._decided, ask, done, monotonic()))
        elif isinstance(ask, Resume):
            self._pool.submit(replace(ask, found=None), partial(self._resumed, ask, done))
        elif isinstance(ask, Answered | End):
            if self.journal.holds(ask.account, ask.call_id):
                self._look_up(ask, done, self._note_in_journal(ask, done, monotonic()))
            else:
                self._tell_answer_first(ask)
                self._pool.submit(ask, partial(self._remembered, ask, done, monotonic()))
        else:
            self._pool.submit(ask, done)

    async def ask(self, ask: Ask) -> Answer:
        """Ask and wait for the answer."""
        return await answer_to(ask, self.submit)

    async def keepalive(
        self,
        account: str,
        device: Asker | None,
        call_ids: Sequence[str],
        receipts: Mapping[str, CallInProgress],
    ) -> list[str]:
        """Vouch for calls (R12, R15); return those that are not in progress.

        Raises EngineUnavailable, also where one of them is damaged: the others were vouched for.
        """
        vouchings = [Vouching(account, call_id, 0, 0, device=device) for call_id in call_ids]
        standings = await self._pool.renew(vouchings)
        if Renewed.UNDECIDED in standings:
            raise EngineUnavailable
        gone: list[str] = []
        returning: list[str] = []
        for call_id, standing in zip(call_ids, standings, strict=True):
            if standing is Renewed.ENDED:
                gone.append(call_id)
            elif standing not in (Renewed.RENEWED, Renewed.UNREADABLE):
                returning.append(call_id)
        # What the engine has lost is known by its receipt, and to the gateway that admitted it.
        known = [receipts.get(each) or self._pool.known_call(account, each) for each in returning]
        found = await asyncio.gather(
            *(
                self._returns(Resume(account, call_id, device, 0, call))
                for call_id, call in zip(returning, known, strict=True)
            )
        )
        if Renewed.UNREADABLE in standings:
            raise PoolUnreadable
        left = {call_id for call_id, is_back in zip(returning, found, strict=True) if not is_back}
        return [call_id for call_id in call_ids if call_id in left or call_id in gone]

    async def _returns(self, ask: Resume) -> bool:
        try:
            await self.ask(ask)
        except _NOT_ASKED:
            raise
        except CallgateError:
            return False
        return True

    # Starts

    def _decided(self, ask: Start, done: Done, asked_at: float, answer: Answer | CallgateError) -> None:
        if isinstance(answer, _NOT_ASKED) and ask.emergency:
            self._look_up(ask, done, self._admit_emergency(ask, done, asked_at + EMERGENCY_SECONDS))
        elif self._admits_offline and _is_away(answer):
            self._look_up(ask, done, self._admit_offline(ask, done))
        else:
            done(answer)

    async def _admit_emergency(self, ask: Start, done: Done, until: float) -> None:
        done(await self.journal.admit_emergency(ask, until))

    async def _admit_offline(self, ask: Start, done: Done) -> None:
        """Let a call through unchecked, if it can be kept safely and the device has not too many of them."""
        if not ask.destination_valid:
            done(Refused(ask.call_id, RefusalReason.DESTINATION_INVALID, 0))
            return
        admitting = self.journal.admit(ask, monotonic() + WRITE_SECONDS)
        done(await _written(ask, admitting, "call.not_written"))

    # Calls that come back

    def _resumed(self, ask: Resume, done: Done, answer: Answer | CallgateError) -> None:
        is_unheard = isinstance(answer, (CallUnknown, EngineUnavailable))
        # An end may have come of a call that the engine has lost: then the id is taken, by nothing.
        is_lost = isinstance(answer, CallIdUsed) and ask.found is not None
        if is_unheard and self.journal.holds(ask.account, ask.call_id):
            done(self.journal.resume(ask))  # the engine is about to be told of it
        elif is_lost or isinstance(answer, CallUnknown):
            self._look_up(ask, done, self._resume_unknown(ask, done))
        else:
            done(answer)

    async def _resume_unknown(self, ask: Resume, done: Done) -> None:
        """The pool does not know the call: SQL may, and if it does not, its receipt or its gateway does."""
        try:
            found = call_meant(await self._find_call(ask), ask.found)
            if isinstance(found, CallInProgress) and found is ask.found and not found.cycle_start_ms:
                found = await self._with_cycle(found)
        except CallgateError as error:
            done(error)
            return
        if found is None or ask.device not in (None, (found.staff, found.device)):
            done(CallUnknown())
        else:
            self._pool.submit(replace(ask, found=found), done)

    async def _with_cycle(self, call: CallInProgress) -> CallInProgress:
        """R20: whoever admitted a call without the engine did not know its cycle, nor does its receipt."""
        try:
            cycle_start_ms = await self._cycle_start_ms(call.account, call.admitted_at_ms)
        except NotFound:
            return call  # an emergency of an account that there is not
        return replace(call, cycle_start_ms=cycle_start_ms)

    # Answers and ends

    def _tell_answer_first(self, ask: Answered | End) -> None:
        """The first answer stands (R3), also if it is still to be delivered; an end would bill without it."""
        answered = self.kept_ends.answered(ask.account, ask.call_id)
        if answered is not None:
            self._pool.submit(answered, _ignore)

    def _remembered(
        self, ask: Answered | End, done: Done, asked_at: float, answer: Answer | CallgateError
    ) -> None:
        if isinstance(answer, (CallUnknown, *_NOT_ASKED)):
            self._look_up(ask, done, self._recall(ask, done, asked_at, answer))
        else:
            done(answer)

    async def _recall(
        self, ask: Answered | End, done: Done, asked_at: float, answer: Answer | CallgateError
    ) -> None:
        """What the engine does not know may be a call of another worker's journal, in SQL, or lost."""
        is_in_journal = await self._is_in_journal(ask, asked_at)
        if is_in_journal:
            done(await self._noted(ask, asked_at, monotonic() + WRITE_SECONDS))
            return
        if isinstance(answer, CallUnknown):
            answer = await self._tell_unknown(ask, asked_at)
        if is_in_journal is None and isinstance(answer, CallUnknown):
            # Where the data directory can't be looked into, a call that nobody knows may be in it.
            answer = EngineUnavailable()
        if isinstance(answer, _NOT_ASKED):
            self.kept_ends.keep(ask, asked_at)
        done(answer)

    async def _is_in_journal(self, ask: Answered | End, asked_at: float) -> bool | None:
        """None: the data directory can't be looked into, and this process does not hold the call."""
        try:
            return await self.journal.recall(ask.account, ask.call_id, _until(asked_at))
        except OSError as failure:
            log.warning("journal.not_read", account=ask.account, call_id=ask.call_id, error=str(failure))
            return self.journal.holds(ask.account, ask.call_id) or None

    async def _note_in_journal(self, ask: Answered | End, done: Done, asked_at: float) -> None:
        if await self._is_in_journal(ask, asked_at):
            done(await self._noted(ask, asked_at, _until(asked_at)))
        else:
            # The engine has just been told of it.
            self._pool.submit(self._pool.as_of_now(ask, asked_at), done)

    async def _noted(self, ask: Answered | End, asked_at: float, until: float) -> Answer | CallgateError:
        noting = self.journal.note(self._pool.as_of_now(ask, asked_at), until)
        return await _written(ask, noting, "journal.not_written")

    async def _tell_unknown(self, ask: Answered | End, asked_at: float) -> Answer | CallgateError:
        """Tell it of a call that SQL knows, or that this gateway knew to be in progress."""
        try:
            known = self._pool.known_call(ask.account, ask.call_id)
            found = call_meant(await self._find_call(ask), known)
            if found is None or ask.device not in (None, (found.staff, found.device)):
                return CallUnknown()
            if isinstance(found, CallInProgress):
                # The engine has lost it (R28), perhaps after it had come back late (R15).
                again = Resume(ask.account, ask.call_id, ask.device, ask.connection, found, vouched=False)
                with suppress(CallIdUsed):  # it has ended, as the engine has been told since
                    await self._pool.ask(again)
                self._tell_answer_first(ask)
                return await self._pool.ask(self._pool.as_of_now(ask, asked_at))
            if isinstance(ask, Answered):
                return CallUnknown()
            if found.ended_by == "hangup":
                return await self._settled_before(found)
            return await self._pool.ask(self._pool.as_of_now(replace(ask, found=found), asked_at))
        except CallgateError as error:
            return error

    async def _find_call(self, ask: Ask) -> CallRecord | CallInProgress | None:
        """What SQL has of the call. Raises DatabaseUnavailable, also where SQL does not answer in time."""
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                return await self._records.calls.find_call(ask.account, ask.call_id)
        except TimeoutError:
            raise DatabaseUnavailable from None

    async def _settled_before(self, record: CallRecord) -> Answer:
        views = await self._pool.read_many([record.account])
        remaining = views[record.account].remaining_seconds if record.account in views else 0
        return settled_before(record, remaining)

    def _look_up(self, ask: Ask, done: Done, work: Coroutine[Any, Any, None]) -> None:
        """Have the work done that answers an ask; should it break, the client is to ask again."""
        task = asyncio.get_running_loop().create_task(work)
        self._looking_up.add(task)
        task.add_done_callback(partial(self._looked_up, ask, done))

    def _looked_up(self, ask: Ask, done: Done, task: asyncio.Task[None]) -> None:
        self._looking_up.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            log.error("call.broken", account=ask.account, call_id=ask.call_id, exc_info=fault)
            done(EngineUnavailable("Something went wrong in the gateway; try again with the same call_id."))


def _ignore(_: Answer | CallgateError) -> None:
    pass


def _is_away(answer: Answer | CallgateError) -> bool:
    return isinstance(answer, EngineUnavailable) and not isinstance(answer, _REFUSED_BY_THE_ENGINE)


def _until(asked_at: float) -> float:
    """How long the disk is waited for, on behalf of what was asked then (`monotonic`)."""
    return max(asked_at + ANSWER_SECONDS, monotonic() + DISK_SECONDS)


async def _written(ask: Ask, answering: Awaitable[Answer], if_not: str) -> Answer | CallgateError:
    """What the journal answers; where it cannot be written, which is logged as `if_not`, ask again later."""
    try:
        return await answering
    except CallgateError as error:
        return error
    except OSError as failure:
        log.exception(if_not, account=ask.account, call_id=ask.call_id, error=str(failure))
        return EngineUnavailable()
