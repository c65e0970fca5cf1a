"""What a phone has asked and has no answer to yet, over however many connections it takes.

A request is made into a frame anew each time it is sent, for how long ago something was is counted up to its
sending. Asking again is safe: a start or an end asked twice is asked once (R9, R17).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any, Final, Generic, TypeVar

from gateway.client import frames
from gateway.client.backoff import Backoff
from gateway.client.connection import Connection
from gateway.client.errors import PASSING, NoAnswer, error_of
from gateway.client.timing import Timing
from gateway.domain.errors import CallgateError

log: Final = logging.getLogger("gateway.client")

T_co = TypeVar("T_co", covariant=True)

MakeFrame = Callable[[int], frames.Asking]
"""Makes the frame of a request from its `id`."""


Recover = Callable[[CallgateError], bool]
"""Told of the error that a request was answered with; true if it is to be asked again after all."""


class Request:
    """One request. `answer` gets its answer, or the error it was answered with.

    `of` is what it is about, if that can be held; one that goes `ahead` is not held with it. `ended` if the
    error is none of a gateway's, but why the phone asks no more.
    """

    __slots__ = ("ahead", "answer", "attempts", "ended", "failed_with", "id", "make", "of", "recover", "sent")

    def __init__(
        self,
        number: int,
        make: MakeFrame,
        timing: Timing,
        *,
        of: object = None,
        ahead: bool = False,
        recover: Recover | None = None,
    ) -> None:
        self.id = number
        self.make = make
        self.of = of
        self.ahead = ahead
        self.recover = recover
        self.sent = False
        self.ended = False
        self.failed_with: CallgateError | None = None
        self.attempts = Backoff(timing.backoff_seconds, timing.backoff_most_seconds)
        self.answer: asyncio.Future[frames.Answer] = asyncio.get_running_loop().create_future()
        # An answer that nobody waits for, or no longer, is no mistake.
        self.answer.add_done_callback(lambda answer: None if answer.cancelled() else answer.exception())

    def end(self, error: CallgateError) -> None:
        """Fail it, as it will not be answered."""
        self.ended = True
        self.answer.set_exception(error)


class Requests:
    """A phone's unanswered requests. What passes by itself (`PASSING`) is asked again here, until withdrawn.

    Kept requests are those that must be carried out although nobody waits for them any more. What is asked of
    something that is held waits until that is free.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._numbers = itertools.count(1)
        self._connection: Connection[frames.Heard] | None = None
        self._released: dict[int, Request] = {}
        self._held: set[object] = set()
        self._kept: set[Request] = set()
        self._retries: dict[int, asyncio.TimerHandle] = {}
        self._delivered = asyncio.Event()
        self._delivered.set()
        self._ended: CallgateError | None = None

    def ask(
        self,
        make: MakeFrame,
        *,
        kept: bool = False,
        after: Iterable[asyncio.Future[Any]] = (),
        of: object = None,
        ahead: bool = False,
        recover: Recover | None = None,
    ) -> Request:
        """Put a request; it is sent once there is a connection, all of `after` is done, and `of` not held.

        Once the phone has ended it fails at once.
        """
        request = Request(next(self._numbers), make, self._timing, of=of, ahead=ahead, recover=recover)
        if self._ended is not None:
            request.end(self._ended)
            return request
        if kept:
            self._kept.add(request)
            self._delivered.clear()
            request.answer.add_done_callback(lambda _: self._forget(request))
        self._release_after(request, [each for each in after if not each.done()])
        return request

    def hold(self, of: object) -> None:
        """Send nothing that is asked of this, but for what goes ahead."""
        self._held.add(of)

    def free(self, of: object) -> None:
        """Send what was held, in the order it was asked."""
        if of in self._held:
            self._held.discard(of)
            for request in list(self._released.values()):
                if request.of is of and request.id not in self._retries:
                    self._send(request)

    def withdraw(self, request: Request) -> None:
        """Ask this no more. Whether it was carried out is unknown if it was `sent`."""
        self._released.pop(request.id, None)
        self._cancel_retry(request.id)
        request.answer.cancel()

    def attach(self, connection: Connection[frames.Heard]) -> None:
        """Send what has no answer, in the order it was asked, over this connection from now on."""
        self._connection = connection
        for request in list(self._released.values()):
            self._cancel_retry(request.id)
            self._send(request)

    def detach(self) -> None:
        """Send nothing for the time being."""
        self._connection = None

    def take(self, heard: frames.Answer | frames.Error) -> None:
        """Give an answer to the request that it answers, if that is still wanted."""
        request = self._released.get(heard.re) if isinstance(heard.re, int) else None
        if request is None:
            if isinstance(heard, frames.Error) and heard.re is None:
                log.warning("the gateway could not read a frame: %s", heard.message)
            return
        if not isinstance(heard, frames.Error):
            del self._released[request.id]
            request.answer.set_result(heard)
            return
        error = error_of(heard.code, heard.message, {"errors": heard.errors} if heard.errors else {})
        if heard.code in PASSING:
            request.failed_with = error
            delay = request.attempts.next()
            loop = asyncio.get_running_loop()
            self._retries[request.id] = loop.call_later(delay, self._retry, request)
        elif request.recover is not None and request.recover(error):
            self._send(request)
        else:
            del self._released[request.id]
            request.answer.set_exception(error)

    def end(self, error: CallgateError) -> None:
        """Fail everything that has no answer, and whatever is asked from now on."""
        self._ended = error
        self._connection = None
        for number in list(self._retries):
            self._cancel_retry(number)
        waiting = {*self._released.values(), *self._kept}
        self._released.clear()
        for request in waiting:
            if not request.answer.done():
                request.end(error)

    async def delivered(self) -> None:
        """Wait until every kept request has its answer."""
        await self._delivered.wait()

    def _release_after(self, request: Request, waits: list[asyncio.Future[Any]]) -> None:
        if not waits:
            self._release(request)
            return
        waits[0].add_done_callback(lambda _: self._release_after(request, waits[1:]))

    def _release(self, request: Request) -> None:
        if request.answer.done():
            return
        if self._ended is not None:
            request.end(self._ended)
            return
        self._released[request.id] = request
        self._send(request)

    def _send(self, request: Request) -> None:
        if self._connection is not None and (request.ahead or request.of not in self._held):
            request.sent = True
            self._connection.send(request.make(request.id))

    def _retry(self, request: Request) -> None:
        self._retries.pop(request.id, None)
        if request.id in self._released:
            self._send(request)

    def _cancel_retry(self, number: int) -> None:
        timer = self._retries.pop(number, None)
        if timer is not None:
            timer.cancel()

    def _forget(self, request: Request) -> None:
        self._kept.discard(request)
        if not self._kept:
            self._delivered.set()


class Pending(Awaitable[T_co], Generic[T_co]):
    """Something that was asked, and is carried out whether it is awaited or not.

    Awaiting it gives the answer, or raises what it was answered with; NoAnswer after `seconds`, and then it
    goes on all the same.
    """

    def __init__(
        self, request: Request, convert: Callable[[frames.Answer], T_co], seconds: float, what: str
    ) -> None:
        self._request = request
        self._convert = convert
        self._seconds = seconds
        self._what = what

    def __await__(self) -> Generator[object, None, T_co]:
        """Wait for the answer."""
        return self._wait().__await__()

    async def _wait(self) -> T_co:
        answer = await answer_within(self._request, self._seconds, self._what)
        return self._convert(answer)


async def answer_within(request: Request, seconds: float, what: str) -> frames.Answer:
    """Return a request's answer; after `seconds` raise what the gateway last said of it, or NoAnswer."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(request.answer)
    except TimeoutError:
        if request.failed_with is not None:
            raise request.failed_with from None
        raise NoAnswer(f"There was no answer to {what} within {seconds:g} s.") from None
