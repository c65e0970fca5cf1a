"""Calls of a server-side client (a PBX), which keeps no connection and vouches for them by keepalives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ssl import SSLContext
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from gateway.client.call import Settlement
from gateway.client.errors import CallRefused, UnexpectedAnswer
from gateway.client.http import REQUEST_SECONDS, HttpClient, path_of


class AdmittedCall(Struct, frozen=True, kw_only=True, tag_field="type", tag="call.admitted"):
    """A call that may be placed; only keepalives vouch for it, one every third of `lease_seconds`.

    `admitted_at_ms` is billing time; `remaining_seconds` is None where the engine was not asked.
    """

    call_id: str
    admitted_at_ms: int
    remaining_seconds: int | None
    replayed: bool
    emergency: bool = False
    admitted_offline: bool = False
    receipt: str
    lease_seconds: int


class ResumedCall(Struct, frozen=True, kw_only=True, tag_field="type", tag="call.resumed"):
    """A call that goes on."""

    call_id: str
    admitted_at_ms: int
    receipt: str


class _RefusedCall(Struct, frozen=True, tag_field="type", tag="call.refused"):
    reason: str
    message: str
    remaining_seconds: int


class _Kept(Struct, frozen=True):
    lease_seconds: int
    not_in_progress: list[str]


_asked: Final[msgspec.json.Decoder[AdmittedCall | _RefusedCall]] = msgspec.json.Decoder(
    AdmittedCall | _RefusedCall
)


class CallsClient(HttpClient):
    """A gateway's call addresses, with a device's token, or with the admin key for the devices of `account`.

    Nothing is asked again by itself. After EngineUnavailable, NoAnswer and GatewayUnreachable ask again with
    the same `call_id`: asking twice is asking once (R9, R17). Keep each end until it is settled.
    """

    def __init__(
        self,
        url: str,
        credential: str,
        *,
        account: str | None = None,
        request_seconds: float = REQUEST_SECONDS,
        tls: SSLContext | None = None,
    ) -> None:
        """Take the gateway, a credential, and with the admin key whose calls they are."""
        super().__init__(url, credential, request_seconds=request_seconds, tls=tls)
        self._account = UNSET if account is None else account

    async def start(
        self,
        call_id: str,
        to: str,
        *,
        channel: str | None = None,
        staff: str | None = None,
        device: str | None = None,
    ) -> AdmittedCall:
        """Ask for admission (R6-R9). The admin key needs `staff` and `device`. Raises CallRefused."""
        body = {
            "call_id": call_id,
            "to": to,
            "channel": channel,
            "account": self._account,
            "staff": UNSET if staff is None else staff,
            "device": UNSET if device is None else device,
        }
        content = await self.fetch("POST", path_of("calls"), body=body)
        try:
            answer = _asked.decode(content)
        except msgspec.DecodeError as error:
            raise UnexpectedAnswer(f"{self.address.http} answered a start with something else.") from error
        if isinstance(answer, _RefusedCall):
            raise CallRefused(answer.reason, answer.message, answer.remaining_seconds)
        return answer

    async def answered(self, call_id: str, *, ago_ms: int = 0) -> None:
        """Note that the other side answered, so many ms ago (R3). Raises CallUnknown."""
        path = path_of("calls", call_id, "answered")
        await self.fetch("POST", path, body={"answered_ago_ms": ago_ms}, query=self._query)

    async def end(self, call_id: str, *, ago_ms: int = 0) -> Settlement:
        """End a call that was hung up so many ms ago (R16, R17). Raises CallUnknown."""
        path = path_of("calls", call_id, "end")
        body = {"ended_ago_ms": ago_ms}
        return await self.request("POST", path, Settlement, body=body, query=self._query)

    async def resume(self, call_id: str, receipt: str | None = None) -> ResumedCall:
        """Go on with a call, also one settled in its absence (R15), or lost with the live state (R28).

        Raises CallIdUsed (settled for good), CallUnknown, CallIdConflict.
        """
        body = {"receipt": UNSET if receipt is None else receipt}
        path = path_of("calls", call_id, "resume")
        return await self.request("POST", path, ResumedCall, body=body, query=self._query)

    async def keepalive(
        self, call_ids: Sequence[str], receipts: Mapping[str, str] | None = None
    ) -> list[str]:
        """Vouch for calls (R12, R15), up to 10,000 at once; return those that are not in progress."""
        body = {"call_ids": list(call_ids), "receipts": UNSET if receipts is None else dict(receipts)}
        path = path_of("calls", "keepalive")
        kept = await self.request("POST", path, _Kept, body=body, query=self._query)
        return kept.not_in_progress

    @property
    def _query(self) -> dict[str, object]:
        return {"account": self._account}
