"""Tokens and the admin key: who they are, and when they are refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.auth import Authenticator, require_admin, require_call, require_watch
from gateway.domain.errors import Forbidden, Unauthorized
from gateway.sessions.revocations import Revocation, Revocations

SECRET = "0123456789abcdef0123456789abcdef"
OLDER_SECRET = "fedcba9876543210fedcba9876543210"
ADMIN_KEY = "the-admin-key"
NOW_MS = 1_795_392_000_500


class Clock:
    """Real time, as the test sets it."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def authenticator(
    *secrets: str, revocations: Revocations | None = None, clock: Clock | None = None
) -> Authenticator:
    return Authenticator(secrets or (SECRET,), ADMIN_KEY, revocations or Revocations(), clock or Clock())


def claims(**changed: Any) -> dict[str, Any]:
    return {
        "iss": "callgate",
        "sub": "acme",
        "staff": "ana",
        "device": "desk",
        "scp": ["call"],
        "iat_ms": NOW_MS,
        "iat": NOW_MS // 1000,
        "exp": NOW_MS // 1000 + 60,
    } | changed


def signed(said: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(said, secret, algorithm=algorithm)


def test_a_token_says_whose_it_is() -> None:
    auth = authenticator()
    issued = auth.issue("acme", "ana", "desk", ["watch", "call", "call"], 3600)

    identity = auth.identify(issued.token)

    assert (identity.account, identity.staff, identity.device) == ("acme", "ana", "desk")
    assert identity.scopes == {"call", "watch"}
    assert not identity.admin
    assert identity.issued_at_ms == NOW_MS
    assert identity.expires_at_ms == issued.expires_at_ms


def test_a_token_is_good_for_at_least_as_long_as_asked() -> None:
    clock = Clock()
    auth = authenticator(clock=clock)
    issued = auth.issue("acme", None, None, ["watch"], 60)
    assert 60_000 <= issued.expires_at_ms - NOW_MS < 61_000

    clock.now_ms = issued.expires_at_ms - 1
    auth.identify(issued.token)
    clock.now_ms = issued.expires_at_ms
    with pytest.raises(Unauthorized, match="expired"):
        auth.identify(issued.token)


def test_the_first_secret_signs_and_all_of_them_verify() -> None:
    older = authenticator(OLDER_SECRET).issue("acme", None, None, ["watch"], 60).token
    rotated = authenticator(SECRET, OLDER_SECRET)

    assert rotated.identify(older).account == "acme"
    newer = rotated.issue("acme", None, None, ["watch"], 60).token
    assert authenticator(SECRET).identify(newer).account == "acme"
    with pytest.raises(Unauthorized):
        authenticator(OLDER_SECRET).identify(newer)


def test_without_a_secret_there_are_no_tokens() -> None:
    with pytest.raises(ValueError, match="secret"):
        Authenticator((), ADMIN_KEY, Revocations())


def test_the_admin_key_is_the_admin() -> None:
    identity = authenticator().identify(ADMIN_KEY)

    assert identity.admin
    assert identity.expires_at_ms is None


@pytest.mark.parametrize("credential", [None, "", ADMIN_KEY + "x", ADMIN_KEY[:-1], "x.y.z", "ä", "\x00"])
def test_a_credential_that_is_none_is_refused(credential: str | None) -> None:
    with pytest.raises(Unauthorized):
        authenticator().identify(credential)


def test_without_an_admin_key_nobody_is_the_admin() -> None:
    auth = Authenticator((SECRET,), None, Revocations())

    with pytest.raises(Unauthorized):
        auth.identify(None)
    with pytest.raises(Unauthorized):
        auth.identify("")


@pytest.mark.parametrize(
    "said",
    [
        claims(iss="another"),
        claims(sub=5),
        claims(scp="call"),
        claims(iat_ms="soon"),
        {key: value for key, value in claims().items() if key != "exp"},
        {key: value for key, value in claims().items() if key != "iat_ms"},
        {key: value for key, value in claims().items() if key != "iss"},
    ],
)
def test_a_token_with_other_claims_than_ours_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized):
        authenticator().identify(signed(said))


