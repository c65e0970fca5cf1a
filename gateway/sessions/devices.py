"""The devices connected to this process: one connection each, the newest."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import anyio

from gateway.domain.calls import Caller
from gateway.sessions.close_codes import CloseCode
from gateway.sessions.revocations import Revocation

MinutesNotice = Literal["minutes_exhausted", "minutes_restored"]


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

    def notify(self, kind: MinutesNotice) -> None:
        """Tell the device that minutes ran out, or are there again."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Send what is waiting, then close. Closing again changes nothing."""

    def supersede(self, number: int) -> None:
        """Hear of a connection of the same device with this number: the one of the lower number closes."""

    def drain(self) -> None:
        """Say that the gateway is going away, and close once every request taken has its answer."""


@dataclass(slots=True)
class _Account:
    """The devices of one account, and what they know of its minutes."""

    connections: dict[Caller, Connection] = field(default_factory=dict)
    is_exhausted: bool | None = None
    """Whether all minutes are used, as far as was heard and told; None as long as nothing was heard."""
    heard: int = 0
    """How often anything was heard."""


class DeviceConnections:
    """Every device's connection to this process.

    A connection is added when its handshake is done and removed when it is gone; one that a newer
    connection of the same device has replaced is closed with `CloseCode.REPLACED`.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._count = 0
        self._gone: anyio.Event | None = None
        self.draining = False
        """Whether this process takes no more connections."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Connection]:
        for account in list(self._accounts.values()):
            yield from list(account.connections.values())

    @property
    def accounts(self) -> Collection[str]:
        """The accounts whose devices are connected."""
        return self._accounts.keys()

    def add(self, connection: Connection) -> None:
        """Take a connection in, in place of the device's older one, which is closed."""
        connections = self._accounts.setdefault(connection.caller.account, _Account()).connections
        older = connections.get(connection.caller)
        connections[connection.caller] = connection
        if older is None:
            self._count += 1
        else:
            older.close(CloseCode.REPLACED, "the same device has connected again")

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is gone. One that was replaced has been forgotten already."""
        account = connection.caller.account
        connections = self._of(account)
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
        connection = self._of(caller.account).get(caller)
        if connection is not None:
            connection.supersede(number)

    def close_revoked(self, revocation: Revocation) -> None:
        """Close every connection whose token this revocation refuses (4401). Their calls go on."""
        for connection in list(self._of(revocation.account).values()):
            caller = connection.caller
            if revocation.covers(caller.account, caller.staff, caller.device, connection.token_issued_at_ms):
                connection.close(CloseCode.TOKEN_ENDED, "the token was revoked")

    # Minutes that ran out, or are there again (R11)

    def minutes_changed(self, account: str, *, exhausted: bool) -> None:
        """Hear that an account's minutes just ran out, or are there again, and tell whom it concerns.

        Told once: what was seen by looking already is no news.
        """
        found = self._accounts.get(account)
        if found is None:
            return
        found.heard += 1
        if found.is_exhausted is not exhausted:
            self._tell_minutes(found, exhausted=exhausted)

    def before_looking(self, account: str) -> int:
        """Return what `minutes_seen` is to be given, from before the pool is looked at."""
        found = self._accounts.get(account)
        return 0 if found is None else found.heard

    def minutes_seen(self, account: str, *, exhausted: bool, before: int) -> None:
        """See, in the pool, whether an account's minutes are used. What devices have missed they are told.

        `before` is `before_looking`'s: what was heard while one looked may be newer than what one saw.
        """
        found = self._accounts.get(account)
        if found is None or found.heard != before:
            return
        if found.is_exhausted is None:
            found.is_exhausted = exhausted
        elif found.is_exhausted is not exhausted:
            self._tell_minutes(found, exhausted=exhausted)

    def _tell_minutes(self, account: _Account, *, exhausted: bool) -> None:
        account.is_exhausted = exhausted
        for connection in list(account.connections.values()):
            if not exhausted:
                connection.notify("minutes_restored")
            elif connection.calls:
                connection.notify("minutes_exhausted")

    # The end

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

    def _of(self, account: str) -> dict[Caller, Connection]:
        found = self._accounts.get(account)
        return {} if found is None else found.connections

    async def _wait_until_gone(self, seconds: float) -> None:
        if self._count:
            self._gone = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._gone.wait()
