"""A call of a softphone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.client import frames
from gateway.client.elapsed import Clock
from gateway.client.journal import Journal, KeptCall
from gateway.client.requests import Pending, Request, Requests, answer_within
from gateway.client.timing import Timing
from gateway.domain.calls import EndedBy
from gateway.domain.errors import CallgateError, CallUnknown

_MOST_RECEIPT_USES: Final = 3
"""A gateway that takes a receipt and then knows no call is not asked for ever on one connection."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call came to (R17); `remaining_seconds` is what is left in the pool now, None if not known."""

    call_id: str
    duration_ms: int
    billed_seconds: int
    counted: bool
    ended_by: EndedBy
    revision: int
    replayed: bool
    remaining_seconds: int | None


@dataclass(frozen=True, slots=True)
class Admission:
    """When a call was admitted (billing time), and what the pool had left then.

    `remaining_seconds` is None where that is not known: the engine was away and the call was let through
    without it (`offline`), or an earlier run of the program was told.
    """

    admitted_at_ms: int
    remaining_seconds: int | None
    replayed: bool
    offline: bool = False


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What the calls of one phone share."""

    requests: Requests
    timing: Timing
    clock: Clock
    journal: Journal | None
    admitted: Callable[[Call], None]
    """Told that a gateway admitted a call."""
    over: Callable[[Call], None]
    """Told that no more is to be said of a call."""
    hung_up: Callable[[Call], None]
    """Told that a call ended."""
    bring_back: Callable[[Call], None]
    """Has a call made again from its receipt, before anything else is said of it."""


class Call:
    """A call that may be placed: admitted, or an emergency, which asks for no permission (R30).

    Nothing here waits for the gateway unless it is awaited, so that the network never holds up the media.
    What is told of the call, `answered` and `end`, is kept until a gateway has it, over reconnects too.
    """

    def __init__(
        self, call_id: str, to: str, channel: str | None, emergency: bool, around: Surroundings
    ) -> None:
        self.to = to
        self.channel = channel
        self.emergency = emergency
        self.admission: Admission | None = None
        self.settlement: Settlement | None = None
        self.receipt: str | None = None
        """With it the call can be resumed even where the live state was lost (R28). Opaque."""
        self.elsewhere = False
        """Whether a newer connection of this device goes on with it, so that this phone leaves it alone."""
        self.in_doubt_since_ms: int | None = None
        """When it was last known up (`elapsed_ms`), if that is not known now (R15); for the phone alone."""
        self.admission_kept: asyncio.Future[None] | None = None
        """Done when the journal has the admission; for the phone alone."""
        self._call_id = call_id
        self._around = around
        self._key: int | None = None
        self._kept: KeptCall | None = None
        self._start: Request | None = None
        self._last: Request | None = None
        self._end: Pending[Settlement] | None = None
        self._is_over = asyncio.Event()
        self._is_forgotten = False
        self._receipt_failed = False
        self._receipt_uses = 0

    def __repr__(self) -> str:
        state = "ended" if self.ended else "elsewhere" if self.elsewhere else "in progress"
        return f"<Call {self.call_id} {state}>"

    @property
    def call_id(self) -> str:
        """Its id. The gateway may give an emergency call another, if that one was taken (R30)."""
        return self._call_id

    @property
    def ended(self) -> bool:
        """Whether it was hung up: by `end`, or by the phone, as of when it was last known up (R15)."""
        return self._end is not None

    @property
    def admitted_at_ms(self) -> int | None:
        """When it was admitted (billing time); None for an emergency call that no gateway knows of yet."""
        return None if self.admission is None else self.admission.admitted_at_ms

    @property
    def remaining_seconds(self) -> int | None:
        """What the pool had left when it was admitted, as far as that is known."""
        return None if self.admission is None else self.admission.remaining_seconds

    async def admitted(self) -> Admission:
        """Wait until a gateway has admitted it: only an emergency call is up before that. Raises NoAnswer."""
        if self.admission is None:
            assert self._start is not None
            seconds = self._around.timing.answer_seconds
            await answer_within(self._start, seconds, f"the start of {self.call_id}")
        assert self.admission is not None
        return self.admission

    async def wait_over(self) -> None:
        """Wait until it has ended (whoever said so), or another connection goes on with it (`elsewhere`)."""
        await self._is_over.wait()

    def answered(self) -> Pending[None]:
        """Say that the other side answered, now (R3).

        It is told whether the result is awaited or not. Awaited it raises CallUnknown and what else the
        gateway answers, NoAnswer if that is nothing in time, PhoneEnded.
        """
        request = self.answered_as_of(self._around.clock.elapsed_ms())
        seconds = self._around.timing.answer_seconds
        return Pending(request, lambda _: None, seconds, f"the answering of {self.call_id}")

    def end(self) -> Pending[Settlement]:
        """Hang up: the call ended now (R16). Awaiting the result gives what it came to.

        It is told whether the result is awaited or not, and until a gateway has settled it; asked again, the
        settlement is the same (R17). Awaited it raises CallUnknown and what else the gateway answers,
        NoAnswer if that is nothing in time (it is told later all the same), PhoneEnded. A call of which the
        phone does not know whether it is up (R15) ended when it was last known up.
        """
        if self._end is None:
            since_ms = self.in_doubt_since_ms
            return self.end_as_of(self._around.clock.elapsed_ms() if since_ms is None else since_ms)
        return self._end

    # For the phone alone

    def answered_as_of(self, at_ms: int) -> Request:
        """Say when the other side answered (`elapsed_ms`)."""
        call, clock = self, self._around.clock

        def frame(number: int) -> frames.Asking:
            return frames.CallAnswered(number, call.call_id, clock.elapsed_ms() - at_ms)

        return self._tell(frame, self.keep(answered_at_ms=clock.wall_at(at_ms)))

    def end_as_of(self, at_ms: int) -> Pending[Settlement]:
        """Hang up, once, as of an instant (`elapsed_ms`)."""
        if self._end is None:
            call, clock = self, self._around.clock

            def frame(number: int) -> frames.Asking:
                return frames.CallEnd(number, call.call_id, clock.elapsed_ms() - at_ms)

            request = self._tell(frame, self.keep(sync=True, ended_at_ms=clock.wall_at(at_ms)))
            what = f"the end of {self.call_id}"
            self._end = Pending(request, _settlement, self._around.timing.answer_seconds, what)
            request.answer.add_done_callback(lambda _: self._end_answered(request))
            self._is_over.set()
            self._around.hung_up(self)
        return self._end

    def ask_start(self, *, kept: bool) -> Request:
        """Ask for admission."""
        call = self

        def frame(number: int) -> frames.Asking:
            return frames.CallStart(number, call.call_id, call.to, call.channel)

        on_disk = self.keep(sync=True)
        # An emergency waits for no disk either.
        after = () if self.emergency or on_disk is None else (on_disk,)
        self._start = self._last = self._around.requests.ask(frame, kept=kept, after=after, of=self)
        self._start.answer.add_done_callback(self._start_answered)
        return self._start

    def ask_resume(self) -> Request:
        """Vouch for it on this connection (R13), ahead of what else there is to be said of it."""
        call = self

        def frame(number: int) -> frames.Asking:
            return frames.CallResume(number, call.call_id, call.receipt)

        return self._around.requests.ask(frame, of=self, ahead=True)

    def resumed(self, answer: frames.CallResumed) -> None:
        """Note that it goes on."""
        if self.admission is None:
            self.admission = Admission(answer.admitted_at_ms, None, replayed=True)
        if answer.receipt is not None and answer.receipt != self.receipt:
            self.receipt = answer.receipt
            self.keep(receipt=answer.receipt, admitted_at_ms=answer.admitted_at_ms)

    def resume_failed(self) -> None:
        """Note that no gateway knows it or takes its receipt."""
        self._receipt_failed = True

    def connection_lost(self) -> None:
        """Note that whoever knew it a moment ago need not know it any more."""
        self._receipt_uses = 0

    def leave_alone(self) -> None:
        """Note that a newer connection goes on with it."""
        self.elsewhere = True
        self._is_over.set()
        self.forget()

    def doubt(self, since_ms: int | None) -> None:
        """Note that it is not known whether it is up, since when; or that it is."""
        self.in_doubt_since_ms = since_ms
        self.keep(doubtful_since_ms=None if since_ms is None else self._around.clock.wall_at(since_ms))

    def restore(self, kept: KeptCall, last_alive_ms: int) -> None:
        """Take up what an earlier run of the program kept of it; it was alive last then (times of day)."""
        self._key, self._kept = kept.key, kept
        self.receipt = kept.receipt
        clock = self._around.clock
        if kept.admitted_at_ms is not None:
            self.admission = Admission(kept.admitted_at_ms, None, replayed=True)
        elif kept.emergency and kept.ended_at_ms is None:
            self.ask_start(kept=True)
        if kept.ended_at_ms is None:
            since_ms = last_alive_ms if kept.doubtful_since_ms is None else kept.doubtful_since_ms
            self.doubt(clock.elapsed_at(since_ms))
        if kept.answered_at_ms is not None:
            # Perhaps once more, which changes nothing.
            self.answered_as_of(clock.elapsed_at(kept.answered_at_ms))
        if kept.ended_at_ms is not None:
            self.end_as_of(clock.elapsed_at(kept.ended_at_ms))
        elif self.admission is None and not kept.emergency:
            # Nobody was told that it may be placed.
            self.end_as_of(clock.elapsed_at(kept.started_at_ms))

    def keep(self, *, sync: bool = False, **changes: object) -> asyncio.Future[None] | None:
        """Keep it in the journal, if there is one; the result comes when it is written."""
        journal = self._around.journal
        if journal is None or self._is_forgotten:
            return None
        if self._kept is None:
            self._key = journal.new_key()
            self._kept = KeptCall(
                key=self._key,
                call_id=self.call_id,
                to=self.to,
                channel=self.channel,
                emergency=self.emergency,
                started_at_ms=self._around.clock.wall_ms(),
            )
        self._kept = msgspec.structs.replace(self._kept, **changes)
        return journal.keep(self._kept, sync=sync)

    def forget(self) -> None:
        """Let it be: nothing more is to be said of it."""
        self._is_forgotten = True
        if self._around.journal is not None and self._key is not None:
            self._around.journal.over(self._key)
        self._around.over(self)

    # Answers

    def _start_answered(self, future: asyncio.Future[frames.Answer]) -> None:
        if future.cancelled():
            return
        failure = future.exception()
        answer = None if failure is not None else future.result()
        if isinstance(answer, frames.CallAdmitted):
            self._call_id = answer.call_id
            self.emergency = answer.emergency
            self.receipt = answer.receipt
            self.admission = Admission(
                answer.admitted_at_ms, answer.remaining_seconds, answer.replayed, answer.admitted_offline
            )
            self.admission_kept = self.keep(
                call_id=answer.call_id,
                emergency=answer.emergency,
                receipt=answer.receipt,
                admitted_at_ms=answer.admitted_at_ms,
            )
            self._around.admitted(self)
        elif not self.emergency and not (self._start is None or self._start.ended):
            self.forget()

    def _end_answered(self, request: Request) -> None:
        if request.answer.exception() is None:
            self.settlement = _settlement(request.answer.result())
        if not request.ended:
            self.forget()

    def _tell(self, frame: Callable[[int], frames.Asking], written: asyncio.Future[None] | None) -> Request:
        # One after the other: an answer that were told after the end would come too late for the record.
        after: list[asyncio.Future[Any]] = [] if self._last is None else [self._last.answer]
        if written is not None:
            after.append(written)
        self._last = self._around.requests.ask(frame, kept=True, after=after, of=self, recover=self._recover)
        return self._last

    def _recover(self, error: CallgateError) -> bool:
        """Whether a call that nobody knows can be made again from its receipt, to say that of it (R28)."""
        if not isinstance(error, CallUnknown) or self.receipt is None or self._receipt_failed:
            return False
        if self._receipt_uses >= _MOST_RECEIPT_USES:
            return False
        self._receipt_uses += 1
        self._around.bring_back(self)
        return True


def _settlement(answer: frames.Answer) -> Settlement:
    assert isinstance(answer, frames.CallSettled)
    return Settlement(
        call_id=answer.call_id,
        duration_ms=answer.duration_ms,
        billed_seconds=answer.billed_seconds,
        counted=answer.counted,
        ended_by=answer.ended_by,
        revision=answer.revision,
        replayed=answer.replayed,
        remaining_seconds=answer.remaining_seconds,
    )
