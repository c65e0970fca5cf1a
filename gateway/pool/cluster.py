"""A Cluster, of which one shard may be away without the others noticing.

redis-py's own client closes the connections to all nodes, or has all commands wait, when one node is down.
Here a command waits for its own node only, and fails with it; which node owns what is looked up beside.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

import structlog
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ClusterError,
    MovedError,
    RedisError,
    ResponseError,
)

from gateway.pool.connections import Address, Server, make_pool
from gateway.pool.together import first_answers

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

T = TypeVar("T")
Command = Sequence[Any]
Work = Callable[[Server, bool], Awaitable[T]]
"""What is to be done at a node, and whether the node must be told ASKING first."""

REDIRECTIONS: Final = 5
ASKED_AT_ONCE: Final = 5
LOOK_SECONDS: Final = 0.5
"""How long a node may take to say how the Cluster looks."""
OTHERS_SECONDS: Final = 0.1
"""How long the others are waited for once one has said: it might be on the wrong side of a partition."""
BETWEEN_LOOKS_SECONDS: Final = 0.2

_SCRIPTS: Final = {"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"}
_KEYLESS: Final = {"PING", "TIME", "ECHO"}


class ClusterClient:
    """Sends each command to the node that owns its key. Every node has connections of its own.

    It has those of redis-py's methods that are needed; for what goes to whole nodes take `primaries`.
    """

    def __init__(self, seeds: Sequence[Address], **options: Any) -> None:
        self._seeds = tuple(seeds)
        self._options = options
        self._nodes: dict[Address, Server] = {}
        self._owners: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    # Commands

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        """Carry out a command. Raises RedisError; it is not repeated, but goes where it is redirected."""

        async def work(node: Server, asking: bool) -> Any:
            if not asking:
                return await node.execute_command(*command, **options)
            return (await send_together(node, [command], asking=True))[0]

        name = str(command[0]).upper()
        if name in _KEYLESS:
            return await work(random.choice(await self.primaries()), False)  # noqa: S311 - no secret
        return await self.at_owner(key_of(command), work)

    async def at_owner(self, key: str | bytes, work: Work[T]) -> T:
        """Do something at the node that owns a key, and again at another if it is redirected there."""
        node = await self.owner(key)
        asking = False
        for _ in range(REDIRECTIONS):
            try:
                return await work(node, asking)
            except MovedError as moved:
                node, asking = self._node(_address(moved, node)), False
                self._owners[moved.slot_id] = node
                self._look_again()
            except AskError as ask:
                node, asking = self._node(_address(ask, node)), True
            except ResponseError as failure:
                if isinstance(failure, ClusterDownError):
                    self._look_again()
                raise
            except (RedisError, OSError):
                self._look_again()
                raise
        raise ClusterError(f"Redirected more than {REDIRECTIONS} times")

    async def run_all(self, commands: Sequence[Command]) -> list[Any]:
        """Carry out commands, each node's together; answer their replies in order. Raises RedisError."""
        by_node: dict[Server, list[int]] = {}
        for number, command in enumerate(commands):
            by_node.setdefault(await self.owner(key_of(command)), []).append(number)
        replies: list[Any] = [None] * len(commands)

        async def at(node: Server, numbers: list[int]) -> None:
            try:
                found = await send_together(node, [commands[number] for number in numbers], raising=False)
            except (RedisError, OSError):
                self._look_again()
                raise
            for number, reply in zip(numbers, found, strict=True):
                replies[number] = reply

        ended = await asyncio.gather(
            *(at(node, numbers) for node, numbers in by_node.items()), return_exceptions=True
        )
        for failure in ended:
            if failure is not None:
                raise failure
        for number, reply in enumerate(replies):
            if isinstance(reply, AskError):
                replies[number] = await self.execute_command(*commands[number])
            elif isinstance(reply, Exception):
                raise reply
        return replies

    # redis-py's

    async def hsetnx(self, name: str, key: str, value: str | bytes) -> int:
        """See redis-py."""
        return int(await self.execute_command("HSETNX", name, key, value))

    async def hget(self, name: str, key: str) -> bytes | None:
        """See redis-py."""
        found: bytes | None = await self.execute_command("HGET", name, key)
        return found

    async def hgetall(self, name: str) -> dict[bytes, bytes]:
        """See redis-py."""
        found: dict[bytes, bytes] = await self.execute_command("HGETALL", name)
        return found

    async def hdel(self, name: str, *keys: str) -> int:
        """See redis-py."""
        return int(await self.execute_command("HDEL", name, *keys))

    async def zrem(self, name: str, *values: str) -> int:
        """See redis-py."""
        return int(await self.execute_command("ZREM", name, *values))

    async def scan_iter(self, match: str | None = None, count: int | None = None) -> AsyncIterator[bytes]:
        """See redis-py; one primary after the other."""
        for node in await self.primaries():
            async for key in node.scan_iter(match=match, count=count):
                yield key

    # Nodes

    async def owner(self, key: str | bytes) -> Server:
        """The node that owns a key, as far as is known. Raises RedisError."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        node = self._owners[slot]
        if node is None:
            await self.look()
            node = self._owners[slot]
            if node is None:
                raise ClusterDownError(f"No node owns slot {slot}")
        return node

    async def owners(self, keys: Iterable[str]) -> list[Server | None]:
        """The node that owns each key, as far as is known, None where no node does. Raises RedisError."""
        slots = [key_slot(key.encode()) for key in keys]
        if any(self._owners[slot] is None for slot in slots):
            await self.look()
        return [self._owners[slot] for slot in slots]

    async def primaries(self) -> list[Server]:
        """A client of each node that owns something. Raises RedisError."""
        if None in self._owners:
            await self.look()
        return list(dict.fromkeys(node for node in self._owners if node is not None))

    async def look(self) -> None:
        """See which node owns what. Raises RedisError if no node says."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._looking)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        for node in self._nodes.values():
            await node.aclose()

    def _node(self, address: Address) -> Server:
        node = self._nodes.get(address)
        if node is None:
            host, port = address
            node = Server.on(make_pool(host=host, port=port, **self._options))
            self._nodes[address] = node
        return node

    # How the Cluster looks

    def _look_again(self) -> None:
        """In the background, and not for every command that fails."""
        if self._looking is None or self._looking.done():
            wait = max(0.0, self._looked_at + BETWEEN_LOOKS_SECONDS - monotonic())
            self._looking = asyncio.get_running_loop().create_task(self._look(wait))
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _look(self, wait_seconds: float = 0.0) -> None:
        if wait_seconds:
            await asyncio.sleep(wait_seconds)
        self._looked_at = monotonic()
        asked = list(dict.fromkeys((*self._nodes, *self._seeds)))
        random.shuffle(asked)
        failures: list[str] = []
        while asked:
            views, failed = await first_answers(
                (_ask(self._node(address)) for address in asked[:ASKED_AT_ONCE]), OTHERS_SECONDS
            )
            failures += failed
            del asked[:ASKED_AT_ONCE]
            if views:
                self._take(views)
                return
        log.warning("cluster.out_of_reach", because=failures[:3])
        raise ClusterDownError(f"No node of the Cluster can be reached: {'; '.join(failures)[:300]}")

    def _take(self, views: Iterable[_View]) -> None:
        """Of what nodes claim of a slot, that of the highest epoch holds."""
        owners: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        claims = sorted((claim for view in views for claim in view), key=lambda claim: claim[0])
        for _, first, last, address in claims:
            owners[first : last + 1] = [self._node(address)] * (last + 1 - first)
        self._owners = owners


