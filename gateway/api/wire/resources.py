"""The bodies of HTTP answers."""

from __future__ import annotations

from datetime import date
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from gateway.api.wire.fields import AccountStatus
from gateway.domain.calls import EndedBy
from gateway.domain.policy import CountFrom
from gateway.domain.usage import Step

PartHealth = Literal["ok", "down"]
"""Whether the engine or the database can be asked."""


class FieldProblem(Struct, frozen=True):
    """One wrong field."""

    field: str
    message: str


class Problem(Struct, frozen=True):
    """An error (RFC 9457) with a stable `code`.

    `errors` comes with `invalid_field`, `limit` and `in_use` with `seat_limit` and `channel_limit`, `field`
    with `immutable_field`.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] | UnsetType = UNSET
    limit: int | UnsetType = UNSET
    in_use: int | UnsetType = UNSET
    field: str | UnsetType = UNSET


class Price(Struct, frozen=True):
    """An amount of money, in decimal."""

    amount: str
    currency: str


class Plan(Struct, frozen=True):
    """What accounts subscribe to. Without `max_concurrent_calls` there is no such limit."""

    plan: str
    name: str
    minutes: int
    connected_channels: int
    staff_seats: int
    max_concurrent_calls: int | None
    monthly_price: Price | None


class Plans(Struct, frozen=True):
    """A page of plans, by id."""

    plans: list[Plan]
    next: str | None


class Account(Struct, frozen=True):
    """One business. `pending_from` is when the pending plan takes over."""

    account: str
    name: str
    plan: str | None
    pending_plan: str | None
    pending_from: str | None
    billing_date: date
    time_zone: str
    status: AccountStatus
    created_at_ms: int


class PlanInShort(Struct, frozen=True):
    """A plan, as those see it who are on it."""

    plan: str
    name: str
    minutes: int
    connected_channels: int
    staff_seats: int


class Profile(Struct, frozen=True):
    """An account, as those see it who watch its pool.

    `pending_from` is when the pending plan takes over. `staff` and `channels` are names by id, of those that
    have one.
    """

    account: str
    name: str
    time_zone: str
    status: AccountStatus
    created_at_ms: int
    plan: PlanInShort | None
    pending_plan: PlanInShort | None
    pending_from: str | None
    staff: dict[str, str]
    channels: dict[str, str]


class AccountItem(Struct, frozen=True):
    """An account in a list, with its pool as it is."""

    account: str
    name: str
    plan: str | None
    status: AccountStatus
    allocated_seconds: int
    used_seconds: int
    calls_in_progress: int


class Accounts(Struct, frozen=True):
    """A page of accounts."""

    accounts: list[AccountItem]
    next: str | None
    as_of_ms: int


class PlanChange(Struct, frozen=True):
    """The plan in force, the instant from which the asked one holds, and the coming plan or null."""

    plan: str | None
    effective_at: str
    pending: str | None


class StaffMember(Struct, frozen=True):
    """A person of the account, taking one seat."""

    staff: str
    name: str | None


class Staff(Struct, frozen=True):
    """A page of staff members, by id."""

    staff: list[StaffMember]
    next: str | None


class Channel(Struct, frozen=True):
    """A line or number of the account, from which calls go out."""

    channel: str
    label: str | None
    number: str | None


class Channels(Struct, frozen=True):
    """A page of channels, by id."""

    channels: list[Channel]
    next: str | None


class CycleSpan(Struct, frozen=True):
    """A billing cycle, `[start, end)`."""

    start: str
    end: str


class Policy(Struct, frozen=True):
    """How a call's length turns into billed seconds (R1-R3), and what a call in progress holds (R7)."""

    free_seconds: int
    increment_seconds: int
    hold_seconds: int
    count_from: CountFrom


class PoolCall(Struct, frozen=True):
    """A call in progress. `counts` is false for one of an older cycle (R20), and for an emergency (R30)."""

    call_id: str
    staff: str
    device: str
    channel: str | None
    to: str
    admitted_at_ms: int
    answered_at_ms: int | None
    counts: bool
    emergency: bool


class Threshold(Struct, frozen=True):
    """A percentage of the allocation that was passed in this cycle, and when (R29)."""

    percent: int
    at_ms: int


class InUse(Struct, frozen=True):
    """How many of a limit are in use."""

    used: int
    limit: int


