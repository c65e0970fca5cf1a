"""Real time for the shards of an engine, which leases run on, without waiting for it.

It passes by moving into the past what the engine keeps of it, in steps so large that how long a test really
takes decides nothing.
"""

from __future__ import annotations

import struct
from typing import Final

from gateway.pool.keys import KeySpace
from tests.support.engines import EngineServer

LEASE_MS: Final = 10_000_000
GRACE_MS: Final = 20_000_000
STEPS_MS: Final = (13_000_000, 35_000_000)
"""Whatever number of these steps add up to, it is far from a grace, and from a lease and a grace."""

_IN_PROGRESS: Final = b"L"
_REAP_AT: Final = 30  # where it is within a call in progress: lua/lib/call.lua
_BEAT_AND_STEADY: Final = 87  # where they are within meta: lua/lib/shard.lua


def pass_real_time(server: EngineServer, keys: KeySpace, ms: int) -> None:
    """Let every lease of all shards be so much older."""
    for shard in range(keys.shards):
        (calls,) = keys.named(shard, "calls")
        for field, value in server.client.hgetall(calls).items():
            if isinstance(value, bytes) and value.startswith(_IN_PROGRESS):
                (reap_at_ms,) = struct.unpack_from("<d", value, _REAP_AT)
                older = bytearray(value)
                struct.pack_into("<d", older, _REAP_AT, reap_at_ms - ms)
                server.client.hset(calls, field, bytes(older))


def be_steady_for(server: EngineServer, keys: KeySpace, ms: int) -> None:
    """Let gateways have been heard of without a gap for so long, until now."""
    seconds, microseconds = server.client.time()
    now_ms = seconds * 1000 + microseconds // 1000
    for shard in range(keys.shards):
        (meta,) = keys.named(shard, "meta")
        server.client.setrange(meta, _BEAT_AND_STEADY, struct.pack("<dd", now_ms, now_ms - ms))
