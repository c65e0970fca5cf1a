"""Connections to the engine that are in step with their questions, or else closed.

What differs from redis-py's: its sends use `asyncio.wait_for`, which on Python 3.11 loses a cancellation that
comes as the send is done; and a server that says READONLY is a primary no more, so the connection to it goes.
Either way the connection of a command that was cancelled or failed is dropped, never given to the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

TIMEOUT_SECONDS: Final = 1.0
"""After this long without a reply the outcome of a script call is unknown."""
CONNECT_TIMEOUT_SECONDS: Final = 1.0
CONNECTIONS: Final = 16
"""At the most, to each server."""

Address = tuple[str, int]


def connection_options() -> dict[str, Any]:
    """What every connection has in common.

    No command is repeated by the client: a script whose reply was lost may have run, and it is the caller who
    knows how to ask again with the same ids. RESP2, as in RESP3 a connection that the server closed fails the
    next command. Nothing is said of redis-py when connecting: after a failover or many cancellations it would
    be the greater part of the work.
    """
    return {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }


class Server(Redis):
    """A client of one server, or of whichever is the primary."""

    @classmethod
    def on(cls, pool: BlockingConnectionPool) -> Server:
        """A client with these connections, and no other."""
        server = cls.from_pool(pool)
        assert isinstance(server, Server)
        return server

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        """Carry out a command. Raises RedisError."""
        return await super().execute_command(*command, **options)  # type: ignore[no-untyped-call]  # in redis-py

    def make_connection(self) -> AbstractConnection:
        """A connection for the caller alone, not connected yet and not counted."""
        connection: AbstractConnection = self.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        return connection


class _InStep(AbstractConnection):
    """Sends without losing a cancellation, and does not stay with a primary that was demoted."""

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]  # untyped in redis-py
        if isinstance(command, str):
            command = command.encode()
        writer = self._writer
        if writer is None:
            raise RedisConnectionError("Connection closed before the command was sent")
        try:
            writer.writelines([command] if isinstance(command, bytes) else command)
            async with asyncio.timeout(self.socket_timeout):
                await writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("Timeout writing to socket") from None
        except OSError as failure:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while writing to {self._host_error()}: {failure}") from failure
        except BaseException:
            # Half a command may be on its way.
            await self.disconnect(nowait=True)
            raise

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - redis-py's
        *,
        disconnect_on_error: bool = True,
        push_request: bool | None = False,
    ) -> Any:
        try:
            return await super().read_response(
                disable_decoding,
                timeout,
                disconnect_on_error=disconnect_on_error,
                push_request=push_request,
            )
        except ReadOnlyError as failure:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"{self._host_error()} is no primary any more") from failure


class TcpConnection(_InStep, Connection):
    """Over TCP."""


class TlsConnection(_InStep, SSLConnection):
    """Over TLS."""


class UnixConnection(_InStep, UnixDomainSocketConnection):
    """Over a unix socket."""


IN_STEP: Final[dict[type[AbstractConnection], type[AbstractConnection]]] = {
    SSLConnection: TlsConnection,
    UnixDomainSocketConnection: UnixConnection,
}
"""Which of these takes the place of which of redis-py's; TcpConnection that of any other."""


def make_pool(
    connection_class: type[AbstractConnection] = TcpConnection, **options: Any
) -> BlockingConnectionPool:
    """A pool of connections; who finds all in use waits, though not for ever."""
    return BlockingConnectionPool(
        **(
            {"max_connections": CONNECTIONS, "timeout": TIMEOUT_SECONDS}
            | connection_options()
            | options
            | {"connection_class": connection_class}
        )
    )
