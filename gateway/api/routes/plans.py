"""Plans: what accounts subscribe to."""

from __future__ import annotations

from typing import Final

from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation, Reply
from gateway.api.wire import rendering, resources
from gateway.api.wire.requests import Money, Nothing, Page, PlanFields, given_fields
from gateway.domain.errors import DatabaseUnavailable, NotFound, PlanInUse
from gateway.domain.plans import Price


async def put_plan(exchange: Exchange[Nothing, PlanFields]) -> Reply:
    """Make a plan, or change it."""
    fields = given_fields(exchange.body)
    price = fields.get("monthly_price")
    if isinstance(price, Money):
        fields["monthly_price"] = Price(price.amount, price.currency)
    plan, created = await exchange.api.service.put_plan(exchange.path["plan"], fields)
    return Reply(rendering.plan(plan), 201 if created else 200)


async def get_plan(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Read a plan."""
    return Reply(rendering.plan(await exchange.api.service.get_plan(exchange.path["plan"])))


async def list_plans(exchange: Exchange[Page, Nothing]) -> Reply:
    """Read a page of plans."""
    query = exchange.query
    plans, after = await exchange.api.service.list_plans(query.after or None, query.limit)
    return Reply(resources.Plans([rendering.plan(plan) for plan in plans], after))


OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    Operation(
        method="GET",
        path="/v1/plans",
        handler=list_plans,
        access="admin",
        tag="Plans",
        summary="List plans",
        query=Page,
        answers={200: resources.Plans},
        errors=(DatabaseUnavailable,),
    ),
    Operation(
        method="PUT",
        path="/v1/plans/{plan}",
        handler=put_plan,
        access="admin",
        tag="Plans",
        summary="Make or change a plan",
        description="Once accounts are on it, only its name and price can change.",
        query=NO_QUERY,
        body=PlanFields,
        answers={200: resources.Plan, 201: resources.Plan},
        errors=(PlanInUse, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/plans/{plan}",
        handler=get_plan,
        access="admin",
        tag="Plans",
        summary="Read a plan",
        query=NO_QUERY,
        answers={200: resources.Plan},
        errors=(NotFound, DatabaseUnavailable),
    ),
)
