"""A call: who makes it, what is known of it in progress, and the record that stays of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

from gateway.domain.policy import Policy

EndedBy = Literal["hangup", "connection_lost", "lease_expired"]
"""Why a call ended: its client said so, or it was settled in its absence (R13, R14)."""


NoticeKind = Literal["threshold", "minutes_exhausted", "minutes_restored", "plan_changed"]
"""What is told of a pool as it happens (R29, R22, R23)."""

OVERTAKEN_MS: Final = 60_000
"""How long a start is refused whose end came before it (R17)."""

UNHEARD_MS: Final = 10_000
"""How long before a gateway let a call through without the engine that may have carried out the same call:

start, end and all. It waits 2 s at most for an answer; the rest is for clocks apart, and a busy machine.
"""


class CallState(StrEnum):
    """Where a call is in its life. An id that was refused or has been forgotten is `UNKNOWN` again."""

    UNKNOWN = "unknown"
    IN_PROGRESS = "in_progress"
    ENDED = "ended"
    SETTLED_IN_ABSENCE = "settled_in_absence"
    OVERTAKEN = "overtaken"


class CallEvent(StrEnum):
    """What can happen to a call."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    STARTED_AGAIN = "started_again"
    ANSWERED = "answered"
    ENDED = "ended"
    CONNECTION_LOST = "connection_lost"
    LEASE_EXPIRED = "lease_expired"
    RESUMED = "resumed"
    RETURN_EXPIRED = "return_expired"
    FORGOTTEN = "forgotten"


_UNKNOWN, _IN_PROGRESS, _ENDED = CallState.UNKNOWN, CallState.IN_PROGRESS, CallState.ENDED
_ABSENT, _OVERTAKEN = CallState.SETTLED_IN_ABSENCE, CallState.OVERTAKEN

TRANSITIONS: Final[Mapping[tuple[CallState, CallEvent], CallState]] = MappingProxyType(
    {
        (_UNKNOWN, CallEvent.ADMITTED): _IN_PROGRESS,
        (_UNKNOWN, CallEvent.REFUSED): _UNKNOWN,  # R9: it may be asked again
        (_UNKNOWN, CallEvent.RESUMED): _IN_PROGRESS,  # R28: by its receipt, after the engine lost it
        (_UNKNOWN, CallEvent.ENDED): _OVERTAKEN,  # R17: call_unknown, and a start close behind it is too late
        (_IN_PROGRESS, CallEvent.STARTED_AGAIN): _IN_PROGRESS,  # R9: replayed
        (_IN_PROGRESS, CallEvent.ANSWERED): _IN_PROGRESS,
        (_IN_PROGRESS, CallEvent.RESUMED): _IN_PROGRESS,  # R13
        (_IN_PROGRESS, CallEvent.ENDED): _ENDED,
        (_IN_PROGRESS, CallEvent.CONNECTION_LOST): _ABSENT,  # R13
        (_IN_PROGRESS, CallEvent.LEASE_EXPIRED): _ABSENT,  # R14
        (_ENDED, CallEvent.ANSWERED): _ENDED,  # noted, and changes nothing
        (_ENDED, CallEvent.ENDED): _ENDED,  # R17: the settlement already made
        (_ENDED, CallEvent.FORGOTTEN): _UNKNOWN,  # R9: after call_id_memory_hours
        (_ABSENT, CallEvent.ANSWERED): _ABSENT,
        (_ABSENT, CallEvent.ENDED): _ENDED,  # R17: a late return and an end in one
        (_ABSENT, CallEvent.RESUMED): _IN_PROGRESS,  # R15
        (_ABSENT, CallEvent.RETURN_EXPIRED): _ENDED,  # R15: after late_resume_hours
        (_ABSENT, CallEvent.FORGOTTEN): _UNKNOWN,
        (_OVERTAKEN, CallEvent.ENDED): _OVERTAKEN,
        (_OVERTAKEN, CallEvent.RESUMED): _IN_PROGRESS,  # R28: the engine had lost it when its end came
        (_OVERTAKEN, CallEvent.FORGOTTEN): _UNKNOWN,  # R17: after 60 s
    }
)
"""Everything that can happen to a call. What is missing from it is an error: `next_state` says so.

A settlement that is told again (R26) is not in it: it puts back what had happened before.
"""


