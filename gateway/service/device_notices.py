"""Telling devices that their account's minutes ran out, or are there again (R11).

The script in which it happens says so on its shard's channel, at that instant, and every gateway listens to
all of them. What was said while a channel was not listened to is seen in the pools of connected devices.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final, NoReturn

import structlog

from gateway import turns
from gateway.domain.errors import CallgateError
from gateway.live.subscriptions import Subscriptions
from gateway.pool.live_pool import LivePool
from gateway.sessions.devices import DeviceConnections

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 1.0

_EXHAUSTED: Final = {"minutes_exhausted": True, "minutes_restored": False}


class DeviceNotices:
    """Hears of minutes that ran out or are there again, and has connected devices told."""

    def __init__(self, pool: LivePool, subscriptions: Subscriptions, devices: DeviceConnections) -> None:
        self._pool = pool
        self._subscriptions = subscriptions
        self._devices = devices
        self._missed: set[str] = set()
        """Channels that were not listened to for a while."""
        self._woken = asyncio.Event()

    def heard(self, _: str, message: bytes) -> None:
        """Hear what happened to an account: the kind, a space, its id."""
        kind, _, account = message.decode(errors="replace").partition(" ")
        exhausted = _EXHAUSTED.get(kind)
        if exhausted is not None:  # a newer gateway's script may say more
            self._devices.minutes_changed(account, exhausted=exhausted)

    def joined(self, channel: str) -> None:
        """Hear that something may have been missed."""
        self._missed.add(channel)
        self._woken.set()

    async def run(self) -> NoReturn:
        """Listen, and look at what was missed, until cancelled."""
        self._subscriptions.add(self._pool.notices_channels(), self)
        while True:
            await turns.wait("notices", self._woken)
            self._woken.clear()
            if not await self._look():
                await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - no secret
                self._woken.set()

    async def _look(self) -> bool:
        """Look at the pools of devices that may have missed something; False if not all could be read."""
        missed, self._missed = self._missed, set()
        together: dict[int, list[str]] = {}
        for account in list(self._devices.accounts):
            if self._pool.notices_channel_of(account) in missed:
                together.setdefault(self._pool.read_together(account), []).append(account)
        for accounts in together.values():
            before = {account: self._devices.before_looking(account) for account in accounts}
            try:
                views = await self._pool.read_many(accounts)
            except CallgateError as failure:
                log.warning("notices.not_looked_for", code=failure.code, pools=len(accounts))
                self._missed.update(self._pool.notices_channel_of(account) for account in accounts)
                continue
            for account, view in views.items():
                self._devices.minutes_seen(account, exhausted=view.is_exhausted, before=before[account])
        return not self._missed
