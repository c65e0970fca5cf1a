"""First integer of a script's every answer: the registry of lua/lib/codes.lua, and what each means here."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from gateway.domain.admission import RefusalReason
from gateway.domain.errors import CallgateError, CallIdConflict, CallIdUsed, CallUnknown, EngineUnavailable


class Code(IntEnum):
    """What a script says it did."""

    ADMITTED = 1
    REPLAYED = 2
    NOTED = 3
    SETTLED = 4
    SETTLED_BEFORE = 5
    APPLIED = 6
    UNCHANGED = 7
    READ = 8
    RESUMED = 9
    TAKEN_BACK = 10
    NOT_DUE = 11
    RENEWED = 12
    ABSENT = 13
    CALL_ID_USED = 20
    CALL_ID_CONFLICT = 21
    CALL_UNKNOWN = 22
    SHARD_MISSING = 30
    POOL_MISSING = 31
    CYCLES_MISSING = 32
    CLOCK_BACKWARDS = 33
    SHARD_MOVED = 34
    ACCOUNT_UNREAD = 35
    TOO_LATE = 36
    POOL_UNREADABLE = 37
    ACCOUNT_SUSPENDED = 42
    STAFF_UNKNOWN = 43
    CHANNEL_UNKNOWN = 44
    NO_CALLING_PLAN = 45
    DESTINATION_INVALID = 46
    TOO_MANY_CALLS = 49
    MINUTES_EXHAUSTED = 50
    MINUTES_HELD = 51


UNDECIDED: Final = frozenset(
    (Code.SHARD_MISSING, Code.SHARD_MOVED, Code.POOL_MISSING, Code.CYCLES_MISSING, Code.TOO_LATE)
)
"""Nothing was decided: the gateway supplies what is missing and asks again."""

NO_EPOCH: Final = 0
"""The epoch of a shard that is not there, where a script tells of several."""

REFUSALS: Final[dict[int, RefusalReason]] = {
    Code.ACCOUNT_SUSPENDED: RefusalReason.ACCOUNT_SUSPENDED,
    Code.STAFF_UNKNOWN: RefusalReason.STAFF_UNKNOWN,
    Code.CHANNEL_UNKNOWN: RefusalReason.CHANNEL_UNKNOWN,
    Code.NO_CALLING_PLAN: RefusalReason.NO_CALLING_PLAN,
    Code.DESTINATION_INVALID: RefusalReason.DESTINATION_INVALID,
    Code.TOO_MANY_CALLS: RefusalReason.TOO_MANY_CALLS,
    Code.MINUTES_EXHAUSTED: RefusalReason.MINUTES_EXHAUSTED,
    Code.MINUTES_HELD: RefusalReason.MINUTES_HELD,
}

ERRORS: Final[dict[int, type[CallgateError]]] = {
    Code.CALL_ID_USED: CallIdUsed,
    Code.CALL_ID_CONFLICT: CallIdConflict,
    Code.CALL_UNKNOWN: CallUnknown,
    # Who tells what an engine has lost begins again with what SQL has.
    Code.ACCOUNT_UNREAD: EngineUnavailable,
}
