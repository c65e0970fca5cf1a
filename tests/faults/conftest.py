"""Fleets for the tests of this directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fleet import Engines, Fleet
from tests.faults.small_disk import SmallDisk
from tests.support.engines import EngineServer
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultyProxy

MakeFleet = Callable[..., Fleet]


@pytest.fixture
def make_fleet(make_postgres: Callable[[], str], tmp_path: Path) -> MakeFleet:
    """A factory `make_fleet(count, engine, *flags, redis_url=None, database_url=None, directory=None)`.

    `engine` is a server, or what gives clients of all that have data. By default gateways ask it directly,
    and one gateway has SQLite, several have PostgreSQL.
    """

    def make(count: int, engine: EngineServer | Engines, *flags: str, **given: Any) -> Fleet:
        if isinstance(engine, EngineServer):
            server = engine
            given.setdefault("redis_url", server.url)
            engines: Engines = lambda: [server.client]  # noqa: E731 - it is one of two
        else:
            engines = engine
        if count > 1:
            given.setdefault("database_url", make_postgres())
        return Fleet(given.pop("directory", tmp_path), count, engines, *flags, **given)

    return make


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, to be stopped."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.discard()


@pytest.fixture
def durable(start_engine: Callable[..., EngineServer]) -> EngineServer:
    """An engine that has on its disk whatever it answered."""
    return start_engine(persistent=True)


@pytest.fixture
def small_disk() -> Iterator[SmallDisk]:
    """A disk that can be filled."""
    disk = SmallDisk()
    try:
        disk.mount()
        yield disk
    finally:
        disk.discard()


@pytest.fixture
def proxied(
    durable: EngineServer, start_proxy: Callable[..., FaultyProxy]
) -> Callable[[], tuple[str, FaultyProxy]]:
    """A factory for ways to that engine: the address for a gateway, and the proxy on the way."""

    def make() -> tuple[str, FaultyProxy]:
        proxy = start_proxy(path=durable.socket)
        return f"redis://127.0.0.1:{proxy.port}/0", proxy

    return make
