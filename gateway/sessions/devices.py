"""The devices connected to this process: one connection each, the newest."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

import anyio

from gateway.domain.calls import Caller
from gateway.sessions.close_codes import CloseCode
from gateway.sessions.revocations import Revocation


class Connection(Protocol):
    """A connected device, as far as this room needs to know it. Nothing here blocks."""

    @property
    def caller(self) -> Caller:
        """Whose connection it is."""

    @property
    def token_issued_at_ms(self) -> int:
        """When the token it now goes by was issued (real time)."""

    @property
    def number(self) -> int:
        """Its place among the device's connections, 0 as long as it is not known."""

    @property
    def calls(self) -> Collection[str]:
        """The ids of the calls that it vouches for: which it started or resumed, and has not ended."""

    def heard_ago_ms(self) -> int:
        """How long ago anything was heard of the device."""

    def give_up(self, call_id: str) -> None:
        """Vouch for this call no more: it has ended, or belongs to a newer connection."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Send what is waiting, then close. Closing again changes nothing."""

    def supersede(self, number: int) -> None:
        """Hear of a connection of the same device with this number: the one of the lower number closes."""

    def drain(self) -> None:
        """Say that the gateway is going away, and close once every request taken has its answer."""


class DeviceConnections:
    """Every device's connection to this process.

    A connection is added when its handshake is done and removed when it is gone; one that a newer
    connection of the same device has replaced is closed with `CloseCode.REPLACED`.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, dict[Caller, Connection]] = {}
        self._count = 0
        self._gone: anyio.Event | None = None
        self.draining = False
        """Whether this process takes no more connections."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Connection]:
        for connections in list(self._accounts.values()):
            yield from list(connections.values())

    def add(self, connection: Connection) -> None:
        """Take a connection in, in place of the device's older one, which is closed."""
        connections = self._accounts.setdefault(connection.caller.account, {})
        older = connections.get(connection.caller)
        connections[connection.caller] = connection
        if older is None:
            self._count += 1
        else:
            older.close(CloseCode.REPLACED, "the same device has connected again")

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is gone. One that was replaced has been forgotten already."""
        account = connection.caller.account
        connections = self._accounts.get(account, {})
        if connections.get(connection.caller) is not connection:
            return
        del connections[connection.caller]
        if not connections:
            del self._accounts[account]
        self._count -= 1
        if self._count == 0 and self._gone is not None:
            self._gone.set()

    def close_replaced(self, caller: Caller, number: int) -> None:
        """Close a device's connection here if it is older than the one of this number on another gateway.

        The deployment numbers its connections; a later one has a greater number.
        """
        connection = self._accounts.get(caller.account, {}).get(caller)
        if connection is not None:
            connection.supersede(number)

    def close_revoked(self, revocation: Revocation) -> None:
        """Close every connection whose token this revocation refuses (4401). Their calls go on."""
        for connection in list(self._accounts.get(revocation.account, {}).values()):
            caller = connection.caller
            if revocation.covers(caller.account, caller.staff, caller.device, connection.token_issued_at_ms):
                connection.close(CloseCode.TOKEN_ENDED, "the token was revoked")

    async def drain(self, patience_seconds: float) -> None:
        """Send every device away (1012): each when its requests are answered, all after `patience_seconds`.

        From now on `draining` is true. Returns when all are gone, at the latest twice `patience_seconds`
        later.
        """
        self.draining = True
        for connection in self:
            connection.drain()
        await self._wait_until_gone(patience_seconds)
        for connection in self:
            connection.close(CloseCode.RESTARTING, "the gateway is shutting down")
        await self._wait_until_gone(patience_seconds)

    async def _wait_until_gone(self, seconds: float) -> None:
        if self._count:
            self._gone = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._gone.wait()
