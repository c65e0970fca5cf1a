"""Looking through the keys themselves, as `callgate check` does: nothing on the way of a call needs it.

It reads a little at a time, while gateways go on working: what it finds is how things were at different
instants, all since it began.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.pool.engine import Engine, engine_unavailable
from gateway.pool.keys import ACCOUNT_KEYS, DEPLOYMENT_KEY, SHARD_KEYS, KeySpace
from gateway.pool.packed import is_in_progress, is_readable, unpack_pool
from gateway.pool.scripts import script

AT_ONCE: Final = 1000
"""How many keys, or members of one, are read at once."""

_KEY: Final = re.compile(r"cg:\{(\d+)\}:([a-z]+)(?::(.+))?", re.DOTALL)
_BARRIER: Final = "barrier"
_EMERGENCIES_FROM: Final = 2**52 + 2**51
"""Where emergencies sort in `order`, as lua/lib/order.lua has it."""


@dataclass(slots=True)
class Keys:
    """The keys that there are: the accounts that have one, by its name, and those that are nobody's."""

    accounts: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in ACCOUNT_KEYS})
    strays: set[str] = field(default_factory=set)


@dataclass(slots=True)
class ShardCalls:
    """A shard's calls in progress, "<account>/<call id>": in `calls`, in `leases`, and in `order`.

    `unreadable` are those, in progress or not, whose value in `calls` is damaged.
    """

    in_progress: set[str]
    leased: set[str]
    ordered: set[str]
    unreadable: set[str]


class Inspection:
    """Looks through the keys. All of it raises EngineUnavailable."""

    def __init__(self, engine: Engine, keys: KeySpace) -> None:
        self._engine = engine
        self._keys = keys

    async def keys(self, others: Iterable[str] = ()) -> Keys:
        """All keys of this deployment; `others` are known besides those of the pools."""
        found, known = Keys(), {DEPLOYMENT_KEY, *others}
        with engine_unavailable():
            async for raw in self._engine.client.scan_iter(match="cg:*", count=AT_ONCE):
                key = raw.decode(errors="replace")
                if key not in known:
                    self._sort_in(key, found)
        return found

    async def calls(self, shard: int, accounts: Iterable[str]) -> ShardCalls:
        """A shard's calls in progress; `accounts` are those of the shard that have an `order`."""
        calls_key, leases_key = self._keys.named(shard, "calls", "leases")
        with engine_unavailable():
            # In this order: what is in progress now stands in the others when they are read, or has ended.
            in_progress: set[str] = set()
            unreadable: set[str] = set()
            async for call, value in self._scan("HSCAN", calls_key):
                if is_in_progress(value):
                    in_progress.add(call.decode())
                if not is_readable(value):
                    unreadable.add(call.decode())
            ordered: set[str] = set()
            for account in {*accounts, *(call.partition("/")[0] for call in in_progress)}:
                order_key = self._order_key(account, shard)
                ordered |= {call.decode() async for call, _ in self._scan("ZSCAN", order_key)}
            leased = {
                call
                async for entry, _ in self._scan("ZSCAN", leases_key)
                for call in entry.decode().split(" ")
            }
        return ShardCalls(in_progress, leased, ordered, unreadable)

    async def still_in_progress(self, shard: int, calls: Iterable[str]) -> set[str]:
        """Which of these are in progress now."""
        named = list(calls)
        found: set[str] = set()
        with engine_unavailable():
            for first in range(0, len(named), AT_ONCE):
                piece = named[first : first + AT_ONCE]
                values = await self._engine.client.execute_command(
                    "HMGET", self._keys.named(shard, "calls")[0], *piece
                )
                found |= {
                    call for call, value in zip(piece, values, strict=True) if value and is_in_progress(value)
                }
        return found

    async def count(self, shard: int, accounts: Iterable[str]) -> tuple[int, int] | None:
        """A shard's calls in progress, by its own count and by the `order` of all its accounts.

        Both at one instant. None: the shard is not there.
        """
        meta = self._keys.named(shard, "meta")
        orders = [self._order_key(account, shard) for account in accounts]
        with engine_unavailable():
            counted = await script("calls_count").run(self._engine.client, [*meta, *orders])
        return (counted[0], counted[1]) if counted else None

    async def count_of_accounts(self, accounts: Iterable[str]) -> Mapping[str, tuple[int, int]]:
        """Accounts' calls in progress, by the count of their pools and by their `order`.

        Both of an account at one instant. Those without a pool are left out.
        """
        found: dict[str, tuple[int, int]] = {}
        by_shard = [(shard, named) for shard, named in self.by_shard(accounts).items() if named]
        for sections in self._engine.split(by_shard):
            named = [(account, shard) for shard, members in sections for account in members]
            keys = [key for account, shard in named for key in self._keys.of_account(account, shard)[:2]]
            with engine_unavailable():
                reply = await script("pools_count").run(self._engine.client, keys)
            for (account, _), packed, listed in zip(named, reply[::2], reply[1::2], strict=True):
                if packed:
                    pool = unpack_pool(packed)
                    found[account] = (pool.calls + pool.emergencies, listed)
        return found

    async def has_emergencies_only(self, account: str) -> bool:
        """Whether all calls in progress of an account are emergencies, which need no pool (R30)."""
        key = self._order_key(account, self._keys.shard_of(account))
        with engine_unavailable():
            others = await self._engine.client.execute_command("ZCOUNT", key, "-inf", f"({_EMERGENCIES_FROM}")
        return int(others) == 0

    def by_shard(self, accounts: Iterable[str]) -> Mapping[int, list[str]]:
        """Accounts by their shard; every shard is there."""
        return {shard: [] for shard in range(self._keys.shards)} | self._keys.by_shard(accounts)

    def _order_key(self, account: str, shard: int) -> str:
        return self._keys.of_account(account, shard)[ACCOUNT_KEYS.index("order")]

    def _sort_in(self, key: str, found: Keys) -> None:
        parts = _KEY.fullmatch(key)
        if parts is not None:
            shard, name, account = int(parts[1]), parts[2], parts[3]
            if account is None and shard < self._keys.shards and name in (*SHARD_KEYS, _BARRIER):
                return
            if account is not None and name in ACCOUNT_KEYS and self._keys.shard_of(account) == shard:
                found.accounts[name].add(account)
                return
        found.strays.add(key)

    async def _scan(self, command: str, key: str) -> AsyncIterator[tuple[bytes, bytes]]:
        cursor: Any = 0
        while True:
            cursor, found = await self._engine.client.execute_command(command, key, cursor, "COUNT", AT_ONCE)
            pairs = found.items() if isinstance(found, dict) else found
            for pair in pairs:
                yield pair
            if int(cursor) == 0:
                return
