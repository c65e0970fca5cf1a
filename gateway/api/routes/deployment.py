"""What holds for the whole deployment: its status, its policy, and in a simulation its clock."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation, Reply
from gateway.api.wire import rendering, resources
from gateway.api.wire.requests import ClockMove, Nothing, PolicyFields, given_fields
from gateway.domain.errors import (
    DatabaseUnavailable,
    EngineUnavailable,
    FieldError,
    InvalidField,
    NotFound,
)
from gateway.domain.policy import Policy


async def get_policy(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Read the policy."""
    return Reply(rendering.policy(await exchange.api.service.policy()))


async def put_policy(exchange: Exchange[Nothing, PolicyFields]) -> Reply:
    """Change the policy for all gateways at once; what is left out keeps its value."""
    service = exchange.api.service
    current = rendering.policy(await service.policy())
    changed = msgspec.structs.asdict(current) | given_fields(exchange.body)
    try:
        policy = Policy(**changed)
    except ValueError as error:
        field, _, message = str(error).partition(" ")
        raise InvalidField(errors=[FieldError(field, message)]) from None
    await service.set_policy(policy)
    return Reply(rendering.policy(policy))


async def get_clock(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Read the billing clock of a simulation."""
    clock = await exchange.api.service.clock()
    return Reply(resources.Clock(clock.now_ms, clock.speed))


async def move_clock(exchange: Exchange[Nothing, ClockMove]) -> Reply:
    """Move the billing clock, and set its speed from there on. What falls due on the way happens first."""
    at_ms, advance_ms, speed = (
        None if isinstance(value, UnsetType) else value
        for value in (exchange.body.at_ms, exchange.body.advance_ms, exchange.body.speed)
    )
    if at_ms is not None and advance_ms is not None:
        raise InvalidField(errors=[FieldError("advance_ms", "cannot be given together with at_ms")])
    if exchange.body == ClockMove(UNSET, UNSET, UNSET):
        raise InvalidField(errors=[FieldError("at_ms", "is missing, and so are advance_ms and speed")])
    clock = await exchange.api.service.move_clock(at_ms=at_ms, advance_ms=advance_ms, speed=speed)
    return Reply(resources.Clock(clock.now_ms, clock.speed))


async def get_status(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Read how the deployment is."""
    status = await exchange.api.service.status()
    gateways = [
        resources.GatewayStatus(each.gateway, each.connections, each.calls_in_progress, each.dashboards)
        for each in status.gateways
    ]
    lag, webhooks = status.recorder_lag, status.webhooks
    return Reply(
        resources.Status(
            gateways=gateways,
            engine=status.engine,
            database=status.database,
            recorder=resources.RecorderLag(lag.entries, lag.seconds),
            webhooks=None
            if webhooks is None
            else resources.WebhooksStatus(webhooks.waiting, webhooks.failing_since_ms),
            tasks=[resources.TaskTurn(each.task, each.last_turn_ms_ago) for each in status.tasks],
            warnings=list(status.warnings),
        )
    )


OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    Operation(
        method="GET",
        path="/v1/status",
        handler=get_status,
        access="admin",
        tag="Deployment",
        summary="Read how the deployment is",
        query=NO_QUERY,
        answers={200: resources.Status},
    ),
    Operation(
        method="GET",
        path="/v1/policy",
        handler=get_policy,
        access="admin",
        tag="Deployment",
        summary="Read the policy",
        query=NO_QUERY,
        answers={200: resources.Policy},
        errors=(EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="PUT",
        path="/v1/policy",
        handler=put_policy,
        access="admin",
        tag="Deployment",
        summary="Change the policy",
        description="For all gateways at once, calls in progress included; each record keeps its own.",
        query=NO_QUERY,
        body=PolicyFields,
        answers={200: resources.Policy},
        errors=(EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/simulation/clock",
        handler=get_clock,
        access="admin",
        tag="Simulation",
        summary="Read the billing clock",
        description="Only with `--simulate`; else 404.",
        query=NO_QUERY,
        answers={200: resources.Clock},
        errors=(NotFound, EngineUnavailable),
    ),
    Operation(
        method="POST",
        path="/v1/simulation/clock",
        handler=move_clock,
        access="admin",
        tag="Simulation",
        summary="Move the billing clock, or change its speed",
        description="Only with `--simulate`; else 404. Forward only, except while there is no account.",
        query=NO_QUERY,
        body=ClockMove,
        answers={200: resources.Clock},
        errors=(NotFound, EngineUnavailable, DatabaseUnavailable),
    ),
)
