"""Gateways of two versions in one deployment: each replaced by the next, and back, with calls in progress.

The other version is a commit of this repository, UPGRADE_FROM, by default the one before the last. Its code
and scripts run with the dependencies of today. So this shows that versions whose data have one layout get
along; how a layout is changed, it does not.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.faults.conftest import MakeFleet
from tests.faults.fleet import DEVICES, Fleet, at_work, times
from tests.faults.load import Habits
from tests.support.archives import unpack
from tests.support.engines import EngineServer
from tests.support.gateways import CALLGATE

UPGRADES = int(os.environ.get("UPGRADES", "10"))
UPGRADE_FROM = os.environ.get("UPGRADE_FROM", "HEAD~1")
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
ROOT = Path(__file__).parents[2]


def _other_version(directory: Path) -> Path:
    """A program that is `callgate` as of that commit."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("an upgrade was NOT tested: this is no clone of the repository")
    packed = subprocess.run(
        [git, "archive", UPGRADE_FROM, "gateway", "lua"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        unpack(archive, directory)
    program = directory / "callgate"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={directory} exec {sys.executable} -P -m gateway.cli "$@"\n')
    program.chmod(0o755)
    return program


async def _replace_all(fleet: Fleet, program: Path) -> None:
    for gateway in fleet.gateways:
        gateway.program = program
        await fleet.roll(gateway)


@pytest.mark.soak
async def test_rolling_upgrades_and_rollbacks(
    make_fleet: MakeFleet, durable: EngineServer, tmp_path: Path
) -> None:
    other = await asyncio.to_thread(_other_version, tmp_path / "other")
    fleet = make_fleet(3, durable)
    fleet.balancer.asks_readiness = True
    for gateway in fleet.gateways:
        gateway.program = other
    habits = Habits(shortest_seconds=1, longest_seconds=8)
    async with at_work(fleet, DEVICES or 40, habits, SEED) as load:
        for _ in times(UPGRADES):
            await _replace_all(fleet, CALLGATE)
            await _replace_all(fleet, other)
        await _replace_all(fleet, CALLGATE)
        report = await fleet.check(load)
    assert (report.refused, report.unknown, report.reaped, report.late_returns) == ({}, 0, 0, 0)
