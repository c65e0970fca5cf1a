"""The WebSocket of a device (`/v1/device`), once its handshake is done.

Three tasks for each connection. The reader takes frames and puts what they ask to the service, which
answers by calling back; it never waits for the pool, so that pings are answered and pongs seen while the
engine is slow. The writer sends what waits in the outbox. The greeter says welcome, before anything else is
answered, and goes on asking for the connection's number if the engine could not be asked for it then.

The connection vouches for its `calls` (R12); renewing their leases is for the keeper of all connections.

Bounded: a device with `MAX_PENDING` requests that have no answer sent is not read from until some are.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from functools import partial
from typing import Final

import anyio
import msgspec
import structlog
from starlette.types import Receive, Send

from gateway.api.auth import Identity, require_call
from gateway.api.call_events import log_answer
from gateway.api.context import Api
from gateway.api.faulty_frames import read_again
from gateway.api.sockets import CLOSE_SECONDS, GOING_AWAY, RESTARTING, TokenEnd, error_frame, is_too_large
from gateway.api.starts import asks_for_emergency, salvaged_emergency, start_ask
from gateway.api.wire import frames, rendering
from gateway.api.wire.decoding import require_shallow
from gateway.api.wire.fields import clamped_ago_ms
from gateway.api.wire.resources import PoolCall
from gateway.domain.answers import Admitted, Answer, Resumed, Settled
from gateway.domain.asks import Answered, Ask, End, Resume, Start
from gateway.domain.calls import Caller
from gateway.domain.errors import CallgateError, CallIdConflict, CallIdUsed, CallUnknown, Forbidden
from gateway.sessions.close_codes import CloseCode
from gateway.sessions.devices import MinutesNotice
from gateway.sessions.heard import Heard

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_PENDING: Final = 1024
"""How many requests of a device may be without an answer sent."""
NUMBER_SECONDS: Final = 1.0
"""About how often a connection without a number asks for one."""
_REPLACED: Final = (CloseCode.REPLACED, "the same device has connected again")
_OVERTAKEN: Final = "The device has connected again, and this call belongs to its newer connection."
_NOT_OURS: Final = (CallUnknown, CallIdUsed, CallIdConflict)
_MINUTES: Final[dict[MinutesNotice, str]] = {
    "minutes_exhausted": frames.encode_text(
        frames.Notice(
            "minutes_exhausted",
            "All minutes of this cycle are used. Calls in progress go on; no new ones until there are more.",
        )
    ),
    "minutes_restored": frames.encode_text(
        frames.Notice("minutes_restored", "There are minutes again: calls can be placed.")
    ),
}


class DeviceSocket:
    """One device's connection. `receive` and `send` are ASGI's, of a WebSocket that was accepted.

    `number` is its place among the device's connections, 0 as long as the engine has not said. `calls` are
    those it vouches for: which it started or resumed, and neither ended nor lost to a newer connection.
    `heard` is kept by the server; without it the device is heard of by its frames alone.
    """

    __slots__ = (
        "_api",
        "_closing",
        "_draining",
        "_early",
        "_ending",
        "_gone",
        "_greeted",
        "_heard",
        "_hears_frames",
        "_identity",
        "_newest",
        "_outbox",
        "_overdue",
        "_pending",
        "_readable",
        "_receive",
        "_scope",
        "_send",
        "_token_end",
        "_wake",
        "caller",
        "calls",
        "number",
    )

    def __init__(
        self,
        api: Api,
        identity: Identity,
        caller: Caller,
        receive: Receive,
        send: Send,
        heard: Heard | None = None,
    ) -> None:
        self.caller = caller
        self.calls: set[str] = set()
        self.number = 0
        self._api = api
        self._identity = identity
        self._receive = receive
        self._send = send
        self._outbox: deque[str] = deque()
        self._heard = Heard() if heard is None else heard
        self._hears_frames = heard is None
        self._gone = False
        # Calls that it has said the end of, of which it was not told yet what they came to.
        self._ending: dict[str, None] = {}
        self._pending = 0
        self._wake = asyncio.Event()
        self._readable = asyncio.Event()
        self._greeted = asyncio.Event()
        self._closing: tuple[CloseCode, str] | None = None
        self._draining = False
        self._early: list[MinutesNotice] = []
        self._newest = 0
        self._token_end = TokenEnd(
            api.authenticator.now_ms, lambda: self.close(CloseCode.TOKEN_ENDED, "the token has expired")
        )
        self._overdue: asyncio.TimerHandle | None = None
        self._scope = anyio.CancelScope()

    @property
    def token_issued_at_ms(self) -> int:
        """When the token it now goes by was issued (real time)."""
        return self._identity.issued_at_ms

    def heard_ago_ms(self) -> int:
        """Return how long ago anything was heard of the device: a frame, a pong, its closing (R12)."""
        return self._heard.ago_ms()

    def give_up(self, call_id: str) -> None:
        """Vouch for this call no more: it has ended, or belongs to a newer connection."""
        self.calls.discard(call_id)

    async def run(self) -> None:
        """Serve the device until either side closes. The calls of a connection that is gone go on (R13).

        What is admitted or resumed after that is told to the service as lost; `calls` are its caller's to
        tell of.
        """
        self._token_end.watch(self._identity.expires_at_ms)
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._write)
                tasks.start_soon(self._greet)
                await self._read()
                tasks.cancel_scope.cancel()
        finally:
            self._gone = True
            self._token_end.cancel()
            if self._overdue is not None:
                self._overdue.cancel()

    def notify(self, kind: MinutesNotice) -> None:
        """Tell the device that minutes ran out, or are there again; after the welcome, which comes first."""
        if self._greeted.is_set():
            self._say(_MINUTES[kind])
        else:
            self._early.append(kind)

    def close(self, code: CloseCode, reason: str) -> None:
        """Send what waits, then close.

        What comes in from now on is not carried out. Closing again changes nothing.
        """
        if self._closing is not None:
            return
        self._closing = (code, reason)
        self._wake.set()
        # A device that reads nothing holds up the writer, which would never come to the closing.
        self._overdue = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._abandon)

    def supersede(self, number: int) -> None:
        """Close if this is older than the device's connection of this number, or will turn out to be."""
        self._newest = max(self._newest, number)
        if 0 < self.number < self._newest:
            self.close(*_REPLACED)

    def drain(self) -> None:
        """Say `going_away`, and close (1012) as soon as every request taken is answered."""
        if self._draining:
            return
        self._draining = True
        if self._greeted.is_set():
            self._say(GOING_AWAY)
        else:  # nothing may come before the welcome, and nothing was taken
            self.close(*RESTARTING)

    def _abandon(self) -> None:
        self._scope.cancel()

    # The reader.

    async def _read(self) -> None:
        receive = self._receive
        while True:
            message = await receive()
            if self._hears_frames:
                self._heard.note()
            text = message.get("text")
            if text is None:
                if message["type"] == "websocket.disconnect":
                    return
                self.close(CloseCode.BINARY, "only text frames are taken")
            elif is_too_large(text):
                self.close(CloseCode.TOO_LARGE, "a frame is at most 64 KiB")
            else:
                if not self._greeted.is_set():
                    await self._greeting_before(text)
                if self._closing is None:
                    self._take(text)
                if self._pending >= MAX_PENDING:
                    self._readable.clear()
                    await self._readable.wait()

    def _take(self, text: str) -> None:
        """Carry out one frame: whatever it is, it gets one answer, now or when the pool has it."""
        self._pending += 1
        try:
            require_shallow(text)
            frame = frames.decode_frame(text)
        except CallgateError as error:
            self._answer_error(None, error)
        except (msgspec.DecodeError, UnicodeError):
            self._take_faulty(text)
        else:
            self._carry_out(frame)

    def _carry_out(self, frame: frames.DeviceFrame) -> None:
        caller, number = self.caller, self.number
        if isinstance(frame, frames.CallStart):
            self._ending.pop(frame.call_id, None)
            ask: Ask = start_ask(caller, frame.call_id, frame.to, frame.channel, self._api.numbering, number)
        elif isinstance(frame, frames.CallEnd):
            # Whatever becomes of this end: to vouch for the call any longer would move the end of it (R16).
            # Nor after a resume: by that a call that the engine has lost is made again, to be ended.
            self.calls.discard(frame.call_id)
            self._ending[frame.call_id] = None
            if len(self._ending) > MAX_PENDING:
                del self._ending[next(iter(self._ending))]
            ask = End(
                caller.account,
                frame.call_id,
                (caller.staff, caller.device),
                clamped_ago_ms(frame.ended_ago_ms),
                number,
            )
        elif isinstance(frame, frames.CallAnswered):
            ask = Answered(
                caller.account,
                frame.call_id,
                (caller.staff, caller.device),
                clamped_ago_ms(frame.answered_ago_ms),
                number,
            )
        elif isinstance(frame, frames.CallResume):
            try:
                ask = self._resume(frame)
            except CallgateError as error:
                self._answer_error(frame.id, error)
                return
        elif isinstance(frame, frames.Ping):
            pong = frames.Pong(re=frame.id, server_time_ms=self._api.service.server_time_ms())
            self._answer(frames.encode_text(pong))
            return
        else:
            self._refresh(frame)
            return
        self._api.service.submit(ask, partial(self._settle, frame.id, ask))

    def _resume(self, frame: frames.CallResume) -> Resume:
        caller = self.caller
        device = (caller.staff, caller.device)
        found = None
        if frame.receipt is not None:
            found = self._api.receipts.read(frame.receipt, caller.account, device, frame.call_id)
        return Resume(caller.account, frame.call_id, device, self.number, found)

    def _take_faulty(self, text: str) -> None:
        re, found, raw = read_again(text)
        numbering = self._api.numbering
        if not isinstance(found, CallgateError):
            self._carry_out(found)
        elif raw.get("type") == "call.start" and asks_for_emergency(raw, numbering):
            ask = salvaged_emergency(self.caller, raw, numbering, self.number)
            self._api.service.submit(ask, partial(self._settle, re, ask))
        else:
            self._answer_error(re, found)

    def _refresh(self, frame: frames.AuthRefresh) -> None:
        try:
            identity = self._api.authenticator.identify(frame.token)
            require_call(identity)
            caller = self.caller
            if not identity.is_device(caller.account, caller.staff, caller.device):
                raise Forbidden("This token is for another device.")
        except CallgateError as error:
            self._answer_error(frame.id, error)
            return
        assert identity.expires_at_ms is not None
        self._identity = identity
        self._token_end.watch(identity.expires_at_ms)
        self._answer(frames.encode_text(frames.AuthRefreshed(frame.id, identity.expires_at_ms)))

    # The answers.

    def _settle(self, re: frames.Re, ask: Ask, answer: Answer | CallgateError) -> None:
        log_answer(ask, answer)
        if isinstance(answer, CallgateError):
            self._answer_error(re, self._refused(ask, answer))
            return
        if isinstance(answer, (Admitted, Resumed)):
            self._vouch_for(answer.call_id)
        elif isinstance(answer, Settled):
            self.calls.discard(answer.call_id)
            self._ending.pop(answer.call_id, None)
        frame = rendering.answer_frame(ask, answer, self._api.receipts, re)
        self._answer(frames.encode_text(frame))

    def _vouch_for(self, call_id: str) -> None:
        if not self._gone:
            if call_id not in self._ending:
                self.calls.add(call_id)
            return
        self._api.service.lost(self.caller.account, [call_id], self.number, self.heard_ago_ms())

    def _refused(self, ask: Ask, error: CallgateError) -> CallgateError:
        """Vouch no more for a call that is not this connection's, and return what to say of that."""
        conflict = isinstance(error, CallIdConflict)
        if isinstance(ask, Start) and conflict:  # asked as another call; the one in progress may be ours
            return error
        # A call that is not known when it is answered may be lost, and about to be told by another gateway:
        # that is found out when it is next vouched for.
        is_perhaps_lost = isinstance(ask, Answered) and isinstance(error, CallUnknown)
        if isinstance(ask, End) or (isinstance(error, _NOT_OURS) and not is_perhaps_lost):
            self.calls.discard(ask.call_id)
        return CallIdConflict(_OVERTAKEN) if conflict else error

    def _answer_error(self, re: frames.Re, error: CallgateError) -> None:
        self._answer(error_frame(re, error))

    def _say(self, text: str) -> None:
        self._pending += 1
        self._answer(text)

    def _answer(self, text: str) -> None:
        self._outbox.append(text)
        self._wake.set()

    # The greeter.

    async def _greet(self) -> None:
        try:
            connected = await self._api.service.connect_device(self.caller)
        except CallgateError as error:
            log.warning("device.greeted_blindly", account=self.caller.account, code=error.code)
            self._welcome(self._api.service.server_time_ms(), None, [])
            await self._number_late()
            return
        self._be_number(connected.number)
        calls = rendering.pool_calls(connected.calls, self._identity)
        self._welcome(connected.server_time_ms, connected.remaining_seconds, calls)

    async def _number_late(self) -> None:
        """Ask for a number until there is one: without it a newer connection would not be told from this.

        Only while the device is heard of. It may have connected elsewhere meanwhile, and this connection be
        dead without anybody knowing; a number that it got now would close the living one as the older.
        """
        asked_at = self._heard.now()
        while True:
            await asyncio.sleep(NUMBER_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            if self._heard.at <= asked_at:
                continue
            asked_at = self._heard.now()
            try:
                connected = await self._api.service.connect_device(self.caller)
            except CallgateError:
                continue
            self._be_number(connected.number)
            log.info("device.numbered_late", account=self.caller.account, number=connected.number)
            return

    def _be_number(self, number: int) -> None:
        self.number = number
        self.supersede(self._newest)

    async def _greeting_before(self, text: str) -> None:
        """Wait for the welcome, which comes first. An emergency call (R30) does not wait for the engine."""
        if self._is_emergency(text):
            self._welcome(self._api.service.server_time_ms(), None, [])
        await self._greeted.wait()

    def _is_emergency(self, text: str) -> bool:
        if '"call.start"' not in text:
            return False
        try:
            require_shallow(text)
        except CallgateError:
            return False
        _, _, raw = read_again(text)
        return asks_for_emergency(raw, self._api.numbering)

    def _welcome(self, server_time_ms: int, remaining_seconds: int | None, calls: list[PoolCall]) -> None:
        if self._greeted.is_set():
            return
        self._greeted.set()
        welcome = frames.Welcome(
            account=self.caller.account,
            staff=self.caller.staff,
            device=self.caller.device,
            server_time_ms=server_time_ms,
            grace_seconds=self._api.grace_seconds,
            remaining_seconds=remaining_seconds,
            calls=calls,
        )
        self._say(frames.encode_text(welcome))
        for kind in self._early:
            self._say(_MINUTES[kind])

    # The writer.

    async def _write(self) -> None:
        send, outbox = self._send, self._outbox
        try:
            while True:
                while outbox:
                    await send({"type": "websocket.send", "text": outbox.popleft()})
                    self._pending -= 1
                    if self._pending < MAX_PENDING:
                        self._readable.set()
                if self._draining and self._pending == 0:
                    self.close(*RESTARTING)
                if self._closing is not None:
                    code, reason = self._closing
                    await send({"type": "websocket.close", "code": int(code), "reason": reason})
                    break
                self._wake.clear()
                await self._wake.wait()
        except (OSError, RuntimeError) as error:
            # The server says so either way when the device is gone (starlette#2766).
            log.debug("device.unreachable", account=self.caller.account, reason=str(error))
        self._scope.cancel()
