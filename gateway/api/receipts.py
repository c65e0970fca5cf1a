"""Receipts: what a client holds of a call that was admitted, so that it can be made again (R28).

A receipt is signed and opaque. It has all that is known of a call at its admission; with it a call can be
resumed whose live state was lost. It is no secret from its client, who knows all of it, and it gives nobody
else anything: only the account and the device it was issued to may use it. It is not logged all the same, as
a whole phone number is in it.

``r1.`` and, in base64url (RFC 4648, 5, without padding), a MessagePack array and the first 16 bytes of its
HMAC-SHA256. The key is derived from a token secret, so that no token is ever a receipt, nor the other way
round. Fields may be added at the array's end; anything else is another version, and ``r2.``.
"""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from gateway.domain.answers import Admitted
from gateway.domain.asks import Asker, Start
from gateway.domain.calls import CallInProgress
from gateway.domain.errors import FieldError, Forbidden, InvalidField

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_VERSION: Final = "r1."
_KEY_LABEL: Final = b"callgate receipt 1"
_MAC_BYTES: Final = 16
"""Half of the digest, as RFC 2104 (5) allows: nobody guesses 128 bits, and a receipt is 21 letters less."""
_EMERGENCY: Final = 1
_OFFLINE: Final = 2
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/???")


class _Content(msgspec.Struct, array_like=True, frozen=True, gc=False):
    account: str
    staff: str
    device: str
    call_id: str
    channel: str | None
    to: str
    admitted_at_ms: int
    cycle_start_ms: int
    flags: int


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Content).decode


class Receipts:
    """Issues receipts, and reads them. The first of `secrets` signs, all of them verify."""

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise ValueError("a secret is needed to sign receipts with")
        self._keys = tuple(hmac.digest(secret.encode(), _KEY_LABEL, "sha256") for secret in secrets)

    def issue(self, call: CallInProgress) -> str:
        """Return the receipt of a call in progress."""
        content = _Content(
            call.account,
            call.staff,
            call.device,
            call.call_id,
            call.channel,
            call.to,
            call.admitted_at_ms,
            call.cycle_start_ms,
            _EMERGENCY * call.emergency + _OFFLINE * call.admitted_offline,
        )
        return self._sign(content)

    def issue_admitted(self, ask: Start, answer: Admitted) -> str:
        """Return the receipt of a call that has just been admitted."""
        content = _Content(
            ask.account,
            ask.staff,
            ask.device,
            answer.call_id,
            ask.channel,
            ask.to,
            answer.admitted_at_ms,
            answer.cycle_start_ms,
            _EMERGENCY * answer.emergency + _OFFLINE * answer.admitted_offline,
        )
        return self._sign(content)

    def read(self, text: str, account: str, device: Asker | None, call_id: str) -> CallInProgress:
        """Return the call as it was when the receipt was issued, without an answer.

        `device` is who asks, None for the admin, who may for every device of the account. Raises InvalidField
        if the receipt is none of ours or another call's, Forbidden if it is another account's or device's.
        """
        content = self._verified(text)
        if content is None:
            raise _wrong("is no receipt that this gateway has signed")
        if content.account != account or device not in (None, (content.staff, content.device)):
            raise Forbidden("This receipt is another device's.")
        if content.call_id != call_id:
            raise _wrong("is another call's")
        emergency = bool(content.flags & _EMERGENCY)
        return CallInProgress(
            account=content.account,
            call_id=content.call_id,
            staff=content.staff,
            device=content.device,
            channel=content.channel,
            to=content.to,
            admitted_at_ms=content.admitted_at_ms,
            answered_at_ms=None,
            cycle_start_ms=content.cycle_start_ms,
            emergency=emergency,
            counts=not emergency,
            admitted_offline=bool(content.flags & _OFFLINE),
        )

    def _sign(self, content: _Content) -> str:
        signed = _encode(content)
        signed += hmac.digest(self._keys[0], signed, "sha256")[:_MAC_BYTES]
        letters = binascii.b2a_base64(signed, newline=False).translate(_TO_URL)
        return _VERSION + letters.rstrip(b"=").decode()

    def _verified(self, text: str) -> _Content | None:
        if not text.startswith(_VERSION):
            return None
        try:
            letters = text[len(_VERSION) :].encode("ascii").translate(_FROM_URL)
            signed = binascii.a2b_base64(letters + b"=" * (-len(letters) % 4), strict_mode=True)
        except (UnicodeEncodeError, binascii.Error):
            return None
        content, mac = signed[:-_MAC_BYTES], signed[-_MAC_BYTES:]
        for key in self._keys:
            if hmac.compare_digest(hmac.digest(key, content, "sha256")[:_MAC_BYTES], mac):
                try:
                    return _decode(content)
                except msgspec.DecodeError:
                    return None
        return None


class GivenReceipts(Mapping[str, CallInProgress]):
    """The receipts that came with a keepalive, by call, each read only when it is asked for.

    One that cannot be used is as good as none: it must not keep the other calls from being vouched for, nor
    its own, which needs no receipt unless its live state was lost.
    """

    def __init__(
        self, receipts: Receipts, texts: Mapping[str, str], account: str, device: Asker | None
    ) -> None:
        self._receipts = receipts
        self._texts = texts
        self._account = account
        self._device = device
        self._told = False

    def __getitem__(self, call_id: str) -> CallInProgress:
        """Return what the receipt of this call says. Raises KeyError without one that can be used."""
        try:
            return self._receipts.read(self._texts[call_id], self._account, self._device, call_id)
        except (InvalidField, Forbidden) as error:
            if not self._told:
                self._told = True
                log.warning(
                    "keepalive.receipt_refused", account=self._account, call_id=call_id, code=error.code
                )
            raise KeyError(call_id) from None

    def __iter__(self) -> Iterator[str]:
        """Yield the calls whose receipts can be used; this reads all of them."""
        return (call_id for call_id in self._texts if call_id in self)

    def __len__(self) -> int:
        """Return how many can be used; this reads all of them."""
        return sum(1 for _ in self)


def _wrong(message: str) -> InvalidField:
    return InvalidField(errors=[FieldError("receipt", message)])
