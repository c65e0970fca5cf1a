"""The WebSocket of a dashboard (`/v1/live`), once its handshake is done.

The reader takes frames; the writer sends the pool as it is newest, and notices before the pool that shows
what they tell of. There is one place for the pool that is still to be sent: the next one takes it. So a
dashboard that reads slowly gets fewer pools, newer ones, and holds nothing else up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Final

import anyio
import msgspec
import structlog
from starlette.types import Receive, Send

from gateway.api.auth import Identity, require_watch
from gateway.api.context import Api
from gateway.api.faulty_frames import read_reader_frame_again
from gateway.api.sockets import CLOSE_SECONDS, GOING_AWAY, RESTARTING, TokenEnd, error_frame, is_too_large
from gateway.api.wire import frames, rendering
from gateway.api.wire.decoding import require_shallow
from gateway.domain.answers import PoolView
from gateway.domain.errors import CallgateError, Forbidden
from gateway.live.pictures import Picture
from gateway.sessions.close_codes import CloseCode
from gateway.sessions.direct import Direct
from gateway.sessions.revocations import Revocation

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_PENDING: Final = 64
"""How many requests of a dashboard may be without an answer sent."""
FIRST_SECONDS: Final = 2.0
"""How long answers wait for the first pool, which comes before them unless the engine is away."""
OLD_SECONDS: Final = 0.5
"""A pool that waited so long to be sent says what was then: another is sent after it."""


class LiveSocket:
    """One dashboard's connection. `receive` and `send` are ASGI's, of a WebSocket that was accepted.

    With `direct` a pool goes out without waking the writer, in the very bytes that all others are sent.
    """

    __slots__ = (
        "_api",
        "_begun",
        "_closing",
        "_direct",
        "_identity",
        "_notices",
        "_outbox",
        "_overdue",
        "_pool",
        "_pool_at",
        "_readable",
        "_receive",
        "_scope",
        "_seen",
        "_send",
        "_token_end",
        "_wake",
        "_writing",
        "account",
    )

    def __init__(
        self,
        api: Api,
        identity: Identity,
        account: str,
        receive: Receive,
        send: Send,
        direct: Direct | None = None,
    ) -> None:
        self.account = account
        self._api = api
        self._identity = identity
        self._receive = receive
        self._send = send
        self._direct = direct
        self._writing = False
        self._pool: str | None = None
        self._pool_at = 0.0
        self._seen: PoolView | None = None
        self._notices: dict[tuple[str, int | None], str] = {}
        self._outbox: deque[str] = deque()
        self._begun = False
        self._wake = asyncio.Event()
        self._readable = asyncio.Event()
        self._closing: tuple[CloseCode, str] | None = None
        self._token_end = TokenEnd(
            api.authenticator.now_ms, lambda: self.close(CloseCode.TOKEN_ENDED, "the token has expired")
        )
        self._overdue: asyncio.TimerHandle | None = None
        self._scope = anyio.CancelScope()

    @property
    def staff(self) -> str | None:
        """The staff member its token is for, if it is one's."""
        return self._identity.staff

    def is_covered(self, revocation: Revocation) -> bool:
        """Tell whether this revocation refuses the token that it now goes by."""
        found = self._identity
        return revocation.covers(self.account, found.staff, found.device, found.issued_at_ms) and (
            not found.admin
        )

    async def run(self) -> None:
        """Serve the dashboard until either side closes."""
        feeds = self._api.service.feeds
        self._token_end.watch(self._identity.expires_at_ms)
        begin = asyncio.get_running_loop().call_later(FIRST_SECONDS, self._begin)
        feeds.watch(self.account, self)
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._write)
                await self._read()
                tasks.cancel_scope.cancel()
        finally:
            feeds.leave(self.account, self)
            self._token_end.cancel()
            begin.cancel()
            if self._overdue is not None:
                self._overdue.cancel()

    def show(self, picture: Picture) -> None:
        """Be shown the pool as it is now, in place of what was not sent yet."""
        view = picture.view
        for each in picture.since(self._seen):
            text = picture.once(each, lambda each=each: rendering.pool_notice(each, view))  # type: ignore[misc]
            # Of a kind the newest, so that what is not read does not grow.
            self._notices[each.kind, each.percent] = text
        self._seen = view
        kind = self._kind(picture)
        self._pool = picture.once(kind, lambda: rendering.pool_frame(view, self._identity))
        if self._went_out(picture, kind, self._pool):
            self._pool = None
            if not self._begun:
                self._begin()
        else:
            self._pool_at = monotonic()
            self._wake.set()

    def _went_out(self, picture: Picture, kind: object, text: str) -> bool:
        """Send a pool at once if nothing is in the way of it; not before what is being sent, or notices."""
        direct = self._direct
        if direct is None or self._writing or self._notices or self._closing is not None:
            return False
        return direct.send_now(picture.once(("framed", kind), lambda: direct.framed(text)))

    def close(self, code: CloseCode, reason: str) -> None:
        """Send what waits, then close. Closing again changes nothing."""
        if self._closing is not None:
            return
        self._closing = (code, reason)
        self._wake.set()
        # A dashboard that reads nothing holds up the writer, which would never come to the closing.
        self._overdue = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._scope.cancel)

    def drain(self) -> None:
        """Say `going_away`, and close (1012)."""
        if self._closing is None:
            self._outbox.append(GOING_AWAY)
            self.close(*RESTARTING)

    def _kind(self, picture: Picture) -> object:
        """What of the numbers it may see: all those who may see the same are sent the same text."""
        identity = self._identity
        if identity.admin or "numbers" in identity.scopes:
            return "whole"
        if identity.staff is not None and identity.device is not None:
            device = (identity.staff, identity.device)
            if device in picture.callers:
                return device
        return "masked"

    # The reader.

    async def _read(self) -> None:
        receive = self._receive
        while True:
            message = await receive()
            text = message.get("text")
            if text is None:
                if message["type"] == "websocket.disconnect":
                    return
                self.close(CloseCode.BINARY, "only text frames are taken")
            elif is_too_large(text):
                self.close(CloseCode.TOO_LARGE, "a frame is at most 64 KiB")
            elif self._closing is None:
                self._take(text)
                while len(self._outbox) >= MAX_PENDING:
                    self._readable.clear()
                    await self._readable.wait()

    def _take(self, text: str) -> None:
        """Carry out one frame: whatever it is, it gets one answer."""
        re: frames.Re = None
        try:
            require_shallow(text)
            try:
                frame = frames.decode_reader_frame(text)
            except (msgspec.DecodeError, UnicodeError):
                re, found = read_reader_frame_again(text)
                if isinstance(found, CallgateError):
                    raise found from None
                frame = found
            re = frame.id
            if isinstance(frame, frames.Ping):
                answer = frames.encode_text(frames.Pong(re, self._api.service.server_time_ms()))
            else:
                answer = frames.encode_text(frames.AuthRefreshed(re, self._refresh(frame.token)))
        except CallgateError as error:
            answer = error_frame(re, error)
        self._outbox.append(answer)
        self._wake.set()

    def _refresh(self, token: str) -> int:
        """Go on by another token of the same reader; answers when that one expires."""
        identity = self._api.authenticator.identify(token)
        require_watch(identity, self.account)
        now = self._identity
        if identity.admin or now.admin or (identity.staff, identity.device) != (now.staff, now.device):
            raise Forbidden("This token is for somebody else.")
        assert identity.expires_at_ms is not None
        self._identity = identity
        self._token_end.watch(identity.expires_at_ms)
        return identity.expires_at_ms

    # The writer.

    def _begin(self) -> None:
        self._begun = True
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                self._wake.clear()
                await self._write_pool()
                while self._outbox and (self._begun or self._closing is not None):
                    await self._write_text(self._outbox.popleft())
                    self._readable.set()
                if self._closing is not None:
                    code, reason = self._closing
                    await self._send({"type": "websocket.close", "code": int(code), "reason": reason})
                    break
                await self._wake.wait()
        except (OSError, RuntimeError) as error:
            # The server says so either way when the dashboard is gone (starlette#2766).
            log.debug("dashboard.unreachable", account=self.account, reason=str(error))
        self._scope.cancel()

    async def _write_pool(self) -> None:
        while self._notices:
            await self._write_text(self._notices.pop(next(iter(self._notices))))
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        waited = monotonic() - self._pool_at
        await self._write_text(pool)
        self._begun = True
        if waited > OLD_SECONDS and self._pool is None:
            self._api.service.feeds.show_again(self.account, self)

    async def _write_text(self, text: str) -> None:
        self._writing = True
        await self._send({"type": "websocket.send", "text": text})
        self._writing = False
