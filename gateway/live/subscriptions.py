"""Channels of the engine that this process listens to, on whichever servers own them.

The channels are sharded ones, on a single server and over Sentinels, too. Every server that owns some has a
connection of its own. What is published while a channel is not listened to is lost; whoever added it hears
that it is listened to (again), and looks for himself what he missed.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn, Protocol

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway import turns
from gateway.pool.cluster import ClusterClient
from gateway.pool.connections import Server
from gateway.pool.scripts import Client
from gateway.pool.sentinel import SentinelConnection
from gateway.pool.together import run_together

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 0.5
ALIVE_SECONDS: Final = 2.0
"""How often a connection is looked at: whether the server is there, and still the one that it should be."""


class Listener(Protocol):
    """Who listens to a channel. Nothing here blocks."""

    def heard(self, channel: str, message: bytes) -> None:
        """Hear what was published on it."""

    def joined(self, channel: str) -> None:
        """Hear that it is listened to from now on; what was published before may have been missed."""


class Subscriptions:
    """All channels that are listened to. `run` must be under way."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._listeners: dict[str, Listener] = {}
        self._lines: dict[Server, _Line] = {}
        self._places: dict[str, _Line | None] = {}
        self._homeless: set[str] = set()
        self._woken = asyncio.Event()
        self._is_doubtful = False

    def add(self, channels: Iterable[str], listener: Listener) -> None:
        """Listen to these from now on; returns at once. A channel has one listener."""
        for channel in channels:
            self._listeners[channel] = listener
            if channel not in self._places:
                self._places[channel] = None
                self._homeless.add(channel)
                self._woken.set()

    def remove(self, channel: str) -> None:
        """Listen to it no more."""
        self._listeners.pop(channel, None)
        line = self._places.pop(channel, None)
        self._homeless.discard(channel)
        if line is not None:
            line.drop([channel])

    async def run(self) -> NoReturn:
        """Listen, until cancelled; while servers are away, connect again and again."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await turns.wait("subscriptions", self._woken)
                self._woken.clear()
                if await self._place(tasks):
                    turns.finished("subscriptions")
                else:
                    await asyncio.sleep(RETRY_SECONDS)
                    self._woken.set()

    async def _place(self, tasks: asyncio.TaskGroup) -> bool:
        """Have each channel that is listened to nowhere listened to where it is owned; False if not yet."""
        by_server: dict[Server, list[str]] = {}
        try:
            if self._is_doubtful and isinstance(self._client, ClusterClient):
                await self._client.look()
            self._is_doubtful = False
            for channel in list(self._homeless):
                by_server.setdefault(await self._owner(channel), []).append(channel)
        except (RedisError, OSError) as failure:
            self._is_doubtful = True
            log.warning("subscriptions.no_owner", error=type(failure).__name__)
            return False
        for server, channels in by_server.items():
            wanted = [channel for channel in channels if channel in self._homeless]
            line = self._lines.get(server)
            if line is None:
                line = self._lines[server] = _Line(server, self._owner, self._hear, self._join, self._lost)
                tasks.create_task(self._keep(line))
            self._homeless.difference_update(wanted)
            self._places.update(dict.fromkeys(wanted, line))
            line.take(wanted)
        return True

    async def _keep(self, line: _Line) -> None:
        """Listen on one connection until it ends. Its channels then look for another."""
        try:
            await line.run()
        except (RedisError, OSError) as failure:
            log.warning("subscriptions.lost", error=type(failure).__name__, channels=len(line.channels))
            # Not all at once, and not at once: the server may be starting.
            await asyncio.sleep(RETRY_SECONDS)
        del self._lines[line.server]
        self._lost(list(line.channels), line)

    def _lost(self, channels: Sequence[str], line: _Line) -> None:
        lost = [channel for channel in channels if self._places.get(channel) is line]
        self._places.update(dict.fromkeys(lost))
        self._homeless.update(lost)
        self._is_doubtful = True
        if lost:
            self._woken.set()

    def _hear(self, channel: str, message: bytes) -> None:
        if channel in self._listeners:
            self._listeners[channel].heard(channel, message)

    def _join(self, channel: str) -> None:
        if channel in self._listeners:
            self._listeners[channel].joined(channel)

    async def _owner(self, channel: str) -> Server:
        if isinstance(self._client, ClusterClient):
            return await self._client.owner(channel)
        return self._client


class _Line:
    """One connection, and the channels that are listened to on it. It ends when there are none any more."""

    def __init__(
        self,
        server: Server,
        owner: Callable[[str], Any],
        heard: Callable[[str, bytes], None],
        joined: Callable[[str], None],
        lost: Callable[[Sequence[str], _Line], None],
    ) -> None:
        self.server = server
        self.channels: set[str] = set()
        self._owner = owner
        self._heard = heard
        self._joined = joined
        self._lost = lost
        self._to_say: list[tuple[str, str]] = []
        self._leaving: Counter[str] = Counter()
        self._woken = asyncio.Event()
        self._silent = False

    def take(self, channels: Iterable[str]) -> None:
        """Listen to these as well."""
        for channel in channels:
            self.channels.add(channel)
            self._to_say.append(("SSUBSCRIBE", channel))
        self._woken.set()

    def drop(self, channels: Iterable[str]) -> None:
        """Listen to these no more."""
        for channel in channels:
            self.channels.discard(channel)
            self._leaving[channel] += 1
            self._to_say.append(("SUNSUBSCRIBE", channel))
        self._woken.set()

    async def run(self) -> None:
        """Listen until there is nothing to listen to. Raises RedisError, OSError."""
        connection = self.server.make_connection()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # untyped in redis-py
            await run_together(self._read(connection), self._say(connection), self._watch(connection))
        finally:
            await connection.disconnect(nowait=True)

    async def _say(self, connection: AbstractConnection) -> None:
        while self.channels or self._to_say:
            said, self._to_say = self._to_say, []
            if said:
                # One command each: in a Cluster the channels of one command would have to be of one slot.
                await connection.send_packed_command(connection.pack_commands(said), check_health=False)
            if not self._to_say:
                self._woken.clear()
                await self._woken.wait()

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            found = await connection.read_response(timeout=math.inf)
            self._silent = False
            if not isinstance(found, list):
                continue  # the answer to a ping where nothing is listened to
            kind, named, *rest = found
            channel = named.decode()
            if kind == b"smessage":
                self._heard(channel, rest[0])
            elif kind == b"ssubscribe":
                if channel in self.channels:
                    self._joined(channel)
            elif kind == b"sunsubscribe":
                self._unsubscribed(channel)

    def _unsubscribed(self, channel: str) -> None:
        if self._leaving[channel] > 0:
            self._leaving[channel] -= 1
            if not self._leaving[channel]:
                del self._leaving[channel]
        elif channel in self.channels:
            # The server says so itself: the channel's slot has moved.
            self.channels.discard(channel)
            self._lost([channel], self)

    async def _watch(self, connection: AbstractConnection) -> None:
        """See that the server is there, and that what is listened to here is still its."""
        while True:
            self._silent = True
            await connection.send_command("PING", check_health=False)
            await asyncio.sleep(ALIVE_SECONDS)
            if self._silent:
                raise RedisConnectionError("The subscription is silent")
            if isinstance(connection, SentinelConnection):
                if not connection.is_current():
                    raise RedisConnectionError("The channels are elsewhere now")
                continue
            moved = [channel for channel in self.channels if await self._owner(channel) is not self.server]
            if moved:
                # A server that was demoted may be cut off from the one that is the primary now.
                self.drop(moved)
                self._lost(moved, self)
