"""The engine's clock jumps by minutes, back and forth: no call is reaped, lost or counted twice.

Whatever the clock shows is billed, so instants of records say nothing by the phones' clock; that a record is
what its phone was told is compared, and that sums agree.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.checkers import Bounds
from tests.faults.conftest import MakeFleet
from tests.faults.fleet import DEVICES, GRACE_SECONDS, LEASE_SECONDS, at_work, goes_on, times
from tests.faults.load import Habits
from tests.support.engines import EngineServer
from tests.support.peers import missing_peer
from tests.support.waiting import wait_until

JUMPS = int(os.environ.get("JUMPS", "50"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
OFFSETS_SECONDS = (300, 0, -300, 0)


class Clock:
    """The clock of a process that is started with `environ`."""

    def __init__(self, file: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            missing_peer("libfaketime", "apt-get install libfaketime")
        self._file = file
        self.environ = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            # Only what the time of day is: how long something takes goes on as it is.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set it so far off the right time, at once."""
        other = self._file.with_suffix(".new")
        other.write_text(f"{seconds:+d}\n")
        other.replace(self._file)


def _off(engine: EngineServer, offset_seconds: int) -> float:
    """By how many seconds an engine's clock shows something else than it was set to."""
    return abs(float(engine.client.time()[0]) - time.time() - offset_seconds)


@pytest.mark.soak
async def test_the_engine_s_clock_jumps_many_times(
    make_fleet: MakeFleet, start_engine: Callable[..., EngineServer], tmp_path: Path
) -> None:
    """R14: a jump over a lease is an amnesty."""
    clock = Clock(tmp_path / "clock")
    engine = await asyncio.to_thread(start_engine, persistent=True, environ=clock.environ)
    fleet = make_fleet(2, engine)
    async with at_work(fleet, DEVICES or 40, Habits(longest_seconds=15), SEED) as load:
        for number in times(JUMPS):
            offset = OFFSETS_SECONDS[number % len(OFFSETS_SECONDS)]
            clock.set(offset)
            await wait_until(lambda offset=offset: _off(engine, offset) < 5)  # type: ignore[misc]
            await asyncio.sleep(random.choice([0, LEASE_SECONDS + GRACE_SECONDS + 1]))
            await goes_on(load, 20)
        # What was put off until then is looked at, and nothing may stay behind.
        clock.set(2 * max(OFFSETS_SECONDS))
        report = await fleet.check(load, Bounds(one_clock=False))
    assert report.reaped == 0
