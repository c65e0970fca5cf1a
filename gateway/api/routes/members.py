"""Staff members and channels of an account (R25)."""

from __future__ import annotations

from typing import Final

from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation, Reply
from gateway.api.wire import resources
from gateway.api.wire.requests import ChannelFields, Nothing, Page, StaffFields, given_fields
from gateway.domain.errors import (
    ChannelLimit,
    DatabaseUnavailable,
    EngineUnavailable,
    NotFound,
    SeatLimit,
)


async def put_staff(exchange: Exchange[Nothing, StaffFields]) -> Reply:
    """Make a staff member, who takes a seat, or change one."""
    path = exchange.path
    member, created = await exchange.api.service.put_staff(
        path["account"], path["staff"], given_fields(exchange.body)
    )
    return Reply(resources.StaffMember(member.staff, member.name), 201 if created else 200)


async def delete_staff(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Remove a staff member: the seat is free at once, calls in progress go on."""
    await exchange.api.service.delete_staff(exchange.path["account"], exchange.path["staff"])
    return Reply(status=204)


async def list_staff(exchange: Exchange[Page, Nothing]) -> Reply:
    """Read a page of an account's staff members."""
    query = exchange.query
    members, after = await exchange.api.service.list_staff(
        exchange.path["account"], query.after or None, query.limit
    )
    staff = [resources.StaffMember(member.staff, member.name) for member in members]
    return Reply(resources.Staff(staff, after))


async def put_channel(exchange: Exchange[Nothing, ChannelFields]) -> Reply:
    """Connect a channel, or change one."""
    path = exchange.path
    channel, created = await exchange.api.service.put_channel(
        path["account"], path["channel"], given_fields(exchange.body)
    )
    content = resources.Channel(channel.channel, channel.label, channel.number)
    return Reply(content, 201 if created else 200)


async def delete_channel(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Remove a channel: it is free at once, calls in progress go on."""
    await exchange.api.service.delete_channel(exchange.path["account"], exchange.path["channel"])
    return Reply(status=204)


async def list_channels(exchange: Exchange[Page, Nothing]) -> Reply:
    """Read a page of an account's channels."""
    query = exchange.query
    found, after = await exchange.api.service.list_channels(
        exchange.path["account"], query.after or None, query.limit
    )
    channels = [resources.Channel(channel.channel, channel.label, channel.number) for channel in found]
    return Reply(resources.Channels(channels, after))


OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    Operation(
        method="GET",
        path="/v1/accounts/{account}/staff",
        handler=list_staff,
        access="admin",
        tag="Staff and channels",
        summary="List staff members",
        query=Page,
        answers={200: resources.Staff},
        errors=(NotFound, DatabaseUnavailable),
    ),
    Operation(
        method="PUT",
        path="/v1/accounts/{account}/staff/{staff}",
        handler=put_staff,
        access="admin",
        tag="Staff and channels",
        summary="Make or change a staff member",
        query=NO_QUERY,
        body=StaffFields,
        body_optional=True,
        answers={200: resources.StaffMember, 201: resources.StaffMember},
        errors=(NotFound, SeatLimit, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="DELETE",
        path="/v1/accounts/{account}/staff/{staff}",
        handler=delete_staff,
        access="admin",
        tag="Staff and channels",
        summary="Remove a staff member",
        query=NO_QUERY,
        answers={204: None},
        errors=(NotFound, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/accounts/{account}/channels",
        handler=list_channels,
        access="admin",
        tag="Staff and channels",
        summary="List channels",
        query=Page,
        answers={200: resources.Channels},
        errors=(NotFound, DatabaseUnavailable),
    ),
    Operation(
        method="PUT",
        path="/v1/accounts/{account}/channels/{channel}",
        handler=put_channel,
        access="admin",
        tag="Staff and channels",
        summary="Connect or change a channel",
        query=NO_QUERY,
        body=ChannelFields,
        body_optional=True,
        answers={200: resources.Channel, 201: resources.Channel},
        errors=(NotFound, ChannelLimit, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="DELETE",
        path="/v1/accounts/{account}/channels/{channel}",
        handler=delete_channel,
        access="admin",
        tag="Staff and channels",
        summary="Remove a channel",
        query=NO_QUERY,
        answers={204: None},
        errors=(NotFound, EngineUnavailable, DatabaseUnavailable),
    ),
)
