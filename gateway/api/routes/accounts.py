"""Accounts, their plans and their pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation, Reply
from gateway.api.wire import rendering, resources
from gateway.api.wire.requests import AccountFields, AccountsPage, Nothing, PlanChoice, given_fields
from gateway.domain.cycles import rfc3339
from gateway.domain.errors import (
    ChannelLimit,
    DatabaseUnavailable,
    EngineUnavailable,
    ImmutableField,
    NotFound,
    SeatLimit,
)

if TYPE_CHECKING:
    from gateway.records.accounts import Account


def _account(account: Account) -> resources.Account:
    return resources.Account(
        account=account.account,
        name=account.name,
        plan=account.plan,
        pending_plan=account.pending_plan,
        pending_from=None if account.pending_from_ms is None else rfc3339(account.pending_from_ms),
        billing_date=account.billing_date,
        time_zone=account.time_zone,
        status=account.status,
        created_at_ms=account.created_at_ms,
    )


async def put_account(exchange: Exchange[Nothing, AccountFields]) -> Reply:
    """Make an account, or change it."""
    fields = given_fields(exchange.body)
    account, created = await exchange.api.service.put_account(exchange.path["account"], fields)
    return Reply(_account(account), 201 if created else 200)


async def get_account(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Read an account."""
    return Reply(_account(await exchange.api.service.get_account(exchange.path["account"])))


async def list_accounts(exchange: Exchange[AccountsPage, Nothing]) -> Reply:
    """Read a page of accounts, each with its pool in short."""
    query = exchange.query
    items, after, as_of_ms = await exchange.api.service.list_accounts(
        q=query.q or None,
        after=query.after or None,
        limit=query.limit,
        by_use=query.sort == "used_percent",
    )
    accounts = [
        resources.AccountItem(
            account=item.account,
            name=item.name,
            plan=item.plan,
            status=item.status,
            allocated_seconds=item.allocated_seconds,
            used_seconds=item.used_seconds,
            calls_in_progress=item.calls_in_progress,
        )
        for item in items
    ]
    return Reply(resources.Accounts(accounts, after, as_of_ms))


async def change_plan(exchange: Exchange[Nothing, PlanChoice]) -> Reply:
    """Move an account to another plan (R21-R23)."""
    change = await exchange.api.service.change_plan(exchange.path["account"], exchange.body.plan)
    return Reply(resources.PlanChange(change.plan, rfc3339(change.effective_at_ms), change.pending))


async def withdraw_pending_plan(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Withdraw a plan that is pending (R23)."""
    await exchange.api.service.withdraw_pending_plan(exchange.path["account"])
    return Reply(status=204)


async def get_pool(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Read an account's pool as it is now (R4, R5)."""
    view = await exchange.api.service.pool_view(exchange.path["account"])
    return Reply(rendering.pool(view, exchange.identity))


OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    Operation(
        method="GET",
        path="/v1/accounts",
        handler=list_accounts,
        access="admin",
        tag="Accounts",
        summary="List accounts",
        description="`q` searches ids and names; `sort=used_percent` puts the nearest to exhaustion first.",
        query=AccountsPage,
        answers={200: resources.Accounts},
        errors=(EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="PUT",
        path="/v1/accounts/{account}",
        handler=put_account,
        access="admin",
        tag="Accounts",
        summary="Make an account, or change its name, time zone or status",
        description="Its billing date and its plan are set when it is made.",
        query=NO_QUERY,
        body=AccountFields,
        answers={200: resources.Account, 201: resources.Account},
        errors=(NotFound, ImmutableField, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/accounts/{account}",
        handler=get_account,
        access="admin",
        tag="Accounts",
        summary="Read an account",
        query=NO_QUERY,
        answers={200: resources.Account},
        errors=(NotFound, DatabaseUnavailable),
    ),
    Operation(
        method="PUT",
        path="/v1/accounts/{account}/plan",
        handler=change_plan,
        access="admin",
        tag="Accounts",
        summary="Move an account to another plan",
        description="As many minutes or more hold at once, fewer from the next cycle (R21-R23).",
        query=NO_QUERY,
        body=PlanChoice,
        answers={200: resources.PlanChange},
        errors=(NotFound, SeatLimit, ChannelLimit, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="DELETE",
        path="/v1/accounts/{account}/plan/pending",
        handler=withdraw_pending_plan,
        access="admin",
        tag="Accounts",
        summary="Withdraw the pending plan",
        query=NO_QUERY,
        answers={204: None},
        errors=(NotFound, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/accounts/{account}/pool",
        handler=get_pool,
        access="watch",
        tag="Accounts",
        summary="Read the pool as it is now",
        query=NO_QUERY,
        answers={200: resources.Pool},
        errors=(NotFound, EngineUnavailable, DatabaseUnavailable),
    ),
)
