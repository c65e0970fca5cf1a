"""The stream of what ended, from each shard to SQL (R26): read in order, deleted once committed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway.pool.engine import Engine, engine_unavailable
from gateway.pool.keys import KeySpace
from gateway.pool.packed import Item, Notice, unpack_items, unpack_notices, unpack_policy
from gateway.pool.scripts import Argument, script
from gateway.pool.shards import Saved, Shards, States

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

START: Final = "0-0"
DECODED_AT_ONCE: Final = 100
"""Items decoded before others get their turn on the event loop: a long backlog must not hold up calls."""


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """Items that one script appended. Those of a shard are numbered without a gap, from `first_number` on.

    Bytes are what could not be read, from there to the entry's end, and `unread_because` says why. `notices`
    have no numbers.
    """

    shard: int
    entry_id: str
    items: list[Item | bytes]
    first_number: int
    notices: tuple[Notice, ...] = ()
    unread_because: str | None = None


class RecordStream:
    """The records streams of all shards."""

    def __init__(self, engine: Engine, keys: KeySpace, shards: Shards) -> None:
        self._engine = engine
        self._keys = keys
        self._shards = shards
        self._shard_by_key = {keys.named(shard, "records")[0].encode(): shard for shard in range(keys.shards)}

    async def read(
        self,
        positions: Mapping[int, str],
        limit: int,
        at_once: int = DECODED_AT_ONCE,
        away: Set[int] = frozenset(),
    ) -> list[StreamEntry]:
        """Entries behind each shard's position, oldest first in each, at most `limit` a shard.

        Others get their turn on the event loop after each `at_once` items. Those of `away` are not asked.
        Raises EngineUnavailable if another can't be: else it would seem to have no more.
        """
        with engine_unavailable():
            return await self._read(positions, limit, at_once, away)

    async def _read(
        self, positions: Mapping[int, str], limit: int, at_once: int, away: Set[int]
    ) -> list[StreamEntry]:
        entries: list[StreamEntry] = []
        decoded = 0
        for group in self._engine.split_shards(s for s in range(self._keys.shards) if s not in away):
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
                    if decoded >= at_once:
                        decoded = 0
                        await asyncio.sleep(0)
        return entries

    async def last_up_to(self, positions: Mapping[int, str]) -> dict[int, StreamEntry]:
        """The last entry of each of these shards that is not behind that position, where there is one.

        Raises EngineUnavailable.
        """
        with engine_unavailable():
            found = await self._engine.run_all(
                [
                    ("XREVRANGE", self._keys.named(shard, "records")[0], entry_id, "-", "COUNT", 1)
                    for shard, entry_id in positions.items()
                ]
            )
        return {shard: _entry(shard, *each[0]) for shard, each in zip(positions, found, strict=True) if each}

    async def trim(self, saved: Mapping[int, tuple[int, int, str]]) -> None:
        """Delete entries up to and including these: by shard a run of an engine, an epoch, an entry's id.

        Where the shard is of another run or epoch by now, nothing is deleted. Raises EngineUnavailable.
        """
        with engine_unavailable():
            for group in self._engine.split_shards(saved):
                keys = [key for shard in group for key in self._keys.named(shard, "meta", "records")]
                arguments: list[Argument] = []
                for shard in group:
                    run, epoch, entry_id = saved[shard]
                    arguments += [str(run), str(epoch), _next_id(entry_id)]
                await script("records_trim").run(self._engine.client, keys, arguments)

    async def states(self) -> States:
        """Each shard that is there, and those that are away. Raises EngineUnavailable if all are."""
        with engine_unavailable():
            return await self._shards.states()

    async def renew(self, saved: Mapping[int, Saved]) -> None:
        """Give shards a new epoch, newer than the one SQL has. Raises EngineUnavailable."""
        with engine_unavailable():
            await self._shards.renew_epochs(saved)

    async def engine_ms(self) -> int:
        """The engine's clock, by which entries have their ids. Raises RedisError."""
        return await self._shards.server_ms()

    async def backlog(self, saved: Mapping[int, Saved], away: Set[int] = frozenset()) -> int:
        """Items of all shards but `away` behind what is saved of each. Raises EngineUnavailable."""
        shards = [shard for shard in range(self._keys.shards) if shard not in away]
        with engine_unavailable():
            last = await self._engine.run_all(
                [
                    ("XREVRANGE", self._keys.named(shard, "records")[0], "+", "-", "COUNT", 1)
                    for shard in shards
                ]
            )
        return sum(
            _behind(_entry(shard, *found[0]), saved.get(shard))
            for shard, found in zip(shards, last, strict=True)
            if found
        )


def _entry(shard: int, entry_id: bytes, fields: Mapping[bytes, bytes]) -> StreamEntry:
    items: list[Item | bytes] = []
    because: str | None = None
    number = 0
    try:
        number = int(fields.get(b"n", 0))
        items.extend(unpack_items(fields[b"d"], unpack_policy(fields[b"p"])))
    except Exception as failure:  # noqa: BLE001 - it is kept, and stops no other
        because = f"{type(failure).__name__}: {failure}"
        items.append(b" ".join(name + b"=" + value for name, value in fields.items()))
    return StreamEntry(shard, entry_id.decode(), items, number, _notices(fields), because)


def _notices(fields: Mapping[bytes, bytes]) -> tuple[Notice, ...]:
    packed = fields.get(b"q")
    if packed is None:
        return ()
    try:
        return tuple(unpack_notices(packed))
    except Exception as failure:  # noqa: BLE001 - the same
        # No money is in them.
        log.error("notices.not_understood", because=str(failure))
        return ()


def _behind(last: StreamEntry, saved: Saved | None) -> int:
    """How many items there are behind what is saved, by the last entry of a shard."""
    if saved is None:
        return last.first_number + len(last.items) - 1
    if _order(last.entry_id) <= _order(saved.entry_id):
        return 0
    # At least those of the entry: after a loss of writes numbers may begin again below what SQL has.
    return max(last.first_number + len(last.items) - 1 - saved.record_number, len(last.items))


def _next_id(entry_id: str) -> str:
    milliseconds, sequence = _order(entry_id)
    return f"{milliseconds}-{sequence + 1}"


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, sequence = entry_id.split("-")
    return int(milliseconds), int(sequence)
