"""How far SQL was, and when: so that what is deleted from the stream was saved a while before (R26).

An entry's id only says when it was settled. After the database was away for hours, what it is given then is
as old as that, and a copy of the database made a minute before has none of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.database import Database
from gateway.records.deployment import put_value, value_of
from gateway.records.ingest import START, load_progress, order
from gateway.records.reading import Proven

A_TIME: Final = 8
"""So many checkpoints are taken in the time that entries are kept: they stay by an eighth longer at most."""

_KEY: Final = "records_checkpoints"


class _Checkpoint(NamedTuple):
    """When it was, and of each shard the last entry that was saved, and its epoch."""

    at_ms: int
    positions: Mapping[str, tuple[str, int]]


async def saved_long_enough(
    database: Database, saved: Mapping[int, Proven], engine_ms: int, kept_ms: int
) -> dict[int, Proven]:
    """Return how much of what is saved SQL has had for `kept_ms`, of shards of which that is known.

    It is `engine_ms` by the engine's clock. Now and then this takes note of how far SQL is, and keeps that in
    SQL: it goes back with it to an older copy, and is there for whoever records next. Raises
    DatabaseUnavailable.
    """
    known = _of_use(await database.read(value_of, _KEY), engine_ms, kept_ms)
    if not known or engine_ms - known[-1].at_ms >= kept_ms // A_TIME:
        known = await database.write(_take, engine_ms, kept_ms)
    if known[0].at_ms > engine_ms - kept_ms:
        return {}
    long_enough = {}
    for shard, each in saved.items():
        entry_id, epoch = known[0].positions.get(str(shard), (START, 0))
        if entry_id != START and epoch == each.epoch:
            long_enough[shard] = each._replace(entry_id=min(entry_id, each.entry_id, key=order))
    return long_enough


async def _take(connection: AsyncConnection, engine_ms: int, kept_ms: int) -> list[_Checkpoint]:
    progress = await load_progress(connection)
    positions = {str(shard): (each.entry_id, each.epoch) for shard, each in progress.items()}
    known = _of_use(await value_of(connection, _KEY), engine_ms, kept_ms)
    known.append(_Checkpoint(engine_ms, positions))
    await put_value(connection, _KEY, json.dumps(known, separators=(",", ":")))
    return known


def _of_use(kept: str | None, engine_ms: int, kept_ms: int) -> list[_Checkpoint]:
    """Those from the newest on that is old enough; none of the future, from before a clock was set back."""
    known = [_Checkpoint(*each) for each in json.loads(kept or "[]") if each[0] <= engine_ms]
    old_enough = max((each.at_ms for each in known if each.at_ms <= engine_ms - kept_ms), default=0)
    return [each for each in known if each.at_ms >= old_enough]
