"""What readers of pools are shown, and when.

A pool that changes is announced on a channel of its own, which is listened to only while the pool has readers
here. What is announced is not looked at: all pools of a round that changed are read in one script call, and
each is shown to all its readers. A pool is shown at most four times a second, the newest each time; the first
change after a quiet time at once. Nothing is shown merely because time passes: readers count on by themselves
(R4), except where a pool lists not all of the calls that count.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from time import monotonic
from typing import Final, NoReturn, Protocol

import structlog

from gateway import turns
from gateway.domain.answers import MAX_CALLS_SHOWN, PoolView
from gateway.domain.errors import CallgateError
from gateway.live.pictures import Picture
from gateway.live.subscriptions import Subscriptions
from gateway.pool.live_pool import LivePool

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

BETWEEN_SECONDS: Final = 0.25
"""Between two times that a pool is shown to the same readers."""
ROUND_SECONDS: Final = 0.02
"""Between two rounds of reading: what changes meanwhile is read together."""
COUNTING_SECONDS: Final = 1.0
"""How often a pool is shown whose readers do not know all the calls that count."""
RETRY_SECONDS: Final = 0.5


class Reader(Protocol):
    """Somebody who watches a pool. Nothing here blocks."""

    def show(self, picture: Picture) -> None:
        """Be shown the pool as it is now, in place of what was not passed on yet."""


class _Feed:
    """One account that is watched here."""

    __slots__ = (
        "account",
        "channel",
        "is_forced",
        "latest",
        "needs_reading",
        "newcomers",
        "readers",
        "shown_at",
    )

    def __init__(self, account: str, channel: str) -> None:
        self.account = account
        self.channel = channel
        self.readers: set[Reader] = set()
        self.newcomers: set[Reader] = set()
        """Of the readers, those who are to be shown the pool without waiting for its turn."""
        self.needs_reading = False
        """Whether it may have changed."""
        self.is_forced = False
        """Whether it is to be shown even if it has not."""
        self.latest: PoolView | None = None
        self.shown_at = float("-inf")

    @property
    def due_at(self) -> float | None:
        """When it is to be read, None if nothing calls for it."""
        if self.newcomers:
            return float("-inf")
        if self.needs_reading:
            return self.shown_at + BETWEEN_SECONDS
        if self.counts_unseen:
            return self.shown_at + COUNTING_SECONDS
        return None

    @property
    def counts_unseen(self) -> bool:
        """Whether calls use minutes, as time passes, that readers do not know of."""
        view = self.latest
        return view is not None and view.calls_counting > MAX_CALLS_SHOWN and view.clock_speed > 0

    def ask(self, now: float) -> _Asked:
        """Take what calls for reading it: done once it is read, for whose turn it is."""
        is_turn = now >= self.shown_at + BETWEEN_SECONDS
        is_count = self.counts_unseen and now >= self.shown_at + COUNTING_SECONDS
        asked = _Asked(self, is_turn, must_show=is_turn and (self.is_forced or is_count))
        if is_turn:
            self.needs_reading = self.is_forced = False
        return asked

    def take(self, view: PoolView, now: float, asked: _Asked) -> None:
        """Show what was read: to all if it is their turn and something is new, to newcomers in any case."""
        shown_to, self.newcomers = self.newcomers, set()
        if asked.must_show or (asked.is_turn and _differs(self.latest, view)):
            shown_to = set(self.readers)
            self.latest, self.shown_at = view, now
        picture = Picture(view)
        for reader in shown_to:
            reader.show(picture)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a pool is read for."""

    feed: _Feed
    is_turn: bool
    """Whether all its readers may be shown it, and not newcomers alone."""
    must_show: bool
    """Whether they are shown it even if nothing has changed."""

    def failed(self) -> None:
        self.feed.needs_reading |= self.is_turn
        self.feed.is_forced |= self.must_show


