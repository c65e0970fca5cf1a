"""What turns the demo into a story: minutes run out, calls are refused, somebody upgrades; then a new cycle.

It goes round: after the biggest plan the business goes back to the smallest from the next cycle on, and the
clock is moved to just before that begins.
"""

from __future__ import annotations

from typing import Final

import anyio

from gateway.cli.demo.company import ACCOUNT, PACKAGES, next_package
from gateway.cli.demo.events import Story
from gateway.client import AdminClient
from gateway.domain.cycles import parse_rfc3339
from gateway.domain.errors import CallgateError

REFUSALS_SEEN: Final = 3
"""So many calls are refused for want of minutes before anything is done about it."""
_LOOK_SECONDS: Final = 0.25
_AT_LEAST_SECONDS: Final = 2.0
"""How long people can see it run dry, however fast the clock goes; and how long the end of the cycle."""


async def direct(admin: AdminClient, story: Story, speed: int) -> None:
    """Upgrade whenever the minutes are used up; after the biggest plan have a new cycle begin."""
    while True:
        await _until_refused(story)
        await anyio.sleep(_AT_LEAST_SECONDS)
        try:
            await _more_minutes(admin, story, speed)
        except CallgateError as error:
            story.failed("", error)


async def _until_refused(story: Story) -> None:
    while story.refused_for.get("minutes_exhausted", 0) < REFUSALS_SEEN:  # noqa: ASYNC110 - a matter of taste
        await anyio.sleep(_LOOK_SECONDS)


async def _more_minutes(admin: AdminClient, story: Story, speed: int) -> None:
    package = next_package((await admin.pool(ACCOUNT)).plan)
    if package is not None:
        await admin.change_plan(ACCOUNT, package.plan)
        story.plan_changed(package.name, package.minutes)
        return
    await admin.change_plan(ACCOUNT, PACKAGES[0].plan)
    story.note(f"From the next cycle on it is {PACKAGES[0].name} again.")
    # A call in progress would bill all the time that the clock is moved by.
    while (pool := await admin.pool(ACCOUNT)).calls_in_progress:  # noqa: ASYNC110 - a matter of taste
        await anyio.sleep(_LOOK_SECONDS)
    end_ms = parse_rfc3339(pool.cycle.end)
    await admin.move_clock(at_ms=end_ms - int(_AT_LEAST_SECONDS * 1000 * speed))
    story.note("The clock was moved to the end of the cycle.")
    while (await admin.pool(ACCOUNT)).cycle.end == pool.cycle.end:  # noqa: ASYNC110 - a matter of taste
        await anyio.sleep(_LOOK_SECONDS)
    story.cycle_turned()
