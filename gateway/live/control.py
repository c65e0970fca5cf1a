"""What one gateway tells all others at once: a device connected there, tokens were revoked.

It only makes things prompt. What must not be missed stands in SQL or Redis as well: a message is sent once,
and a gateway that is not listening just then never gets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.pool.scripts import Client

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CHANNEL: Final = "cg:control"
CONNECTIONS_KEY: Final = "cg:connections"
RETRY_SECONDS: Final = 0.5
ALIVE_SECONDS: Final = 5.0
"""How often a subscription that is quiet is asked whether it is still there."""


class DeviceConnected(msgspec.Struct, frozen=True, tag="device_connected"):
    """A device connected to `gateway`, as the `number`-th connection of the deployment."""

    gateway: str
    account: str
    staff: str
    device: str
    number: int


class TokensRevoked(msgspec.Struct, frozen=True, tag="tokens_revoked"):
    """Tokens were revoked; SQL has which."""

    gateway: str


Message = DeviceConnected | TokensRevoked

_decoder: Final = msgspec.json.Decoder(Message)


@dataclass(frozen=True, slots=True)
class Control:
    """The channel that all gateways of a deployment share."""

    client: Client
    gateway: str

    async def send(self, message: Message) -> None:
        """Tell all gateways, this one too. Raises RedisError."""
        await self.client.execute_command("PUBLISH", CHANNEL, msgspec.json.encode(message))

    async def next_connection(self) -> int:
        """A number for a new connection, greater than any before. Raises RedisError."""
        return int(await self.client.incr(CONNECTIONS_KEY))

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
        client = self.client
        if not isinstance(client, Redis):
            await client.initialize()
            node = client.get_random_node()
            client = Redis(host=node.host, port=int(node.port), **_credentials(node.connection_kwargs))
        pubsub = client.pubsub()
        try:
            await pubsub.subscribe(CHANNEL)
            listening()
            while True:
                found = await pubsub.get_message(ignore_subscribe_messages=True, timeout=ALIVE_SECONDS)
                if found is None:
                    await pubsub.ping()
                elif found["type"] == "message":
                    message = _decoder.decode(found["data"])
                    if message.gateway != self.gateway:
                        heard(message)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # untyped in redis-py
            if client is not self.client:
                await client.aclose()


def _credentials(options: dict[str, Any]) -> dict[str, Any]:
    """What a plain connection to one node of a Cluster needs of the Cluster client's."""
    names = ("username", "password", "ssl", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "protocol")
    return {name: options[name] for name in names if name in options}
