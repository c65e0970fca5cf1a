"""Whoever asks for a device's calls is answered, whatever goes wrong while they are looked for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.exceptions import RedisClusterException

from gateway.domain.errors import EngineUnavailable
from gateway.pool.device_calls import DeviceCalls
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace


class Client:
    """A client that fails as no server says it does, at once or when it is told to go on."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.asked = asyncio.Event()

    async def execute_command(self, *_: object) -> Any:
        """Whatever is asked."""
        self.asked.set()
        await self.goes_on.wait()
        raise RedisClusterException("no RedisError")


def device_calls(client: Client) -> DeviceCalls:
    return DeviceCalls(Engine(cast(Any, client), spans_shards=False), KeySpace())


async def test_an_unforeseen_failure_is_told_to_all_that_asked() -> None:
    client = Client()
    calls = device_calls(client)
    async with asyncio.timeout(10):
        first = asyncio.create_task(calls.of("acme", "ana", "desk"))
        await client.asked.wait()
        second = asyncio.create_task(calls.of("acme", "bob", "desk"))
        await asyncio.sleep(0)
        client.goes_on.set()
        answers = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(answer) for answer in answers] == [EngineUnavailable, EngineUnavailable]
        with pytest.raises(EngineUnavailable):
            await calls.of("acme", "ana", "desk")


async def test_who_gives_up_leaves_the_look_to_the_others() -> None:
    client = Client()
    calls = device_calls(client)
    async with asyncio.timeout(10):
        gone, stays = (asyncio.create_task(calls.of("acme", "ana", "desk")) for _ in range(2))
        await client.asked.wait()
        gone.cancel()
        client.goes_on.set()
        answers = await asyncio.gather(gone, stays, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError, EngineUnavailable]
