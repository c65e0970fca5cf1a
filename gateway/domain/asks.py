"""What a gateway asks of an account's pool."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class Answered:
    """Note that a call was answered, so many ms ago (R3). `device` None is the admin: any device."""

    account: str
    call_id: str
    device: Asker | None = None
    answered_ago_ms: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """End a call, which was hung up so many ms ago (R16, R17). `device` None is the admin: any device."""

    account: str
    call_id: str
    device: Asker | None = None
    ended_ago_ms: int = 0


Ask = Start | Answered | End


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """What SQL knows of an account, all of it: what its pool is made from, or brought up to.

    `revision` rises with every change, so that an older one changes nothing. `running_cycle` is the one that
    SQL last knew to run, with the bounds that it has whatever the time zone is now (R18); None before the
    first. `settled_seconds` is what its records sum up to; it is used only when the pool is made anew (R28).
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
