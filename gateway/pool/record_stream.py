"""The stream of what ended, from each shard to SQL (R26): read in order, deleted once committed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from gateway.domain.errors import EngineUnavailable
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace
from gateway.pool.packed import Item, unpack_items, unpack_policy
from gateway.pool.shards import Shards

START: Final = "0-0"
DECODED_AT_ONCE: Final = 100
"""Items decoded before others get their turn on the event loop: a long backlog must not hold up calls."""


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """Items that one script appended. Those of a shard are numbered without a gap, from `first_number` on.

    Bytes are what could not be read, from there to the entry's end.
    """

    shard: int
    entry_id: str
    items: list[Item | bytes]
    first_number: int


@contextmanager
def _engine_unavailable() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as failure:
        raise EngineUnavailable from failure


class RecordStream:
    """The records streams of all shards."""

    def __init__(self, engine: Engine, keys: KeySpace, shards: Shards) -> None:
        self._engine = engine
        self._keys = keys
        self._shards = shards
        self._shard_by_key = {keys.named(shard, "records")[0].encode(): shard for shard in range(keys.shards)}

    async def read(self, positions: Mapping[int, str], limit: int) -> list[StreamEntry]:
        """Entries behind each shard's position, oldest first in each, at most `limit` a shard.

        Raises EngineUnavailable.
        """
        with _engine_unavailable():
            return await self._read(positions, limit)

    async def _read(self, positions: Mapping[int, str], limit: int) -> list[StreamEntry]:
        entries: list[StreamEntry] = []
        decoded = 0
        for group in self._engine.split_shards(range(self._keys.shards)):
            streams = {self._keys.named(shard, "records")[0]: positions.get(shard, START) for shard in group}
            reply: list[Any] = await self._engine.client.execute_command(
                "XREAD", "COUNT", limit, "STREAMS", *streams, *streams.values()
            )
            for key, found in reply or []:
                shard = self._shard_by_key[key]
                for entry_id, fields in found:
                    entry = _entry(shard, entry_id, fields)
                    entries.append(entry)
                    decoded += len(entry.items)
                    if decoded >= DECODED_AT_ONCE:
                        decoded = 0
                        await asyncio.sleep(0)
        return entries

    async def trim(self, positions: Mapping[int, str]) -> None:
        """Delete entries up to and including these: only what SQL has committed. Raises EngineUnavailable."""
        with _engine_unavailable():
            await self._engine.run_all(
                [
                    ("XTRIM", self._keys.named(shard, "records")[0], "MINID", _after(entry_id))
                    for shard, entry_id in positions.items()
                ]
            )

    async def epochs(self) -> dict[int, int]:
        """The epoch of each shard that is there. Raises EngineUnavailable."""
        with _engine_unavailable():
            return await self._shards.epochs()

    async def backlog(self) -> int:
        """Entries that wait in all shards. Raises EngineUnavailable."""
        streams = [self._keys.named(shard, "records")[0] for shard in range(self._keys.shards)]
        with _engine_unavailable():
            return sum(await self._engine.run_all([("XLEN", stream) for stream in streams]))


def _entry(shard: int, entry_id: bytes, fields: Mapping[bytes, bytes]) -> StreamEntry:
    items: list[Item | bytes] = []
    try:
        items.extend(unpack_items(fields[b"d"], unpack_policy(fields[b"p"])))
    except (ValueError, KeyError, IndexError, struct.error):
        items.append(b" ".join(name + b"=" + value for name, value in fields.items()))
    return StreamEntry(shard, entry_id.decode(), items, int(fields.get(b"n", 0)))


def _after(entry_id: str) -> str:
    """The least id behind this one: trimming keeps entries from there on."""
    milliseconds, sequence = entry_id.split("-")
    return f"{milliseconds}-{int(sequence) + 1}"
