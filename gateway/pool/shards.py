"""The shards as a whole: built at first start, one policy, one billing clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from gateway.domain.errors import EngineUnavailable, FieldError, InvalidField, StartRefused
from gateway.domain.policy import Policy
from gateway.pool.codes import Code
from gateway.pool.engine import Engine
from gateway.pool.keys import DEPLOYMENT_KEY, KeySpace
from gateway.pool.packed import COUNT_FROM
from gateway.pool.scripts import Argument, script

_REAL: Final = 0
_SIMULATED: Final = 1


@dataclass(frozen=True, slots=True)
class Clock:
    """The billing clock:

    the instant it shows, and how many of its seconds pass in a real one (0: it stands).
    """

    now_ms: int
    speed: int


class Shards:
    """All shards of a deployment."""

    def __init__(self, engine: Engine, keys: KeySpace, policy: Policy, *, simulate: bool) -> None:
        self._engine = engine
        self._keys = keys
        self._policy = policy
        self._simulate = simulate
        self._seen: Clock | None = None
        self._seen_at = 0.0

    @property
    def policy(self) -> Policy:
        """The policy that shards are built with; `read_policy` asks the engine which is in force."""
        return self._policy

    async def open(self, policy: Policy | None = None, *, replace_policy: bool = False) -> None:
        """Build what is missing and check that the data was made as this gateway is set up.

        `policy` takes the place of the one given at first. With `replace_policy` shards may have another.

        Raises StartRefused if the data has another policy, another number of shards, or another kind of
        clock, and RedisError if the engine can't be reached.
        """
        self._policy = policy or self._policy
        client = self._engine.client
        await client.hsetnx(DEPLOYMENT_KEY, "shards", str(self._keys.shards))
        kept = int(await client.hget(DEPLOYMENT_KEY, "shards") or 0)
        if kept != self._keys.shards:
            raise StartRefused(f"The data is spread over {kept} shards, not {self._keys.shards}.")
        for _, _, _, *kept_policy, mode, _ in await self.build():
            if mode != (_SIMULATED if self._simulate else _REAL):
                made, start = ("with", "with") if mode == _SIMULATED else ("without", "without")
                raise StartRefused(
                    f"The data was made {made} --simulate and can only be used {start} it: "
                    f"its instants are not {'real' if mode == _SIMULATED else 'simulated'} ones."
                )
            if _policy(kept_policy) != self._policy and not replace_policy:
                raise StartRefused(
                    f"The data is kept under the policy {_describe(_policy(kept_policy))}, "
                    f"but the settings say {_describe(self._policy)}. Set the same one, "
                    "or change the data's with `callgate policy set` on a running gateway."
                )

    async def build(self) -> list[list[int]]:
        """Build the shards that are not there; answers what `shards_open` says of all of them."""
        found: list[list[int]] = []
        epoch: str | None = None
        clock_base = ""
        for group in self._engine.split_shards(range(self._keys.shards)):
            if epoch is None:
                epoch = await self._server_ms()
                # In a Cluster shards are built one by one: a simulated clock must start at one instant for
                # all.
                clock_base = epoch
            reply = await script("shards_open").run(
                self._engine.client,
                self._metas(group),
                [
                    epoch,
                    *_policy_arguments(self._policy),
                    str(_SIMULATED if self._simulate else _REAL),
                    clock_base,
                ],
            )
            found.extend(reply)
        return found

    async def _server_ms(self) -> str:
        reply = await script("server_time").run(self._engine.client, self._metas([0]))
        return str(reply)

    async def read_policy(self) -> Policy:
        """The policy in force. Raises EngineUnavailable if the shards are not built, RedisError."""
        found = await script("shards_open").run(
            self._engine.client,
            self._metas([0]),
            ["0", *_policy_arguments(self._policy), str(_SIMULATED if self._simulate else _REAL), ""],
        )
        return _policy(found[0][3:7])

    async def set_policy(self, policy: Policy) -> None:
        """Set the policy of all shards, at once on a single server. Raises RedisError."""
        for group in self._engine.split_shards(range(self._keys.shards)):
            await script("policy_set").run(self._engine.client, self._metas(group), _policy_arguments(policy))
        self._policy = policy

    async def clock(self) -> Clock:
        """What the billing clock shows. Raises EngineUnavailable if the shards are not built, RedisError."""
        found = (await script("clock_read").run(self._engine.client, self._metas([0])))[0]
        if not found:
            await self.build()
            found = (await script("clock_read").run(self._engine.client, self._metas([0])))[0]
        if not found:
            raise EngineUnavailable
        return self.saw(Clock(found[0], found[1]))

    async def count_calls(self) -> int:
        """How many calls are in progress in all shards. Raises RedisError."""
        count = 0
        for group in self._engine.split_shards(range(self._keys.shards)):
            found = await script("clock_read").run(self._engine.client, self._metas(group))
            count += sum(each[3] for each in found if each)
        return count

    async def stop_clock(self) -> Clock:
        """Have the simulated clock stand still where it is. Raises RedisError."""
        now_ms = 0
        for group in self._engine.split_shards(range(self._keys.shards)):
            code, at_ms, *_ = await script("clock_move").run(
                self._engine.client, self._metas(group), ["", "0", "0", "0"]
            )
            if code != Code.APPLIED:
                raise EngineUnavailable
            now_ms = max(now_ms, at_ms)
        if not self._engine.spans_shards:
            return await self.set_clock(now_ms, 0)
        return self.saw(Clock(now_ms, 0))

    async def set_clock(self, at_ms: int, speed: int, *, anywhere: bool = False) -> Clock:
        """Set the simulated clock of all shards. Raises InvalidField if that is back in time, RedisError."""
        for group in self._engine.split_shards(range(self._keys.shards)):
            code, *detail = await script("clock_move").run(
                self._engine.client,
                self._metas(group),
                [str(at_ms), "", str(speed), "1" if anywhere else "0"],
            )
            if code == Code.CLOCK_BACKWARDS:
                raise InvalidField(
                    errors=[FieldError("at_ms", f"the clock shows {detail[0]} and only moves forward")]
                )
            if code != Code.APPLIED:
                raise EngineUnavailable
        return self.saw(Clock(at_ms, speed))

    def saw(self, clock: Clock) -> Clock:
        """Remember what the clock just showed."""
        self._seen, self._seen_at = clock, time.monotonic()
        return clock

    def estimated_now_ms(self) -> int:
        """What the clock shows by now, reckoned from when it was last seen;

        the host's time if it never was.
        """
        if self._seen is None:
            return time.time_ns() // 1_000_000
        return self._seen.now_ms + int((time.monotonic() - self._seen_at) * 1000) * self._seen.speed

    def _metas(self, shards: list[int]) -> list[str]:
        return [self._keys.of_shard(shard)[0] for shard in shards]


def _policy(packed: list[int]) -> Policy:
    free, increment, hold, count_from = packed
    return Policy(free, increment, hold, COUNT_FROM[count_from])


def _policy_arguments(policy: Policy) -> list[Argument]:
    return [
        str(policy.free_seconds),
        str(policy.increment_seconds),
        str(policy.hold_seconds),
        str(COUNT_FROM.index(policy.count_from)),
    ]


def _describe(policy: Policy) -> str:
    return (
        f"free {policy.free_seconds} s, increment {policy.increment_seconds} s, "
        f"hold {policy.hold_seconds} s, counted from {policy.count_from}"
    )
