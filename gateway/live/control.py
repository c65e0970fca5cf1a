"""What one gateway tells all others at once: a device connected there, tokens were revoked.

It only makes things prompt. What must not be missed stands in SQL or Redis as well: a message is sent once,
and a gateway that is not listening just then never gets it.

In a Cluster the channel is a sharded one: what is said goes to the nodes of one shard, not to all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway import turns
from gateway.pool.cluster import ClusterClient
from gateway.pool.connections import Server
from gateway.pool.scripts import Client
from gateway.pool.sentinel import SentinelConnection

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CHANNEL: Final = "cg:control"
RETRY_SECONDS: Final = 0.5
ALIVE_SECONDS: Final = 2.0
"""How often a subscription that is quiet is asked whether it is still there, and how long it may take to."""

_MESSAGES: Final = (b"message", b"smessage")
_GONE: Final = (b"unsubscribe", b"sunsubscribe")


class DeviceConnected(msgspec.Struct, frozen=True, tag="device_connected"):
    """A device connected to `gateway`; the `number` of a later connection of its is higher."""

    gateway: str
    account: str
    staff: str
    device: str
    number: int


class TokensRevoked(msgspec.Struct, frozen=True, tag="tokens_revoked"):
    """Tokens were revoked; SQL has which."""

    gateway: str


class StaffRemoved(msgspec.Struct, frozen=True, tag="staff_removed"):
    """A staff member was removed; SQL says so, too."""

    gateway: str
    account: str
    staff: str


class PoolsMoved(msgspec.Struct, frozen=True, tag="pools_moved"):
    """All pools look otherwise without having changed: the clock was moved, or the policy changed."""

    gateway: str


Message = DeviceConnected | TokensRevoked | StaffRemoved | PoolsMoved

_decoder: Final = msgspec.json.Decoder(Message)


@dataclass(frozen=True, slots=True)
class Control:
    """The channel that all gateways of a deployment share."""

    client: Client
    gateway: str

    async def send(self, message: Message) -> None:
        """Tell all gateways, this one too. Raises RedisError."""
        publish = "SPUBLISH" if isinstance(self.client, ClusterClient) else "PUBLISH"
        await self.client.execute_command(publish, CHANNEL, msgspec.json.encode(message))

    async def listen(self, heard: Callable[[Message], None], listening: Callable[[], None]) -> None:
        """Have `heard` called with what other gateways tell, for ever.

        `listening` is called whenever the channel is joined anew: what was told before may have been missed.
        """
        while True:
            try:
                await self._listen_once(heard, listening)
            except (RedisError, OSError) as failure:
                log.warning("control.lost", error=type(failure).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def _listen_once(self, heard: Callable[[Message], None], listening: Callable[[], None]) -> None:
        node, connection = await self._join()
        try:
            listening()
            is_asked = False
            while True:
                turns.finished("control")
                found = await connection.read_response(timeout=ALIVE_SECONDS)
                if found is None:
                    if is_asked:
                        raise RedisConnectionError("The subscription is silent")
                    await self._must_be_current(node, connection)
                    await connection.send_command("PING", check_health=False)
                    is_asked = True
                    continue
                is_asked = False
                kind, *_, data = found
                if kind in _MESSAGES:
                    message = _understood(data)
                    if message is not None and message.gateway != self.gateway:
                        heard(message)
                elif kind in _GONE:
                    raise RedisConnectionError("The channel is elsewhere now")
        finally:
            await connection.disconnect(nowait=True)

    async def _join(self) -> tuple[Server, AbstractConnection]:
        # A connection of its own, and not redis-py's pub/sub: that joins anew by itself, without saying so.
        if isinstance(self.client, ClusterClient):
            return await self.client.at_owner(CHANNEL, lambda node, _: _subscribe(node, "SSUBSCRIBE"))
        return await _subscribe(self.client, "SUBSCRIBE")

    async def _must_be_current(self, node: Server, connection: AbstractConnection) -> None:
        """A node that was demoted may be cut off from the one that is the primary now."""
        is_current = (
            connection.is_current()
            if isinstance(connection, SentinelConnection)
            else not isinstance(self.client, ClusterClient) or await self.client.owner(CHANNEL) is node
        )
        if not is_current:
            raise RedisConnectionError("The channel is elsewhere now")


def _understood(data: bytes) -> Message | None:
    try:
        message: Message = _decoder.decode(data)
    except msgspec.DecodeError as failure:
        # During an upgrade there are gateways that say what older ones have never heard of.
        log.warning("control.not_understood", because=str(failure))
        return None
    return message


async def _subscribe(node: Server, command: str) -> tuple[Server, AbstractConnection]:
    connection = node.make_connection()
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # untyped in redis-py
        await connection.send_command(command, CHANNEL)
        await connection.read_response()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return node, connection
