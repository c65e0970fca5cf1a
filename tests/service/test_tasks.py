"""Background tasks: each says when it last finished a turn, and one that dies ends the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import structlog

from gateway import metrics, turns
from gateway.domain.errors import EngineUnavailable
from gateway.pool import seldom
from gateway.pool.seldom import AGAIN_SECONDS
from gateway.service import open_callgate, upkeep
from gateway.service.upkeep import Upkeep
from gateway.sessions.keeper import Keeper
from gateway.settings import Settings
from tests.support.dashboards import watching
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import operating
from tests.support.waiting import wait_until

TASKS = {
    "alarms",
    "answers",
    "beats",
    "changes",
    "control",
    "counting",
    "feeds",
    "forgetting",
    "health",
    "journal",
    "kept_ends",
    "leases",
    "notices",
    "presence",
    "readers",
    "reaper",
    "rebuilder",
    "recorder",
    "revocations",
    "statements",
    "subscriptions",
}


async def test_every_task_tells_when_it_last_finished_a_turn(
    start_gateway: Callable[..., GatewayProcess],
) -> None:
    gateway = await asyncio.to_thread(start_gateway, "--lease-seconds", "3600")
    async with operating(gateway) as operator:

        async def all_have() -> bool:
            status = (await operator.http.get("/v1/status")).json()
            assert all(0 <= each["last_turn_ms_ago"] < 60_000 for each in status["tasks"])
            assert [each["task"] for each in status["tasks"]] == sorted(TASKS)
            return True

        await wait_until(all_have, 30)
        named = (await operator.http.get("/metrics")).text
        for task in TASKS:
            assert f'{metrics.TASK_LAST_TURN._name}{{task="{task}"}}' in named


async def test_a_task_that_fails_again_and_again_has_not_finished_a_turn(
    start_engine: Callable[..., EngineServer], start_gateway: Callable[..., GatewayProcess]
) -> None:
    engine = await asyncio.to_thread(start_engine)
    gateway = await asyncio.to_thread(start_gateway, redis_url=engine.url)
    async with operating(gateway) as operator:
        await operator.account()
        token = await operator.token("acme", "ana", "desk", "watch")
        async with watching(gateway.websocket_url, token) as watcher:
            await watcher.pool()
            await asyncio.to_thread(engine.kill)

            async def is_seen() -> bool:
                tasks = (await operator.http.get("/v1/status")).json()["tasks"]
                ages_ms: dict[str, int] = {each["task"]: each["last_turn_ms_ago"] for each in tasks}
                return min(ages_ms["feeds"], ages_ms["reaper"]) > (turns.IDLE_SECONDS + 1) * 1000

            await wait_until(is_seen, 60)


async def test_a_task_that_dies_ends_the_gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def die(_: Keeper) -> NoReturn:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Keeper, "run", die)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with open_callgate(Settings(data_dir=tmp_path)), asyncio.timeout(30):
            await asyncio.Event().wait()
    assert raised.value.subgroup(ZeroDivisionError)


async def test_a_task_that_fails_is_logged_at_first_and_once_a_minute_until_it_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails = (True, True, True, False, False, True)
    outcomes = iter(fails)
    now = 1000.0
    is_done = asyncio.Event()

    async def work() -> None:
        nonlocal now
        now += AGAIN_SECONDS / 2
        outcome = next(outcomes, None)
        if outcome is None:
            is_done.set()
            await asyncio.Event().wait()
        if outcome:
            raise EngineUnavailable

    monkeypatch.setattr(seldom, "monotonic", lambda: now)
    monkeypatch.setattr(upkeep, "log", structlog.get_logger("test"))
    none = cast(Any, None)
    keeping = Upkeep(none, none, none, none, none, none, none, none, ())
    with structlog.testing.capture_logs() as lines:
        running = asyncio.create_task(keeping._every("a task", 0.001, work))
        await asyncio.wait_for(is_done.wait(), 10)
        running.cancel()
        await asyncio.wait([running])
    turns._last.pop("a task")
    failed, again = ("upkeep.failed", "a task"), ("upkeep.works_again", "a task")
    # At the first, the third (a minute later), and the sixth.
    assert [(line["event"], line["work"]) for line in lines] == [failed, failed, again, failed]


async def test_a_task_that_waits_is_seen_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "IDLE_SECONDS", 0.01)
    woken = asyncio.Event()
    waiting = asyncio.create_task(turns.wait("a task", woken))
    first = await wait_until(lambda: turns._last.get("a task"))
    await wait_until(lambda: turns._last["a task"] > first)
    woken.set()
    await waiting
    turns._last.pop("a task")


async def test_a_wait_ends_after_its_time() -> None:
    await turns.wait("a task", asyncio.Event(), 0.01)
    turns._last.pop("a task")
