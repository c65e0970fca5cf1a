"""What Callgate raises on purpose, as one small tree (docs/http.md, "Errors").

::

    CallgateError                 .code is stable; .members go into the problem document
    ├── BadJson                   bad_json             400  not JSON, or not an object
    ├── Unauthorized              unauthorized         401  no credential, or a wrong, expired or revoked one
    ├── Forbidden                 forbidden            403  valid, but not for this account or scope
    ├── NotFound                  not_found            404  no such resource
    ├── CallUnknown               call_unknown         404  no such call, or another device's
    ├── CallIdUsed                call_id_used         409  a call of that id has ended (R9)
    ├── CallIdConflict            call_id_conflict     409  a call of that id is in progress, and differs (R9)
    ├── PlanInUse                 plan_in_use          409  accounts are on the plan
    ├── SeatLimit                 seat_limit           409  R23, R25; members: limit, in_use
    ├── ChannelLimit              channel_limit        409  R23, R25; members: limit, in_use
    ├── ImmutableField            immutable_field      409  the field is fixed once the resource exists
    ├── TooLarge                  too_large            413  the body is over its limit
    ├── InvalidField              invalid_field        422  members: errors, all wrong fields
    ├── TooFast                   too_fast             429  asked too often
    ├── EngineUnavailable         engine_unavailable   503  Redis could not be asked: the outcome is unknown
    │   └── EngineFull            engine_unavailable   503  no memory left for a new call: nothing was decided
    ├── DatabaseUnavailable       database_unavailable 503  SQL could not be asked: the outcome is unknown
    ├── UnknownType               unknown_type           -  a WebSocket message of no known type
    ├── SettingsError             settings_error         -  a setting is missing or wrong
    └── StartRefused              start_refused          -  what is kept in the data forbids it

The last two are for the people who start the gateway and are never sent to a client.
An EngineUnavailable is what `gateway.pool.unreadable.PoolUnreadable` is to a client: one account's pool is
damaged. A refusal of a call (R8) is a decision, not an error: see `gateway.domain.answers.Refused`.
"""

# ruff: noqa: N818 - they are named as their codes; "Error" after each would say nothing more

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class CallgateError(Exception):
    """A stable `code`, a sentence for people, and what a client can act on."""

    code: ClassVar[str]
    summary: ClassVar[str]
    """A sentence that holds for every error of this code: the default of `message`."""

    def __init__(self, message: str | None = None, **members: Any) -> None:
        """Take a sentence for people (by default the summary) and what a client can act on."""
        self.message = message if message is not None else self.summary
        self.members: dict[str, Any] = members
        super().__init__(self.message)


class BadJson(CallgateError):
    """The body or frame is not JSON, or not an object (400)."""

    code = "bad_json"
    summary = "This is not a JSON object."


class Unauthorized(CallgateError):
    """There is no credential, or it is wrong, expired or revoked (401)."""

    code = "unauthorized"
    summary = "A valid token or the admin key is needed."


class Forbidden(CallgateError):
    """The credential is valid, but not for this account or scope (403)."""

    code = "forbidden"
    summary = "This token does not allow that."


class NotFound(CallgateError):
    """There is no such resource (404)."""

    code = "not_found"
    summary = "There is no such resource."


class CallUnknown(CallgateError):
    """There is no such call, or it is another device's (404, R17)."""

    code = "call_unknown"
    summary = "There is no such call of this device."


class CallIdUsed(CallgateError):
    """A call with this id has ended and is remembered (409, R9), or its end overtook its start (R17)."""

    code = "call_id_used"
    summary = "A call with this call_id has already ended; choose another call_id for a new call."


class CallIdConflict(CallgateError):
    """A call with this id is in progress with another to, channel, staff or device (409, R9)."""

    code = "call_id_conflict"
    summary = "Another call with this call_id is in progress; choose another call_id."


class PlanInUse(CallgateError):
    """Accounts are on the plan, so only its name and price may change (409)."""

    code = "plan_in_use"
    summary = "Accounts are on this plan, so only its name and price can change; make a new plan instead."


class _LimitReached(CallgateError):
    def __init__(self, message: str | None = None, *, limit: int, in_use: int) -> None:
        super().__init__(message, limit=limit, in_use=in_use)
        self.limit = limit
        self.in_use = in_use


class SeatLimit(_LimitReached):
    """More staff members than the plan's staff seats (409, R23, R25)."""

    code = "seat_limit"
    summary = "The plan has no staff seat left."


class ChannelLimit(_LimitReached):
    """More channels than the plan's connected channels (409, R23, R25)."""

    code = "channel_limit"
    summary = "The plan has no connected channel left."


class ImmutableField(CallgateError):
    """The field can't be changed on an existing resource (409)."""

    code = "immutable_field"
    summary = "This field cannot be changed once the resource exists."


class TooLarge(CallgateError):
    """The body is larger than allowed (413)."""

    code = "too_large"
    summary = "This is larger than allowed."


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request and what is wrong with it."""

    field: str
    message: str


class InvalidField(CallgateError):
    """Fields are missing, unknown, of the wrong type or out of range (422); `errors` names all of them."""

    code = "invalid_field"
    summary = "Some fields are not valid."

    def __init__(self, message: str | None = None, *, errors: Sequence[FieldError]) -> None:
        """Take every wrong field; by default the message lists them."""
        if message is None and errors:
            message = "; ".join(f"{error.field}: {error.message}" for error in errors)
        super().__init__(message, errors=[{"field": e.field, "message": e.message} for e in errors])
        self.errors = tuple(errors)


class TooFast(CallgateError):
    """Asked too often (429)."""

    code = "too_fast"
    summary = "Too many requests; slow down."


class EngineUnavailable(CallgateError):
    """Redis could not be asked (503). The outcome is unknown: ask again with the same id."""

    code = "engine_unavailable"
    summary = "The live engine cannot be reached; try again shortly with the same call_id."


class EngineFull(EngineUnavailable):
    """Redis answers, and has no memory left for a new call (503): nothing was decided, as is known."""

    def __init__(self, message: str | None = None, **members: Any) -> None:
        """Take a sentence for people, and what a client can act on."""
        super().__init__(message or "The live engine has no memory left; try again shortly.", **members)


class DatabaseUnavailable(CallgateError):
    """SQL could not be asked (503). The outcome is unknown."""

    code = "database_unavailable"
    summary = "The database cannot be reached; try again shortly."


class UnknownType(CallgateError):
    """A WebSocket message whose `type` is none of docs/websocket.md."""

    code = "unknown_type"
    summary = "There is no message of this type."


class SettingsError(CallgateError):
    """A setting is missing, wrong, or contradicts another; the message names it. For the command line."""

    code = "settings_error"
    summary = "A setting is missing or wrong."


class StartRefused(CallgateError):
    """What is kept with the data (policy, simulation, shards) forbids starting so. For the command line."""

    code = "start_refused"
    summary = "The data was made under other settings."
