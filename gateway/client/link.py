"""Keeping connected: connecting, connecting again, and knowing when not to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ssl import SSLContext
from typing import Final, Generic, TypeVar

import anyio
from websockets.exceptions import InvalidHandshake

from gateway.client import errors, frames
from gateway.client.addresses import Address
from gateway.client.backoff import Backoff
from gateway.client.connection import Closed, Connection, Decode, HandshakeRefused, open_connection
from gateway.client.requests import Requests
from gateway.client.timing import Timing
from gateway.client.tokens import Tokens
from gateway.domain.errors import CallgateError, Forbidden

F = TypeVar("F")

log: Final = logging.getLogger("gateway.client")

_TOKEN_ENDED: Final = 4401
_STAFF_REMOVED: Final = 4403
_REPLACED: Final = 4409
_TRY_LATER: Final = frozenset({408, 425, 429})
_PROXY_GAVE_UP: Final = frozenset({502, 504})
"""A proxy may have passed the handshake on, and a gateway may come upon it though nobody waits any more."""
_FINAL: Final = frozenset({_TOKEN_ENDED, _STAFF_REMOVED, _REPLACED})
_OWN_ATTEMPT_SECONDS: Final = 30.0
"""For so long a gateway may come upon an attempt that was given up, and take it for the newer one."""
_HALF_WAY: Final = (TimeoutError, ConnectionResetError, InvalidHandshake)
"""How an attempt fails of which a gateway may have been told."""


class Link(Generic[F]):
    """One client's connections to one of the gateway's WebSockets, one after the other."""

    def __init__(
        self,
        address: Address,
        url: str,
        tokens: Tokens,
        timing: Timing,
        tls: SSLContext | None,
        decode: Decode[F],
    ) -> None:
        self.welcomed = False
        """Whether there is a connection, and the gateway has begun to speak on it."""
        self.trouble = ""
        """Why there is no connection, for people; empty while there is one."""
        self._address = address
        self._url = url
        self._tokens = tokens
        self._timing = timing
        self._tls = tls
        self._decode = decode
        self._connection: Connection[F] | None = None
        self._was_welcomed = False
        self._is_closing = False
        self._given_up: CallgateError | None = None
        self._hurry = asyncio.Event()
        # The latest attempt that a gateway may still come upon, though nobody waits for it any more.
        self._attempt_at: float | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection, whether anything was heard on it or not."""
        return self._connection is not None

    # What is done with a connection

    def attach(self, connection: Connection[F]) -> None:
        """There is a connection; nothing has been heard on it."""

    def take(self, heard: F) -> None:
        """Hear a frame."""
        raise NotImplementedError

    def heard_something(self) -> None:
        """Hear anything at all, a byte of a frame or of a pong."""

    def lost(self) -> None:
        """The connection is gone."""

    def welcome(self) -> None:
        """Note that the gateway has begun to speak."""
        self.welcomed = self._was_welcomed = True
        self.trouble = ""

    # Keeping it

    async def run(self) -> CallgateError:
        """Keep connected until that makes no more sense, and return why.

        Before the first welcome only a gateway that says it will soon be ready is asked again.
        """
        backoff = Backoff(self._timing.backoff_seconds, self._timing.backoff_most_seconds)
        loop = asyncio.get_running_loop()
        while not self._is_closing:
            self._hurry.clear()
            began = loop.time()
            ended_by = await self._once() or self._given_up
            if ended_by is not None:
                return ended_by
            if loop.time() - began > self._timing.backoff_most_seconds:
                backoff.reset()
            if not self._is_closing:
                with anyio.move_on_after(backoff.next()):
                    await self._hurry.wait()
        return errors.PhoneClosed()

    def hurry(self) -> None:
        """Make the next attempt at once, if it is being waited for."""
        self._hurry.set()

    def drop(self) -> None:
        """Break the connection off, if there is one, and make another."""
        if self._connection is not None:
            self._connection.abort()

    def give_up(self, error: CallgateError) -> None:
        """Break the connection off, and make no other."""
        self._given_up = error
        self.drop()

    async def close(self) -> None:
        """Close in order, and connect no more."""
        self._is_closing = True
        if self._connection is not None:
            await self._connection.close()

    async def _once(self) -> CallgateError | None:
        """Connect, and serve the connection to its end; the error if there is to be no other."""
        try:
            token = await self._tokens.current()
            connection = await open_connection(
                self._address, self._url, token, self._timing, self._tls, self._decode
            )
        except HandshakeRefused as refused:
            if refused.status in _PROXY_GAVE_UP:
                self._note_attempt()
            self.trouble = refused.error.message
            return self._after_refusal(refused)
        except errors.TokenRefused as error:
            return error
        except (CallgateError, OSError) as error:
            log.info("no connection: %s", error)
            if isinstance(error.__cause__, _HALF_WAY):
                self._note_attempt()
            self.trouble = str(error)
            if self._was_welcomed:
                return None
            return error if isinstance(error, CallgateError) else errors.GatewayUnreachable(str(error))
        return self._after_closing(await self._serve(connection))

    async def _serve(self, connection: Connection[F]) -> Closed:
        self._connection = connection
        self.attach(connection)
        try:
            closed = await connection.run(self.take, self.heard_something)
            if not self.welcomed and closed.code not in _FINAL:
                self._note_attempt()
            return closed
        finally:
            connection.abort()
            self._connection = None
            self.welcomed = False
            self.trouble = "The connection was lost."
            self.lost()

    def _after_refusal(self, refused: HandshakeRefused) -> CallgateError | None:
        log.info("the gateway refused the connection: %s", refused.error)
        if refused.status == 401:
            return self._after_token_refusal(refused.error.message)
        if isinstance(refused.error, Forbidden):
            return refused.error
        # Later on, whatever stands between may fail in its own ways for a while.
        passes = self._was_welcomed or refused.status >= 500 or refused.status in _TRY_LATER
        return None if passes else refused.error

    def _after_closing(self, closed: Closed) -> CallgateError | None:
        log.info("the connection ended: %d %s", closed.code, closed.reason)
        if closed.code == _TOKEN_ENDED:
            return self._after_token_refusal(None)
        if closed.code == _STAFF_REMOVED:
            return errors.StaffRemoved()
        if closed.code == _REPLACED and not self._may_be_its_own():
            return errors.Replaced()
        return None

    def _note_attempt(self) -> None:
        self._attempt_at = asyncio.get_running_loop().time()

    def _may_be_its_own(self) -> bool:
        """Whether what replaced the connection may be the latest attempt that was given up; once for each."""
        at, self._attempt_at = self._attempt_at, None
        return at is not None and asyncio.get_running_loop().time() - at < _OWN_ATTEMPT_SECONDS

    def _after_token_refusal(self, why: str | None) -> CallgateError | None:
        self._tokens.refuse(why)
        return errors.TokenRefused(why) if self._tokens.exhausted else None


