"""An engine that is killed, emptied, stopped or out of reach: calls go on, no record is lost or double."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.conftest import MakeFleet
from tests.faults.fleet import DEVICES, GRACE_SECONDS, LEASE_SECONDS, Fleet, at_work, goes_on, times
from tests.faults.load import Habits, Load
from tests.support.engines import EngineServer
from tests.support.processes import command_line, descendants
from tests.support.proxy import FaultyProxy, Way
from tests.support.waiting import wait_until

RESTARTS = int(os.environ.get("RESTARTS", "50"))
FLUSHES = int(os.environ.get("FLUSHES", "10"))
PAUSES = int(os.environ.get("PAUSES", "20"))
PAUSE_SECONDS = int(os.environ.get("PAUSE_SECONDS", "60"))
CUTS = int(os.environ.get("CUTS", "200"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)

CALLERS = Habits(longest_seconds=8)
SLEEP_SECONDS = LEASE_SECONDS + GRACE_SECONDS + 3


async def _befall(
    fleet: Fleet, devices: int, count: int, fault: Callable[[Load], Awaitable[None]], habits: Habits = CALLERS
) -> None:
    """Let it happen so often; all devices stay, so nobody's call may be reaped."""
    async with at_work(fleet, devices, habits, SEED) as load:
        for _ in times(count):
            await fault(load)
            await goes_on(load, devices // 2)
        report = await fleet.check(load)
    assert report.reaped == 0


def _restarts(engine: EngineServer) -> Callable[[Load], Awaitable[None]]:
    async def restart(_: Load) -> None:
        await asyncio.to_thread(engine.kill)
        await asyncio.to_thread(engine.start)

    return restart


@pytest.mark.slow
async def test_an_engine_that_syncs_all_is_killed(make_fleet: MakeFleet, durable: EngineServer) -> None:
    await _befall(make_fleet(2, durable), 40, 3, _restarts(durable))


@pytest.mark.soak
async def test_an_engine_that_syncs_all_is_killed_many_times(
    make_fleet: MakeFleet, durable: EngineServer
) -> None:
    await _befall(make_fleet(2, durable), DEVICES or 100, RESTARTS, _restarts(durable))


def _embedded(fleet: Fleet) -> Callable[[Load], Awaitable[None]]:
    def engine() -> int | None:
        # One that was killed has no command line any more.
        found = [
            pid
            for pid in descendants(fleet.gateways[0].process.pid)
            if any("valkey" in each for each in command_line(pid)[:1])
        ]
        return found[0] if found else None

    async def kill(_: Load) -> None:
        pid = engine()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: engine() not in (None, pid), 20)

    return kill


@pytest.mark.slow
async def test_the_embedded_engine_is_killed(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(1, list)
    await _befall(fleet, 20, 1, _embedded(fleet))


@pytest.mark.soak
async def test_the_embedded_engine_is_killed_many_times(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(1, list)
    await _befall(fleet, DEVICES or 100, RESTARTS, _embedded(fleet))


def _flushes(engine: EngineServer) -> Callable[[Load], Awaitable[None]]:
    async def flush(load: Load) -> None:
        assert load.up()
        await asyncio.to_thread(engine.flush)

    return flush


@pytest.mark.slow
async def test_redis_is_emptied_in_mid_traffic(make_fleet: MakeFleet, durable: EngineServer) -> None:
    """R28."""
    await _befall(make_fleet(2, durable), 40, 2, _flushes(durable))


@pytest.mark.soak
async def test_redis_is_emptied_many_times(make_fleet: MakeFleet, durable: EngineServer) -> None:
    await _befall(make_fleet(2, durable), DEVICES or 200, FLUSHES, _flushes(durable))


def _pauses(engine: EngineServer, seconds: float) -> Callable[[Load], Awaitable[None]]:
    async def pause(_: Load) -> None:
        engine.pause()
        await asyncio.sleep(seconds)
        engine.resume()

    return pause


@pytest.mark.slow
async def test_an_engine_that_sleeps_reaps_nobody(make_fleet: MakeFleet, durable: EngineServer) -> None:
    await _befall(make_fleet(2, durable), 20, 1, _pauses(durable, SLEEP_SECONDS), Habits(longest_seconds=15))


@pytest.mark.soak
async def test_an_engine_that_sleeps_many_times(make_fleet: MakeFleet, durable: EngineServer) -> None:
    habits = Habits(longest_seconds=90)
    await _befall(make_fleet(2, durable), DEVICES or 100, PAUSES, _pauses(durable, PAUSE_SECONDS), habits)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ways",
    [("to_server", "to_client"), pytest.param(("to_client",), marks=pytest.mark.soak)],
    ids=["both", "one way"],
)
async def test_an_engine_out_of_reach_of_one_gateway(
    make_fleet: MakeFleet,
    durable: EngineServer,
    proxied: Callable[[], tuple[str, FaultyProxy]],
    ways: tuple[Way, ...],
) -> None:
    """The other gateway goes on, and must not reap what this one's devices have up: they go there."""
    fleet = make_fleet(2, durable)
    url, proxy = proxied()
    fleet.ask_engine_by(fleet.gateways[0], url)

    async def cut_off(_: Load) -> None:
        proxy.stall(*ways)
        await asyncio.sleep(SLEEP_SECONDS)
        proxy.heal()

    async with at_work(fleet, 40, Habits(longest_seconds=15), SEED) as load:
        await cut_off(load)
        await goes_on(load, 20)
        await fleet.check(load)


def _cuts(engine: EngineServer, picked: random.Random) -> Callable[[Load], Awaitable[None]]:
    async def cut(_: Load) -> None:
        """Lose some bytes of the last writes, and start twice: what the first start mended stays mended."""
        await asyncio.to_thread(engine.kill)
        (written,) = _append_files(engine.directory)
        size = written.stat().st_size
        os.truncate(written, size - picked.randrange(min(size, 4000)))
        await asyncio.to_thread(engine.start)
        await asyncio.to_thread(engine.kill)
        await asyncio.to_thread(engine.start)

    return cut


def _append_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("appendonlydir/*.incr.aof"))[-1:]


@pytest.mark.slow
async def test_the_last_writes_are_cut_off(make_fleet: MakeFleet, durable: EngineServer) -> None:
    await _befall(make_fleet(2, durable), 20, 1, _cuts(durable, random.Random(SEED)))


@pytest.mark.soak
async def test_the_last_writes_are_cut_off_many_times(make_fleet: MakeFleet, durable: EngineServer) -> None:
    await _befall(make_fleet(2, durable), DEVICES or 100, CUTS, _cuts(durable, random.Random(SEED)))
