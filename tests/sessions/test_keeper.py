"""The keeper goes on with what can be decided while a shard is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.domain.asks import Ask
from gateway.domain.calls import Caller
from gateway.domain.errors import EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.pool.leases import Vouching
from gateway.sessions.devices import DeviceConnections
from gateway.sessions.keeper import Keeper
from tests.sessions.test_devices import Device
from tests.support.waiting import wait_until


class Shard:
    """Leases of two accounts, of which the shard of "far" is away at first."""

    def __init__(self) -> None:
        self.is_away = True
        self.lost: list[str] = []
        self.vouched: list[str] = []

    async def renew(self, vouchings: Sequence[Vouching]) -> list[Renewed]:
        """As the pool does."""
        return [self._renew(each) for each in vouchings]

    def _renew(self, vouching: Vouching) -> Renewed:
        if self.is_away and vouching.account == "far":
            return Renewed.UNDECIDED
        (self.lost if vouching.lost else self.vouched).append(vouching.call_id)
        return Renewed.RENEWED


async def test_calls_are_renewed_while_the_shard_of_one_that_was_lost_is_away() -> None:
    """R13, R14: once it is back the lost one's grace starts; what is decided is told once."""
    shard, devices = Shard(), DeviceConnections()
    devices.add(Device(Caller("near", "ana", "desk"), calls={"here"}))
    keeper = Keeper(devices, shard.renew, _no_ask, lambda *_: None, lease_ms=300)
    keeper.lost("far", ["gone-1", "gone-2"], 7, 0)
    keeper.lost("near", ["gone-3"], 7, 0)
    running = asyncio.create_task(keeper.run())
    try:
        await wait_until(lambda: len(shard.vouched) >= 4, 10)
        assert shard.lost == ["gone-3"]
        shard.is_away = False
        await wait_until(lambda: len(shard.lost) == 3, 5)
        vouched = len(shard.vouched)
        await wait_until(lambda: len(shard.vouched) > vouched, 5)
        assert shard.lost == ["gone-3", "gone-1", "gone-2"]
        assert set(shard.vouched) == {"here"}
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_of_a_lost_connection_only_those_calls_are_told_again_that_are_undecided() -> None:
    """R13: their grace begins when they are told, and shall end."""
    told: list[str] = []
    undecided = {"gone-2"}

    async def renew(vouchings: Sequence[Vouching]) -> list[Renewed]:
        told.extend(each.call_id for each in vouchings)
        return [Renewed.UNDECIDED if each.call_id in undecided else Renewed.RENEWED for each in vouchings]

    keeper = Keeper(DeviceConnections(), renew, _no_ask, lambda *_: None, lease_ms=300)
    keeper.lost("acme", ["gone-1", "gone-2", "gone-3"], 7, 0)
    keeper.lost("globex", ["gone-4"], 7, 0)
    with pytest.raises(EngineUnavailable):
        await keeper.tell_lost()
    undecided.clear()
    await keeper.tell_lost()
    await keeper.tell_lost()
    assert told == ["gone-1", "gone-2", "gone-3", "gone-4", "gone-2"]


def _no_ask(ask: Ask, _: object) -> None:
    raise AssertionError(ask)
