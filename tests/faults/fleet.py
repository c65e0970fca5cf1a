"""Gateways of one deployment behind a balancer, with accounts and devices; what befalls them is a test's.

`async with running(fleet, load)`: the load begins, the block does its worst, the load ends; then everything
must agree.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis

from tests.faults.balancer import Balancer
from tests.faults.checkers import Bounds, Report, check_says, compare, settled
from tests.faults.load import Habits, Load, now_ms
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.processes import descendants
from tests.support.waiting import wait_until

LEASE_SECONDS = 3
GRACE_SECONDS = 3
FLAGS = (
    *("--free-seconds", "0", "--lease-seconds", str(LEASE_SECONDS), "--grace-seconds", str(GRACE_SECONDS)),
    *("--drain-seconds", "4", "--log-format", "json"),
)
SETTLED_WITHIN = 2 * (GRACE_SECONDS + LEASE_SECONDS) + 10.0
SECRETS = {
    "CALLGATE_ADMIN_KEY": "the-key-of-the-operator",
    "CALLGATE_TOKEN_SECRET": "what every gateway of the deployment signs by",
}
ACCOUNTS = ("acme", "bell", "crane", "delta")
DEVICES = int(os.environ.get("DEVICES", "0"))
"""How many devices a long run has; 0 as many as it says by itself."""
SECONDS = float(os.environ.get("SECONDS", "0"))
"""After so long no more faults are begun, however few there were; 0 there is no end to it."""

Engines = Callable[[], Iterable[redis.Redis]]
"""The engine's servers that have data now: one, or all primaries."""


class Fleet:
    """Gateways of one deployment. `engines` gives clients for a look at their data."""

    def __init__(
        self,
        directory: Path,
        count: int,
        engines: Engines,
        *flags: str,
        redis_url: str | None = None,
        database_url: str | None = None,
        environ: dict[str, str] | None = None,
    ) -> None:
        self.environ = {**SECRETS, **(environ or {})}
        if redis_url is not None:
            self.environ["CALLGATE_REDIS_URL"] = redis_url
        if database_url is not None:
            self.environ["CALLGATE_DATABASE_URL"] = database_url
        self.gateways = [
            GatewayProcess(directory / f"gateway-{number}", *FLAGS, *flags, environ=self.environ)
            for number in range(count)
        ]
        self.balancer = Balancer()
        self.way_to: Callable[[str], str] = lambda url: url
        """By which address the balancer reaches a gateway when it begins."""
        self.engines = engines
        self.began_ms = now_ms()
        self._tokens: dict[tuple[str, str], str] = {}

    async def start(self, devices: int) -> None:
        """Start all, and make the accounts and devices."""
        await self.balancer.start()
        await asyncio.gather(*(asyncio.to_thread(gateway.start) for gateway in self.gateways))
        for gateway in self.gateways:
            self.balancer.add(self.way_to(gateway.url))
        async with operating(self.gateways[0]) as operator:
            for account in ACCOUNTS:
                await operator.account(account, minutes=1_000_000)
            for number in range(devices):
                account, device = ACCOUNTS[number % len(ACCOUNTS)], f"d{number}"
                self._tokens[account, device] = await operator.token(account, "ana", device)

    async def end(self) -> None:
        """End all gateways, whatever their state."""
        await self.balancer.stop()
        for gateway in self.gateways:
            await asyncio.to_thread(gateway.end)

    def load(self, habits: Habits, seed: int = 0) -> Load:
        """All devices, with these habits."""
        return Load(self.balancer, self._tokens, habits, seed)

    # What befalls gateways

    async def kill(self, gateway: GatewayProcess) -> None:
        """Kill one and start it again."""
        self.balancer.remove(gateway.url)
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)
        self.balancer.add(gateway.url)

    async def roll(self, gateway: GatewayProcess) -> None:
        """Stop one as an operator does, and start it again."""
        url = gateway.url
        assert await asyncio.to_thread(gateway.stop, by=signal.SIGTERM) == 0
        self.balancer.remove(url)
        await asyncio.to_thread(gateway.start)
        self.balancer.add(gateway.url)

    @staticmethod
    def signal(gateway: GatewayProcess, number: signal.Signals) -> None:
        """Send a signal to all processes of one."""
        for pid in {gateway.process.pid, *descendants(gateway.process.pid)}:
            os.kill(pid, number)

    def ask_engine_by(self, gateway: GatewayProcess, redis_url: str) -> None:
        """Have one gateway, not started yet, ask the engine by another way."""
        at = self.gateways.index(gateway)
        environ = {**self.environ, "CALLGATE_REDIS_URL": redis_url}
        self.gateways[at] = GatewayProcess(gateway.data_dir, *gateway.flags, environ=environ)

    # The end

    async def check(self, load: Load, bounds: Bounds | None = None, within: float = SETTLED_WITHIN) -> Report:
        """End the load, wait until nothing is pending, and compare all books; nothing may be amiss."""
        books = await load.stop()
        async with operating(self.gateways[0]) as operator:
            seconds = await settled(operator, ACCOUNTS, self.engines(), within)
            report = await compare(operator, ACCOUNTS, books, bounds or Bounds())
        report.seconds_to_settle = seconds
        said = await asyncio.to_thread(check_says, self.environ, "--data-dir", self.gateways[0].data_dir)
        if said:
            report.wrong.append(f"callgate check: {said}")
        print(f"\n{report}")
        if faults := report.faults():
            kinds = Counter(kind_of(each) for each in faults)
            shown = [next(each for each in faults if kind_of(each) == kind) for kind in kinds]
            raise AssertionError("\n".join([str(report), str(dict(kinds)), *shown, *faults[:10]]))
        return report


def kind_of(fault: str) -> str:
    """What a fault is, whichever call or device it is of."""
    return re.sub(r"[\d.-]+", "N", fault.split("(", 1)[0])


@asynccontextmanager
async def at_work(fleet: Fleet, devices: int, habits: Habits, seed: int = 0) -> AsyncIterator[Load]:
    """A fleet under load, until the block ends; then its gateways end."""
    try:
        await fleet.start(devices)
        load = fleet.load(habits, seed)
        load.start()
        await goes_on(load, devices)
        yield load
    finally:
        await fleet.end()


def times(count: int) -> Iterator[int]:
    """Count up to `count`, or until `SECONDS` are over; says how far it has come."""
    began, number = time.monotonic(), 0
    while number < count and not (SECONDS and time.monotonic() - began > SECONDS):
        yield number
        number += 1
        if number % 10 == 0:
            print(f"\n{number} of {count} after {time.monotonic() - began:.0f} s", end="", flush=True)
    print(f"\ntimes: {number}")


async def goes_on(load: Load, more: int, within: float = 30.0) -> None:
    """Wait until so many more calls were admitted."""
    reached = load.books.admissions + more
    await wait_until(lambda: load.books.admissions >= reached, within)


__all__ = ["Fleet", "Operator", "at_work", "goes_on", "times"]
