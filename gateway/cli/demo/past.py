"""The demo's past: a month and a half of a few calls, so that there are records, a statement, and a chart."""

from __future__ import annotations

import random
from typing import Final

from gateway.cli.demo.company import ACCOUNT, CHANNELS, NUMBERS, PHONES
from gateway.client import AdminClient, CallsClient

DAYS: Final = 44
"""How long ago the business became a customer: one billing cycle is over since, and another under way."""
_DAY_MS: Final = 86_400_000
_DAYS_A_CALL: Final = 3
"""So many days pass between two calls: together they leave most of the smallest plan."""
_TALK_SECONDS: Final = (12, 50)
"""Some are short enough to be free."""


async def begin_in_the_past(admin: AdminClient) -> None:
    """Set the clock back, which can be done while there is no account."""
    clock = await admin.clock()
    await admin.move_clock(at_ms=clock.now_ms - DAYS * _DAY_MS)


async def live_through(admin: AdminClient, calls: CallsClient) -> None:
    """Place the calls of all that time, and be back at the present."""
    chance = random.Random(ACCOUNT)  # noqa: S311 - a made-up past, the same each time
    until_ms = (await admin.clock()).now_ms + DAYS * _DAY_MS
    for number in range(DAYS // _DAYS_A_CALL):
        staff, device = PHONES[number % len(PHONES)]
        call_id = f"past-{number}"
        to, channel = chance.choice(NUMBERS), chance.choice(list(CHANNELS))
        await calls.start(call_id, to, channel=channel, staff=staff, device=device)
        await admin.move_clock(advance_ms=chance.randrange(*_TALK_SECONDS) * 1000 + chance.randrange(1000))
        await calls.end(call_id)
        await admin.move_clock(advance_ms=_DAYS_A_CALL * _DAY_MS - chance.randrange(_DAY_MS // 2))
    await admin.move_clock(at_ms=max(until_ms, (await admin.clock()).now_ms))
