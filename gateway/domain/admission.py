"""Whether a call is admitted, and why not: one decision over plain facts (R7, R8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class RefusalReason(StrEnum):
    """Why a call is refused, in the order in which the reasons are checked (R8)."""

    ACCOUNT_UNKNOWN = "account_unknown"
    ACCOUNT_SUSPENDED = "account_suspended"
    STAFF_UNKNOWN = "staff_unknown"
    CHANNEL_UNKNOWN = "channel_unknown"
    NO_CALLING_PLAN = "no_calling_plan"
    DESTINATION_INVALID = "destination_invalid"
    DESTINATION_BLOCKED = "destination_blocked"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_CALLS = "too_many_calls"
    MINUTES_EXHAUSTED = "minutes_exhausted"
    MINUTES_HELD = "minutes_held"


MESSAGES: Final[Mapping[RefusalReason, str]] = MappingProxyType(
    {
        RefusalReason.ACCOUNT_UNKNOWN: "This account does not exist.",
        RefusalReason.ACCOUNT_SUSPENDED: "This account is suspended, so no new calls can be placed.",
        RefusalReason.STAFF_UNKNOWN: "This staff member does not belong to the account.",
        RefusalReason.CHANNEL_UNKNOWN: "This channel is not connected to the account.",
        RefusalReason.NO_CALLING_PLAN: "The account has no plan with calling minutes.",
        RefusalReason.DESTINATION_INVALID: "This is not a number or address that can be called.",
        RefusalReason.DESTINATION_BLOCKED: "Calls to this destination are not allowed.",
        RefusalReason.RATE_LIMITED: "Too many calls were started in a short time; try again in a moment.",
        RefusalReason.TOO_MANY_CALLS: "As many calls as the plan allows at once are in progress.",
        RefusalReason.MINUTES_EXHAUSTED: (
            "All minutes of this billing cycle are used; a bigger plan or the next cycle brings new ones."
        ),
        RefusalReason.MINUTES_HELD: (
            "The remaining minutes are held by calls in progress; try again when one of them ends."
        ),
    }
)
"""For every reason, a sentence for people."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a decision depends on, all at one instant. The defaults are those under which nothing is refused.

    `used_seconds` is live use (R4); `held_seconds` the sum of what each call in progress of the running cycle
    holds, `max(hold_seconds, billed so far)` each (R7). `calls_in_progress` is what `max_concurrent_calls` is
    compared with.
    """

    allocated_seconds: int
    settled_seconds: int = 0
    used_seconds: int = 0
    held_seconds: int = 0
    calls_in_progress: int = 0
    max_concurrent_calls: int | None = None
    account_known: bool = True
    account_active: bool = True
    staff_known: bool = True
    channel_known: bool = True
    destination_valid: bool = True
    destination_blocked: bool = False
    rate_limited: bool = False


def decide(facts: Facts) -> RefusalReason | None:
    """Return the first reason of R8 that applies, or None: the call is admitted (R7)."""
    limit = facts.max_concurrent_calls
    applies = {
        RefusalReason.ACCOUNT_UNKNOWN: not facts.account_known,
        RefusalReason.ACCOUNT_SUSPENDED: not facts.account_active,
        RefusalReason.STAFF_UNKNOWN: not facts.staff_known,
        RefusalReason.CHANNEL_UNKNOWN: not facts.channel_known,
        RefusalReason.NO_CALLING_PLAN: facts.allocated_seconds == 0,
        RefusalReason.DESTINATION_INVALID: not facts.destination_valid,
        RefusalReason.DESTINATION_BLOCKED: facts.destination_blocked,
        RefusalReason.RATE_LIMITED: facts.rate_limited,
        RefusalReason.TOO_MANY_CALLS: limit is not None and facts.calls_in_progress >= limit,
        RefusalReason.MINUTES_EXHAUSTED: facts.used_seconds >= facts.allocated_seconds,
        RefusalReason.MINUTES_HELD: facts.allocated_seconds - facts.settled_seconds - facts.held_seconds <= 0,
    }
    return next((reason for reason in RefusalReason if applies[reason]), None)
