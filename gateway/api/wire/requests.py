"""The bodies and queries of HTTP requests. A field left out of a change keeps its value (`UNSET`)."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api.auth import Scope
from gateway.api.wire.fields import (
    AccountStatus,
    AgoMs,
    Amount,
    Count,
    Currency,
    Cursor,
    Id,
    Instant,
    Limit,
    Minutes,
    Name,
    Receipt,
    Text,
    TimeZone,
    To,
)
from gateway.domain.cycles import EARLIEST_MS, LATEST_MS
from gateway.domain.policy import (
    MAX_FREE_SECONDS,
    MAX_HOLD_SECONDS,
    MAX_INCREMENT_SECONDS,
    CountFrom,
)
from gateway.domain.usage import Step

MAX_SPEED = 100_000
MAX_CALLS_VOUCHED_FOR = 10_000
"""How many calls a keepalive is for at most."""
MAX_KEEPALIVE_BYTES = 8 * 1024 * 1024
"""The largest body of a keepalive: that many calls with the receipts that they usually have, and more."""
MIN_TTL_SECONDS = 60
MAX_TTL_SECONDS = 365 * 86_400
DEFAULT_TTL_SECONDS = 86_400


class Nothing(Struct, forbid_unknown_fields=True, frozen=True):
    """A query of no parameters, or a body that is not there."""


class Money(Struct, forbid_unknown_fields=True, frozen=True):
    """An amount of money."""

    amount: Amount
    currency: Currency


class PlanFields(Struct, forbid_unknown_fields=True, frozen=True):
    """Makes or changes a plan. A new one needs all but `max_concurrent_calls` and `monthly_price`."""

    name: Name | UnsetType = UNSET
    minutes: Minutes | UnsetType = UNSET
    connected_channels: Count | UnsetType = UNSET
    staff_seats: Count | UnsetType = UNSET
    max_concurrent_calls: Annotated[int, Meta(ge=1, le=1000000)] | UnsetType | None = UNSET
    monthly_price: Money | UnsetType | None = UNSET


class AccountFields(Struct, forbid_unknown_fields=True, frozen=True):
    """Makes or changes an account. A new one needs a `name`; its billing date is by default today there."""

    name: Name | UnsetType = UNSET
    plan: Id | UnsetType | None = UNSET
    billing_date: date | UnsetType = UNSET
    time_zone: TimeZone | UnsetType = UNSET
    status: AccountStatus | UnsetType = UNSET


class PlanChoice(Struct, forbid_unknown_fields=True, frozen=True):
    """Moves an account to another plan (R21-R23)."""

    plan: Id


class StaffFields(Struct, forbid_unknown_fields=True, frozen=True):
    """Makes or changes a staff member."""

    name: Name | UnsetType | None = UNSET


class ChannelFields(Struct, forbid_unknown_fields=True, frozen=True):
    """Makes or changes a channel."""

    label: Name | UnsetType | None = UNSET
    number: Text | UnsetType | None = UNSET


class TokenRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Asks for a token. The scope `call` needs `staff` and `device`, and a device needs its staff member."""

    account: Id
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=16)]
    staff: Id | None = None
    device: Id | None = None
    ttl_seconds: Annotated[int, Meta(ge=MIN_TTL_SECONDS, le=MAX_TTL_SECONDS)] = DEFAULT_TTL_SECONDS


class TokenRevocation(Struct, forbid_unknown_fields=True, frozen=True):
    """Refuses every token issued until now to an account, a staff member, or one device of theirs."""

    account: Id
    staff: Id | None = None
    device: Id | None = None


class StartRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Asks for admission. The admin key needs `account`, `staff` and `device`; a token knows its own."""

    call_id: Id
    to: To
    channel: Id | None = None
    account: Id | UnsetType = UNSET
    staff: Id | UnsetType = UNSET
    device: Id | UnsetType = UNSET


class AdminStartRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Asks for admission with the admin key."""

    call_id: Id
    to: To
    account: Id
    staff: Id
    device: Id
    channel: Id | None = None


class AnsweredRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Notes that a call was answered."""

    answered_ago_ms: AgoMs = 0


class EndRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Ends a call."""

    ended_ago_ms: AgoMs = 0


class ResumeRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Vouches for a call again. With its receipt also where its live state was lost (R28)."""

    receipt: Receipt | None = None


class KeepaliveRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Vouches for calls in progress. Their receipts, where given, bring back what was lost (R28)."""

    call_ids: Annotated[list[Id], Meta(min_length=1, max_length=MAX_CALLS_VOUCHED_FOR)]
    receipts: Annotated[dict[Id, Receipt], Meta(max_length=MAX_CALLS_VOUCHED_FOR)] = {}


class ClockMove(Struct, forbid_unknown_fields=True, frozen=True):
    """Moves the billing clock of a simulation to an instant or by a length, and sets its speed from there."""

    at_ms: Annotated[int, Meta(ge=EARLIEST_MS, le=LATEST_MS)] | UnsetType = UNSET
    advance_ms: Annotated[int, Meta(ge=0, le=LATEST_MS)] | UnsetType = UNSET
    speed: Annotated[int, Meta(ge=0, le=MAX_SPEED)] | UnsetType = UNSET


class PolicyFields(Struct, forbid_unknown_fields=True, frozen=True):
    """Changes the deployment's policy."""

    free_seconds: Annotated[int, Meta(ge=0, le=MAX_FREE_SECONDS)] | UnsetType = UNSET
    increment_seconds: Annotated[int, Meta(ge=1, le=MAX_INCREMENT_SECONDS)] | UnsetType = UNSET
    hold_seconds: Annotated[int, Meta(ge=0, le=MAX_HOLD_SECONDS)] | UnsetType = UNSET
    count_from: CountFrom | UnsetType = UNSET


class Page(Struct, forbid_unknown_fields=True, frozen=True):
    """Which page of a list."""

    limit: Limit = 100
    after: Cursor = ""


class AccountsPage(Struct, forbid_unknown_fields=True, frozen=True):
    """Which accounts: those whose id or name holds `q`, by id or the nearest to exhaustion first."""

    q: Text = ""
    sort: Literal["used_percent"] | UnsetType = UNSET
    limit: Limit = 100
    after: Cursor = ""


class CallsPage(Struct, forbid_unknown_fields=True, frozen=True):
    """Which call records: of one cycle, of one staff member."""

    cycle: Instant | UnsetType = UNSET
    staff: Id | UnsetType = UNSET
    limit: Limit = 100
    after: Cursor = ""


class UsageOf(Struct, forbid_unknown_fields=True, frozen=True):
    """Which cycle's use, by default the running one's, and at which steps."""

    cycle: Instant | UnsetType = UNSET
    step: Step = "day"


class OfAccount(Struct, forbid_unknown_fields=True, frozen=True):
    """Whose call it is. Needed with the admin key; a token knows its own account."""

    account: Id | UnsetType = UNSET


def given_fields(fields: Struct) -> Any:
    """Return the fields that a change names as a dict of just these; it fits the TypedDict of their names."""
    return {name: value for name, value in msgspec.structs.asdict(fields).items() if value is not UNSET}
