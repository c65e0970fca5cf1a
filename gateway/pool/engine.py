"""The engine: one server, the primary that Sentinels name, or a Cluster; and what differs between them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote

from redis.asyncio.connection import BlockingConnectionPool, parse_url
from redis.exceptions import ClusterDownError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.domain.errors import EngineUnavailable, SettingsError
from gateway.pool.cluster import ClusterClient, send_together
from gateway.pool.connections import IN_STEP, Address, Server, TcpConnection, make_pool
from gateway.pool.keys import hash_tag
from gateway.pool.scripts import Argument, Client, Script
from gateway.pool.scripts import script as load
from gateway.pool.sentinel import SentinelPool, Sentinels
from gateway.urls import split_url

T = TypeVar("T")

Replicas = int | Literal["all"]
"""How many replicas must have a write before it counts: so many, or all that follow their primary."""

WAIT_MS: Final = 700
"""How long replicas are waited for; well within the time after which the connection gives up."""
BARRIER_MS: Final = 1000
"""How long the key lives that is written so that there is something to wait for."""
COUNTED_SECONDS: Final = 1.0
"""How long a count of replicas is good for."""


@contextmanager
def engine_unavailable() -> Iterator[None]:
    """Raise EngineUnavailable for whatever a client says of an engine that did not answer."""
    try:
        yield
    except (RedisError, OSError) as failure:
        raise EngineUnavailable from failure


class Asked(NamedTuple, Generic[T]):
    """What shards said, each group that was asked together; and which are away, and why."""

    said: Sequence[tuple[Sequence[int], T]]
    away: Mapping[int, Exception]


@dataclass(slots=True)
class _Counted:
    """How many replicas a primary had, when that was, and when there were any."""

    at: float = float("-inf")
    replicas: int = 0
    seen_at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class Engine:
    """A client, and whether one script call may touch several shards (not in a Cluster:

    each has its own slot).
    """

    client: Client
    spans_shards: bool
    sentinels: Sentinels | None = None
    alone_after_seconds: float = 30.0
    """A primary that lost all its replicas may be the one that is cut off, with another in its place soon:
    for so long what it is told does not count for who wants all of them to have it."""
    _counted: dict[Server, _Counted] = field(default_factory=dict, repr=False)

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

    async def ask_shards(
        self, shards: Iterable[int], ask: Callable[[Sequence[int]], Awaitable[T]]
    ) -> Asked[T]:
        """Ask shards: all at once, or in a Cluster one by one, its nodes side by side.

        There a shard that can't be asked is left out, so that it holds up none but itself. Raises what `ask`
        raises (RedisError, OSError, EngineUnavailable) if none can be, as on a single server.
        """
        if self.spans_shards:
            together = list(shards)
            return Asked([(together, await ask(together))], {})
        said: list[tuple[Sequence[int], T]] = []
        away: dict[int, Exception] = {}

        async def in_turn(of_node: Sequence[int]) -> None:
            for at, shard in enumerate(of_node):
                try:
                    said.append(([shard], await ask([shard])))
                except (ResponseError, EngineUnavailable) as failure:
                    # It answers, but not for this one.
                    away[shard] = failure
                except (RedisError, OSError) as failure:
                    # It is the node. To wait for it once more for each shard would take minutes.
                    away.update(dict.fromkeys(of_node[at:], failure))
                    return

        by_node = await self._by_node(shards)
        unowned = by_node.pop(None, [])
        away.update(dict.fromkeys(unowned, ClusterDownError("No node owns its slot")))
        await asyncio.gather(*map(in_turn, by_node.values()))
        if away and not said:
            raise next(iter(away.values()))
        return Asked(said, away)

    async def _by_node(self, shards: Iterable[int]) -> dict[Server | int | None, list[int]]:
        """Shards, those of one node of the Cluster together. Raises RedisError if no node can be asked."""
        shards = list(shards)
        if not isinstance(self.client, ClusterClient):
            return {shard: [shard] for shard in shards}
        by_node: dict[Server | int | None, list[int]] = {}
        owners = await self.client.owners(map(hash_tag, shards))
        for shard, owner in zip(shards, owners, strict=True):
            by_node.setdefault(owner, []).append(shard)
        return by_node

    async def run_all(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        """Send plain commands together, and answer their replies in order. Raises RedisError."""
        if isinstance(self.client, ClusterClient):
            return await self.client.run_all(commands)
        return await send_together(self.client, commands)

    async def run_script(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Iterable[Argument] = (),
        *,
        replicas: Replicas = 0,
        wait_ms: int = WAIT_MS,
    ) -> Any:
        """Run a script, and wait until so many replicas have what it wrote; one WAIT, on its connection.

        Raises RedisError. TimeoutError if there are not so many in time: the script has run then, and what it
        wrote may yet be lost or not. Ask again with the same ids: what was written is found, and waited for
        anew.
        """
        if not replicas:
            return await script.run(self.client, keys, arguments)
        given = [len(keys), *keys, *arguments]
        # Valkey waits for a connection's own writes only, and a script that is asked again may find all
        # written, by another connection: hence one write that is this one's.
        # With its text, which is short: so NOSCRIPT is never said of it, but of a script that has not run.
        barrier = ("EVAL", load("barrier_write").source, 1, _barrier(keys[0]), BARRIER_MS)

        async def work(node: Server, asking: bool) -> Any:
            wanted = await self._all_replicas(node) if replicas == "all" else replicas
            commands: list[tuple[Any, ...]] = [("EVALSHA", script.sha, *given)]
            if wanted:
                commands += [barrier, ("WAIT", wanted, wait_ms)]
            try:
                reply, *waited = await send_together(node, commands, asking=asking)
            except NoScriptError:
                commands[0] = ("EVAL", script.source, *given)
                reply, *waited = await send_together(node, commands, asking=asking)
            have = waited[-1] if waited else 0
            if have < wanted:
                raise RedisTimeoutError(f"{have} of {wanted} replicas have it after {wait_ms} ms")
            return reply

        started = perf_counter()
        try:
            if isinstance(self.client, ClusterClient):
                return await self.client.at_owner(keys[0], work)
            return await work(self.client, False)
        finally:
            script.took(perf_counter() - started)

    async def primaries(self) -> list[Server]:
        """A client of each server that takes writes. Raises RedisError."""
        if isinstance(self.client, ClusterClient):
            return await self.client.primaries()
        return [self.client]

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()
        if self.sentinels is not None:
            await self.sentinels.close()

    async def _all_replicas(self, node: Server) -> int:
        counted = self._counted.setdefault(node, _Counted())
        async with counted.lock:
            now = monotonic()
            if now - counted.at >= COUNTED_SECONDS:
                counted.replicas = online_replicas(await node.info("replication"))
                counted.at = now
                if counted.replicas:
                    counted.seen_at = now
            if not counted.replicas and now - counted.seen_at < self.alone_after_seconds:
                return 1
            return counted.replicas


def _barrier(key: str) -> str:
    """A key in the slot of another."""
    return f"{key[: key.find('}') + 1] or key}:barrier"


def online_replicas(replication: dict[str, Any]) -> int:
    """How many replicas of a primary are in touch with it and have caught up, of its INFO replication."""
    lines = (
        value for name, value in replication.items() if name.startswith("slave") and isinstance(value, dict)
    )
    return sum(line.get("state") == "online" for line in lines)


def connect(url: str) -> Engine:
    """An engine by its URL: redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://.

    Nothing is sent yet. Raises SettingsError for a URL that it can't read.
    """
    try:
        parts = split_url(url)
        if parts.scheme in ("redis", "rediss", "unix"):
            return Engine(Server.on(_pool(url)), spans_shards=True)
        if parts.scheme == "redis+cluster":
            nodes = _nodes(parts.hosts, 6379)
            return Engine(ClusterClient(nodes, **_credentials(parts.user)), spans_shards=False)
        if parts.scheme == "redis+sentinel":
            nodes = _nodes(parts.hosts, 26379)
            service = parts.path.strip("/") or parse_qs(parts.query).get("service", ["mymaster"])[0]
            sentinels = Sentinels(nodes, service)
            pool = SentinelPool(sentinels, **_credentials(parts.user))
            return Engine(Server.on(pool), spans_shards=True, sentinels=sentinels)
    except ValueError as failure:
        raise SettingsError(f"redis_url: {failure}") from None
    raise SettingsError(
        f"redis_url: {parts.scheme or 'a URL without a scheme'} is not one of redis://, rediss://, "
        "unix://, redis+cluster://, redis+sentinel://"
    )


def _pool(url: str) -> BlockingConnectionPool:
    options = dict(parse_url(url))
    kind: Any = options.pop("connection_class", None)
    pool = make_pool(IN_STEP.get(kind, TcpConnection), **options)
    try:
        pool.make_connection()  # type: ignore[no-untyped-call]  # untyped in redis-py
    except TypeError as failure:
        raise ValueError(f"an option that there is not: {failure}") from None
    return pool


def _credentials(user: str) -> dict[str, str]:
    name, _, password = user.partition(":")
    found = {"username": unquote(name), "password": unquote(password)}
    return {name: value for name, value in found.items() if value}


def _nodes(hosts: Iterable[str], default_port: int) -> list[Address]:
    nodes = []
    for each in hosts:
        host, colon, port = each.rpartition(":")
        if not colon or each.endswith("]"):
            host, port = each, ""
        if not host or (port and not port.isdigit()):
            raise SettingsError(f"redis_url: {each!r} is not host:port")
        nodes.append((host.strip("[]"), int(port or default_port)))
    return nodes
