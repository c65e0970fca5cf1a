"""How long after its instant a threshold reaches dashboards: three gateways, one of which is killed midway.

Accounts use up a minute each in mid-call, with nobody asking, at instants spread over some seconds. A
dashboard of each is connected to each gateway. A notice is late by the host's clock less `at_ms`, which is
the engine's on the same host.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import httpx

from gateway.embedded import valkey_binary
from tests.support.dashboards import Watcher, watching
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator
from tests.support.postgres import PostgresServer

ACCOUNTS: Final = 20
CALLS: Final = 4
"""Of each account: a minute lasts them 15 s."""
SECRETS: Final = {
    "CALLGATE_ADMIN_KEY": "the-key-of-the-operator",
    "CALLGATE_TOKEN_SECRET": "what every gateway of the deployment signs by",
}


async def measure(gateways: Sequence[GatewayProcess]) -> tuple[list[int], int]:
    """How late each notice came at the gateways that stay, and how many should have come."""
    first, *others = gateways
    async with AsyncExitStack() as opened:
        http = await opened.enter_async_context(
            httpx.AsyncClient(base_url=first.url, headers={"Authorization": f"Bearer {first.admin_key}"})
        )
        operator = Operator(http)
        watchers: list[Watcher] = []
        for number in range(ACCOUNTS):
            account = f"account-{number}"
            await operator.account(account, minutes=1)
            token = await operator.token(account, "ana", "desk", "watch")
            watchers += [
                await opened.enter_async_context(watching(gateway.websocket_url, token)) for gateway in others
            ]
        for call in range(CALLS):
            for number in range(ACCOUNTS):
                await operator.start(f"c-{call}", f"account-{number}")
        await watchers[0].notice("threshold")
        await asyncio.to_thread(first.kill)
        await asyncio.gather(*(watcher.notice("minutes_exhausted") for watcher in watchers))
        offset = time.time() - asyncio.get_running_loop().time()
        late = [
            round((arrived + offset) * 1000) - frame["at_ms"]
            for watcher in watchers
            for frame, arrived in zip(watcher.frames, watcher.arrived_at, strict=True)
            if frame["type"] == "notice" and frame["kind"] == "threshold"
        ]
        return sorted(late), 3 * len(watchers)


def run() -> None:
    """Print how late they came."""
    engine, database = EngineServer(valkey_binary()), PostgresServer()
    engine.start()
    database.start()
    environ = {
        **SECRETS,
        "CALLGATE_REDIS_URL": engine.url,
        "CALLGATE_DATABASE_URL": database.url(database.create_database()),
        "CALLGATE_FREE_SECONDS": "0",
        "CALLGATE_HOLD_SECONDS": "0",
    }
    with tempfile.TemporaryDirectory() as folder:
        gateways = [GatewayProcess(Path(folder) / str(number), environ=environ) for number in range(3)]
        try:
            for gateway in gateways:
                gateway.start()
            late, expected = asyncio.run(measure(gateways))
        finally:
            for gateway in gateways:
                gateway.end()
            database.discard()
            engine.stop()
    print(
        f"{len(late)} notices of {expected}, one gateway of three killed midway: late by "
        f"p50 {late[len(late) // 2]} ms, p99 {late[len(late) * 99 // 100]} ms, at most {late[-1]} ms"
    )
