"""Which calls in progress are a device's: asked when it connects, and found by looking through its account's.

No index of this is kept, which every start and end would have to pay for. One look through an account's calls
serves all devices that asked before it began: a gateway whose devices come back all at once still looks
through them only once after another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import structlog
from redis.exceptions import RedisError

from gateway.domain.calls import CallInProgress
from gateway.domain.errors import EngineUnavailable
from gateway.pool.engine import Engine
from gateway.pool.keys import KeySpace
from gateway.pool.packed import NO_VALUE, unpack_call_in_progress
from gateway.pool.scripts import script

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CALLS_AT_ONCE: Final = 1000
"""How many calls one script call looks at: others must not wait for a large account."""

_Asked = dict[tuple[str, str], asyncio.Future[list[CallInProgress]]]


class DeviceCalls:
    """Finds devices' calls in progress."""

    def __init__(self, engine: Engine, keys: KeySpace) -> None:
        self._engine = engine
        self._keys = keys
        self._asked: dict[str, _Asked] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    async def of(self, account: str, staff: str, device: str) -> list[CallInProgress]:
        """A device's calls in progress, as they were at some moment since this was called.

        Raises EngineUnavailable.
        """
        asked = self._asked.setdefault(account, {})
        found = asked.get((staff, device))
        if found is None:
            found = asked[staff, device] = asyncio.get_running_loop().create_future()
        if account not in self._looking:
            self._looking[account] = asyncio.get_running_loop().create_task(self._look(account))
        return await asyncio.shield(found)

    async def _look(self, account: str) -> None:
        try:
            while asked := self._asked.pop(account, None):
                await self._answer(account, asked)
        finally:
            del self._looking[account]
            _fail(self._asked.pop(account, {}))

    async def _answer(self, account: str, asked: _Asked) -> None:
        calls: dict[tuple[str, str], list[CallInProgress]] = {who: [] for who in asked}
        try:
            await self._look_through(account, calls)
            for who, future in asked.items():
                future.set_result(calls[who])
        except (RedisError, OSError):
            pass
        except Exception:
            # Whoever connects waits for this, and would for ever.
            log.exception("device.calls_not_found", account=account)
        finally:
            _fail(asked)

    async def all_of(self, account: str) -> list[CallInProgress]:
        """All calls in progress of an account, but for those that cannot be read. Raises RedisError."""
        return [call async for call in self._look_for(account, [])]

    async def _look_through(self, account: str, calls: dict[tuple[str, str], list[CallInProgress]]) -> None:
        async for call in self._look_for(account, list(calls)):
            calls[call.staff, call.device].append(call)

    async def _look_for(self, account: str, who: Sequence[tuple[str, str]]) -> AsyncGenerator[CallInProgress]:
        shard = self._keys.shard_of(account)
        keys = [*self._keys.named(shard, "calls"), self._keys.of_account(account, shard)[1]]
        devices = [f"{staff}/{device}|" for staff, device in who]
        following = "-inf"
        while following:
            reply = await script("device_calls").run(
                self._engine.client, keys, [following, str(CALLS_AT_ONCE), *devices]
            )
            following = reply[0].decode()
            for field, packed in zip(reply[1::2], reply[2::2], strict=True):
                try:
                    call_id = field.decode().partition("/")[2]
                    call = unpack_call_in_progress(account, call_id, packed, 0)
                except NO_VALUE:
                    # As the script passes over what is none at all: `callgate check` tells of both.
                    continue
                yield call


def _fail(asked: _Asked) -> None:
    """Answer those that have no answer yet."""
    for future in asked.values():
        if not future.done():
            future.set_exception(EngineUnavailable())
            future.exception()  # whoever asked may be gone
