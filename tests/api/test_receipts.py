"""Receipts: signed, opaque, and good for the one call and device that they were issued to (R28)."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.receipts import GivenReceipts, Receipts
from gateway.api.wire.fields import MAX_RECEIPT_LENGTH
from gateway.domain.answers import Admitted
from gateway.domain.asks import Start
from gateway.domain.calls import CallInProgress
from gateway.domain.errors import Forbidden, InvalidField

SECRET = "0123456789abcdef0123456789abcdef"
RECEIPTS = Receipts([SECRET])
DESK = ("ana", "desk")
CALL = CallInProgress(
    account="acme",
    call_id="c-1",
    staff="ana",
    device="desk",
    channel="main",
    to="+14155550100",
    admitted_at_ms=1_795_391_940_000,
    answered_at_ms=None,
    cycle_start_ms=1_794_718_800_000,
    emergency=False,
    counts=True,
)
ids = st.text("AZaz09._~:@+-", min_size=1, max_size=128)


def wrong_field(text: str, call_id: str = "c-1", receipts: Receipts = RECEIPTS) -> str:
    """What is said to be wrong with a receipt."""
    with pytest.raises(InvalidField) as refused:
        receipts.read(text, "acme", DESK, call_id)
    (error,) = refused.value.errors
    assert error.field == "receipt"
    return error.message


@given(
    account=ids,
    staff=ids,
    device=ids,
    call_id=ids,
    channel=st.none() | ids,
    to=st.text(max_size=256),
    admitted_at_ms=st.integers(0, 2**53),
    cycle_start_ms=st.integers(0, 2**53),
    emergency=st.booleans(),
    admitted_offline=st.booleans(),
)
def test_a_receipt_holds_all_that_is_known_of_a_call_at_its_admission(**fields: Any) -> None:
    call = CallInProgress(answered_at_ms=None, counts=not fields["emergency"], **fields)

    receipt = RECEIPTS.issue(call)

    assert RECEIPTS.read(receipt, call.account, (call.staff, call.device), call.call_id) == call
    assert len(receipt) <= MAX_RECEIPT_LENGTH


def test_what_came_after_the_admission_is_not_in_it() -> None:
    later = replace(CALL, answered_at_ms=CALL.admitted_at_ms + 8_000, revision=2, counts=False)

    assert RECEIPTS.read(RECEIPTS.issue(later), "acme", DESK, "c-1") == CALL


def test_an_admission_s_receipt_is_that_of_the_call_it_began() -> None:
    ask = Start("acme", "ana", "desk", "c-1", "+14155550100", "main")
    admitted = Admitted(
        "c-1", CALL.admitted_at_ms, 6000, replayed=True, emergency=False, cycle_start_ms=CALL.cycle_start_ms
    )

    assert RECEIPTS.issue_admitted(ask, admitted) == RECEIPTS.issue(CALL)


def test_an_emergency_s_receipt_names_the_id_that_it_goes_by() -> None:
    ask = Start("acme", "ana", "desk", "c-1", "112", emergency=True, fresh_call_id="e-1")
    admitted = Admitted("e-1", CALL.admitted_at_ms, None, replayed=False, emergency=True)

    read = RECEIPTS.read(RECEIPTS.issue_admitted(ask, admitted), "acme", DESK, "e-1")

    assert (read.call_id, read.emergency, read.counts) == ("e-1", True, False)


def test_the_first_secret_signs_and_all_of_them_verify() -> None:
    rotated = Receipts([SECRET[::-1], SECRET])

    assert rotated.read(RECEIPTS.issue(CALL), "acme", DESK, "c-1") == CALL
    assert "no receipt" in wrong_field(rotated.issue(CALL))
    assert rotated.issue(CALL) != RECEIPTS.issue(CALL)


def test_the_admin_may_show_every_device_s_of_the_account() -> None:
    assert RECEIPTS.read(RECEIPTS.issue(CALL), "acme", None, "c-1") == CALL


@pytest.mark.parametrize(
    ("account", "device"),
    [("other", DESK), ("other", None), ("acme", ("ana", "mobile")), ("acme", ("bob", "desk"))],
)
def test_another_s_receipt_is_forbidden(account: str, device: tuple[str, str] | None) -> None:
    with pytest.raises(Forbidden):
        RECEIPTS.read(RECEIPTS.issue(CALL), account, device, "c-1")


def test_another_call_s_receipt_is_refused() -> None:
    assert wrong_field(RECEIPTS.issue(CALL), "c-2") == "is another call's"


def test_a_receipt_that_was_changed_anywhere_is_none() -> None:
    receipt = RECEIPTS.issue(CALL)
    for at in range(len(receipt)):
        for letter in "A_-.é":
            changed = receipt[:at] + letter + receipt[at + 1 :]
            if changed != receipt:
                assert "no receipt" in wrong_field(changed)
    for at in range(len(receipt)):
        assert "no receipt" in wrong_field(receipt[:at])


@pytest.mark.parametrize(
    "text",
    ["", "r1.", "r1.AAAA", "r2." + RECEIPTS.issue(CALL)[3:], RECEIPTS.issue(CALL) + "=", "\x00", "r1.\ud83d"],
)
def test_what_was_never_a_receipt_is_none(text: str) -> None:
    assert "no receipt" in wrong_field(text)


@given(st.text() | st.text().map("r1.".__add__))
def test_no_text_is_more_than_refused(text: str) -> None:
    assert wrong_field(text)


def test_a_token_is_no_receipt_nor_the_other_way_round() -> None:
    token = jwt.encode({"sub": "acme"}, SECRET, algorithm="HS256")

    assert "no receipt" in wrong_field(token)
    signed = base64.urlsafe_b64decode(RECEIPTS.issue(CALL)[3:] + "==")
    assert not jwt.utils.base64url_encode(signed).startswith(b"eyJ")


def test_it_is_as_large_as_documented() -> None:
    longest = replace(
        CALL,
        account="a" * 128,
        staff="s" * 128,
        device="d" * 128,
        call_id="c" * 128,
        channel="m" * 128,
        to="\U0001f600" * 256,
    )
    uuid = replace(CALL, call_id="0191e2d8-2c5a-7b3c-9c1f-2f6a8f1b9c3d")

    assert len(RECEIPTS.issue(longest)) < 2_400
    assert len(RECEIPTS.issue(uuid)) < 160


def test_a_keepalive_s_receipts_are_read_when_they_are_asked_for() -> None:
    texts = {
        "c-1": RECEIPTS.issue(CALL),
        "c-2": RECEIPTS.issue(CALL),
        "c-3": "nonsense",
    }
    given_receipts = GivenReceipts(RECEIPTS, texts, "acme", DESK)

    assert given_receipts["c-1"] == CALL
    assert given_receipts.get("c-2") is None
    assert given_receipts.get("c-3") is None
    assert given_receipts.get("c-4") is None
    assert dict(given_receipts) == {"c-1": CALL}
    assert len(given_receipts) == 1
    assert not GivenReceipts(RECEIPTS, texts, "other", None)


def test_issuing_one_is_quick_enough_for_the_way_of_a_call() -> None:
    ask = Start("acme", "ana", "desk", "c-1", "+14155550100", "main")
    admitted = Admitted("c-1", CALL.admitted_at_ms, 6000, replayed=False, emergency=False)
    began = time.perf_counter()
    for _ in range(2_000):
        RECEIPTS.issue_admitted(ask, admitted)

    # 3 µs each on an idle machine; only something absurd is caught here.
    assert (time.perf_counter() - began) / 2_000 < 100e-6
