"""What turns the demo into a story: minutes run out, calls are refused, and then somebody upgrades."""

from __future__ import annotations

from typing import Final

import anyio

from gateway.cli.demo.company import ACCOUNT, PACKAGES, next_package
from gateway.cli.demo.events import Story
from gateway.cli.watching import PoolWatch
from gateway.client import AdminClient
from gateway.domain.cycles import parse_rfc3339
from gateway.domain.errors import CallgateError

REFUSALS_SEEN: Final = 3
"""So many calls are refused for want of minutes before anything is done about it."""
_LOOK_SECONDS: Final = 0.25
_AT_LEAST_SECONDS: Final = 2.0
"""How long people can see it run dry, however fast the clock goes."""


async def direct(admin: AdminClient, pool: PoolWatch, story: Story, *, simulate: bool) -> None:
    """Upgrade whenever the minutes are used up; after the biggest plan begin again with a new cycle."""
    while True:
        await _until_refused(story)
        await anyio.sleep(_AT_LEAST_SECONDS)
        try:
            if not await _more_minutes(admin, pool, story, simulate=simulate):
                return
        except CallgateError as error:
            story.failed("", error)
        pool.look_soon()


async def _until_refused(story: Story) -> None:
    while story.refused_for.get("minutes_exhausted", 0) < REFUSALS_SEEN:  # noqa: ASYNC110 - a matter of taste
        await anyio.sleep(_LOOK_SECONDS)


async def _more_minutes(admin: AdminClient, pool: PoolWatch, story: Story, *, simulate: bool) -> bool:
    """Upgrade, or turn the cycle; tells whether the story goes on."""
    package = next_package((await pool.read()).pool.plan)
    if package is not None:
        await admin.change_plan(ACCOUNT, package.plan)
        story.plan_changed(package.name, package.minutes)
        return True
    if not simulate:
        story.note("The biggest plan is used up, too: no new call until the next cycle begins.")
        return False
    await admin.change_plan(ACCOUNT, PACKAGES[0].plan)
    await admin.move_clock(at_ms=parse_rfc3339((await pool.read()).pool.cycle.end))
    story.cycle_turned()
    return True