class Pool(Struct, frozen=True):
    """An account's pool of minutes as it is at `at_ms`, in seconds."""

    account: str
    version: int
    at_ms: int
    clock_speed: int
    plan: str | None
    pending_plan: str | None
    cycle: CycleSpan
    policy: Policy
    allocated_seconds: int
    settled_seconds: int
    used_seconds: int
    remaining_seconds: int
    overrun_seconds: int
    held_seconds: int
    calls_in_progress: int
    calls: list[PoolCall]
    thresholds: list[Threshold]
    empty_at_ms: int | None
    seats: InUse
    channels: InUse


class Call(Struct, frozen=True):
    """A call record (R26). In progress, duration and billed are so far, and what is not known yet is null.

    `admitted_offline` is there, and true, only where the call was let through while the engine was away.
    """

    call_id: str
    account: str
    staff: str
    device: str
    channel: str | None
    to: str
    state: Literal["in_progress", "ended"]
    admitted_at_ms: int
    answered_at_ms: int | None
    ended_at_ms: int | None
    duration_ms: int
    billed_seconds: int
    counted: bool | None
    ended_by: EndedBy | None
    emergency: bool
    cycle_start: str
    revision: int | None
    admitted_offline: bool | UnsetType = UNSET


class Keepalive(Struct, frozen=True):
    """For how long the calls are vouched for now, and which of them are not in progress any more."""

    lease_seconds: int
    not_in_progress: list[str]


class Calls(Struct, frozen=True):
    """A page of call records, newest admitted first; it may lag by the recorder."""

    calls: list[Call]
    next: str | None
    as_of_ms: int


class Statement(Struct, frozen=True):
    """What a cycle came to (R27).

    Closed, it never changes; open, it may lag by the recorder, to `as_of_ms`.
    """

    account: str
    plan: str | None
    cycle: CycleSpan
    closed: bool
    closed_at_ms: int | None
    allocated_seconds: int
    used_seconds: int
    overrun_seconds: int
    calls_counted: int
    calls_free: int
    as_of_ms: int | UnsetType = UNSET


class Statements(Struct, frozen=True):
    """A page of statements, newest first."""

    statements: list[Statement]
    next: str | None
    as_of_ms: int


class UsagePoint(Struct, frozen=True):
    """What the calls of a cycle that had ended by `at_ms` billed, all together."""

    at_ms: int
    used_seconds: int


class Usage(Struct, frozen=True):
    """How a cycle's minutes were used up: a running total, a call counted at its end.

    It may lag by the recorder. The steps of a day are those of `time_zone`, the account's.
    """

    account: str
    name: str
    time_zone: str
    cycle: CycleSpan
    step: Step
    points: list[UsagePoint]
    as_of_ms: int


class Token(Struct, frozen=True):
    """A signed token (JWT), and when it stops being good (real time)."""

    token: str
    expires_at_ms: int


class Clock(Struct, frozen=True):
    """The billing clock of a simulation."""

    now_ms: int
    speed: int


class GatewayStatus(Struct, frozen=True):
    """A gateway that is alive, with the devices connected to it, their calls in progress, and dashboards."""

    gateway: str
    connections: int
    calls_in_progress: int
    dashboards: int


class RecorderLag(Struct, frozen=True):
    """What waits to be saved in the database: how many entries, and for how many seconds the oldest."""

    entries: int
    seconds: int


class WebhooksStatus(Struct, frozen=True):
    """Events that wait to be sent, and since when (real time) the receiver fails, null if it does not."""

    waiting: int
    failing_since_ms: int | None


class TaskTurn(Struct, frozen=True):
    """A background task of the gateway that answers, and how long ago it last finished a turn."""

    task: str
    last_turn_ms_ago: int


class Status(Struct, frozen=True):
    """How the deployment is.

    `webhooks` is null where none are sent, and while the database cannot be asked.
    `tasks` are those of the gateway (with workers: of the process) that answers.
    """

    gateways: list[GatewayStatus]
    engine: PartHealth
    database: PartHealth
    recorder: RecorderLag
    webhooks: WebhooksStatus | None
    tasks: list[TaskTurn]
    warnings: list[str]


class Alive(Struct, frozen=True):
    """The process runs."""

    status: Literal["ok"]


class Readiness(Struct, frozen=True, omit_defaults=True):
    """Whether the gateway takes requests, and how its engine and its database are.

    `warnings` is there only if many records wait for the database.
    """

    status: Literal["ok", "degraded", "starting", "draining"]
    engine: PartHealth
    database: PartHealth
    warnings: list[str] = []
