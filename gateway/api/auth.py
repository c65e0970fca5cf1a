"""Who asks: device tokens (JWT, RFC 7519) and the admin key."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import jwt
import msgspec

from gateway.domain.errors import Forbidden, Unauthorized
from gateway.sessions.revocations import Revocations

Scope = Literal["call", "watch", "numbers"]
"""`call` places calls; `watch` reads the account's pool, calls, statements, `numbers` with whole numbers."""

ISSUER: Final = "callgate"
ALGORITHM: Final = "HS256"


def real_time_ms() -> int:
    """The real time of this host. Tokens go by it, also where billing has a clock of its own."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a credential is: the admin, or the bearer of a token. Instants are real time, in ms."""

    account: str | None
    staff: str | None
    device: str | None
    scopes: frozenset[str]
    admin: bool
    issued_at_ms: int
    expires_at_ms: int | None

    def is_device(self, account: str, staff: str, device: str) -> bool:
        """Tell whether this is the very device."""
        return self.device == device and self.staff == staff and self.account == account


ADMIN: Final = Identity(
    account=None,
    staff=None,
    device=None,
    scopes=frozenset(),
    admin=True,
    issued_at_ms=0,
    expires_at_ms=None,
)


NOBODY: Final = Identity(
    account=None,
    staff=None,
    device=None,
    scopes=frozenset(),
    admin=False,
    issued_at_ms=0,
    expires_at_ms=None,
)
"""Who asks at an address that is open to anybody."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token, and when it stops being good (real time)."""

    token: str
    expires_at_ms: int


class _Claims(msgspec.Struct):
    """What a token says. Revoking goes by the millisecond, and `iat` has seconds: hence `iat_ms`."""

    iss: str
    sub: str
    scp: list[str]
    iat_ms: int
    iat: int
    exp: int
    staff: str | None = None
    device: str | None = None


class Authenticator:
    """Issues tokens, and tells from a credential who asks.

    The first of `secrets` signs, all of them verify, so that a secret can be rotated. `revocations` are
    asked at every check; `now_ms` is real time.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        admin_key: str | None,
        revocations: Revocations,
        now_ms: Callable[[], int] = real_time_ms,
    ) -> None:
        if not secrets:
            raise ValueError("a secret is needed to sign tokens with")
        self._secrets = tuple(secrets)
        self._admin_key = admin_key.encode() if admin_key else None
        self._revocations = revocations
        self.now_ms = now_ms

    def issue(
        self,
        account: str,
        staff: str | None,
        device: str | None,
        scopes: Iterable[str],
        ttl_seconds: int,
    ) -> IssuedToken:
        """Sign a token that is good for at least `ttl_seconds`.

        Whether account and staff exist is not asked.
        """
        # One made in the millisecond of a revocation is a new one, so it must not count as issued until then.
        issued_at_ms = max(self.now_ms(), self._revocations.revoked_until_ms(account, staff, device) + 1)
        expires_at = math.ceil(issued_at_ms / 1000) + ttl_seconds
        claims = _Claims(
            iss=ISSUER,
            sub=account,
            staff=staff,
            device=device,
            scp=sorted(set(scopes)),
            iat_ms=issued_at_ms,
            iat=issued_at_ms // 1000,
            exp=expires_at,
        )
        token = jwt.encode(msgspec.to_builtins(claims), self._secrets[0], algorithm=ALGORITHM)
        return IssuedToken(token, expires_at * 1000)

    def identify(self, credential: str | None) -> Identity:
        """Tell who presents this credential.

        Raises Unauthorized if it is missing, wrong, expired or revoked.
        """
        identity = self.signed(credential)
        self.require_current(identity)
        return identity

    def signed(self, credential: str | None) -> Identity:
        """Tell whose credential it is by its signature alone, expired and revoked ones too: all R30 asks for.

        Raises Unauthorized if it is missing, or not ours.
        """
        if not credential:
            raise Unauthorized("A token or the admin key is needed, as Authorization: Bearer.")
        if self._admin_key is not None and hmac.compare_digest(credential.encode(), self._admin_key):
            return ADMIN
        for secret in self._secrets:
            try:
                # Expiry is checked against our own clock below; a token from a gateway whose clock is a
                # little ahead of ours is not refused for it.
                claims = jwt.decode(
                    credential,
                    secret,
                    algorithms=[ALGORITHM],
                    issuer=ISSUER,
                    options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
                )
                said = msgspec.convert(claims, _Claims)
            except (jwt.InvalidTokenError, msgspec.ValidationError, RecursionError):
                # The last is what a header of nested brackets, which is read before the signature, ends in.
                continue
            return Identity(
                account=said.sub,
                staff=said.staff,
                device=said.device,
                scopes=frozenset(said.scp),
                admin=False,
                issued_at_ms=said.iat_ms,
                expires_at_ms=said.exp * 1000,
            )
        raise Unauthorized("This token is not valid: it was not signed by this gateway.")

    def require_current(self, identity: Identity) -> None:
        """Raise Unauthorized if the token of this identity has expired or was revoked."""
        if identity.account is None or identity.expires_at_ms is None:
            return
        if identity.expires_at_ms <= self.now_ms():
            raise Unauthorized("This token has expired.")
        until_ms = self._revocations.revoked_until_ms(identity.account, identity.staff, identity.device)
        if identity.issued_at_ms <= until_ms:
            raise Unauthorized("This token was revoked.")


def require_admin(identity: Identity) -> None:
    """Raise Forbidden unless this is the admin."""
    if not identity.admin:
        raise Forbidden("This address takes the admin key, not a token.")


def require_watch(identity: Identity, account: str) -> None:
    """Raise Forbidden unless this identity may read the account's pool, calls and statements."""
    if identity.admin:
        return
    if identity.account != account:
        raise Forbidden("This token is for another account.")
    if "watch" not in identity.scopes:
        raise Forbidden("This token lacks the scope `watch`.")


def require_call(identity: Identity) -> None:
    """Raise Forbidden unless this identity may place calls: the admin for any device, a token for its own."""
    if identity.admin:
        return
    if "call" not in identity.scopes:
        raise Forbidden("This token lacks the scope `call`.")
    if identity.staff is None or identity.device is None:
        raise Forbidden("This token names no device.")
