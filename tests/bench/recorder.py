"""Whether the recorder keeps up: so many calls are started and ended at full speed, and recorded meanwhile.

One process does both, as a gateway does: it puts starts and ends to the live pool as fast as that answers,
and its recorder moves the records to SQL. Lag is how long the oldest record waits for SQL, seen once a
second.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Final

import uvloop

from gateway.domain.answers import Answer
from gateway.domain.asks import AccountConfig, End, Start
from gateway.domain.errors import CallgateError
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from gateway.embedded import valkey_binary
from gateway.pool.engine import connect
from gateway.pool.live_pool import LivePool
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.support.engines import EngineServer
from tests.support.postgres import PostgresServer

ACCOUNTS: Final = 50
UNDER_WAY: Final = 512
"""Calls that are started and not yet ended."""


def config(account: str) -> AccountConfig:
    """An account with minutes enough."""
    plan = Plan("big", "Big", 1_000_000_000, 10, 10)
    return AccountConfig(account, 1, "active", date(2026, 11, 23), "UTC", plan, staff=frozenset({"ana"}))


class Load:
    """Calls, each ended as soon as it is admitted, and a new one begun as soon as it is settled."""

    def __init__(self, pool: LivePool, calls: int) -> None:
        self._pool = pool
        self._calls = calls
        self._begun = 0
        self.settled = 0
        self.finished = asyncio.Event()

    def begin(self) -> None:
        """Start the next call."""
        if self._begun == self._calls:
            return
        account, call_id = f"account-{self._begun % ACCOUNTS}", f"call-{self._begun}"
        self._begun += 1

        def admitted(answer: Answer | CallgateError) -> None:
            if isinstance(answer, CallgateError):
                raise answer
            self._pool.submit(End(account, call_id, ("ana", "desk")), settled)

        def settled(answer: Answer | CallgateError) -> None:
            if isinstance(answer, CallgateError):
                raise answer
            self.settled += 1
            if self.settled == self._calls:
                self.finished.set()
            self.begin()

        self._pool.submit(Start(account, "ana", "desk", call_id, "+14155550100"), admitted)


async def run_load(engine_url: str, where: str | Path, calls: int, *, record: bool) -> None:
    """One run, with its line of figures."""
    engine = connect(engine_url)
    configs = {f"account-{at}": config(f"account-{at}") for at in range(ACCOUNTS)}

    async def load(account: str) -> AccountConfig | None:
        return configs.get(account)

    pool = LivePool(engine, load, Policy())
    records = Records(where)
    await records.open()
    await pool.open()

    async def now_ms() -> int:
        return (await pool.clock()).now_ms

    recorder = Recorder(records.database, pool.records, now_ms)
    tasks = [asyncio.create_task(pool.run())]
    if record:
        tasks.append(asyncio.create_task(recorder.run()))
    demand = Load(pool, calls)
    began = time.perf_counter()
    for _ in range(min(UNDER_WAY, calls)):
        demand.begin()
    lags_ms: list[int] = []
    while not demand.finished.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await demand.finished.wait()
        lags_ms.append(recorder.status().lag_ms)
    settled_in = time.perf_counter() - began
    if record:
        await recorder.drain()
    recorded_in = time.perf_counter() - began
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await records.close()
    await engine.close()
    what = f"{calls:,} calls settled in {settled_in:.1f} s ({2 * calls / settled_in:,.0f} decisions a second)"
    if record:
        lags_ms.sort()
        what += (
            f", all in SQL {recorded_in - settled_in:.2f} s later; "
            f"lag median {lags_ms[len(lags_ms) // 2]} ms, largest {lags_ms[-1]} ms"
        )
    print(what)


@contextmanager
def database(kind: str) -> Iterator[str | Path]:
    """An empty database of that kind."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "bench.db"
    else:
        server = PostgresServer()
        server.start()
        try:
            yield server.url(server.create_database())
        finally:
            server.discard()


def run(calls: int = 1_000_000, kinds: tuple[str, ...] = ("sqlite", "postgresql")) -> None:
    """Print a line for each database, and one without a recorder to compare with."""
    for kind in (None, *kinds):
        server = EngineServer(valkey_binary())
        server.start()
        try:
            if kind is None:
                with database("sqlite") as where:
                    print("no recorder:", end=" ", flush=True)
                    uvloop.run(run_load(server.url, where, calls // 4, record=False))
            else:
                with database(kind) as where:
                    print(f"{kind}:", end=" ", flush=True)
                    uvloop.run(run_load(server.url, where, calls, record=True))
        finally:
            server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--database", action="append", choices=("sqlite", "postgresql"))
    given = parser.parse_args()
    run(given.calls, tuple(given.database or ("sqlite", "postgresql")))
