"""What a page shows of an account beside its pool: names, and the time zone that its dates are in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation, Reply
from gateway.api.wire import resources
from gateway.api.wire.requests import Nothing
from gateway.domain.cycles import rfc3339
from gateway.domain.errors import DatabaseUnavailable, NotFound

if TYPE_CHECKING:
    from gateway.service import Callgate

MAX_NAMES: Final = 1000
"""So many staff members' and channels' names are told; of others a page shows the ids."""


async def get_profile(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Read an account as those may see it who watch its pool."""
    service, account = exchange.api.service, exchange.path["account"]
    found = await service.get_account(account)
    staff, _ = await service.list_staff(account, None, MAX_NAMES)
    channels, _ = await service.list_channels(account, None, MAX_NAMES)
    profile = resources.Profile(
        account=found.account,
        name=found.name,
        time_zone=found.time_zone,
        status=found.status,
        created_at_ms=found.created_at_ms,
        plan=await _plan(service, found.plan),
        pending_plan=await _plan(service, found.pending_plan),
        pending_from=None if found.pending_from_ms is None else rfc3339(found.pending_from_ms),
        staff={each.staff: each.name for each in staff if each.name is not None},
        channels={each.channel: each.label for each in channels if each.label is not None},
    )
    return Reply(profile)


async def _plan(service: Callgate, plan: str | None) -> resources.PlanInShort | None:
    if plan is None:
        return None
    found = await service.get_plan(plan)
    return resources.PlanInShort(
        plan=found.plan,
        name=found.name,
        minutes=found.minutes,
        connected_channels=found.connected_channels,
        staff_seats=found.staff_seats,
    )


OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    Operation(
        method="GET",
        path="/v1/accounts/{account}/profile",
        handler=get_profile,
        access="watch",
        tag="Accounts",
        summary="Read the names and the time zone of an account",
        description="What a page shows beside the pool. Of staff and channels the first 1,000 names.",
        query=NO_QUERY,
        answers={200: resources.Profile},
        errors=(NotFound, DatabaseUnavailable),
    ),
)
