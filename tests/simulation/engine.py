"""The scripts in a real engine at simulated instants: exact, and as fast as the engine answers."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.domain.answers import Answer
from gateway.domain.asks import AccountConfig, Ask
from gateway.domain.errors import CallgateError
from gateway.domain.leases import Renewed
from gateway.pool.accounts import account_arguments
from gateway.pool.codes import Code
from gateway.pool.keys import KeySpace
from gateway.pool.operations import Operation, section_arguments
from gateway.pool.packed import Item, PackedPool, unpack_items, unpack_policy, unpack_pool
from gateway.pool.scripts import assemble
from tests.support.engines import EngineServer

LEASE_MS: Final = 15_000
GRACE_MS: Final = 30_000
LATE_MS: Final = 12 * 3_600_000
MEMORY_MS: Final = 48 * 3_600_000

_CLOCK: Final = "server_time[1] * 1000 + floor(server_time[2] / 1000)"
_SCRIPTS: Final = (
    *("calls_decide", "calls_renew", "leases_due", "shards_open", "shards_beat", "account_apply"),
    "calls_forget",
)
_NUMBER: Final = struct.Struct("<d")
_IN_PROGRESS_AT: Final = 71
_BEAT_AT: Final = 87
_STEADY_AT: Final = 95
_RENEWED: Final = {
    Code.RENEWED: Renewed.RENEWED,
    Code.CALL_ID_CONFLICT: Renewed.NEWER_OWNER,
    Code.ABSENT: Renewed.ABSENT,
    Code.CALL_ID_USED: Renewed.ENDED,
    Code.CALL_UNKNOWN: Renewed.UNKNOWN,
}


def scripts_with(mistakes: Mapping[str, str]) -> dict[str, str]:
    """The texts of the scripts, each of these pieces replaced. Raises ValueError for one not there."""
    texts = {name: assemble(name) for name in _SCRIPTS}
    if not all(_CLOCK in text for text in texts.values()):
        raise ValueError("the scripts take the time in another way")
    texts = {name: text.replace(_CLOCK, "tonumber(ARGV[#ARGV])") for name, text in texts.items()}
    for piece, mistake in mistakes.items():
        if not any(piece in text for text in texts.values()):
            raise ValueError(f"no script has {piece!r}")
        texts = {name: text.replace(piece, mistake) for name, text in texts.items()}
    return texts


class SimulatedEngine:
    """One shard with one account, asked one thing at a time at the instant `now_ms`."""

    def __init__(self, server: EngineServer, texts: Mapping[str, str], now_ms: int) -> None:
        self._client = server.client
        self._texts = texts
        self._shas: dict[str, str] = {}
        self._keys = KeySpace(1)
        self.now_ms = now_ms
        self._client.flushall()
        opening = ["1", "30", "1", "60", "0", "0", "", "0", "0", "0", "0", "0"]
        self._run("shards_open", self._named("meta"), opening)

    def _named(self, *names: str) -> list[str]:
        return self._keys.named(0, *names)

    def _run(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        if name not in self._shas:
            self._shas[name] = str(self._client.script_load(self._texts[name]))
        # The instant comes behind the arguments.
        return self._client.evalsha(self._shas[name], len(keys), *keys, *arguments, self.now_ms)

    def make(self, config: AccountConfig, first: int, last: int) -> None:
        """Make the account's pool, with the boundaries of these cycles."""
        keys = [*self._keys.of_shard(0), *self._keys.of_account(config.account, 0)]
        code, *_ = self._run("account_apply", keys, account_arguments(config, first, last, []))
        assert code == Code.APPLIED

    def ask(self, ask: Ask) -> Answer | CallgateError:
        """Ask one thing."""
        operation = Operation(ask, lambda _: None, 0.0)
        keys = [*self._keys.of_shard(0), *self._keys.of_account(ask.account, 0)]
        lengths = [MEMORY_MS, LEASE_MS, GRACE_MS, LATE_MS, 0]
        section = section_arguments({ask.account: [operation]})
        reply = self._run("calls_decide", keys, ["1", *map(str, lengths), *section])
        return operation.deliver(reply, 0)

    def renew(self, account: str, call_id: str, connection: int, heard_ago_ms: int, *, lost: bool) -> Renewed:
        """Renew a call's lease, or tell that its connection is lost."""
        said = [f"{account}/{call_id}", connection, "", heard_ago_ms, int(lost)]
        arguments = [LEASE_MS, GRACE_MS, 0, 1, *said]
        (code,) = self._run("calls_renew", self._named("meta", "calls", "leases"), arguments)
        return _RENEWED[Code(code)]

    def beat(self) -> None:
        """Tell that a gateway is there."""
        self._run("shards_beat", self._named("meta"), [LEASE_MS])

    def due(self) -> list[str]:
        """The calls that may be due for reaping."""
        _, _, *fields = self._run("leases_due", self._named("meta", "calls", "leases"), [1000])
        return [field.decode().partition("/")[2] for field in fields]

    def pool(self, account: str) -> PackedPool:
        """The account's pool as it is kept."""
        packed = self._client.get(self._keys.of_account(account, 0)[0])
        assert isinstance(packed, bytes)
        return unpack_pool(packed)

    def items(self) -> list[Item]:
        """All that SQL was told, in order."""
        entries: Any = self._client.xrange(self._named("records")[0])
        return [
            item for _, entry in entries for item in unpack_items(entry[b"d"], unpack_policy(entry[b"p"]))
        ]

    def steady_since_ms(self) -> int:
        """Since when gateways have been heard of without a gap, until now."""
        beat_ms = self._meta_field(_BEAT_AT)
        return self._meta_field(_STEADY_AT) if self.now_ms - beat_ms <= LEASE_MS / 3 else self.now_ms

    def in_progress(self, account: str) -> tuple[int, int, int]:
        """Calls in progress: as the shard counts them, and in the indexes of the account."""
        _, order, phase, _ = self._keys.of_account(account, 0)
        counted = self._meta_field(_IN_PROGRESS_AT)
        return counted, int(self._client.zcard(order)), int(self._client.zcard(phase))

    def _meta_field(self, at: int) -> int:
        meta = self._client.get(self._named("meta")[0])
        assert isinstance(meta, bytes)
        return int(_NUMBER.unpack_from(meta, at)[0])
