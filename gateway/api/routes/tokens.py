"""Device tokens: issuing and revoking (admin only)."""

from __future__ import annotations

from typing import Final

from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation, Reply
from gateway.api.wire import resources
from gateway.api.wire.requests import Nothing, TokenRequest, TokenRevocation
from gateway.domain.errors import DatabaseUnavailable, FieldError, InvalidField, NotFound


async def issue_token(exchange: Exchange[Nothing, TokenRequest]) -> Reply:
    """Issue a token. The account exists, and the staff member if one is named."""
    body = exchange.body
    needs_device = "call" in body.scopes
    wrong = []
    if body.staff is None and (needs_device or body.device is not None):
        why = "the scope `call` needs it" if needs_device else "a device is one of a staff member"
        wrong.append(FieldError("staff", f"is missing; {why}"))
    if body.device is None and needs_device:
        wrong.append(FieldError("device", "is missing; the scope `call` needs it"))
    if wrong:
        raise InvalidField(errors=wrong)
    await exchange.api.service.require_member(body.account, body.staff)
    issued = exchange.api.authenticator.issue(
        body.account, body.staff, body.device, body.scopes, body.ttl_seconds
    )
    return Reply(resources.Token(issued.token, issued.expires_at_ms), 201)


async def revoke_tokens(exchange: Exchange[Nothing, TokenRevocation]) -> Reply:
    """Refuse every token issued until now to this account, staff member or device."""
    body = exchange.body
    if body.staff is None and body.device is not None:
        raise InvalidField(errors=[FieldError("staff", "is missing; a device is one of a staff member")])
    await exchange.api.service.revoke_tokens(body.account, body.staff, body.device)
    return Reply(status=204)


OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    Operation(
        method="POST",
        path="/v1/tokens",
        handler=issue_token,
        access="admin",
        tag="Tokens",
        summary="Issue a token",
        query=NO_QUERY,
        body=TokenRequest,
        answers={201: resources.Token},
        errors=(NotFound, DatabaseUnavailable),
    ),
    Operation(
        method="POST",
        path="/v1/tokens/revoke",
        handler=revoke_tokens,
        access="admin",
        tag="Tokens",
        summary="Revoke the tokens issued until now",
        description="Devices connected by one are closed (4401); their calls go on.",
        query=NO_QUERY,
        body=TokenRevocation,
        answers={204: None},
        errors=(NotFound, DatabaseUnavailable),
    ),
)
