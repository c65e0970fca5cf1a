"""What an account's pool answers. What is an error instead is a `CallgateError` (`gateway.domain.errors`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.domain.admission import RefusalReason
from gateway.domain.asks import AccountStatus
from gateway.domain.calls import CallInProgress, CallRecord, EndedBy, Threshold
from gateway.domain.cycles import Cycle
from gateway.domain.policy import Policy

MAX_CALLS_SHOWN: Final = 100
"""How many of its calls in progress, the newest, a pool shows."""

ALL_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call may be placed (R7); `replayed` if that was said before (R9).

    `remaining_seconds` is the running cycle's, None where the engine was not asked; then it was let through
    without it (`admitted_offline`), or as an emergency. The `call_id` differs from the asked one only where
    an emergency's id was taken (R30). `cycle_start_ms` is the cycle that the call belongs to (R20).
    """

    call_id: str
    admitted_at_ms: int
    remaining_seconds: int | None
    replayed: bool
    emergency: bool
    cycle_start_ms: int = 0
    admitted_offline: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A call may not be placed, for the first reason of R8 that applies; nothing changed (R10)."""

    call_id: str
    reason: RefusalReason
    remaining_seconds: int


@dataclass(frozen=True, slots=True)
class Noted:
    """The answer of a call is known now, or was already (R3)."""

    call_id: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What a call came to, now or when it was settled before (`replayed`, R17).

    `remaining_seconds` is the running cycle's, as of now; None where the engine was not asked.
    """

    call_id: str
    duration_ms: int
    billed_seconds: int
    counted: bool
    ended_by: EndedBy
    revision: int
    replayed: bool
    remaining_seconds: int | None
    ended_at_ms: int
    admitted_at_ms: int
    emergency: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """A call goes on (R13), as it is known now; `late` if its settlement was taken back for it (R15)."""

    call: CallInProgress
    late: bool

    @property
    def call_id(self) -> str:
        """Which call it is."""
        return self.call.call_id


@dataclass(frozen=True, slots=True)
class NotDue:
    """Somebody vouches for a call after all, or it is too early to know: it was not settled (R14)."""

    call_id: str


Answer = Admitted | Refused | Noted | Settled | Resumed | NotDue


def settled_before(record: CallRecord, remaining_seconds: int) -> Settled:
    """Return what a repeated end is answered with: the settlement already made (R17)."""
    return Settled(
        call_id=record.call_id,
        duration_ms=record.duration_ms,
        billed_seconds=record.billed_seconds,
        counted=record.counted,
        ended_by=record.ended_by,
        revision=record.revision,
        replayed=True,
        remaining_seconds=remaining_seconds,
        ended_at_ms=record.ended_at_ms,
        admitted_at_ms=record.admitted_at_ms,
        emergency=record.emergency,
    )


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as it is at `at_ms` (R4, R5).

    `held_seconds` is what calls in progress hold beyond what they used (R7). `calls_in_progress` counts all
    of them, also those of an older cycle and emergencies; `calls_counting` is how many use this cycle's
    minutes. `calls` are the newest `MAX_CALLS_SHOWN`, newest first. `empty_at_ms` is the first instant at
    which live use reaches the allocation if just these calls go on: None if it doesn't in this cycle, in the
    past if it did. `version` grows with every change of the pool.
    """

    account: str
    version: int
    at_ms: int
    clock_speed: int
    plan: str | None
    pending_plan: str | None
    cycle: Cycle
    policy: Policy
    allocated_seconds: int
    settled_seconds: int
    used_seconds: int
    remaining_seconds: int
    overrun_seconds: int
    held_seconds: int
    calls_in_progress: int
    calls_counting: int
    calls: tuple[CallInProgress, ...]
    thresholds: tuple[Threshold, ...]
    empty_at_ms: int | None
    seats_used: int
    seats_limit: int
    channels_used: int
    channels_limit: int
    status: AccountStatus

    @property
    def is_exhausted(self) -> bool:
        """Whether all minutes of this cycle were used (R29); use that falls again does not undo it."""
        passed_all = any(passed.percent == ALL_PERCENT for passed in self.thresholds)
        return self.allocated_seconds > 0 and (passed_all or self.used_seconds >= self.allocated_seconds)
