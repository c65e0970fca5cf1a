"""A call of a softphone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gateway.client import frames
from gateway.client.elapsed import elapsed_ms
from gateway.client.errors import PhoneEnded
from gateway.client.requests import Pending, Request, Requests, answer_within
from gateway.client.timing import Timing
from gateway.domain.calls import EndedBy


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call came to (R17); `remaining_seconds` is what is left in the pool now."""

    call_id: str
    duration_ms: int
    billed_seconds: int
    counted: bool
    ended_by: EndedBy
    revision: int
    replayed: bool
    remaining_seconds: int


@dataclass(frozen=True, slots=True)
class Admission:
    """When a call was admitted (billing time), and what the pool had left then.

    `remaining_seconds` is None where that is not known: the engine was away and the call was let through
    without it, or an earlier run of the program was told.
    """

    admitted_at_ms: int
    remaining_seconds: int | None
    replayed: bool


class Call:
    """A call that may be placed: admitted, or an emergency, which asks for no permission (R30).

    Nothing here waits for the gateway unless it is awaited, so that the network never holds up the media.
    What is told of the call, `answered` and `end`, is kept until a gateway has it, over reconnects too.
    """

    def __init__(
        self,
        call_id: str,
        to: str,
        channel: str | None,
        emergency: bool,
        requests: Requests,
        timing: Timing,
        over: Callable[[Call], None],
    ) -> None:
        self.to = to
        self.channel = channel
        self.emergency = emergency
        self.admission: Admission | None = None
        self.settlement: Settlement | None = None
        self._call_id = call_id
        self._requests = requests
        self._timing = timing
        self._over = over
        self._start: Request | None = None
        self._last: Request | None = None
        self._end: Pending[Settlement] | None = None

    def __repr__(self) -> str:
        state = "ended" if self.ended else "in progress"
        return f"<Call {self.call_id} {state}>"

    @property
    def call_id(self) -> str:
        """Its id. The gateway may give an emergency call another, if that one was taken (R30)."""
        return self._call_id

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
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
            await answer_within(self._start, self._timing.answer_seconds, f"the start of {self.call_id}")
        assert self.admission is not None
        return self.admission

    def answered(self) -> Pending[None]:
        """Say that the other side answered, now (R3).

        It is told whether the result is awaited or not. Awaited it raises CallUnknown and what else the
        gateway answers, NoAnswer if that is nothing in time, PhoneEnded.
        """
        at_ms, call = elapsed_ms(), self

        def frame(number: int) -> frames.Asking:
            return frames.CallAnswered(number, call.call_id, elapsed_ms() - at_ms)

        request = self._ask(frame)
        return Pending(
            request, lambda _: None, self._timing.answer_seconds, f"the answering of {self.call_id}"
        )

    def end(self) -> Pending[Settlement]:
        """Hang up: the call ended now (R16). Awaiting the result gives what it came to.

        It is told whether the result is awaited or not, and until a gateway has settled it; asked again, the
        settlement is the same (R17). Awaited it raises CallUnknown and what else the gateway answers,
        NoAnswer if that is nothing in time (it is told later all the same), PhoneEnded.
        """
        if self._end is None:
            at_ms, call = elapsed_ms(), self

            def frame(number: int) -> frames.Asking:
                return frames.CallEnd(number, call.call_id, elapsed_ms() - at_ms)

            request = self._ask(frame)
            what = f"the end of {self.call_id}"
            self._end = Pending(request, _settlement, self._timing.answer_seconds, what)
            request.answer.add_done_callback(self._end_answered)
        return self._end

    def ask_start(self, *, kept: bool) -> Request:
        """Ask for admission; for the phone alone."""
        call = self

        def frame(number: int) -> frames.Asking:
            return frames.CallStart(number, call.call_id, call.to, call.channel)

        self._start = self._last = self._requests.ask(frame, kept=kept)
        self._start.answer.add_done_callback(self._start_answered)
        return self._start

    def _start_answered(self, future: asyncio.Future[frames.Answer]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        answer = future.result()
        if isinstance(answer, frames.CallAdmitted):
            self._call_id = answer.call_id
            self.emergency = answer.emergency
            self.admission = Admission(answer.admitted_at_ms, answer.remaining_seconds, answer.replayed)

    def _end_answered(self, future: asyncio.Future[frames.Answer]) -> None:
        failure = future.exception()
        if failure is None:
            self.settlement = _settlement(future.result())
        if not isinstance(failure, PhoneEnded):
            self._over(self)

    def _ask(self, frame: Callable[[int], frames.Asking]) -> Request:
        # One after the other: an answer that were told after the end would come too late for the record.
        self._last = self._requests.ask(frame, kept=True, after=self._last)
        return self._last


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
