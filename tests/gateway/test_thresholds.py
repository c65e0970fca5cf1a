"""Thresholds in mid-call with several gateways: once for each reader, also when a gateway dies (R29)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.gateway.conftest import StartGateway
from tests.support.dashboards import Watcher, watching
from tests.support.engines import EngineServer
from tests.support.operators import operating

CALLS = 20
"""Twenty seconds are used in each: a minute is used up in three."""
DEARLY = ("--free-seconds", "0", "--hold-seconds", "0")


async def test_they_come_once_to_each_dashboard_though_the_first_gateway_is_killed(
    valkey: EngineServer, start_twin: StartGateway
) -> None:
    gateways = await asyncio.gather(*(asyncio.to_thread(start_twin, valkey.url, *DEARLY) for _ in range(3)))
    first, *others = gateways
    async with operating(first) as operator, AsyncExitStack() as opened:
        await operator.plan("small", minutes=1)
        await operator.account(plan="small")
        token = await operator.token("acme", "ana", "desk", "watch")
        doomed, *watchers = [
            await opened.enter_async_context(watching(gateway.websocket_url, token)) for gateway in gateways
        ]
        for number in range(CALLS):
            await operator.start(f"c-{number}")
        await doomed.notice("threshold")
        await asyncio.to_thread(first.kill)
        for watcher in watchers:
            await watcher.notice("minutes_exhausted")
            assert told(watcher) == [
                ("threshold", 50),
                ("threshold", 80),
                ("threshold", 100),
                ("minutes_exhausted", None),
            ]
        passed = [await last_thresholds(watcher) for watcher in watchers]
        assert passed[0] == passed[1]
        instants = [each["at_ms"] for each in passed[0]]
        assert instants == sorted(instants)
        async with operating(others[0]) as there:
            pool = await there.pool()
            assert pool["thresholds"] == passed[0]
            assert pool["calls_in_progress"] == CALLS, "R11"


def told(watcher: Watcher) -> list[tuple[str, int | None]]:
    return [(frame["kind"], frame.get("percent")) for frame in watcher.of("notice")]


async def last_thresholds(watcher: Watcher) -> list[dict[str, int]]:
    pool = await watcher.until(lambda frame: len(frame.get("thresholds", ())) == 3)
    found: list[dict[str, int]] = pool["thresholds"]
    return found
