"""The dashboards connected to this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import anyio

from gateway.sessions.close_codes import CloseCode
from gateway.sessions.revocations import Revocation


class ReaderConnection(Protocol):
    """A connected dashboard, as far as this room needs to know it. Nothing here blocks."""

    @property
    def account(self) -> str:
        """Whose pool it watches."""

    @property
    def staff(self) -> str | None:
        """The staff member its token is for; None for a token of the whole account, and for the admin."""

    def is_covered(self, revocation: Revocation) -> bool:
        """Tell whether this revocation refuses the token that it now goes by."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Send what is waiting, then close. Closing again changes nothing."""

    def drain(self) -> None:
        """Say that the gateway is going away, and close."""


class ReaderConnections:
    """Every dashboard's connection to this process."""

    def __init__(self) -> None:
        self._accounts: dict[str, set[ReaderConnection]] = {}
        self._count = 0
        self._gone: anyio.Event | None = None
        self.draining = False
        """Whether this process takes no more connections."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ReaderConnection]:
        for connections in list(self._accounts.values()):
            yield from list(connections)

    def add(self, connection: ReaderConnection) -> None:
        """Take a connection in."""
        self._accounts.setdefault(connection.account, set()).add(connection)
        self._count += 1

    def remove(self, connection: ReaderConnection) -> None:
        """Forget a connection that is gone."""
        connections = self._accounts[connection.account]
        connections.remove(connection)
        if not connections:
            del self._accounts[connection.account]
        self._count -= 1
        if self._count == 0 and self._gone is not None:
            self._gone.set()

    def staff(self) -> set[tuple[str, str]]:
        """The account and id of every staff member who watches."""
        return {(each.account, each.staff) for each in self if each.staff is not None}

    def close_revoked(self, revocation: Revocation) -> None:
        """Close every connection whose token this revocation refuses (4401)."""
        for connection in list(self._accounts.get(revocation.account, ())):
            if connection.is_covered(revocation):
                connection.close(CloseCode.TOKEN_ENDED, "the token was revoked")

    def close_removed(self, members: Iterable[tuple[str, str]]) -> None:
        """Close every connection of these staff members (4403): they were removed from their accounts."""
        for account, staff in members:
            for connection in list(self._accounts.get(account, ())):
                if connection.staff == staff:
                    connection.close(CloseCode.STAFF_REMOVED, "the staff member was removed")

    async def drain(self, patience_seconds: float) -> None:
        """Send every dashboard away (1012). Returns when all are gone, or after `patience_seconds`."""
        self.draining = True
        for connection in self:
            connection.drain()
        if self._count:
            self._gone = anyio.Event()
            with anyio.move_on_after(patience_seconds):
                await self._gone.wait()
