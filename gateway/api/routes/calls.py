"""Calls over HTTP: asking for admission, telling of answer and end, and vouching for them (R12).

The answers are the WebSocket's, without `re`.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET, UnsetType

from gateway.api.auth import Identity
from gateway.api.call_events import log_answer
from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation, Reply
from gateway.api.receipts import GivenReceipts
from gateway.api.starts import asks_for_emergency, salvaged_emergency, start_ask
from gateway.api.wire import frames, rendering
from gateway.api.wire.decoding import decode, decode_object, require_shallow
from gateway.api.wire.fields import clamped_ago_ms
from gateway.api.wire.over_http import AdmittedOverHttp
from gateway.api.wire.requests import (
    MAX_CALLS_VOUCHED_FOR,
    MAX_KEEPALIVE_BYTES,
    AdminStartRequest,
    AnsweredRequest,
    EndRequest,
    KeepaliveRequest,
    Nothing,
    OfAccount,
    ResumeRequest,
    StartRequest,
)
from gateway.api.wire.resources import Keepalive
from gateway.domain.asks import Answered, Ask, Asker, End, Resume, Start
from gateway.domain.calls import Caller
from gateway.domain.errors import (
    CallgateError,
    CallIdConflict,
    CallIdUsed,
    CallUnknown,
    DatabaseUnavailable,
    EngineUnavailable,
    FieldError,
    Forbidden,
    InvalidField,
)
from gateway.domain.identifiers import valid_id

UNKNOWN: Final = "unknown"
"""The staff member and device of an emergency call whose token or request names none (R30)."""


async def start_call(exchange: Exchange[Nothing, StartRequest]) -> Reply:
    """Ask for admission of a call. An emergency call asks for no more than a signed token (R30)."""
    return await _ask(exchange, _start(exchange))


async def call_answered(exchange: Exchange[OfAccount, AnsweredRequest]) -> Reply:
    """Note that a call was answered (R3)."""
    account, device = _whose(exchange)
    ago_ms = clamped_ago_ms(exchange.body.answered_ago_ms)
    return await _ask(exchange, Answered(account, exchange.path["call_id"], device, ago_ms))


async def end_call(exchange: Exchange[OfAccount, EndRequest]) -> Reply:
    """End a call (R16, R17)."""
    account, device = _whose(exchange)
    ago_ms = clamped_ago_ms(exchange.body.ended_ago_ms)
    return await _ask(exchange, End(account, exchange.path["call_id"], device, ago_ms))


async def resume_call(exchange: Exchange[OfAccount, ResumeRequest]) -> Reply:
    """Vouch for a call again, also for one that was settled in its absence (R13, R15)."""
    account, device = _whose(exchange)
    call_id, receipt = exchange.path["call_id"], exchange.body.receipt
    found = None
    if receipt is not None:
        found = exchange.api.receipts.read(receipt, account, device, call_id)
    return await _ask(exchange, Resume(account, call_id, device, found=found))


async def keep_calls_alive(exchange: Exchange[OfAccount, KeepaliveRequest]) -> Reply:
    """Vouch for many calls at once (R12, R15)."""
    account, device = _whose(exchange)
    api, body = exchange.api, exchange.body
    call_ids = list(dict.fromkeys(body.call_ids))
    receipts = GivenReceipts(api.receipts, body.receipts, account, device)
    missing = await api.service.keepalive(account, device, call_ids, receipts)
    return Reply(Keepalive(api.lease_seconds, missing))


async def _ask(exchange: Exchange[Any, Any], ask: Ask) -> Reply:
    try:
        answer = await exchange.api.service.ask(ask)
    except CallgateError as error:
        log_answer(ask, error)
        raise
    log_answer(ask, answer)
    api = exchange.api
    return Reply(rendering.answer_over_http(ask, answer, api.receipts, api.lease_seconds))


def _start(exchange: Exchange[Nothing, StartRequest]) -> Start:
    try:
        ask = _well_formed(exchange)
    except CallgateError:
        ask_for_help = _salvaged(exchange)
        if ask_for_help is not None:
            return ask_for_help
        # Whoever may not ask is told that, and not first what is wrong with the asking.
        if exchange.refusal is not None:
            raise exchange.refusal from None
        raise
    if exchange.refusal is not None and not ask.emergency:
        raise exchange.refusal
    return ask


def _well_formed(exchange: Exchange[Nothing, StartRequest]) -> Start:
    body: StartRequest | AdminStartRequest
    if exchange.identity.admin:
        body = decode(exchange.raw, AdminStartRequest)
        caller = Caller(body.account, body.staff, body.device)
    else:
        body = decode(exchange.raw, StartRequest)
        caller = _bearer(exchange.identity)
        if not (
            body.account in (UNSET, caller.account)
            and body.staff in (UNSET, caller.staff)
            and body.device in (UNSET, caller.device)
        ):
            raise Forbidden("This token is for another device.")
    return start_ask(caller, body.call_id, body.to, body.channel, exchange.api.numbering)


def _salvaged(exchange: Exchange[Nothing, StartRequest]) -> Start | None:
    """Return the ask for an emergency call whose other fields are wrong, or None if it is none (R30)."""
    numbering = exchange.api.numbering
    try:
        require_shallow(exchange.raw)
        raw = decode_object(exchange.raw)
    except CallgateError:
        return None
    if not asks_for_emergency(raw, numbering):
        return None
    if not exchange.identity.admin:
        return salvaged_emergency(_bearer(exchange.identity), raw, numbering)
    if not _is_id(raw.get("account")):  # the one thing that cannot be done without: whose call it is
        return None
    staff, device = (raw[name] if _is_id(raw.get(name)) else UNKNOWN for name in ("staff", "device"))
    return salvaged_emergency(Caller(raw["account"], staff, device), raw, numbering)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and valid_id(value)


def _bearer(identity: Identity) -> Caller:
    assert identity.account is not None
    return Caller(identity.account, identity.staff or UNKNOWN, identity.device or UNKNOWN)


def _whose(exchange: Exchange[OfAccount, Any]) -> tuple[str, Asker | None]:
    """Return the account and the device that asks about a call; for the admin no device, who may for all."""
    identity, account = exchange.identity, exchange.query.account
    if identity.admin:
        if isinstance(account, UnsetType):
            raise InvalidField(errors=[FieldError("account", "is missing; the admin key needs ?account=")])
        return account, None
    if account not in (UNSET, identity.account):
        raise Forbidden("This token is for another account.")
    caller = _bearer(identity)
    return caller.account, (caller.staff, caller.device)


_EMERGENCIES: Final = (
    "Whether the call is admitted or refused, the status is 200. An emergency call (R30) is always admitted: "
    "it only needs the admin key or a signed token, be it expired, revoked or without the scope `call`."
)

_RESUMING: Final = (
    "The call goes on from its original admission, also if it was settled in its absence (R13, R15). With "
    "its receipt also if its live state was lost (R28)."
)
_KEEPING: Final = (
    f"Vouches for up to {MAX_CALLS_VOUCHED_FOR:,} calls until `lease_seconds` from now (R12); send one every "
    "third of that. A call that was settled in its absence goes on (R15). `not_in_progress` are those that "
    "have ended, or are unknown. The body may be up to 8 MiB large."
)

OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    Operation(
        method="POST",
        path="/v1/calls",
        handler=start_call,
        access="start",
        tag="Calls",
        summary="Ask for admission of a call",
        description=_EMERGENCIES,
        query=NO_QUERY,
        body=StartRequest,
        raw_body=True,
        answers={200: (AdmittedOverHttp, frames.CallRefused)},
        errors=(CallIdUsed, CallIdConflict, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="POST",
        path="/v1/calls/{call_id}/answered",
        handler=call_answered,
        access="call",
        tag="Calls",
        summary="Tell that a call was answered",
        query=OfAccount,
        body=AnsweredRequest,
        body_optional=True,
        answers={200: frames.CallNoted},
        errors=(CallUnknown, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="POST",
        path="/v1/calls/{call_id}/end",
        handler=end_call,
        access="call",
        tag="Calls",
        summary="End a call",
        description="Ending twice is ending once: a repeated end gets the settlement already made (R17).",
        query=OfAccount,
        body=EndRequest,
        body_optional=True,
        answers={200: frames.CallSettled},
        errors=(CallUnknown, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="POST",
        path="/v1/calls/{call_id}/resume",
        handler=resume_call,
        access="call",
        tag="Calls",
        summary="Vouch for a call again",
        description=_RESUMING,
        query=OfAccount,
        body=ResumeRequest,
        body_optional=True,
        answers={200: frames.CallResumed},
        errors=(CallUnknown, CallIdUsed, CallIdConflict, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="POST",
        path="/v1/calls/keepalive",
        handler=keep_calls_alive,
        access="call",
        tag="Calls",
        summary="Vouch for calls in progress",
        description=_KEEPING,
        query=OfAccount,
        body=KeepaliveRequest,
        max_bytes=MAX_KEEPALIVE_BYTES,
        answers={200: Keepalive},
        errors=(EngineUnavailable, DatabaseUnavailable),
    ),
)
