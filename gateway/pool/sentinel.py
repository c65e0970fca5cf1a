"""The primary that several Sentinels name, followed over failovers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError

from gateway.pool.connections import (
    CONNECTIONS,
    TIMEOUT_SECONDS,
    Address,
    Server,
    TcpConnection,
    connection_options,
    make_pool,
)
from gateway.pool.together import first_answers

SENTINEL_TIMEOUT_SECONDS: Final = 0.5
"""A Sentinel that is silent for so long is left out."""
OTHERS_SECONDS: Final = 0.1
"""How long the others are waited for once one has answered: it might be one that missed a failover."""
FRESH_SECONDS: Final = 0.2
"""Within this time nobody asks anew, however many connections are made."""
GLANCE_SECONDS: Final = 1.0
"""How often Sentinels are asked while the primary answers: at a planned failover the old one goes on to,
for a while, and what it is told then is lost."""


class Sentinels:
    """Several Sentinels, and which primary the newest of their configurations names."""

    def __init__(self, addresses: Sequence[Address], service: str, **options: Any) -> None:
        self.primary: Address | None = None
        """The latest named."""
        self._service = service
        self._epoch = -1
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[Address] | None = None
        options["socket_timeout"] = options["socket_connect_timeout"] = SENTINEL_TIMEOUT_SECONDS
        self.clients = [Server.on(make_pool(host=host, port=port, **options)) for host, port in addresses]

    async def find(self) -> Address:
        """Which is the primary now. Raises RedisError if no Sentinel says."""
        if self.primary is not None and monotonic() - self._asked_at < FRESH_SECONDS:
            return self.primary
        return await asyncio.shield(self._ask_once())

    def glance(self) -> None:
        """See in the background whether the primary is still the same, if nobody has lately."""
        if monotonic() - self._asked_at >= GLANCE_SECONDS:
            self._ask_once()

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        for client in self.clients:
            await client.aclose()

    def _ask_once(self) -> asyncio.Task[Address]:
        if self._asking is None or self._asking.done():
            self._asked_at = monotonic()
            self._asking = asyncio.get_running_loop().create_task(self._ask_all())
            # Nobody may be waiting for it.
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._asking

    async def _ask_all(self) -> Address:
        """The primary of the highest configuration epoch; of one epoch, the one most often named."""
        said, failures = await first_answers((self._ask(client) for client in self.clients), OTHERS_SECONDS)
        if not said:
            raise RedisConnectionError(
                f"No Sentinel names a primary of {self._service!r}: {'; '.join(failures)}"
            )
        epoch = max(each for each, _ in said)
        (primary, _), *_ = Counter(address for each, address in said if each == epoch).most_common(1)
        if epoch >= self._epoch or len(said) * 2 > len(self.clients):
            # Else only a few could be reached, which have missed a failover.
            self._epoch, self.primary = epoch, primary
        assert self.primary is not None
        return self.primary

    async def _ask(self, sentinel: Server) -> tuple[int, Address] | str:
        try:
            # The address changes as soon as a replica is promoted, the rest of the state a little later.
            pipeline = sentinel.pipeline(transaction=False)
            pipeline.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            pipeline.execute_command("SENTINEL", "MASTER", self._service)
            address, state = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as failure:
            return str(failure)
        if not address or isinstance(address, Exception):
            return "a Sentinel does not know it" if not address else str(address)
        if isinstance(state, Exception):
            return str(state)
        fields = dict(zip(state[::2], state[1::2], strict=True))
        host, port = address
        return int(fields.get(b"config-epoch", 0)), (host.decode(), int(port))


class SentinelConnection(TcpConnection):
    """A connection to whichever server is the primary as it is made, and only as long as it is."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        self.sentinels = sentinels
        super().__init__(**options)

    async def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        """Connect, unless connected to the present primary. Raises RedisError."""
        if self.is_connected:
            if self.is_current():
                return
            await self.disconnect(nowait=True)
        self.host, self.port = await self.sentinels.find()
        await super().connect_check_health(check_health, retry_socket_connect)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Make sure that it is a primary: Sentinels tell a server to be one, and that may take a moment."""
        await super().on_connect_check_health(check_health)
        await self.send_command("ROLE", check_health=False)
        try:
            role, *_ = await self.read_response()
        except NoPermissionError:
            return
        if role != b"master":
            raise RedisConnectionError(f"{self._host_error()} is no primary yet, or no more")

    def is_current(self) -> bool:
        """Whether what it is connected to is still the primary, as far as is known."""
        return self.sentinels.primary == (self.host, self.port)


class SentinelPool(BlockingConnectionPool):
    """Connections to the primary."""

    def __init__(self, sentinels: Sentinels, **options: Any) -> None:
        self.sentinels = sentinels
        super().__init__(
            **(
                {"max_connections": CONNECTIONS, "timeout": TIMEOUT_SECONDS}
                | connection_options()
                | options
                | {"connection_class": SentinelConnection, "sentinels": sentinels}
            )
        )

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """As every pool does; beside that the Sentinels are asked now and then."""
        self.sentinels.glance()
        await super().ensure_connection(connection)
