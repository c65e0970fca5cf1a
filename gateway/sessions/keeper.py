"""The keeper: renews the leases of what this gateway's connections vouch for, starts the grace of the rest.

A device is vouched for only while it is heard of: a gateway that slept, or whose host did, learns first which
of its devices are still there (R12-R14).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import monotonic
from typing import Final, NoReturn

import structlog

from gateway import turns
from gateway.domain.answers import Answer, Resumed
from gateway.domain.asks import Ask, Asker, Resume
from gateway.domain.calls import CallInProgress
from gateway.domain.errors import CallgateError, EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.pool.leases import Vouching
from gateway.sessions.devices import Connection, DeviceConnections

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RENEWALS_A_LEASE: Final = 3
RETRY_SECONDS: Final = 0.25

Renew = Callable[[Sequence[Vouching]], Awaitable[list[Renewed]]]
Submit = Callable[[Ask, Callable[[Answer | CallgateError], None]], None]
Known = Callable[[str, str], CallInProgress | None]
"""What is known of a call in progress, by account and call id."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """Calls whose connection is gone."""

    account: str
    call_ids: tuple[str, ...]
    number: int
    heard_ago_ms: int
    since: float

    def vouchings(self) -> list[Vouching]:
        ago_ms = self.heard_ago_ms + int((monotonic() - self.since) * 1000)
        return [Vouching(self.account, each, self.number, ago_ms, lost=True) for each in self.call_ids]

    def only_undecided(self, standings: Iterable[Renewed]) -> _Lost:
        """Those that are to be told again: each time starts the grace of a call anew."""
        said = zip(self.call_ids, standings, strict=True)
        return replace(self, call_ids=tuple(each for each, standing in said if standing is Renewed.UNDECIDED))


class Keeper:
    """Keeps the leases of one gateway's calls."""

    def __init__(
        self, devices: DeviceConnections, renew: Renew, submit: Submit, known: Known, lease_ms: int
    ) -> None:
        self._devices = devices
        self._renew = renew
        self._submit = submit
        self._known = known
        self._lease_ms = lease_ms
        self._lost: list[_Lost] = []
        self._woken = asyncio.Event()
        self._telling = asyncio.Lock()

    def lost(self, account: str, call_ids: Sequence[str], number: int, heard_ago_ms: int) -> None:
        """Start the grace of calls whose connection is gone (R13), as soon as the engine can be told."""
        self._lost.append(_Lost(account, tuple(call_ids), number, heard_ago_ms, monotonic()))
        self._woken.set()

    async def run(self) -> NoReturn:
        """Renew until cancelled; while the engine is away, again and again."""
        next_at = monotonic()
        while True:
            self._woken.clear()
            try:
                # First, so that calls are kept while the shard of a lost one is away.
                if monotonic() >= next_at:
                    await self.renew()
                    next_at = monotonic() + self._pause_seconds()
                await self.tell_lost()
            except EngineUnavailable as failure:
                log.warning("leases.not_renewed", code=failure.code)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await turns.wait("leases", self._woken, max(0.0, next_at - monotonic()))

    async def renew(self) -> None:
        """Vouch for all calls of devices that are heard of. Raises EngineUnavailable."""
        vouched: list[tuple[Connection, str]] = []
        vouchings: list[Vouching] = []
        for connection in self._devices:
            heard_ago_ms = connection.heard_ago_ms()
            if heard_ago_ms > self._lease_ms:
                continue
            caller = connection.caller
            for call_id in connection.calls:
                vouched.append((connection, call_id))
                vouchings.append(
                    Vouching(
                        caller.account,
                        call_id,
                        connection.number,
                        heard_ago_ms,
                        device=(caller.staff, caller.device),
                    )
                )
        if not vouchings:
            return
        for (connection, call_id), standing in zip(vouched, await self._renew(vouchings), strict=True):
            self._see_to(connection, call_id, standing)

    async def tell_lost(self) -> None:
        """Start the grace of what was lost. Raises EngineUnavailable if some is still to be told."""
        async with self._telling:
            while self._lost:
                telling = self._lost[:]
                standings = await self._renew([each for lost in telling for each in lost.vouchings()])
                del self._lost[: len(telling)]
                said = iter(standings)
                left = [each.only_undecided(islice(said, len(each.call_ids))) for each in telling]
                if undecided := [each for each in left if each.call_ids]:
                    # The shard is away, or being compared; a call that it does not know its device tells of.
                    self._lost += undecided
                    raise EngineUnavailable

    def _pause_seconds(self) -> float:
        # Gateways that were started together do not come all at once.
        return self._lease_ms / 1000 / RENEWALS_A_LEASE * random.uniform(0.7, 1)  # noqa: S311 - no secret

    def _see_to(self, connection: Connection, call_id: str, standing: Renewed) -> None:
        if call_id not in connection.calls:
            return  # it ended meanwhile
        if standing in (Renewed.NEWER_OWNER, Renewed.ENDED):
            connection.give_up(call_id)
        elif standing in (Renewed.ABSENT, Renewed.UNKNOWN):
            # Its device is here, and has it up: it comes back (R15), or the engine has lost it (R28).
            caller = connection.caller
            device: Asker = (caller.staff, caller.device)
            found = self._known(caller.account, call_id)

            def resumed(answer: Answer | CallgateError) -> None:
                if isinstance(answer, Resumed):
                    log.info("call.kept", account=caller.account, call_id=call_id, late=answer.late)
                elif isinstance(answer, CallgateError) and answer.code.startswith("call_"):
                    connection.give_up(call_id)

            self._submit(Resume(caller.account, call_id, device, connection.number, found), resumed)
