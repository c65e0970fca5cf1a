"""The stream of what ended, from each shard to SQL (R26): read in order, deleted once committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from gateway.domain.calls import CallRecord, CycleOpened
from gateway.domain.errors import EngineUnavailable
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace
from gateway.pool.packed import unpack_items, unpack_policy

START = "0-0"


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """Items that one script appended. Those of a shard are numbered without a gap, from `first_number` on."""

    shard: int
    entry_id: str
    items: list[CallRecord | CycleOpened]
    first_number: int


@contextmanager
def _engine_unavailable() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as failure:
        raise EngineUnavailable from failure


class RecordStream:
    """The records streams of all shards."""

    def __init__(self, engine: Engine, keys: KeySpace) -> None:
        self._engine = engine
        self._keys = keys
        self._shard_by_key = {
            keys.named(shard, "records")[0].encode(): shard for shard in range(keys.shards)
        }

    async def read(self, positions: Mapping[int, str], limit: int) -> list[StreamEntry]:
        """Entries behind each shard's position, oldest first in each, at most `limit` a shard.

        Raises EngineUnavailable.
        """
        with _engine_unavailable():
            return await self._read(positions, limit)

    async def _read(self, positions: Mapping[int, str], limit: int) -> list[StreamEntry]:
        entries: list[StreamEntry] = []
        for group in self._engine.split_shards(range(self._keys.shards)):
            streams = {
                self._keys.named(shard, "records")[0]: positions.get(shard, START) for shard in group
            }
            reply: list[Any] = await self._engine.client.execute_command(
                "XREAD", "COUNT", limit, "STREAMS", *streams, *streams.values()
            )
            for key, found in reply or []:
                shard = self._shard_by_key[key]
                entries.extend(self._entry(shard, entry_id, fields) for entry_id, fields in found)
        return entries

    async def trim(self, positions: Mapping[int, str]) -> None:
        """Delete entries up to and including these: only what SQL has committed. Raises EngineUnavailable."""
        with _engine_unavailable():
            for shard, entry_id in positions.items():
                milliseconds, sequence = entry_id.split("-")
                await self._engine.client.xtrim(
                    self._keys.named(shard, "records")[0],
                    minid=f"{milliseconds}-{int(sequence) + 1}",
                    approximate=False,
                )

    async def backlog(self) -> int:
        """Entries that wait in all shards. Raises EngineUnavailable."""
        with _engine_unavailable():
            return await self._count()

    async def _count(self) -> int:
        waiting = 0
        for group in self._engine.split_shards(range(self._keys.shards)):
            if self._engine.spans_shards:
                pipeline = self._engine.client.pipeline(transaction=False)
                for shard in group:
                    pipeline.xlen(self._keys.named(shard, "records")[0])
                waiting += sum(await pipeline.execute())
            else:
                waiting += await self._engine.client.xlen(self._keys.named(group[0], "records")[0])
        return waiting

    def _entry(self, shard: int, entry_id: bytes, fields: Mapping[bytes, bytes]) -> StreamEntry:
        policy = unpack_policy(fields[b"p"])
        return StreamEntry(
            shard=shard,
            entry_id=entry_id.decode(),
            items=list(unpack_items(fields[b"d"], policy)),
            first_number=int(fields[b"n"]),
        )
