"""The policy that shards bill by: which is in force, how it is set, and that it is the one that SQL has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import structlog

from gateway.domain.errors import EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool.codes import NO_EPOCH
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace
from gateway.pool.packed import COUNT_FROM, unpack_policy
from gateway.pool.scripts import Argument, script
from gateway.pool.together import Shared

log = structlog.get_logger(__name__)

T = TypeVar("T")

POLICY_SECONDS: Final = 60.0
"""How often the policy in force is compared with SQL's."""

SavedPolicy = Callable[[], Awaitable[Policy | None]]
"""Asks SQL for the policy of the deployment; None if it has none. Raises DatabaseUnavailable."""


async def no_policy_saved() -> None:
    """SQL has none, or is not asked."""


class BilledShards(Protocol):
    """What the policy asks of the shards that bill by it."""

    @property
    def away(self) -> frozenset[int]:
        """Those that are known to be away."""

    @property
    def epochs_seen(self) -> Mapping[int, int]:
        """The epoch of each that was seen, as it was last."""

    def saw(self, shard: int, run: int, epoch: int, seq: int) -> None:
        """Hear how far a shard has come."""

    async def confirm(self, shards: Iterable[int]) -> None:
        """Build those that are not there. Raises EngineUnavailable, RedisError."""

    async def of_any(self, ask: Callable[[Sequence[int]], Awaitable[T]]) -> T:
        """Ask one what all would say. Raises what `ask` raises."""


class Policies:
    """The policy of all shards, which should be one."""

    def __init__(
        self, engine: Engine, keys: KeySpace, shards: BilledShards, known: Policy, saved: SavedPolicy
    ) -> None:
        """`known` is in force until another is met."""
        self.known = known
        """The policy that was last known to be in force: shards are built with it."""
        self._engine = engine
        self._keys = keys
        self._shards = shards
        self._saved = saved
        # The epoch of each shard in which it was last given SQL's.
        self._given_in: dict[int, int] = {}
        # Those that wait for it.
        self._wanted: set[int] = set()
        self._giving = Shared(self._give_wanted)
        self._compared_at = time.monotonic()

    async def read(self) -> Policy:
        """The policy in force. Raises EngineUnavailable if the shards are not built, RedisError."""

        async def ask(shards: Sequence[int]) -> Policy:
            (packed, *_) = await script("policy_read").run(self._engine.client, self._keys.metas(shards))
            if not packed:
                raise EngineUnavailable
            return unpack_policy(packed)

        return await self._shards.of_any(ask)

    async def set_all(self, policy: Policy) -> None:
        """Set the policy of all shards, at once on a single server. Raises EngineUnavailable, RedisError."""
        _, away = await self._set_in(range(self._keys.shards), policy)
        for failure in away.values():
            raise failure

    async def keep(self, shard: int, epoch: int) -> None:
        """Have a shard bill by the policy that SQL has, once in an epoch.

        An engine that went back may be older than the policy. Raises DatabaseUnavailable, EngineUnavailable,
        RedisError.
        """
        if self._given_in.get(shard) != epoch:
            await self._have_given([shard])

    async def keep_all(self) -> None:
        """The same for all shards, but those that are away; and now and then see that they have it still.

        Who sets SQL's policy may have asked for it before another was set, and die before it asks again.
        Raises DatabaseUnavailable, EngineUnavailable, RedisError.
        """
        left = [
            shard
            for shard, epoch in self._shards.epochs_seen.items()
            if self._given_in.get(shard) != epoch and shard not in self._shards.away
        ]
        if left:
            await self._have_given(left)
        if time.monotonic() - self._compared_at >= POLICY_SECONDS:
            self._compared_at = time.monotonic()
            await self._compare()

    async def _have_given(self, shards: Sequence[int]) -> None:
        """All who wait for SQL want the same of it. Raises what kept it from one of these shards."""
        self._wanted.update(shards)
        away = await self._giving.ask()
        for shard in shards:
            if shard in away:
                raise away[shard]

    async def _give_wanted(self) -> Mapping[int, Exception]:
        """Answer which shards were not given it, and why."""
        shards, self._wanted = sorted(self._wanted), set()
        given: Policy | None = None
        epochs: Mapping[int, int] = {}
        away: Mapping[int, Exception] = {}
        try:
            # One that is just being set is in SQL first: if it was set back here, SQL says so by now.
            while (saved := await self._saved()) is not None and saved != given:
                given = saved
                epochs, away = await self._set_in(shards, saved)
        except asyncio.CancelledError:
            # Others wait for these too, and one of them begins anew.
            self._wanted.update(shards)
            raise
        self._given_in.update(epochs)
        return away

    async def _compare(self) -> None:
        async def read(shards: Sequence[int]) -> list[bytes]:
            found: list[bytes] = await script("policy_read").run(
                self._engine.client, self._keys.metas(shards)
            )
            return found

        # Before SQL: one that is just being set is in SQL by now, and would be set back otherwise.
        asked = await self._engine.ask_shards(range(self._keys.shards), read)
        saved = await self._saved()
        if saved is None:
            return
        in_force = {s: each for group, found in asked.said for s, each in zip(group, found, strict=True)}
        others = [shard for shard, each in in_force.items() if each and unpack_policy(each) != saved]
        if others:
            log.warning("policy.differs_from_sql", shards=len(others))
            await self._have_given(others)

    async def _set_in(
        self, shards: Iterable[int], policy: Policy
    ) -> tuple[Mapping[int, int], Mapping[int, Exception]]:
        """Answer the epoch in which each of them was given it; and of those that were not, why."""

        async def set_in(group: Sequence[int]) -> dict[int, int]:
            keys = [key for shard in group for key in self._keys.named(shard, "meta", "alarms")]
            for _ in range(2):
                changed, run, *said = await script("policy_set").run(
                    self._engine.client, keys, policy_arguments(policy)
                )
                if changed:
                    log.info("policy.set", shards=changed)
                found = dict(zip(group, said[::2], strict=True))
                for (shard, epoch), seq in zip(found.items(), said[1::2], strict=True):
                    self._shards.saw(shard, run, epoch, seq)
                absent = [shard for shard, epoch in found.items() if epoch == NO_EPOCH]
                if not absent:
                    return found
                await self._shards.confirm(absent)
            raise EngineUnavailable

        asked = await self._engine.ask_shards(shards, set_in)
        self.known = policy
        return {shard: epoch for _, found in asked.said for shard, epoch in found.items()}, asked.away


def policy_of(numbers: Sequence[int]) -> Policy:
    """A policy as scripts tell of it: in the order of `policy_arguments`."""
    free, increment, hold, count_from = numbers
    return Policy(free, increment, hold, COUNT_FROM[count_from])


def policy_arguments(policy: Policy) -> list[Argument]:
    """A policy as scripts take it."""
    return [
        str(policy.free_seconds),
        str(policy.increment_seconds),
        str(policy.hold_seconds),
        str(COUNT_FROM.index(policy.count_from)),
    ]


def described(policy: Policy) -> str:
    """A policy in words."""
    return (
        f"free {policy.free_seconds} s, increment {policy.increment_seconds} s, "
        f"hold {policy.hold_seconds} s, counted from {policy.count_from}"
    )
