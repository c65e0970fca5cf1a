"""The device's frames: what is read, and what is answered to those that are wrong."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.faulty_frames import read_again
from gateway.api.receipts import Receipts
from gateway.api.wire import frames
from gateway.api.wire.rendering import answer_frame, answer_over_http
from gateway.domain.admission import RefusalReason
from gateway.domain.answers import Admitted, Answer, Noted, Refused, Resumed, Settled
from gateway.domain.asks import Answered, Ask, End, Resume, Start
from gateway.domain.calls import CallInProgress
from gateway.domain.errors import BadJson, InvalidField, UnknownType

RECEIPTS = Receipts(["0123456789abcdef0123456789abcdef"])
START = {"type": "call.start", "id": 1, "call_id": "c-1", "to": "+14155550100", "channel": "main"}


def faults(frame: Any) -> tuple[frames.Re, dict[str, str]]:
    """The `re` and the wrong fields of a frame that is refused."""
    text = json.dumps(frame)
    with pytest.raises(msgspec.DecodeError):
        frames.decode_frame(text)
    re, error, _ = read_again(text)
    assert isinstance(error, InvalidField)
    return re, {each.field: each.message for each in error.errors}


def test_every_frame_of_a_device_is_read() -> None:
    for sent, read in (
        (START, frames.CallStart(1, "c-1", "+14155550100", "main")),
        (
            {"type": "call.answered", "id": 2, "call_id": "c-1", "answered_ago_ms": 5},
            frames.CallAnswered(2, "c-1", 5),
        ),
        ({"type": "call.end", "id": "three", "call_id": "c-1"}, frames.CallEnd("three", "c-1", 0)),
        ({"type": "call.resume", "id": 4, "call_id": "c-1"}, frames.CallResume(4, "c-1", None)),
        (
            {"type": "call.resume", "id": 4, "call_id": "c-1", "receipt": "r1.x"},
            frames.CallResume(4, "c-1", "r1.x"),
        ),
        ({"type": "auth.refresh", "id": 5, "token": "x.y.z"}, frames.AuthRefresh(5, "x.y.z")),
        ({"id": 6, "type": "ping"}, frames.Ping(6)),
    ):
        assert frames.decode_frame(json.dumps(sent)) == read


def test_an_unknown_field_of_a_frame_is_passed_over() -> None:
    assert frames.decode_frame(json.dumps(START | {"receipt": {"new": [1]}})) == frames.CallStart(
        1, "c-1", "+14155550100", "main"
    )


@pytest.mark.parametrize("request_id", [0, -1, 2**63 - 1, -(2**63), "", "a" * 64, "é" * 64])
def test_an_id_of_a_request_is_an_integer_or_a_short_text(request_id: int | str) -> None:
    assert frames.decode_frame(json.dumps({"type": "ping", "id": request_id})) == frames.Ping(request_id)


@pytest.mark.parametrize("request_id", [1.5, True, None, [], {}, "a" * 65, 2**63, -(2**63) - 1])
def test_another_id_is_refused_and_answered_with_null(request_id: Any) -> None:
    re, wrong = faults({"type": "ping", "id": request_id})

    assert re is None
    assert set(wrong) == {"id"}


def test_a_request_without_an_id_is_refused() -> None:
    assert faults({"type": "ping"}) == (None, {"id": "is missing"})


def test_all_wrong_fields_of_a_frame_are_named_and_its_id_is_answered() -> None:
    re, wrong = faults({"type": "call.start", "id": "q", "call_id": "c 1", "channel": 5})

    assert re == "q"
    assert wrong == {
        "call_id": "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ + -",
        "to": "is missing",
        "channel": "must be a string or null, got an integer",
    }


@pytest.mark.parametrize("receipt", [5, {}, "x" * 4097])
def test_a_receipt_is_a_text_of_bounded_length(receipt: Any) -> None:
    resume = {"type": "call.resume", "id": 4, "call_id": "c-1", "receipt": receipt}

    assert set(faults(resume)[1]) == {"receipt"}


@pytest.mark.parametrize("kind", ["call.hold", "", "Ping", "welcome", "call.resumed"])
def test_an_unknown_type_is_told_with_the_request_s_id(kind: str) -> None:
    re, error, _ = read_again(json.dumps({"type": kind, "id": 7}))

    assert re == 7
    assert isinstance(error, UnknownType)


def test_a_type_that_is_missing_or_no_text_is_an_invalid_field() -> None:
    assert faults({"id": 7}) == (7, {"type": "is missing"})
    assert faults({"id": 7, "type": 1}) == (7, {"type": "must be a string"})


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '{"type":"ping","id":1}x', "\x00"])
def test_bad_json_is_answered_with_null(text: str) -> None:
    re, error, _ = read_again(text)

    assert re is None
    assert isinstance(error, BadJson)


def test_of_an_id_given_twice_the_last_counts() -> None:
    assert read_again('{"type":"ping","id":1.5,"id":2}')[:2] == (2, frames.Ping(2))


@given(
    st.text() | st.dictionaries(st.sampled_from(["type", "id", "call_id", "to"]), st.text()).map(json.dumps)
)
def test_every_text_is_read_or_told_what_is_wrong_with_it(text: str) -> None:
    try:
        frames.decode_frame(text)
    except (msgspec.DecodeError, UnicodeError):
        _, error, _ = read_again(text)
        assert isinstance(error, BadJson | InvalidField | UnknownType)


def sent(ask: Ask, answer: Answer, re: frames.Re = 1) -> dict[str, Any]:
    """An answer as the device reads it."""
    read: dict[str, Any] = json.loads(frames.encode_text(answer_frame(ask, answer, RECEIPTS, re)))
    return read


def asked(*, emergency: bool = False) -> Start:
    return Start("acme", "ana", "desk", "c-1", "+14155550100", "main", emergency=emergency)


def in_progress(*, emergency: bool = False, admitted_offline: bool = False) -> CallInProgress:
    return CallInProgress(
        account="acme",
        call_id="c-1",
        staff="ana",
        device="desk",
        channel="main",
        to="+14155550100",
        admitted_at_ms=1_795_391_940_000,
        answered_at_ms=None,
        cycle_start_ms=0,
        emergency=emergency,
        counts=not emergency,
        admitted_offline=admitted_offline,
    )


def test_an_admission_is_answered_as_the_contract_has_it() -> None:
    admitted = Admitted("c-1", 1_795_391_940_000, 58_740, replayed=False, emergency=False)

    assert sent(asked(), admitted) == {
        "type": "call.admitted",
        "re": 1,
        "call_id": "c-1",
        "admitted_at_ms": 1_795_391_940_000,
        "remaining_seconds": 58_740,
        "receipt": RECEIPTS.issue(in_progress()),
        "replayed": False,
    }
    emergency = Admitted("c-1", 1_795_391_940_000, 0, replayed=False, emergency=True)
    told = sent(asked(emergency=True), emergency)
    assert told["emergency"] is True
    assert told["receipt"] == RECEIPTS.issue(in_progress(emergency=True))


def test_an_admission_without_the_engine_says_so() -> None:
    blind = Admitted("c-1", 1_795_391_940_000, None, replayed=False, emergency=False, admitted_offline=True)

    assert sent(asked(), blind) == {
        "type": "call.admitted",
        "re": 1,
        "call_id": "c-1",
        "admitted_at_ms": 1_795_391_940_000,
        "remaining_seconds": None,
        "receipt": RECEIPTS.issue(in_progress(admitted_offline=True)),
        "replayed": False,
        "admitted_offline": True,
    }


def test_a_resumption_is_answered_with_a_receipt_of_its_own() -> None:
    resumed = Resumed(in_progress(), late=True)

    assert sent(Resume("acme", "c-1"), resumed, re=4) == {
        "type": "call.resumed",
        "re": 4,
        "call_id": "c-1",
        "admitted_at_ms": 1_795_391_940_000,
        "receipt": RECEIPTS.issue(in_progress()),
    }


def test_a_refusal_says_its_reason_to_programs_and_to_people() -> None:
    refused = sent(asked(), Refused("c-1", RefusalReason.MINUTES_EXHAUSTED, 0), re="x")

    assert refused.pop("message").startswith("All minutes")
    assert refused == {
        "type": "call.refused",
        "re": "x",
        "call_id": "c-1",
        "reason": "minutes_exhausted",
        "remaining_seconds": 0,
    }


def test_a_settlement_is_answered_as_the_contract_has_it() -> None:
    settled = Settled(
        call_id="c-1",
        duration_ms=90_000,
        billed_seconds=90,
        counted=True,
        ended_by="hangup",
        revision=1,
        replayed=False,
        remaining_seconds=58_650,
        ended_at_ms=1_795_392_030_000,
        admitted_at_ms=1_795_391_940_000,
        emergency=False,
    )

    assert sent(End("acme", "c-1"), settled) == {
        "type": "call.settled",
        "re": 1,
        "call_id": "c-1",
        "duration_ms": 90_000,
        "billed_seconds": 90,
        "counted": True,
        "ended_by": "hangup",
        "revision": 1,
        "replayed": False,
        "remaining_seconds": 58_650,
    }


def test_an_answer_noted_is_answered_with_null_where_the_id_could_not_be_read() -> None:
    noted = sent(Answered("acme", "c-1"), Noted("c-1"), re=None)

    assert noted == {"type": "call.noted", "re": None, "call_id": "c-1"}


def test_over_http_an_answer_has_no_re() -> None:
    frame = answer_over_http(Answered("acme", "c-1"), Noted("c-1"), RECEIPTS, 15)

    assert json.loads(frames.encode_text(frame)) == {"type": "call.noted", "call_id": "c-1"}


def test_over_http_an_admission_says_for_how_long_it_is_vouched_for() -> None:
    admitted = Admitted("c-1", 1_795_391_940_000, 58_740, replayed=False, emergency=False)
    by_websocket = sent(asked(), admitted)
    del by_websocket["re"]

    told = json.loads(frames.encode_text(answer_over_http(asked(), admitted, RECEIPTS, 15)))

    assert told == by_websocket | {"lease_seconds": 15}