_View = list[tuple[int, int, int, Address]]
"""How the Cluster looks to one node: epoch, first and last slot, and who owns them."""


async def _ask(node: Server) -> _View | str:
    """What a node says, or what came of asking it."""
    host = node.connection_pool.connection_kwargs["host"]
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            ranges, nodes = await send_together(
                node, [("CLUSTER", "SLOTS"), ("CLUSTER", "NODES")], raising=False
            )
    except (RedisError, OSError) as failure:
        return f"{host}: {type(failure).__name__} {failure}"
    if isinstance(ranges, Exception):
        return f"{host}: {ranges}"
    if not ranges:
        return f"{host}: knows no owner of any slot"
    epochs = {} if isinstance(nodes, Exception) else _epochs(nodes)
    view: _View = []
    for first, last, (owner, port, node_id, *_), *_ in ranges:
        # Without an endpoint it is where the node was asked; "?" is a node whose name is not known yet.
        if owner != b"?":
            view.append((epochs.get(node_id, 0), first, last, ((owner or b"").decode() or host, port)))
    return view


def _epochs(nodes: bytes) -> Mapping[bytes, int]:
    """The configuration epoch of each node, by its id, from CLUSTER NODES."""
    lines = (line.split() for line in nodes.splitlines())
    return {fields[0]: int(fields[6]) for fields in lines if len(fields) > 6}


def _address(redirection: AskError, node: Server) -> Address:
    return redirection.host or node.connection_pool.connection_kwargs["host"], redirection.port


async def send_together(
    node: Server, commands: Iterable[Command], *, asking: bool = False, raising: bool = True
) -> list[Any]:
    """Send commands over one connection of a server, and answer their replies in order.

    Raises RedisError; without `raising`, what the server refuses stands among the replies.
    """
    pipeline = node.pipeline(transaction=False)
    for command in commands:
        if asking:
            pipeline.execute_command("ASKING")
        pipeline.execute_command(*command)
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    if asking:
        replies = replies[1::2]
    if raising:
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
    return replies


def key_of(command: Command) -> str | bytes:
    """The first key of a command: all its keys must be in one slot. Raises ValueError if it has none."""
    name = str(command[0]).upper()
    at = 1
    if name in _SCRIPTS:
        at = 3 if int(command[2]) else len(command)
    elif name in ("XREAD", "XREADGROUP"):
        at = next(at for at, word in enumerate(command) if str(word).upper() == "STREAMS") + 1
    if at >= len(command):
        raise ValueError(f"{name} names no key that says which node it is for")
    key: str | bytes = command[at]
    return key
