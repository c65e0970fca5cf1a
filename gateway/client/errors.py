"""What the client raises: the gateway's own errors, by their codes, and a few that only a client meets.

::

    CallgateError                    gateway.domain.errors: one class for each code a gateway answers with
    └── ClientError
        ├── CallRefused              call_refused         .reason (R8), .message, .remaining_seconds
        ├── NoAnswer                 no_answer            not in time: whether it was carried out is unknown
        ├── GatewayUnreachable       gateway_unreachable  no connection to a gateway
        ├── UnexpectedAnswer         unexpected_answer    an error of no known code, or not a gateway at all
        ├── EndsUndelivered          ends_undelivered     .call_ids: no gateway has heard that these ended
        ├── JournalInUse             journal_in_use       another phone keeps its calls in this file
        ├── JournalOfAnother         journal_of_another   this file is kept for another device
        └── PhoneEnded               phone_ended          this phone (or dashboard) connects no more by itself
            ├── PhoneClosed          phone_closed         its `async with` block was left
            ├── TokenRefused         token_refused        wrong, expired or revoked (401, 4401)
            ├── StaffRemoved         staff_removed        4403
            └── Replaced             replaced             4409: the same device connected elsewhere
"""

# ruff: noqa: N818 - they are named as their codes, like those of the domain

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.domain import errors
from gateway.domain.errors import CallgateError, ChannelLimit, FieldError, InvalidField, SeatLimit


class ClientError(CallgateError):
    """Something that only a client meets."""

    code = "client_error"
    summary = "The gateway could not be used."


class CallRefused(ClientError):
    """The call may not be placed (R8). It changed nothing, and may be asked for again."""

    code = "call_refused"
    summary = "The call was refused."

    def __init__(self, reason: str, message: str, remaining_seconds: int) -> None:
        """Take R8's stable reason, its sentence for people, and what is left in the pool."""
        super().__init__(message, reason=reason, remaining_seconds=remaining_seconds)
        self.reason = reason
        self.remaining_seconds = remaining_seconds


class NoAnswer(ClientError):
    """The gateway did not answer in time. Whether it carried out the request is unknown."""

    code = "no_answer"
    summary = "The gateway did not answer in time."


class GatewayUnreachable(ClientError):
    """No connection to a gateway could be made, or it broke."""

    code = "gateway_unreachable"
    summary = "The gateway cannot be reached."


class UnexpectedAnswer(ClientError):
    """The answer is an error of no known code (`members["code"]`), or none that a gateway would give."""

    code = "unexpected_answer"
    summary = "What answers at this address is not a Callgate gateway."


class EndsUndelivered(ClientError):
    """A phone was closed before any gateway had heard that these calls ended."""

    code = "ends_undelivered"

    def __init__(self, call_ids: Sequence[str], kept_in: str | None = None) -> None:
        """Take the ids of the calls, and the file that keeps their ends, if one does."""
        kept = "" if kept_in is None else f" It is kept in {kept_in}, and told next time."
        super().__init__(
            f"No gateway has heard yet that these calls ended: {', '.join(call_ids)}.{kept}",
            call_ids=list(call_ids),
        )
        self.call_ids = tuple(call_ids)


class JournalInUse(ClientError):
    """Another phone keeps its calls in this file."""

    code = "journal_in_use"


class JournalOfAnother(ClientError):
    """The file is kept for another device."""

    code = "journal_of_another"


class PhoneEnded(ClientError):
    """This phone, or dashboard, is of no more use: it does not connect again by itself."""

    code = "phone_ended"
    summary = "This client no longer connects."


class PhoneClosed(PhoneEnded):
    """The phone's `async with` block was left."""

    code = "phone_closed"
    summary = "This client was closed."


class TokenRefused(PhoneEnded):
    """The gateway does not take the token (HTTP 401, or 4401), and there is no other."""

    code = "token_refused"
    summary = "The gateway does not take this token: it is wrong, expired or revoked."


class StaffRemoved(PhoneEnded):
    """The staff member was removed (4403)."""

    code = "staff_removed"
    summary = "The staff member was removed from the account."


class Replaced(PhoneEnded):
    """The same device connected again, somewhere else (4409)."""

    code = "replaced"
    summary = "This device has connected from elsewhere, which ended this connection."


_BY_CODE: Final[Mapping[str, type[CallgateError]]] = {
    kind.code: kind
    for kind in (
        errors.BadJson,
        errors.Unauthorized,
        errors.Forbidden,
        errors.NotFound,
        errors.CallUnknown,
        errors.CallIdUsed,
        errors.CallIdConflict,
        errors.PlanInUse,
        errors.ImmutableField,
        errors.TooLarge,
        errors.TooFast,
        errors.EngineUnavailable,
        errors.DatabaseUnavailable,
        errors.UnknownType,
    )
}
_LIMITS: Final = {SeatLimit.code: SeatLimit, ChannelLimit.code: ChannelLimit}

PASSING: Final = frozenset(
    {errors.EngineUnavailable.code, errors.DatabaseUnavailable.code, errors.TooFast.code, "going_away"}
)
"""Codes of what passes by itself: ask again, with the same call id."""


def error_of(code: str, message: str, members: Mapping[str, Any]) -> CallgateError:
    """Return the error that a gateway told of by its code, its sentence and its other members."""
    if code in _LIMITS and isinstance(members.get("limit"), int) and isinstance(members.get("in_use"), int):
        return _LIMITS[code](message, limit=members["limit"], in_use=members["in_use"])
    if code == InvalidField.code:
        wrong = [FieldError(str(each["field"]), str(each["message"])) for each in members.get("errors") or ()]
        return InvalidField(message, errors=wrong)
    known = _BY_CODE.get(code)
    if known is not None:
        return known(message, **members)
    return UnexpectedAnswer(message, **{**members, "code": code})
