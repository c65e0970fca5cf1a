"""Links that are slow, or half-open: nobody is told that they do not work.

The engine's, which gateways reach late or in vain; and the phones', whose gateway does not hear them. All
phones stay, so nobody's call may be reaped.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import pytest

from tests.faults.checkers import Bounds
from tests.faults.conftest import MakeFleet
from tests.faults.fleet import DEVICES, GRACE_SECONDS, LEASE_SECONDS, Fleet, at_work, goes_on, times
from tests.faults.load import Habits
from tests.support.engines import EngineServer
from tests.support.proxy import FaultyProxy

LINKS = int(os.environ.get("LINKS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)

AWHILE_SECONDS = LEASE_SECONDS + GRACE_SECONDS + 3
CALLERS = Habits(longest_seconds=8)

Proxied = Callable[[], tuple[str, FaultyProxy]]
Fault = Callable[[FaultyProxy], None]


def slow(seconds: float) -> Fault:
    """Every piece arrives so much later, in each direction: an answer takes twice as long."""
    return lambda proxy: proxy.slow(seconds)


def half_open(proxy: FaultyProxy) -> None:
    """What is sent is lost, on new connections too, and both sides believe them open."""
    proxy.swallow()


def deaf(proxy: FaultyProxy) -> None:
    """As half-open, in one direction: what is asked arrives, and is carried out, and the answer is lost."""
    proxy.swallow("to_client")


def forgotten(proxy: FaultyProxy) -> None:
    """The open connections are half-open for good, as behind a NAT that forgot them; new ones work."""
    proxy.lose_open_connections()


FAULTS: tuple[Fault, ...] = (slow(0.2), half_open, slow(1), deaf, slow(3), forgotten, slow(5))


async def _befall(
    fleet: Fleet, links: Sequence[FaultyProxy], devices: int, count: int, faults: Sequence[Fault]
) -> None:
    """Let faults befall all these links, for longer than lease and grace, one after another."""
    async with at_work(fleet, devices, CALLERS, SEED) as load:
        for number in times(count):
            for link in links:
                faults[number % len(faults)](link)
            await asyncio.sleep(AWHILE_SECONDS)
            for link in links:
                link.heal()
            await goes_on(load, devices // 2)
        # The last word of a phone on a slow link is under way for as long as that is slow.
        report = await fleet.check(load, Bounds(end=Bounds().end + 1000))
    assert report.reaped == 0
    assert all(link.counters.to_server and link.counters.to_client for link in links)


def _engine_by_links(
    make_fleet: MakeFleet, engine: EngineServer, proxied: Proxied
) -> tuple[Fleet, list[FaultyProxy]]:
    fleet = make_fleet(2, engine)
    links = []
    for gateway in list(fleet.gateways):
        url, proxy = proxied()
        fleet.ask_engine_by(gateway, url)
        links.append(proxy)
    return fleet, links


def _phones_by_links(
    fleet: Fleet, start_proxy: Callable[..., FaultyProxy], slow_gateways: int
) -> list[FaultyProxy]:
    """Links to the gateways, of which the first so many are those returned; filled as gateways start."""
    links: list[FaultyProxy] = []

    def way_to(url: str) -> str:
        if len(links) == slow_gateways:
            return url
        links.append(start_proxy(urlsplit(url).port))
        return f"http://127.0.0.1:{links[-1].port}"

    fleet.way_to = way_to
    return links


@pytest.mark.slow
@pytest.mark.parametrize("fault", [slow(0.2), slow(3), half_open], ids=["200 ms", "3 s", "half-open"])
async def test_gateways_reach_the_engine_by_a_bad_link(
    make_fleet: MakeFleet, durable: EngineServer, proxied: Proxied, fault: Fault
) -> None:
    """At 3 s every answer comes too late: what was asked was carried out, and is asked again."""
    await _befall(*_engine_by_links(make_fleet, durable, proxied), 20, 1, [fault])


@pytest.mark.soak
async def test_gateways_reach_the_engine_by_bad_links_many_times(
    make_fleet: MakeFleet, durable: EngineServer, proxied: Proxied
) -> None:
    fleet, links = _engine_by_links(make_fleet, durable, proxied)
    await _befall(fleet, links, DEVICES or 100, LINKS, FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [slow(1), half_open], ids=["1 s", "half-open"])
async def test_phones_reach_a_gateway_by_a_bad_link(
    make_fleet: MakeFleet, durable: EngineServer, start_proxy: Callable[..., FaultyProxy], fault: Fault
) -> None:
    """One of two. Where it is half-open they find out by its silence, and go to the other (R13)."""
    fleet = make_fleet(2, durable)
    await _befall(fleet, _phones_by_links(fleet, start_proxy, 1), 20, 1, [fault])


@pytest.mark.soak
@pytest.mark.parametrize("gateways", [1, 2])
async def test_phones_reach_gateways_by_bad_links_many_times(
    make_fleet: MakeFleet, durable: EngineServer, start_proxy: Callable[..., FaultyProxy], gateways: int
) -> None:
    """Where it is both, phones are away for longer than the grace, and come back late (R15)."""
    fleet = make_fleet(2, durable)
    links = _phones_by_links(fleet, start_proxy, gateways)
    await _befall(fleet, links, DEVICES or 100, LINKS, FAULTS)