def test_a_token_that_is_signed_otherwise_is_refused() -> None:
    header = (
        base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).rstrip(b"=").decode()
    )
    payload = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=").decode()
    good = signed(claims())

    for token in (
        f"{header}.{payload}.",
        signed(claims(), SECRET * 2, "HS512"),
        signed(claims(), OLDER_SECRET),
        good[:-2],
        good + "A",
        good.replace(".", ".e30.", 1),
    ):
        with pytest.raises(Unauthorized):
            authenticator().identify(token)


def test_a_header_of_nested_brackets_is_refused_like_any_other() -> None:
    header = base64.urlsafe_b64encode(b"[" * 30_000).decode()

    with pytest.raises(Unauthorized):
        authenticator().identify(f"{header}.e30.AAAA")


@given(st.text(max_size=200))
def test_no_text_is_a_credential_by_chance(text: str) -> None:
    with pytest.raises(Unauthorized):
        authenticator().identify(text)


def test_a_token_from_a_gateway_whose_clock_is_ahead_is_taken() -> None:
    ahead = claims(iat=NOW_MS // 1000 + 30, iat_ms=NOW_MS + 30_000)

    assert authenticator().identify(signed(ahead)).account == "acme"


def test_a_revoked_token_is_refused_and_one_made_afterwards_is_not() -> None:
    revocations = Revocations()
    auth = authenticator(revocations=revocations)
    old = auth.issue("acme", "ana", "desk", ["call"], 60).token

    revocations.add(Revocation("acme", "ana", None, NOW_MS))

    with pytest.raises(Unauthorized, match="revoked"):
        auth.identify(old)
    # Made in the very millisecond of the revocation.
    auth.identify(auth.issue("acme", "ana", "desk", ["call"], 60).token)


def test_a_signature_alone_is_enough_for_an_emergency_call() -> None:
    clock, revocations = Clock(), Revocations()
    auth = authenticator(clock=clock, revocations=revocations)
    token = auth.issue("acme", "ana", "desk", ["watch"], 60).token
    revocations.add(Revocation("acme", None, None, NOW_MS))
    clock.now_ms += 3_600_000

    identity = auth.signed(token)

    assert (identity.account, identity.staff, identity.device) == ("acme", "ana", "desk")
    with pytest.raises(Unauthorized):
        auth.require_current(identity)
    with pytest.raises(Unauthorized):
        auth.signed(signed(claims(), OLDER_SECRET))


def test_admin_addresses_take_no_token() -> None:
    auth = authenticator()
    require_admin(auth.identify(ADMIN_KEY))
    with pytest.raises(Forbidden):
        require_admin(auth.identify(signed(claims(scp=["call", "watch", "numbers"]))))


def test_reading_needs_the_scope_watch_and_the_token_s_own_account() -> None:
    auth = authenticator()
    require_watch(auth.identify(ADMIN_KEY), "acme")
    require_watch(auth.identify(signed(claims(scp=["watch"]))), "acme")
    with pytest.raises(Forbidden, match="another account"):
        require_watch(auth.identify(signed(claims(scp=["watch"]))), "other")
    with pytest.raises(Forbidden, match="watch"):
        require_watch(auth.identify(signed(claims(scp=["call"]))), "acme")


def test_calling_needs_the_scope_call_and_a_device() -> None:
    auth = authenticator()
    require_call(auth.identify(ADMIN_KEY))
    require_call(auth.identify(signed(claims())))
    with pytest.raises(Forbidden, match="call"):
        require_call(auth.identify(signed(claims(scp=["watch"]))))
    with pytest.raises(Forbidden, match="device"):
        require_call(auth.identify(signed(claims(device=None))))
