"""A softphone: one device's connection to its gateway, kept up, and the calls it makes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import Final, Self

import anyio

from gateway.client import errors, frames
from gateway.client.addresses import parse_address
from gateway.client.call import Admission, Call, Surroundings
from gateway.client.elapsed import Clock
from gateway.client.journal import Journal, Whose, open_journal
from gateway.client.link import DeviceLink
from gateway.client.presence import Presence
from gateway.client.requests import Request, Requests, answer_within
from gateway.client.resources import PoolCall
from gateway.client.resuming import Resuming, StillUp
from gateway.client.timing import Timing
from gateway.client.tokens import Tokens, TokenSource
from gateway.domain.destinations import EMERGENCY_NUMBERS, is_emergency
from gateway.domain.errors import CallgateError, TooLarge

log: Final = logging.getLogger("gateway.client")

# However JSON escapes so many characters, a frame of them is none that is too large (64 KiB).
_LONGEST_TEXTS: Final = 8192

_LOOK_SECONDS: Final = 1.0
"""How often it looks whether it slept."""


class Softphone:
    """A device, connected while its `async with` block runs, reconnecting by itself with growing delays.

    `url` is the gateway's (`http`, `https`, `ws`, `wss`), `token` the device's, or a function that gives one:
    called again when the gateway no longer takes the last. `on_notice` hears what nobody asked for
    (`minutes_exhausted`, ...). Requests that a broken connection left without an answer are asked again
    after it, with the same call id; what ended meanwhile is told then, with how long ago.

    Calls in progress go on meanwhile, and are resumed on the next connection (R13). Was the phone without one
    for longer than the gateway's grace, or stopped for so long (a laptop's lid), it does not know whether a
    call is up: `still_up` is asked, and may take its time. If it says no, or is not given, the call ended as
    of when it was last known up (R15).

    `keep_in` is a file, the device's own, in which calls and untold ends outlive the program. On entering,
    ends are told; calls that were in progress are in `left_over`, and asked after as said above.

    Entering raises TokenRefused, Forbidden, GatewayUnreachable, UnexpectedAnswer: the first connection is
    tried again only while a gateway says that it is about to be ready. With `keep_in` also JournalInUse,
    JournalOfAnother, and OSError. Leaving hangs up the calls that are still up, unless `hang_up_on_exit` is
    false (another program, or with `keep_in` the next run, goes on with them), and raises EndsUndelivered if
    no gateway could be told of what ended. `clock` is for tests.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        on_notice: Callable[[frames.Notice], None] | None = None,
        emergency_numbers: AbstractSet[str] = EMERGENCY_NUMBERS,
        sip_domains: AbstractSet[str] = frozenset(),
        hang_up_on_exit: bool = True,
        still_up: StillUp | None = None,
        keep_in: Path | None = None,
        timing: Timing | None = None,
        tls: SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._address = parse_address(url)
        self._tokens = Tokens(token)
        self._on_notice = on_notice
        self._emergency_numbers = emergency_numbers
        self._sip_domains = sip_domains
        self._hang_up_on_exit = hang_up_on_exit
        self._timing = timing if timing is not None else Timing()
        self._clock = clock if clock is not None else Clock()
        self._keep_in = keep_in
        self._requests = Requests(self._timing)
        self._presence = Presence(self._clock)
        self._resuming = Resuming(self._requests, self._clock, still_up)
        self._link = DeviceLink(
            self._address,
            self._tokens,
            self._timing,
            tls,
            self._requests,
            self._take,
            self._presence.heard,
            self._lost,
            self._notify,
        )
        self._around = Surroundings(
            requests=self._requests,
            timing=self._timing,
            clock=self._clock,
            journal=None,
            admitted=self._admitted,
            over=self._forget_call,
            hung_up=self._resuming.hung_up,
            bring_back=self._resuming.owe,
        )
        self._calls: dict[int, Call] = {}
        self._task: asyncio.Task[CallgateError] | None = None
        self._beside: list[asyncio.Task[None]] = []
        self._held_ends: list[Call] = []
        self._changed = asyncio.Event()
        self.ended_by: CallgateError | None = None
        """Why it connects no more; None while it does."""
        self.welcome: frames.Welcome | None = None
        """The latest greeting: who this device is, its grace, and its calls that were in progress."""
        self.remaining_seconds: int | None = None
        """What was left in the pool when the gateway last said."""
        self.left_over: tuple[Call, ...] = ()
        """The calls that an earlier run left in progress, as `keep_in` tells."""

    async def __aenter__(self) -> Self:
        """Connect, and wait for the gateway's welcome."""
        if self._keep_in is not None:
            # Not beside the loop: cancelled there it would leave a small file locked.
            self._around.journal = journal = open_journal(self._keep_in, self._clock)
            self._beside.append(asyncio.create_task(self._keep_alive(journal)))
            self._restore(journal)
        self._beside.append(asyncio.create_task(self._look()))
        self._task = asyncio.create_task(self._link.run(), name="softphone")
        self._task.add_done_callback(self._task_done)
        try:
            with anyio.fail_after(self._timing.connect_seconds):
                await self._until(lambda: self._link.welcomed or self.ended_by is not None)
        except BaseException as error:
            await self._stop()
            if isinstance(error, TimeoutError):
                raise errors.GatewayUnreachable(
                    f"{self._address.http} had no welcome within {self._timing.connect_seconds:g} s."
                ) from None
            raise
        if self.ended_by is not None:
            await self._stop()
            raise self.ended_by
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Hang up, tell what is to be told, and close, within `close_seconds`."""
        undelivered: list[str] = []
        try:
            if self._hang_up_on_exit:
                for call in list(self._calls.values()):
                    call.end()
            with anyio.move_on_after(self._timing.close_seconds, shield=True):
                await self._requests.delivered()
                await self._link.close()
            undelivered = [call.call_id for call in self._calls.values() if call.ended]
        finally:
            await self._stop()
        if undelivered:
            error = errors.EndsUndelivered(undelivered, str(self._keep_in) if self._keep_in else None)
            if exc is None:
                raise error
            exc.add_note(error.message)

    @property
    def connected(self) -> bool:
        """Whether there is a connection just now, and the gateway has welcomed this device on it."""
        return self._link.welcomed

    @property
    def calls(self) -> tuple[Call, ...]:
        """Its calls that no gateway has settled, the oldest first."""
        return tuple(self._calls.values())

    async def start(
        self,
        to: str,
        *,
        channel: str | None = None,
        call_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Call:
        """Ask for a call, and return it once it is admitted; an emergency call at once (R30).

        Raises CallRefused, CallIdUsed, CallIdConflict, InvalidField; PhoneEnded; and what may pass by
        itself, if it has not within `timeout_seconds` (by default `Timing.answer_seconds`):
        EngineUnavailable, TooFast, NoAnswer. Given up, or cancelled, the call is not to be: should a gateway
        have admitted it all the same, it is told that it ended.
        """
        if is_emergency(to, self._emergency_numbers, self._sip_domains):
            return self.emergency(to, channel=channel, call_id=call_id)
        call = self._new_call(to, channel, call_id, emergency=False)
        seconds = self._timing.answer_seconds if timeout_seconds is None else timeout_seconds
        request = call.ask_start(kept=False)
        try:
            answer = await answer_within(request, seconds, f"the start of {call.call_id}")
            if call.admission_kept is not None:
                # From here on the call may be up, and the next run must know.
                await asyncio.shield(call.admission_kept)
        except BaseException:
            self._give_up(call, request)
            raise
        if isinstance(answer, frames.CallRefused):
            raise errors.CallRefused(answer.reason, answer.message, answer.remaining_seconds)
        return call

    def emergency(self, to: str, *, channel: str | None = None, call_id: str | None = None) -> Call:
        """Return an emergency call to be placed at once, without waiting for any answer (R30).

        The gateway is told as soon as it can be, connected or not; nothing that it says, or fails to say,
        makes this raise. `Call.admitted` waits for its word.
        """
        call = self._new_call(to, channel, call_id, emergency=True)
        self._calls[id(call)] = call
        call.ask_start(kept=True)
        self._link.hurry()
        return call

    def adopt(self, found: PoolCall) -> Call:
        """Return a call of this device that is in progress, as `welcome.calls` lists it.

        It is one that an earlier run of the program began, and is answered and ended like any other. To adopt
        it is to say that it is up: from now on this phone vouches for it (R12).
        """
        call = next((each for each in self._calls.values() if each.call_id == found.call_id), None)
        if call is None:
            call = self._new_call(found.to, found.channel, found.call_id, emergency=found.emergency)
            call.admission = Admission(found.admitted_at_ms, None, replayed=True)
            call.keep(admitted_at_ms=found.admitted_at_ms)
            self._calls[id(call)] = call
        if not call.ended:
            self._resuming.vouch(call)
        return call

    async def token(self) -> str:
        """Return the token that it goes by: with the scope `watch` it reads the account's pool over HTTP."""
        return await self._tokens.current()

    async def refresh(self, token: str) -> int:
        """Go on by a newer token of the same device, without reconnecting; return when it expires (real ms).

        Raises Unauthorized, Forbidden (another device's), NoAnswer, PhoneEnded.
        """
        _require_short(token)
        request = self._requests.ask(lambda number: frames.AuthRefresh(number, token))
        answer = await self._answer(request, "the refreshing of the token")
        assert isinstance(answer, frames.AuthRefreshed)
        self._tokens.replace(token)
        return answer.expires_at_ms

    async def ping(self) -> int:
        """Ask the gateway for its time (billing time, ms). Raises NoAnswer, PhoneEnded."""
        answer = await self._answer(self._requests.ask(frames.Ping), "a ping")
        assert isinstance(answer, frames.Pong)
        return answer.server_time_ms

    async def wait_ended(self) -> CallgateError:
        """Wait until the phone connects no more, and return why."""
        await self._until(lambda: self.ended_by is not None)
        assert self.ended_by is not None
        return self.ended_by

    async def wait_connected(self, *, connected: bool = True) -> None:
        """Wait until there is a connection (or none, as asked). Raises PhoneEnded."""
        await self._until(lambda: self.connected is connected or self.ended_by is not None)
        if connected and self.ended_by is not None:
            raise self.ended_by

    # Calls

    def _new_call(self, to: str, channel: str | None, call_id: str | None, *, emergency: bool) -> Call:
        chosen = call_id if call_id is not None else f"call-{uuid.uuid4()}"
        _require_short(to, channel or "", chosen)
        return Call(chosen, to, channel, emergency, self._around)

    def _admitted(self, call: Call) -> None:
        self._calls[id(call)] = call
        if not self._link.welcomed:
            self._resuming.owe(call)  # the connection broke behind the answer

    def _forget_call(self, call: Call) -> None:
        self._calls.pop(id(call), None)

    def _give_up(self, call: Call, request: Request) -> None:
        """See to it that a start nobody waits for any more leaves no call in progress."""
        answer = request.answer
        if not request.sent:
            call.forget()
        if not answer.done():
            self._requests.withdraw(request)
        elif answer.cancelled() or answer.exception() or not isinstance(answer.result(), frames.CallAdmitted):
            return
        if request.sent:
            self._calls[id(call)] = call
            call.end()

    async def _answer(self, request: Request, what: str) -> frames.Answer:
        try:
            return await answer_within(request, self._timing.answer_seconds, what)
        except BaseException:
            self._requests.withdraw(request)
            raise

    # The connection

    def _take(self, heard: frames.Heard) -> None:
        if isinstance(heard, frames.Welcome):
            self.welcome = heard
            self._welcomed(heard)
        elif isinstance(heard, frames.Notice) and self._on_notice is not None:
            # What goes wrong in there is the loop's to tell, and no reason to drop the connection.
            asyncio.get_running_loop().call_soon(self._on_notice, heard)
        if (
            isinstance(heard, frames.Welcome | frames.CallAdmitted | frames.CallRefused | frames.CallSettled)
            and heard.remaining_seconds is not None
        ):
            self.remaining_seconds = heard.remaining_seconds

    def _welcomed(self, welcome: frames.Welcome) -> None:
        if self._around.journal is not None:
            try:
                self._around.journal.belongs_to(Whose(welcome.account, welcome.staff, welcome.device))
            except errors.JournalOfAnother as error:
                self._end(error)
                self._link.give_up(error)
                return
            while self._held_ends:
                self._requests.free(self._held_ends.pop(0))
        self._resuming.welcomed(self._presence.returned(1000 * welcome.grace_seconds))

    def _lost(self) -> None:
        self._presence.lost()
        self._resuming.lost(self._calls.values())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._presence.look() and self._link.welcomed:
                log.info("slept through the grace: connecting anew")
                self._link.drop()

    # What outlives the program

    def _restore(self, journal: Journal) -> None:
        left_over: list[Call] = []
        for kept in journal.calls:
            call = Call(kept.call_id, kept.to, kept.channel, kept.emergency, self._around)
            self._calls[id(call)] = call
            if kept.ended_at_ms is None:
                self._resuming.owe(call)
            last_alive_ms = kept.at_ms if journal.alive_at_ms is None else journal.alive_at_ms
            call.restore(kept, last_alive_ms)
            if call.ended:
                # Not before it is known that they are this device's.
                self._requests.hold(call)
                self._held_ends.append(call)
            else:
                left_over.append(call)
        self.left_over = tuple(left_over)

    async def _keep_alive(self, journal: Journal) -> None:
        while True:
            await asyncio.sleep(self._timing.beat_seconds)
            journal.mend()
            if any(not call.ended for call in self._calls.values()):
                journal.alive()

    # Its end

    def _end(self, error: CallgateError) -> None:
        if self.ended_by is None:
            self.ended_by = error
            self._requests.end(error)
            self._notify()

    def _task_done(self, task: asyncio.Task[CallgateError]) -> None:
        if task.cancelled():
            return
        failure = task.exception()
        if failure is None:
            self._end(task.result())
        else:
            ended = errors.PhoneEnded(f"The phone failed: {failure!r}.")
            ended.__cause__ = failure
            self._end(ended)

    async def _stop(self) -> None:
        assert self._task is not None
        self._resuming.stop()
        tasks = [self._task, *self._beside]
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait(tasks)
            self._end(errors.PhoneClosed())
            if self._around.journal is not None:
                await self._around.journal.close()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()


def _require_short(*texts: str) -> None:
    if sum(map(len, texts)) > _LONGEST_TEXTS:
        raise TooLarge(f"A request has at most {_LONGEST_TEXTS} characters.")
