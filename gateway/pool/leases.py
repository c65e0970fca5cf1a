"""The leases of calls in progress: renewed where somebody vouches for a call, looked through elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from gateway.domain.asks import Asker
from gateway.domain.leases import Renewed
from gateway.pool.codes import Code
from gateway.pool.connections import TIMEOUT_SECONDS
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace
from gateway.pool.operations import device_prefix
from gateway.pool.scripts import Argument, script
from gateway.pool.seldom import Seldom
from gateway.pool.unreadable import broke_down

log = structlog.get_logger(__name__)

RENEWED_AT_ONCE: Final = 1000
"""How many calls one script call renews: others must not wait for a large gateway."""
ENTRIES_AT_ONCE: Final = 16
"""How many entries of a shard's `leases` are taken at once; each names the calls of one script."""


RealTime = Callable[[int], int]
"""What a shard's engine says the time is (real ms); 0 if that is not known."""


def carry_out_until_ms(now_ms: int) -> str:
    """Until when a script put now is to be carried out: its connection and reply are waited for so long."""
    return str(now_ms + int(2 * TIMEOUT_SECONDS * 1000)) if now_ms else "0"


@dataclass(frozen=True, slots=True)
class Vouching:
    """Somebody vouches for a call, or its connection is lost (R12, R13).

    `connection` is 0 for a keepalive; `device` None asks for no device. `heard_ago_ms` is how long ago
    something was last heard of the device.
    """

    account: str
    call_id: str
    connection: int
    heard_ago_ms: int
    lost: bool = False
    device: Asker | None = None


_RENEWED: Final = {
    Code.RENEWED: Renewed.RENEWED,
    Code.CALL_ID_CONFLICT: Renewed.NEWER_OWNER,
    Code.ABSENT: Renewed.ABSENT,
    Code.CALL_ID_USED: Renewed.ENDED,
    Code.CALL_UNKNOWN: Renewed.UNKNOWN,
    Code.SHARD_MISSING: Renewed.UNDECIDED,
    Code.SHARD_MOVED: Renewed.UNDECIDED,
    Code.TOO_LATE: Renewed.UNDECIDED,
}


class Leases:
    """The leases of all shards."""

    def __init__(
        self, engine: Engine, keys: KeySpace, real_ms: RealTime, *, lease_ms: int, grace_ms: int
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._real_ms = real_ms
        self._lease_ms = lease_ms
        self._grace_ms = grace_ms
        self._logged = Seldom()

    async def renew(self, vouchings: Sequence[Vouching]) -> list[Renewed]:
        """Renew leases, and start the grace of what is lost; answers where each call stands, in their order.

        In a Cluster those of a shard that is away are UNDECIDED. Raises RedisError if all are. Those of a
        script call that failed may have been renewed.
        """
        by_shard: dict[int, list[int]] = {}
        for at, vouching in enumerate(vouchings):
            by_shard.setdefault(self._keys.shard_of(vouching.account), []).append(at)
        renewed = [Renewed.UNDECIDED] * len(vouchings)

        async def renew(shards: Sequence[int]) -> None:
            places = [(shard, at) for shard in shards for at in by_shard[shard]]
            for first in range(0, len(places), RENEWED_AT_ONCE):
                piece = places[first : first + RENEWED_AT_ONCE]
                codes = await self._renew_apart([(shard, vouchings[at]) for shard, at in piece])
                for (_, at), code in zip(piece, codes, strict=True):
                    renewed[at] = Renewed.UNREADABLE if code is None else _RENEWED[Code(code)]

        await self._engine.ask_shards(by_shard, renew)
        return renewed

    async def due(self) -> tuple[list[tuple[str, str]], int]:
        """Calls (account, call id) that nobody has vouched for in time, and in how many ms to look again.

        Of shards that are not away in a Cluster. Raises RedisError if all are.
        """
        found: list[tuple[str, str]] = []
        wait_ms = self._lease_ms + self._grace_ms

        async def look(shards: Sequence[int]) -> Any:
            keys = [key for shard in shards for key in self._keys.named(shard, "meta", "calls", "leases")]
            return await script("leases_due").run(self._engine.client, keys, [str(ENTRIES_AT_ONCE)])

        asked = await self._engine.ask_shards(range(self._keys.shards), look)
        for _, (next_ms, now_ms, *fields) in asked.said:
            if next_ms:
                wait_ms = min(wait_ms, max(0, next_ms - now_ms))
            for field in fields:
                account, _, call_id = field.decode().partition("/")
                found.append((account, call_id))
        return found, wait_ms

    async def _renew_apart(self, sections: Sequence[tuple[int, Vouching]]) -> Sequence[int | None]:
        """The same as `_renew`, None for a call that the script breaks down on: the others live on."""
        try:
            return await self._renew(sections)
        except ResponseError as failure:
            if not broke_down(failure):
                raise
            if len(sections) == 1:
                self._log_unreadable(sections[0][1], failure)
                return [None]
        half = len(sections) // 2
        return [*await self._renew_apart(sections[:half]), *await self._renew_apart(sections[half:])]

    def _log_unreadable(self, vouching: Vouching, failure: ResponseError) -> None:
        """It is so at each renewal, every few seconds for as long as the call is vouched for."""
        account, call_id = vouching.account, vouching.call_id
        if self._logged.is_time((account, call_id)):
            log.error("lease.unreadable", account=account, call_id=call_id, because=str(failure)[:200])

    async def _renew(self, sections: Sequence[tuple[int, Vouching]]) -> Sequence[int]:
        """What the script says of each, those of a shard in a row."""
        keys: list[str] = []
        until_ms = carry_out_until_ms(self._real_ms(sections[0][0]))
        arguments: list[Argument] = [str(self._lease_ms), str(self._grace_ms), until_ms]
        for shard, members in groupby(sections, itemgetter(0)):
            vouchings = [vouching for _, vouching in members]
            keys += self._keys.named(shard, "meta", "calls", "leases")
            arguments.append(str(len(vouchings)))
            arguments += _arguments(vouchings)
        codes: Sequence[int] = await script("calls_renew").run(self._engine.client, keys, arguments)
        return codes


def _arguments(vouchings: Iterable[Vouching]) -> Iterable[Argument]:
    for each in vouchings:
        yield f"{each.account}/{each.call_id}"
        yield str(each.connection)
        yield device_prefix(each.device)
        yield str(each.heard_ago_ms)
        yield "1" if each.lost else "0"
