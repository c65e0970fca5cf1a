"""What a gateway asks of an account's pool.

`connection` is the number of the device's WebSocket that says it (`lua/connection_open.lua`), 0 over HTTP. A
call belongs to the latest connection that started or resumed it; what an older one says of it is refused
(R12).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, TypeVar

from gateway.domain.calls import CallInProgress, CallRecord, Threshold
from gateway.domain.cycles import Cycle
from gateway.domain.plans import Plan

AccountStatus = Literal["active", "suspended"]

Asker = tuple[str, str]
"""The staff member and device that ask about a call of theirs."""


@dataclass(frozen=True, slots=True)
class Start:
    """Ask for admission of a call (R7-R9).

    `destination_valid` and `emergency` are found from `to` by `gateway.domain.destinations`.
    `fresh_call_id` is the id that an emergency is recorded under if its own is taken (R30), "" for any other
    call; a repeated ask with the same one is a replay. `admitted_at_ms` is when, by the gateway's clock, an
    emergency was let through that could not be told of then, because the engine was away; else None.
    `cycle_start_ms` is the start of the cycle that this instant is in (R20), None where it is not known: then
    it counts as one of the running cycle.
    """

    account: str
    staff: str
    device: str
    call_id: str
    to: str
    channel: str | None = None
    destination_valid: bool = True
    emergency: bool = False
    fresh_call_id: str = ""
    admitted_at_ms: int | None = None
    connection: int = 0
    cycle_start_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """Note that a call was answered, so many ms ago (R3). `device` None is the admin: any device."""

    account: str
    call_id: str
    device: Asker | None = None
    answered_ago_ms: int = 0
    connection: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """End a call, which was hung up so many ms ago (R16, R17). `device` None is the admin: any device.

    `found` is what SQL has of the call, for a pool that has forgotten it; `answered_at_ms` when it was
    answered, for one that has forgotten no more than that (R3).
    """

    account: str
    call_id: str
    device: Asker | None = None
    ended_ago_ms: int = 0
    connection: int = 0
    found: CallRecord | None = None
    answered_at_ms: int | None = None


Told = TypeVar("Told", bound=Answered | End)


def as_of_earlier(ask: Told, by_ms: int) -> Told:
    """An answer or an end that was told so much earlier than it says, and is told again (R16)."""
    if isinstance(ask, End):
        return replace(ask, ended_ago_ms=ask.ended_ago_ms + by_ms)
    return replace(ask, answered_ago_ms=ask.answered_ago_ms + by_ms)


@dataclass(frozen=True, slots=True)
class Resume:
    """Vouch for a call again: it goes on, also if it was settled in its absence (R13, R15).

    `found` is for a pool that does not know the call: what SQL has of it, or what its receipt says (R28).
    `vouched` is False where a gateway tells of a call that it let through, and does not know how it goes on;
    `alive_at_ms` is then when it was last known alive, as far as that is known, else 0.
    `epoch` is the shard's in which SQL was asked: in a later one it may have the call's record, and so may
    the pool have it in its sum. 0 where that does not matter.
    """

    account: str
    call_id: str
    device: Asker | None = None
    connection: int = 0
    found: CallRecord | CallInProgress | None = None
    vouched: bool = True
    epoch: int = 0
    alive_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Reap:
    """Settle a call that nobody vouches for any more as of when it was last known alive (R13, R14)."""

    account: str
    call_id: str


@dataclass(frozen=True, slots=True)
class Retell:
    """Tell a settlement again that a gateway was answered, and that the engine may have lost since (R26).

    `saved` if SQL has the record, or another one of that revision. `billed_before` are the seconds of what
    SQL has of the call, 0 for nothing: the pool, which was made from SQL, has them in its sum. `epoch` is the
    shard's in which SQL was asked: in a later one the pool was made from more than that. 0 where that does
    not matter.
    """

    record: CallRecord
    saved: bool
    billed_before: int = 0
    epoch: int = 0

    @property
    def account(self) -> str:
        """Whose call it is."""
        return self.record.account

    @property
    def call_id(self) -> str:
        """Which call it is."""
        return self.record.call_id


Ask = Start | Answered | End | Resume | Reap | Retell


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """What SQL knows of an account, all of it: what its pool is made from, or brought up to.

    `revision` rises with every change, so that an older one changes nothing. `running_cycle` is the one that
    SQL last knew to run, with the bounds that it has whatever the time zone is now (R18); None before the
    first. `settled_seconds` is what its records sum up to, `thresholds` are those passed in it, `reopened`
    the latest records of calls that have come back since and are in progress (R15); they are used only when
    the pool is made anew (R28).
    """

    account: str
    revision: int
    status: AccountStatus
    billing_date: date
    time_zone: str
    plan: Plan | None
    pending_plan: Plan | None = None
    pending_from_ms: int | None = None
    staff: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    running_cycle: Cycle | None = None
    settled_seconds: int = 0
    thresholds: tuple[Threshold, ...] = ()
    reopened: tuple[CallRecord, ...] = ()
