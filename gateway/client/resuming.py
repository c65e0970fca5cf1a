"""Vouching again for the calls of a phone, on each new connection (R13, R15)."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from gateway.client import frames
from gateway.client.call import Call
from gateway.client.elapsed import Clock
from gateway.client.requests import Request, Requests
from gateway.domain.errors import CallIdConflict, CallIdUsed, CallUnknown

log: Final = logging.getLogger("gateway.client")

StillUp = Callable[[Call], bool | Awaitable[bool]]
"""Says whether the media of a call are up, of which the phone itself does not know."""


class Resuming:
    """The calls that are to be resumed before anything else is said of them.

    One that the phone knows to be up it resumes by itself. One in doubt waits for what the application says;
    if it says no, or nobody is there to be asked, the call ended when it was last known up.
    """

    def __init__(self, requests: Requests, clock: Clock, still_up: StillUp | None) -> None:
        self._requests = requests
        self._clock = clock
        self._still_up = still_up
        self._welcomed = False
        self._owed: dict[Call, Request | None] = {}
        self._asked: dict[Call, asyncio.Task[None]] = {}

    def owe(self, call: Call) -> None:
        """Have a call resumed: at once, or with the next welcome."""
        if call not in self._owed:
            self._owed[call] = None
            self._requests.hold(call)
        if self._welcomed:
            self._go_on(call)

    def welcomed(self, away_since_ms: int | None) -> None:
        """Resume, now that there is a connection. `away_since_ms` if the phone was away beyond the grace."""
        self._welcomed = True
        for call in list(self._owed):
            if away_since_ms is not None and call.in_doubt_since_ms is None:
                call.doubt(away_since_ms)
            self._go_on(call)

    def lost(self, calls: Iterable[Call]) -> None:
        """Take note that nobody vouches for these any more, as the connection is gone."""
        self._welcomed = False
        for call, request in list(self._owed.items()):
            if request is not None:
                self._owed[call] = None
                self._requests.withdraw(request)
            if call.ended:
                self._free(call)
        for call in calls:
            call.connection_lost()
            if call.admission is not None and not call.ended:
                self.owe(call)

    def hung_up(self, call: Call) -> None:
        """Let the end of a call be told: it needs no resume any more. (One under way is waited for.)"""
        asked = self._asked.pop(call, None)
        if asked is not None and asked is not asyncio.current_task():
            asked.cancel()
        if call in self._owed and self._owed[call] is None:
            self._free(call)

    def vouch(self, call: Call) -> None:
        """Take the application's word that a call is up."""
        asked = self._asked.pop(call, None)
        if asked is not None and asked is not asyncio.current_task():
            asked.cancel()
        if call.in_doubt_since_ms is not None:
            call.doubt(None)
        self.owe(call)

    def stop(self) -> None:
        """Ask the application no more."""
        for task in self._asked.values():
            task.cancel()
        self._asked.clear()

    def _go_on(self, call: Call) -> None:
        if call.ended:
            self._resume(call)
        elif call.in_doubt_since_ms is None:
            if call.admission is not None:
                self._resume(call)
            else:
                self._free(call)  # an emergency that no gateway has heard of: it is asked for
        elif self._still_up is None:
            log.info("%r is no longer known to be up: it ended when it last was", call)
            call.end_as_of(call.in_doubt_since_ms)
        elif call not in self._asked:
            self._asked[call] = asyncio.create_task(self._ask(call, self._still_up))

    def _free(self, call: Call) -> None:
        del self._owed[call]
        self._requests.free(call)

    # Asking the application

    async def _ask(self, call: Call, still_up: StillUp) -> None:
        is_up = False
        try:
            said = still_up(call)
            is_up = await said if inspect.isawaitable(said) else said
        except Exception as error:  # noqa: BLE001 - a fault of the application's; nobody vouches for the call
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"asking whether {call!r} is up failed", "exception": error}
            )
        if self._asked.get(call) is not asyncio.current_task():
            return
        if is_up:
            self.vouch(call)
        else:
            call.end()

    # Asking the gateway

    def _resume(self, call: Call) -> None:
        if self._owed[call] is None:
            request = call.ask_resume()
            self._owed[call] = request
            request.answer.add_done_callback(lambda answer: self._answered(call, request, answer))

    def _answered(self, call: Call, request: Request, future: asyncio.Future[frames.Answer]) -> None:
        if future.cancelled() or self._owed.get(call) is not request:
            return
        failure = future.exception()
        if request.ended:
            return
        if failure is None:
            answer = future.result()
            assert isinstance(answer, frames.CallResumed)
            call.resumed(answer)
        elif isinstance(failure, CallIdConflict):
            call.leave_alone()
        elif isinstance(failure, CallIdUsed | CallUnknown):
            # Settled for good, or nothing to make it again from: its end gives what it came to (R17).
            call.resume_failed()
            if not call.ended:
                call.end_as_of(self._clock.elapsed_ms())
        else:
            log.warning("%r could not be resumed: %s", call, failure)
        self._free(call)
