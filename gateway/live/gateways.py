"""Which gateways are alive, as each says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.pool.scripts import Argument, Client, script

KEY: Final = "cg:gateways"
BEAT_SECONDS: Final = 2.0
ALIVE_SECONDS: Final = 10.0
"""A gateway that said nothing for so long counts as gone."""


class Heartbeat(msgspec.Struct, frozen=True):
    """What a gateway says of itself; `at_ms` is its host's real time."""

    gateway: str
    at_ms: int
    connections: int
    calls_in_progress: int
    dashboards: int = 0  # a gateway of the version before says nothing of them


_decoder: Final = msgspec.json.Decoder(Heartbeat)


@dataclass(frozen=True, slots=True)
class Gateways:
    """The gateways of a deployment."""

    client: Client

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Say that a gateway is alive. Raises RedisError."""
        said: list[Argument] = [heartbeat.gateway, msgspec.json.encode(heartbeat)]
        await script("gateway_beat").run(self.client, [KEY], said)

    async def leave(self, gateway: str) -> None:
        """Say that a gateway is going. Raises RedisError."""
        await self.client.hdel(KEY, gateway)

    async def alive(self, now_ms: int) -> list[Heartbeat]:
        """The gateways that are alive at this real instant;

        those long gone are forgotten. Raises RedisError.
        """
        found = [_decoder.decode(each) for each in (await self.client.hgetall(KEY)).values()]
        gone = [each.gateway for each in found if now_ms - each.at_ms > 60 * ALIVE_SECONDS * 1000]
        if gone:
            await self.client.hdel(KEY, *gone)
        alive = [each for each in found if now_ms - each.at_ms <= ALIVE_SECONDS * 1000]
        return sorted(alive, key=lambda each: each.gateway)
