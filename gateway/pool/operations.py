"""One ask on its way through a batch: its letter and arguments for the script, and its answer from the reply.

The letters, their arguments and the widths of their answers are those of lua/calls_decide.lua and
lua/lib/reply.lua.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from gateway import metrics
from gateway.domain.admission import RefusalReason
from gateway.domain.answers import Admitted, Answer, NotDue, Noted, Refused, Resumed, Settled
from gateway.domain.asks import Answered, Ask, Asker, End, Reap, Resume, Start
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.errors import CallgateError, CallUnknown, EngineUnavailable
from gateway.pool.codes import ERRORS, REFUSALS, Code
from gateway.pool.packed import ENDED_BY, pack_call, pack_record, unpack_call_in_progress, unpack_end
from gateway.pool.scripts import Argument

Done = Callable[[Answer | CallgateError], None]
"""Called on the event loop, once, with what became of an ask."""

Submit = Callable[[Ask, Done], None]
"""Has an ask carried out, and returns at once."""

Reply = list[Any]
"""Whole numbers, and the values of ended calls (bytes)."""

DEADLINE_SECONDS: Final = 1.8
"""How long an ask may wait for the engine before it is answered with `engine_unavailable`."""
EMERGENCY_DEADLINE_SECONDS: Final = 0.2
"""The same for an emergency call, which then passes without the engine (R30)."""
SHORT_WAIT_MS: Final = 50
"""So long an ask may have waited to be sent, and is still of now."""

ANSWER_WIDTHS: Final = {
    **dict.fromkeys("SCD", 4),
    **dict.fromkeys("EF", 5),
    **dict.fromkeys("XYPxyp", 3),
    **dict.fromkeys("Rr", 2),
    **dict.fromkeys("AaTt", 1),
}
_WITHOUT_POOL: Final = {"E": "F", "A": "a", "X": "x", "Y": "y", "R": "r", "P": "p", "T": "t"}

_admitted = metrics.ADMISSIONS.labels("admitted", "")
_replayed = metrics.ADMISSIONS.labels("replayed", "")
_refused = {reason: metrics.ADMISSIONS.labels("refused", reason.value) for reason in RefusalReason}
_settled = {ended_by: metrics.CALLS_SETTLED.labels(ended_by) for ended_by in ENDED_BY.values()}


async def answer_to(ask: Ask, submit: Submit) -> Answer:
    """Ask and wait for the answer. Raises CallgateError: what it is answered with."""
    future: asyncio.Future[Answer | CallgateError] = asyncio.get_running_loop().create_future()

    def done(answer: Answer | CallgateError) -> None:
        if not future.done():
            future.set_result(answer)

    submit(ask, done)
    answer = await future
    if isinstance(answer, CallgateError):
        raise answer
    return answer


def _device(staff: str, device: str) -> str:
    return f"{staff}/{device}|"


def device_prefix(device: Asker | None) -> str:
    """How a script is told who asks; '' is the administrator."""
    return "" if device is None else _device(*device)


def _packed(found: CallRecord | CallInProgress | None, *, lost: bool = False, alive_at_ms: int = 0) -> bytes:
    if found is None:
        return b""
    if isinstance(found, CallRecord):
        return pack_record(found)
    return pack_call(found, lost=lost, alive_at_ms=alive_at_ms)


class Operation:
    """An ask under way. `done` becomes None when it was answered, by the engine or for lack of it."""

    __slots__ = (
        "_asked_at",
        "account",
        "arguments",
        "ask",
        "calls",
        "deadline",
        "done",
        "letter",
        "members",
        "width",
    )

    def __init__(self, ask: Ask, done: Done, now: float) -> None:
        self.ask = ask
        self.account = ask.account
        self.done: Done | None = done
        self.deadline = now + DEADLINE_SECONDS
        self._asked_at = now
        # What goes to the script: the calls that this may read or write, the members that it names, and the
        # rest.
        self.calls: tuple[str, ...] = (f"{ask.account}/{ask.call_id}",)
        self.members: tuple[str, ...] = ()
        self.arguments: tuple[Argument, ...]
        if isinstance(ask, Start):
            payload = f"{_device(ask.staff, ask.device)}{ask.channel or ''}|{ask.to}"
            if ask.emergency:
                self.deadline = now + EMERGENCY_DEADLINE_SECONDS
                self.letter = "E"
                told = ["" if ms is None else str(ms) for ms in (ask.admitted_at_ms, ask.cycle_start_ms)]
                self.calls += (f"{ask.account}/{ask.fresh_call_id}",)
                self.arguments = (str(ask.connection), payload, *told)
            else:
                self.members = (f"s/{ask.staff}", f"c/{ask.channel}") if ask.channel else (f"s/{ask.staff}",)
                self.arguments = (str(ask.connection), payload, *self.members)
                self.letter = "C" if ask.channel else "S"
                if not ask.destination_valid:
                    self.letter = "D"
                    self.arguments += () if ask.channel else ("",)
        elif isinstance(ask, End):
            self.arguments = (str(ask.connection), device_prefix(ask.device), str(ask.answered_at_ms or 0))
            self.letter = "X"
            if ask.ended_ago_ms or ask.found:
                self.letter = "Y"
                self.arguments += (str(ask.ended_ago_ms), _packed(ask.found))
        elif isinstance(ask, Answered):
            self.letter = "A"
            self.arguments = (str(ask.connection), device_prefix(ask.device), str(ask.answered_ago_ms))
        elif isinstance(ask, Resume):
            self.letter = "R"
            found = _packed(ask.found, lost=not ask.vouched, alive_at_ms=ask.alive_at_ms)
            self.arguments = (str(ask.connection), device_prefix(ask.device), found, str(ask.epoch))
        elif isinstance(ask, Reap):
            self.letter, self.arguments = "P", ()
        else:
            saved = "1" if ask.saved else "0"
            self.calls += (f"{ask.account}/{ask.call_id}/{ask.record.admitted_at_ms}",)
            self.letter = "T"
            self.arguments = (pack_record(ask.record), saved, str(ask.billed_before), str(ask.epoch))
        self.width = ANSWER_WIDTHS[self.letter]

    def tell_answered(self, at_ms: int | None) -> None:
        """Let an end say when its call was answered: the engine may have lost that (R3)."""
        if at_ms is not None:
            self.arguments = (*self.arguments[:2], str(at_ms), *self.arguments[3:])

    def age(self, now: float) -> None:
        """Count how long it has waited as time that passed since what it tells of (R16)."""
        waited_ms = int((now - self._asked_at) * 1000)
        if waited_ms < SHORT_WAIT_MS:
            return
        if isinstance(self.ask, End):
            self.letter = "y" if self.letter.islower() else "Y"
            ago, found = str(self.ask.ended_ago_ms + waited_ms), _packed(self.ask.found)
            self.arguments = (*self.arguments[:3], ago, found)
        elif isinstance(self.ask, Answered):
            self.arguments = (*self.arguments[:2], str(self.ask.answered_ago_ms + waited_ms))

    def without_pool(self) -> bool:
        """The account is unknown to SQL: answer what that decides, or make this an operation without a pool.

        Emergencies are admitted all the same (R30), answered and ended. Tells whether there is something left
        to ask.
        """
        if self.letter in _WITHOUT_POOL:
            self.letter = _WITHOUT_POOL[self.letter]
            return True
        if self.letter in "SCD":
            self._answer(self._refusal(RefusalReason.ACCOUNT_UNKNOWN, 0))
        else:
            self.fail(CallUnknown())
        return False

    def deliver(self, reply: Reply, at: int) -> Answer | CallgateError:
        """Answer with what the script replied from `at` on, and return that."""
        answer = self._decode(reply, at)
        if self.done is not None:
            self._answer(answer)
        return answer

    def fail(self, error: CallgateError) -> None:
        """Answer with an error, if it was not answered before."""
        if self.done is not None:
            self._answer(error)

    def expire(self, now: float) -> None:
        """Answer that the engine did not reply in time, if that is so."""
        if self.done is not None and now >= self.deadline:
            self._answer(EngineUnavailable())

    def _answer(self, answer: Answer | CallgateError) -> None:
        done, self.done = self.done, None
        assert done is not None
        done(answer)

    def _decode(self, reply: Reply, at: int) -> Answer | CallgateError:
        ask, code = self.ask, reply[at]
        if code in ERRORS:
            return ERRORS[code]()
        if isinstance(ask, Start):
            return self._decode_start(ask, code, reply, at)
        if isinstance(ask, Resume):
            # Whether it counts is for whoever reads the pool: of a call that goes on nobody is told.
            call = unpack_call_in_progress(ask.account, ask.call_id, reply[at + 1], 0)
            return Resumed(call, late=code == Code.TAKEN_BACK)
        if code == Code.NOT_DUE:
            return NotDue(ask.call_id)
        if isinstance(ask, (End, Reap)):
            return self._decode_end(ask, code, reply, at)
        return Noted(ask.call_id)

    def _decode_start(self, ask: Start, code: int, reply: Reply, at: int) -> Admitted | Refused:
        if code in REFUSALS:
            return self._refusal(REFUSALS[code], reply[at + 2])
        replayed = code == Code.REPLAYED
        if replayed:
            _replayed.inc()
        else:
            _admitted.inc()
        call_id = ask.fresh_call_id if ask.emergency and reply[at + 4] else ask.call_id
        return Admitted(
            call_id,
            reply[at + 1],
            reply[at + 2],
            replayed,
            ask.emergency,
            cycle_start_ms=reply[at + 3],
        )

    def _refusal(self, reason: RefusalReason, remaining_seconds: int) -> Refused:
        _refused[reason].inc()
        return Refused(self.ask.call_id, reason, remaining_seconds)

    def _decode_end(self, ask: End | Reap, code: int, reply: Reply, at: int) -> Settled:
        end = unpack_end(reply[at + 1])
        replayed = code == Code.SETTLED_BEFORE
        if not replayed:
            _settled[end.ended_by].inc()
            metrics.SETTLED_SECONDS.inc(end.billed_seconds)
        return Settled(
            call_id=ask.call_id,
            duration_ms=end.duration_ms,
            billed_seconds=end.billed_seconds,
            counted=end.billed_seconds > 0,
            ended_by=end.ended_by,
            revision=end.revision,
            replayed=replayed,
            remaining_seconds=reply[at + 2],
            ended_at_ms=end.ended_at_ms,
            admitted_at_ms=end.admitted_at_ms,
            emergency=end.emergency,
        )


def section_arguments(accounts: Mapping[str, Iterable[Operation]]) -> list[Argument]:
    """A section's part of the script's arguments: its accounts, each with its operations in their order."""
    calls: list[str] = []
    parts: list[Argument] = []
    for account, operations in accounts.items():
        letters: list[str] = []
        members: dict[str, None] = {}
        arguments: list[Argument] = []
        for operation in operations:
            letters.append(operation.letter)
            calls += operation.calls
            members.update(dict.fromkeys(operation.members))
            arguments += operation.arguments
        parts += (account, "".join(letters), str(len(members)), *members, *arguments)
    return [str(len(accounts)), str(len(calls)), *calls, *parts]
