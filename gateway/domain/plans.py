"""Plans, what a change of plan does, and the limits a plan puts on seats and channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from gateway.domain.errors import ChannelLimit, SeatLimit

SECONDS_A_MINUTE: Final = 60

AppliesFrom = Literal["now", "next_cycle"]


@dataclass(frozen=True, slots=True)
class Price:
    """An amount of money: a decimal in text (never a float) and an ISO 4217 currency."""

    amount: str
    currency: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What an account subscribes to; `minutes` are per cycle, `max_concurrent_calls` None is no limit."""

    plan: str
    name: str
    minutes: int
    connected_channels: int
    staff_seats: int
    max_concurrent_calls: int | None = None
    monthly_price: Price | None = None

    @property
    def allocated_seconds(self) -> int:
        """The plan's minutes, as the pool counts them."""
        return self.minutes * SECONDS_A_MINUTE


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What asking for a plan does: which one is in force afterwards, and which one is pending."""

    applies: AppliesFrom
    plan: Plan | None
    pending: Plan | None


def plan_change(
    current: Plan | None, pending: Plan | None, asked: Plan, *, seats_used: int, channels_used: int
) -> PlanChange:
    """Decide a change of plan (R21-R23), compared with the plan in force.

    As many minutes or more apply at once and withdraw what was pending; fewer become pending until the next
    cycle, in place of what was pending before. Asking for the plan in force withdraws the pending one.

    Raises SeatLimit or ChannelLimit if more is in use than the asked plan allows, up or down (R23).
    """
    _check_seats(asked, seats_used)
    _check_channels(asked, channels_used)
    if current is None or asked.minutes >= current.minutes:
        return PlanChange(applies="now", plan=asked, pending=None)
    return PlanChange(applies="next_cycle", plan=current, pending=asked)


def seats_limit(plan: Plan | None, pending: Plan | None) -> int:
    """Up to how many staff members may be added; a pending smaller plan already binds (R23)."""
    return min((each.staff_seats for each in (plan, pending) if each is not None), default=0)


def channels_limit(plan: Plan | None, pending: Plan | None) -> int:
    """Up to how many channels may be added; a pending smaller plan already binds (R23)."""
    return min((each.connected_channels for each in (plan, pending) if each is not None), default=0)


def add_seat(plan: Plan | None, pending: Plan | None, seats_used: int) -> None:
    """Check that one more staff member fits (R25). Raises SeatLimit with the limit and what is in use."""
    limit = seats_limit(plan, pending)
    if seats_used >= limit:
        raise SeatLimit(f"All {limit} staff seats are in use ({seats_used}).", limit=limit, in_use=seats_used)


def add_channel(plan: Plan | None, pending: Plan | None, channels_used: int) -> None:
    """Check that one more channel fits (R25). Raises ChannelLimit with the limit and what is in use."""
    limit = channels_limit(plan, pending)
    if channels_used >= limit:
        raise ChannelLimit(
            f"All {limit} connected channels are in use ({channels_used}).", limit=limit, in_use=channels_used
        )


def _check_seats(asked: Plan, seats_used: int) -> None:
    if seats_used > asked.staff_seats:
        raise SeatLimit(
            f"The plan {asked.plan} has {asked.staff_seats} staff seats, but {seats_used} are in use.",
            limit=asked.staff_seats,
            in_use=seats_used,
        )


def _check_channels(asked: Plan, channels_used: int) -> None:
    if channels_used > asked.connected_channels:
        raise ChannelLimit(
            f"The plan {asked.plan} has {asked.connected_channels} connected channels, "
            f"but {channels_used} are in use.",
            limit=asked.connected_channels,
            in_use=channels_used,
        )