class DeviceLink(Link[frames.Heard]):
    """A device's connections. `requests` go over whichever there is.

    `take` is given every frame that is no answer, `heard` is called whenever anything at all is heard, `lost`
    when a connection is gone, and `changed` when `welcomed` has changed.
    """

    def __init__(
        self,
        address: Address,
        tokens: Tokens,
        timing: Timing,
        tls: SSLContext | None,
        requests: Requests,
        take: Callable[[frames.Heard], None],
        heard: Callable[[], None],
        lost: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        super().__init__(address, address.device, tokens, timing, tls, frames.decode)
        self._requests = requests
        self._take = take
        self._heard = heard
        self._lost = lost
        self._changed = changed

    def attach(self, connection: Connection[frames.Heard]) -> None:
        """Send what waits, and what is asked from now on."""
        self._requests.attach(connection)

    def take(self, heard: frames.Heard) -> None:
        """Hear a frame."""
        if isinstance(heard, frames.Welcome):
            self.welcome()
        self._take(heard)
        if isinstance(heard, frames.Welcome):
            self._changed()
        elif not isinstance(heard, frames.Notice):
            self._requests.take(heard)

    def heard_something(self) -> None:
        """Hear anything at all."""
        self._heard()

    def lost(self) -> None:
        """The connection is gone."""
        self._requests.detach()
        self._lost()
        self._changed()
