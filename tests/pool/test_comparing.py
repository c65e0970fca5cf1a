"""R26: a shard that is suspected to lack something stays so until it has been compared, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.domain.policy import Policy
from gateway.pool.engine import connect
from gateway.pool.keys import KeySpace
from gateway.pool.scripts import script
from gateway.pool.shards import Shards
from tests.support.engines import EngineServer

LEASE_MS = 15_000
OTHER_RUN = 12_345
"""The run of a primary that was deposed and did not know it yet."""


class Numbers:
    """What SQL says of items; it may be slow to say it."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()

    async def saved(self) -> Mapping[int, int]:
        """As `Shards` asks it."""
        await self.answers.wait()
        return {}


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
async def shards(engine: EngineServer, numbers: Numbers) -> AsyncIterator[Shards]:
    connected = connect(engine.url)
    try:
        shards = Shards(connected, KeySpace(2), Policy(), simulate=True, saved_numbers=numbers.saved)
        await shards.open()
        yield shards
    finally:
        await connected.close()


@pytest.fixture
def heard(shards: Shards) -> list[Mapping[int, bool]]:
    """Which shards are said to have lost something, from now on."""
    heard: list[Mapping[int, bool]] = []
    shards.on_new_epoch(heard.append)
    return heard


async def hear_a_stranger(shards: Shards, shard: int = 0) -> None:
    """Get an answer of another engine than the one that counts."""
    shards.saw(shard, OTHER_RUN, await shards.epoch(shard), 1_000)


async def test_what_a_deposed_primary_answered_is_told_though_comparing_failed_at_first(
    shards: Shards, heard: list[Mapping[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = shards._compare_with

    async def fails(saved: Mapping[int, int] | None, of: Iterable[int], *, build: bool) -> Any:
        monkeypatch.setattr(shards, "_compare_with", compare)
        raise RedisConnectionError("reset")

    monkeypatch.setattr(shards, "_compare_with", fails)
    await hear_a_stranger(shards)
    with pytest.raises(RedisConnectionError):
        await shards.beat(LEASE_MS)
    assert heard == []
    for _ in range(2):
        await shards.beat(LEASE_MS)
        assert heard == [{0: False}]


async def test_it_is_told_though_who_was_comparing_was_cancelled(
    shards: Shards, numbers: Numbers, heard: list[Mapping[int, bool]]
) -> None:
    await hear_a_stranger(shards)
    numbers.answers.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await shards.beat(LEASE_MS)
    numbers.answers.set()
    await shards.beat(LEASE_MS)
    assert heard == [{0: False}]


async def test_no_beat_is_done_before_what_another_suspected_is_compared(
    shards: Shards, numbers: Numbers, heard: list[Mapping[int, bool]]
) -> None:
    """Who lets go of answers relies on its own beat."""
    await hear_a_stranger(shards)
    numbers.answers.clear()
    beats = [asyncio.create_task(shards.beat(LEASE_MS)) for _ in range(2)]
    done, _ = await asyncio.wait(beats, timeout=0.3)
    assert not done
    numbers.answers.set()
    await asyncio.gather(*beats)
    assert heard == [{0: False}]


async def test_calls_that_go_on_meanwhile_are_no_sign_that_it_was_compared(
    shards: Shards, heard: list[Mapping[int, bool]]
) -> None:
    """They raise the number up to which the shard was seen."""
    async with shards._comparing:
        await hear_a_stranger(shards)
        waiting = asyncio.create_task(shards.confirm([0]))
        await asyncio.sleep(0.1)
        await shards.next_connection(0)
        await shards.states()
    await waiting
    assert heard == [{0: False}]


async def test_what_was_seen_while_it_was_compared_is_not_forgotten(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer may overtake that of the comparison."""
    opening = script("shards_open")
    run = opening.run

    async def overtaken(*given: Any) -> Any:
        reply = await run(*given)
        for _ in range(5):
            await shards.next_connection(0)
        await shards.states()
        return reply

    monkeypatch.setattr(opening, "run", overtaken)
    before = shards._seen[0].seq
    await shards.confirm([0])
    assert shards._seen[0].seq >= before + 5
