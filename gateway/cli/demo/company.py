"""The demo's made-up business: its plans, its people, their phones, and whom they call."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.client import AdminClient
from gateway.domain.errors import NotFound

ACCOUNT: Final = "demo"
ACCOUNT_NAME: Final = "Lighthouse Bakery"


@dataclass(frozen=True, slots=True)
class Package:
    """A plan of the demo."""

    plan: str
    name: str
    minutes: int
    channels: int
    seats: int


PACKAGES: Final = (
    Package("starter", "Starter", minutes=5, channels=2, seats=5),
    Package("team", "Team", minutes=15, channels=4, seats=10),
    Package("business", "Business", minutes=30, channels=10, seats=25),
)
"""From the smallest to the biggest. Each is used up within minutes, so that whoever looks sees it happen."""

STAFF: Final = {
    "ana": "Ana Lima",
    "ben": "Ben Okafor",
    "chloe": "Chloé Martin",
    "dev": "Dev Patel",
    "you": "You",
}
YOU: Final = "you"
"""A seat for whoever looks on and wants to place a call, too."""

CHANNELS: Final = {"main": ("Main line", "+14155550100"), "orders": ("Orders", "+14155550101")}

PHONES: Final = (
    ("ana", "desk"),
    ("ben", "desk"),
    ("chloe", "mobile"),
    ("dev", "laptop"),
    ("ana", "mobile"),
    ("dev", "mobile"),
)
"""Who has which softphone."""

# 555-0100 to 555-0199 are set aside for fiction.
NUMBERS: Final = tuple(f"+1212555{number:04}" for number in range(110, 190))


async def set_up(admin: AdminClient) -> bool:
    """Make the business; tells whether it is new, and not there from an earlier run."""
    for package in PACKAGES:
        await admin.put_plan(
            package.plan,
            name=package.name,
            minutes=package.minutes,
            connected_channels=package.channels,
            staff_seats=package.seats,
        )
    try:
        await admin.get_account(ACCOUNT)
        is_new = False
    except NotFound:
        is_new = True
        began = datetime.fromtimestamp((await admin.clock()).now_ms / 1000, UTC).date()
        await admin.put_account(ACCOUNT, name=ACCOUNT_NAME, plan=PACKAGES[0].plan, billing_date=began)
    for staff, name in STAFF.items():
        await admin.put_staff(ACCOUNT, staff, name=name)
    for channel, (label, number) in CHANNELS.items():
        await admin.put_channel(ACCOUNT, channel, label=label, number=number)
    return is_new


def next_package(plan: str | None) -> Package | None:
    """Return the package that has more minutes than `plan`; None if there is none."""
    plans = [package.plan for package in PACKAGES]
    following = plans.index(plan) + 1 if plan in plans else 0
    return PACKAGES[following] if following < len(PACKAGES) else None
