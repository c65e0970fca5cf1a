"""Key names and their order in a script's KEYS; lua/lib/keys.lua takes them in the same order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from zlib import crc32

DEFAULT_SHARDS: Final = 256
SHARD_KEYS: Final = ("meta", "calls", "ended", "overtaken", "leases", "alarms", "records", "notices")
ACCOUNT_KEYS: Final = ("pool", "order", "phase", "members")
DEPLOYMENT_KEY: Final = "cg:deployment"


def hash_tag(shard: int) -> str:
    """What all keys of a shard have in common, and alone says which slot of a Cluster they are in."""
    return f"{{{shard}}}"


class KeySpace:
    """Names of all keys of a deployment with so many shards.

    All keys of a shard carry its hash tag, so that one script can serve several accounts of a shard, in a
    Cluster too. The number of shards is fixed for the life of the data.
    """

    def __init__(self, shards: int = DEFAULT_SHARDS) -> None:
        self.shards = shards
        self._shard_keys = [
            tuple(f"cg:{hash_tag(shard)}:{name}" for name in SHARD_KEYS) for shard in range(shards)
        ]

    def shard_of(self, account: str) -> int:
        """The shard that an account's pool lives on, for ever."""
        return crc32(account.encode()) % self.shards

    def of_shard(self, shard: int) -> tuple[str, ...]:
        """A shard's keys, in the order of SHARD_KEYS."""
        return self._shard_keys[shard]

    def named(self, shard: int, *names: str) -> list[str]:
        """Some of a shard's keys, by name."""
        keys = self._shard_keys[shard]
        return [keys[SHARD_KEYS.index(name)] for name in names]

    def metas(self, shards: Iterable[int]) -> list[str]:
        """Where each of these shards says how it is."""
        return [self._shard_keys[shard][0] for shard in shards]

    def by_shard(self, accounts: Iterable[str]) -> dict[int, list[str]]:
        """These accounts, by the shard that each lives on, in their order."""
        members: dict[int, list[str]] = {}
        for account in accounts:
            members.setdefault(self.shard_of(account), []).append(account)
        return members

    def notices(self, shard: int) -> str:
        """The channel that tells which of a shard's accounts ran out of minutes, or have them back (R11)."""
        return self.named(shard, "notices")[0]

    def of_account(self, account: str, shard: int) -> tuple[str, ...]:
        """An account's keys, in the order of ACCOUNT_KEYS."""
        tag = f"cg:{hash_tag(shard)}:"
        return (
            f"{tag}pool:{account}",
            f"{tag}order:{account}",
            f"{tag}phase:{account}",
            f"{tag}members:{account}",
        )
