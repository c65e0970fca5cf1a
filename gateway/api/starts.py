"""From what a client asks to what the pool is asked: the rules of a start that need no state (R8, R30)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.domain.asks import Start
from gateway.domain.calls import Caller
from gateway.domain.destinations import MAX_DESTINATION_LENGTH, is_destination, is_emergency
from gateway.domain.identifiers import valid_id


@dataclass(frozen=True, slots=True)
class Numbering:
    """Which destinations are emergencies (R30): the numbers, and the hosts whose users are numbers."""

    emergency_numbers: frozenset[str]
    sip_domains: frozenset[str]

    def is_emergency(self, to: str) -> bool:
        """Tell whether a call to `to` is an emergency call."""
        return is_emergency(to, self.emergency_numbers, self.sip_domains)


def start_ask(
    caller: Caller, call_id: str, to: str, channel: str | None, numbering: Numbering, connection: int = 0
) -> Start:
    """Return the ask for admission of a call whose fields are well formed."""
    if numbering.is_emergency(to):
        return Start(
            account=caller.account,
            staff=caller.staff,
            device=caller.device,
            call_id=call_id,
            to=to,
            channel=channel,
            emergency=True,
            fresh_call_id=_fresh_call_id(),
            connection=connection,
        )
    return Start(
        account=caller.account,
        staff=caller.staff,
        device=caller.device,
        call_id=call_id,
        to=to,
        channel=channel,
        destination_valid=is_destination(to),
        connection=connection,
    )


def asks_for_emergency(raw: Mapping[str, Any], numbering: Numbering) -> bool:
    """Tell whether a start, however malformed, is for an emergency number."""
    to = raw.get("to")
    return isinstance(to, str) and len(to) <= MAX_DESTINATION_LENGTH and numbering.is_emergency(to)


def salvaged_emergency(
    caller: Caller, raw: Mapping[str, Any], numbering: Numbering, connection: int = 0
) -> Start:
    """Return the ask for an emergency call (`asks_for_emergency`) whose other fields may be wrong or missing.

    An emergency call is admitted whatever else is wrong with it (R30): without a usable `call_id` it gets a
    fresh one, without a usable `channel` it has none.
    """
    call_id, channel = raw.get("call_id"), raw.get("channel")
    return start_ask(
        caller,
        call_id if isinstance(call_id, str) and valid_id(call_id) else _fresh_call_id(),
        raw["to"],
        channel if isinstance(channel, str) and valid_id(channel) else None,
        numbering,
        connection,
    )


def _fresh_call_id() -> str:
    return f"emergency-{uuid.uuid4().hex}"
