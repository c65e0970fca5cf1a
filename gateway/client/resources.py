"""The resources of the HTTP addresses, as a client reads them.

Fields that a newer gateway adds are passed over.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

from msgspec import Struct

from gateway.domain.calls import EndedBy
from gateway.domain.policy import CountFrom
from gateway.domain.usage import Step


class Price(Struct, frozen=True):
    """An amount of money, in decimal (`49.00`), and its ISO 4217 currency."""

    amount: str
    currency: str


class Plan(Struct, frozen=True):
    """What accounts subscribe to; `minutes` are a cycle's, `max_concurrent_calls` None is no limit."""

    plan: str
    name: str
    minutes: int
    connected_channels: int
    staff_seats: int
    max_concurrent_calls: int | None
    monthly_price: Price | None


class Account(Struct, frozen=True):
    """One business. `pending_from` is when the pending plan takes over."""

    account: str
    name: str
    plan: str | None
    pending_plan: str | None
    pending_from: str | None
    billing_date: date
    time_zone: str
    status: Literal["active", "suspended"]
    created_at_ms: int


class AccountItem(Struct, frozen=True):
    """An account in a list, with its pool as it is."""

    account: str
    name: str
    plan: str | None
    status: Literal["active", "suspended"]
    allocated_seconds: int
    used_seconds: int
    calls_in_progress: int


class PlanChange(Struct, frozen=True):
    """The plan in force, the instant from which the asked one holds, and the coming plan or None."""

    plan: str | None
    effective_at: str
    pending: str | None


class StaffMember(Struct, frozen=True):
    """A person of the account, taking one seat."""

    staff: str
    name: str | None


class Channel(Struct, frozen=True):
    """A line or number of the account, from which calls go out."""

    channel: str
    label: str | None
    number: str | None


class CycleSpan(Struct, frozen=True):
    """A billing cycle, `[start, end)`, instants in RFC 3339."""

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
    """An account's pool of minutes as it is at `at_ms` (R4, R5). `calls` are the 100 newest."""

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


class CallRecord(Struct, frozen=True):
    """A call record (R26). In progress, duration and billed are so far, and what is not known yet is None."""

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
    admitted_offline: bool = False


class Statement(Struct, frozen=True):
    """What a cycle came to (R27). An open one may lag by the recorder, to `as_of_ms`."""

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
    as_of_ms: int | None = None


class UsagePoint(Struct, frozen=True):
    """What the calls of a cycle that had ended by `at_ms` billed, all together."""

    at_ms: int
    used_seconds: int


class Usage(Struct, frozen=True):
    """How a cycle's minutes were used up: a running total at each step, which may lag by the recorder."""

    account: str
    name: str
    time_zone: str
    cycle: CycleSpan
    step: Step
    points: list[UsagePoint]
    as_of_ms: int


class Token(Struct, frozen=True):
    """A signed token, and when it stops being good (real time)."""

    token: str
    expires_at_ms: int


class Clock(Struct, frozen=True):
    """The billing clock of a simulation."""

    now_ms: int
    speed: int


class Readiness(Struct, frozen=True):
    """Whether the gateway takes requests, and how its engine and its database are."""

    status: Literal["ok", "degraded", "starting", "draining"]
    engine: Literal["ok", "down"]
    database: Literal["ok", "down"]
    warnings: list[str] = []
    """That many records wait for the database, if they do."""


class GatewayStatus(Struct, frozen=True):
    """A gateway that is alive."""

    gateway: str
    connections: int
    calls_in_progress: int
    dashboards: int = 0


class RecorderLag(Struct, frozen=True):
    """What waits to be saved in the database: how much, and since when."""

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
    """How the deployment is."""

    gateways: list[GatewayStatus]
    engine: Literal["ok", "down"]
    database: Literal["ok", "down"]
    recorder: RecorderLag
    tasks: list[TaskTurn]
    warnings: list[str]
    webhooks: WebhooksStatus | None = None
