"""The connection to Redis/Valkey, set on purpose, and what differs between one server and a Cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, Sentinel
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.domain.errors import SettingsError
from gateway.pool.scripts import Client

T = TypeVar("T")

TIMEOUT_SECONDS: Final = 1.0
"""After this long without a reply the outcome of a script call is unknown."""
CONNECT_TIMEOUT_SECONDS: Final = 1.0
CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Engine:
    """A client, and whether one script call may touch several shards (not in a Cluster:

    each has its own slot).
    """

    client: Client
    spans_shards: bool

    def split(self, sections: Sequence[tuple[int, T]]) -> list[list[tuple[int, T]]]:
        """What one script call may serve, of (shard, ...) pairs:

        all at once, or one shard's, in their order.
        """
        if self.spans_shards:
            return [list(sections)]
        by_shard: dict[int, list[tuple[int, T]]] = {}
        for section in sections:
            by_shard.setdefault(section[0], []).append(section)
        return list(by_shard.values())

    def split_shards(self, shards: Iterable[int]) -> list[list[int]]:
        """The same for bare shards."""
        return [list(shards)] if self.spans_shards else [[shard] for shard in shards]

    async def run_all(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        """Send plain commands together, and answer their replies in order. Raises RedisError."""
        if isinstance(self.client, RedisCluster):
            return [await self.client.execute_command(*command) for command in commands]
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute()
        return replies

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()


def connect(url: str) -> Engine:
    """An engine by its URL: redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://.

    Nothing is sent yet.
    The client never repeats a command by itself: a script whose reply was lost may have run, and it is the
    caller who knows how to ask again with the same call id. RESP2, as in RESP3 a connection that the server
    closed fails the next command. Raises SettingsError for a URL that it can't read.
    """
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss", "unix"):
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        return Engine(Redis.from_pool(pool), spans_shards=True)
    nodes = _nodes(parts.netloc.rpartition("@")[2], 26379 if parts.scheme == "redis+sentinel" else 6379)
    if parts.scheme == "redis+cluster":
        cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in nodes],
            username=parts.username,
            password=parts.password,
            reinitialize_steps=0,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            max_connections=CONNECTIONS,
        )
        return Engine(cluster, spans_shards=False)
    if parts.scheme == "redis+sentinel":
        service = parts.path.strip("/") or parse_qs(parts.query).get("service", ["mymaster"])[0]
        options = {
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        sentinel = Sentinel(nodes, sentinel_kwargs=options, **options)  # type: ignore[no-untyped-call]
        return Engine(
            sentinel.master_for(service, username=parts.username, password=parts.password), spans_shards=True
        )
    raise SettingsError(
        f"CALLGATE_REDIS_URL: {parts.scheme or 'a URL without a scheme'} is not one of redis://, rediss://, "
        "unix://, redis+cluster://, redis+sentinel://"
    )


def _nodes(netloc: str, default_port: int) -> list[tuple[str, int]]:
    nodes = []
    for each in netloc.split(","):
        host, _, port = each.partition(":")
        if not host or (port and not port.isdigit()):
            raise SettingsError(f"CALLGATE_REDIS_URL: {each!r} is not host:port")
        nodes.append((host, int(port or default_port)))
    return nodes