def next_state(state: CallState, event: CallEvent) -> CallState:
    """Return the state after `event`. Raises ValueError if that can't happen to a call in `state`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a call that is {state} cannot be {event}") from None


@dataclass(frozen=True, slots=True)
class Caller:
    """The device a call is made from: an account's staff member's softphone."""

    account: str
    staff: str
    device: str


@dataclass(frozen=True, slots=True)
class CallInProgress:
    """A call that was admitted and has not ended.

    `counts` is False for a call of an older cycle (R20) and for an emergency (R30). `revision` is that of its
    latest record if it was settled in its absence and came back (R15), else 0. `admitted_offline` if it was
    let through while the engine was away.
    """

    account: str
    call_id: str
    staff: str
    device: str
    channel: str | None
    to: str
    admitted_at_ms: int
    answered_at_ms: int | None
    cycle_start_ms: int
    emergency: bool
    counts: bool
    revision: int = 0
    admitted_offline: bool = False


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What stays of a call after it ended (R26). Its key is account, `call_id` and `admitted_at_ms` (R9).

    `settled_at_ms` is when it was written, `ended_at_ms` when the call ended; a higher `revision` replaces a
    lower one (R15). `counted` tells whether it billed anything; `policy` is the one it was billed under.
    """

    account: str
    call_id: str
    staff: str
    device: str
    channel: str | None
    to: str
    admitted_at_ms: int
    answered_at_ms: int | None
    ended_at_ms: int
    settled_at_ms: int
    duration_ms: int
    billed_seconds: int
    counted: bool
    ended_by: EndedBy
    emergency: bool
    cycle_start_ms: int
    revision: int
    policy: Policy
    admitted_offline: bool = False


def is_an_earlier_call(known: CallInProgress | CallRecord, told: CallInProgress | CallRecord) -> bool:
    """Return whether what is known under an id is another call than the one that this tells of (R9).

    It was settled before that was admitted. Else it is the same one, also where they were admitted at
    different instants: of a start whose answer was lost the engine may know one, and the gateway that then
    let it through without the engine (`admitted_offline`) another, up to `UNHEARD_MS` after its end.
    """
    if not isinstance(known, CallRecord) or known.admitted_at_ms == told.admitted_at_ms:
        return False
    unheard_ms = UNHEARD_MS if told.admitted_offline and _is_asked_alike(known, told) else 0
    return known.settled_at_ms + unheard_ms <= told.admitted_at_ms


def _is_asked_alike(one: CallInProgress | CallRecord, other: CallInProgress | CallRecord) -> bool:
    """R9: whether one start could have asked for both."""
    asked = (one.staff, one.device, one.channel, one.to)
    return asked == (other.staff, other.device, other.channel, other.to)


def call_meant(
    saved: CallInProgress | CallRecord | None, told: CallInProgress | CallRecord | None
) -> CallInProgress | CallRecord | None:
    """Return the call that an id means, by what SQL has and what its receipt or its gateway tells of it.

    What SQL has stands, unless it is an earlier call of that id: then the later one was lost before it had a
    record. None if nothing is known.
    """
    if saved is None or told is None:
        return saved or told
    return told if is_an_earlier_call(saved, told) else saved


@dataclass(frozen=True, slots=True)
class CallReopened:
    """A call whose record has this revision came back and goes on: that record counts in no sum now (R15)."""

    account: str
    call_id: str
    admitted_at_ms: int
    revision: int


@dataclass(frozen=True, slots=True)
class CycleOpened:
    """A cycle of an account began, or its plan changed while it runs (R19, R21, R22).

    It is the head of the cycle's statement; one that comes later for the same cycle replaces it.
    """

    account: str
    cycle_start_ms: int
    cycle_end_ms: int
    cycle_index: int
    plan: str | None
    allocated_seconds: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """A percentage of the allocation that live use passed in this cycle, and when (R29)."""

    percent: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class ThresholdsPassed:
    """All thresholds that live use has passed in a cycle so far: what was told of it before is over."""

    account: str
    cycle_start_ms: int
    thresholds: tuple[Threshold, ...]


@dataclass(frozen=True, slots=True)
class PoolNotice:
    """Something happened to a pool at `at_ms` that its account's webhook tells of, once.

    `percent` is that of a threshold, or of exhaustion (100); else None. `used_seconds` is live use at that
    instant.
    """

    account: str
    cycle_start_ms: int
    cycle_end_ms: int
    kind: NoticeKind
    percent: int | None
    at_ms: int
    allocated_seconds: int
    used_seconds: int
    plan: str | None