class Feeds:
    """The pools that are watched through this process."""

    def __init__(self, pool: LivePool, subscriptions: Subscriptions) -> None:
        self._pool = pool
        self._subscriptions = subscriptions
        self._feeds: dict[str, _Feed] = {}
        self._by_channel: dict[str, _Feed] = {}
        self._rounds: dict[int, _Rounds] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def watch(self, account: str, reader: Reader) -> None:
        """Show this account's pool to this reader from now on: soon, and after every change."""
        feed = self._feeds.get(account)
        if feed is None:
            feed = self._feeds[account] = _Feed(account, self._pool.channel_of(account))
            self._by_channel[feed.channel] = feed
            self._subscriptions.add([feed.channel], self)
        feed.readers.add(reader)
        feed.newcomers.add(reader)
        self._wake(feed)

    def show_again(self, account: str, reader: Reader) -> None:
        """Show the pool to a reader as it is now: what it was shown has grown old before it was passed on."""
        feed = self._feeds.get(account)
        if feed is not None and reader in feed.readers:
            feed.newcomers.add(reader)
            self._wake(feed)

    def leave(self, account: str, reader: Reader) -> None:
        """Show nothing more to this reader."""
        feed = self._feeds[account]
        feed.readers.discard(reader)
        feed.newcomers.discard(reader)
        if not feed.readers:
            del self._feeds[account], self._by_channel[feed.channel]
            self._subscriptions.remove(feed.channel)

    def heard(self, channel: str, _: bytes) -> None:
        """Hear that a pool changed."""
        self.joined(channel)

    def joined(self, channel: str) -> None:
        """Hear that a pool may have changed: its channel was not listened to for a while."""
        feed = self._by_channel.get(channel)
        if feed is not None:
            feed.needs_reading = True
            self._wake(feed)

    def moved(self) -> None:
        """Hear that every pool looks otherwise without having changed: they are all shown."""
        for feed in self._feeds.values():
            feed.needs_reading = feed.is_forced = True
            self._wake(feed)

    async def run(self) -> NoReturn:
        """Read and show what changes, until cancelled; while the engine is away, again and again."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for feed in self._feeds.values():
                self._wake(feed)
            while True:
                if not self._rounds:  # else a turn ends when it has read
                    turns.finished("feeds")
                await asyncio.sleep(turns.IDLE_SECONDS)

    def _wake(self, feed: _Feed) -> None:
        if self._tasks is None:
            return
        together = self._pool.read_together(feed.account)
        rounds = self._rounds.get(together)
        if rounds is None:
            rounds = self._rounds[together] = _Rounds(self._pool)
            self._tasks.create_task(self._run(together, rounds))
        rounds.add(feed)

    async def _run(self, together: int, rounds: _Rounds) -> None:
        await rounds.run()
        del self._rounds[together]


class _Rounds:
    """Reads, round by round, pools that one script call can read. It ends when nothing is to be read."""

    def __init__(self, pool: LivePool) -> None:
        self._pool = pool
        self._waiting: set[_Feed] = set()
        self._woken = asyncio.Event()

    def add(self, feed: _Feed) -> None:
        self._waiting.add(feed)
        self._woken.set()

    async def run(self) -> None:
        while self._waiting:
            self._woken.clear()
            now = monotonic()
            due = self._take_due(now)
            if due:
                await self._read(due, now)
            elif self._waiting:
                next_at = min(at for feed in self._waiting if (at := feed.due_at) is not None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, next_at - now)):
                        await self._woken.wait()

    def _take_due(self, now: float) -> list[_Feed]:
        due = []
        for feed in list(self._waiting):
            at = feed.due_at if feed.readers else None
            if at is None or at <= now:
                self._waiting.discard(feed)
            if at is not None and at <= now:
                due.append(feed)
        return due

    async def _read(self, due: list[_Feed], now: float) -> None:
        asked = [feed.ask(now) for feed in due]
        try:
            views = await self._pool.read_live([feed.account for feed in due])
        except CallgateError as failure:
            log.warning("feeds.not_read", code=failure.code, pools=len(due))
            for each in asked:
                each.failed()
            self._waiting.update(due)
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - no secret
            return
        read_at = monotonic()
        for each in asked:
            view = views.get(each.feed.account)
            if view is None:  # SQL was restored to an earlier day, and does not know it
                each.feed.newcomers.clear()
            else:
                each.feed.take(view, read_at, each)
        self._waiting.update(feed for feed in due if feed.due_at is not None)
        turns.finished("feeds")
        await asyncio.sleep(ROUND_SECONDS)


def _differs(before: PoolView | None, after: PoolView) -> bool:
    """Tell whether a reader who counts on from `before` would not know what `after` says."""
    return before is None or (before.version, before.policy, before.clock_speed) != (
        after.version,
        after.policy,
        after.clock_speed,
    )
