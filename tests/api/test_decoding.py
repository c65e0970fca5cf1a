"""Reading bodies and queries: what is taken, and that every wrong field is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from gateway.api.wire.decoding import MAX_DEPTH, MAX_ERRORS, convert, decode
from gateway.api.wire.requests import (
    AccountFields,
    AccountsPage,
    AnsweredRequest,
    CallsPage,
    ClockMove,
    Page,
    PlanFields,
    StaffFields,
    StartRequest,
    TokenRequest,
    given_fields,
)
from gateway.domain.errors import BadJson, InvalidField


def wrong_fields(body: Any, shape: type[Struct]) -> dict[str, str]:
    """What is said to be wrong with a body."""
    with pytest.raises(InvalidField) as refused:
        decode(json.dumps(body).encode(), shape)
    assert refused.value.errors
    return {error.field: error.message for error in refused.value.errors}


def wrong_parameters(query: dict[str, str], shape: type[Struct]) -> dict[str, str]:
    """What is said to be wrong with a query."""
    with pytest.raises(InvalidField) as refused:
        convert(query, shape)
    return {error.field: error.message for error in refused.value.errors}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"{} {}", b"NaN", b"\xff\xfe", b'"\xff"', b'{"to": "\\ud800"}', b"{'to': 1}"],
)
def test_what_is_not_json_is_bad_json(body: bytes) -> None:
    with pytest.raises(BadJson):
        decode(body, StartRequest)


@pytest.mark.parametrize("body", [b"[]", b"null", b"true", b"5", b'"text"', b"[{}]"])
def test_what_is_no_object_is_bad_json(body: bytes) -> None:
    with pytest.raises(BadJson, match="not an object"):
        decode(body, StartRequest)


def test_what_is_nested_too_deeply_is_bad_json() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = b'{"call_id":' + opening * 30_000 + b"1" + closing * 30_000 + b"}"
        with pytest.raises(BadJson, match=f"more than {MAX_DEPTH} deep"):
            decode(deep, StartRequest)


def test_brackets_within_a_string_are_not_nesting() -> None:
    body = {"call_id": "c-1", "to": '\\"[{' * 40}

    assert decode(json.dumps(body).encode(), StartRequest).to == body["to"]


def test_many_brackets_side_by_side_are_not_nesting() -> None:
    assert "scopes" in wrong_fields({"account": "acme", "scopes": [[]] * 40}, TokenRequest)


def test_all_wrong_fields_are_named() -> None:
    wrong = wrong_fields(
        {
            "name": "",
            "minutes": "10",
            "connected_channels": -1,
            "staff_seats": 2.5,
            "max_concurrent_calls": True,
            "monthly_price": {"amount": "4,90", "currency": "usd", "vat": 1},
            "color": "red",
        },
        PlanFields,
    )

    assert wrong == {
        "color": "unknown field",
        "name": "must be a string of length >= 1",
        "minutes": "must be an integer, got a string",
        "connected_channels": "must be an integer >= 0",
        "staff_seats": "must be an integer, got a number with a fraction",
        "max_concurrent_calls": "must be an integer or null, got true or false",
        "monthly_price.vat": "unknown field",
        "monthly_price.amount": 'must be an amount of money in decimal, as in "49.00"',
        "monthly_price.currency": 'must be an ISO 4217 currency code, as in "USD"',
    }


def test_missing_fields_are_named() -> None:
    assert wrong_fields({}, TokenRequest) == {"account": "is missing", "scopes": "is missing"}


def test_a_choice_is_told_by_what_can_be_chosen() -> None:
    wrong = wrong_fields({"account": "acme", "scopes": ["call", "sing"], "ttl_seconds": 59}, TokenRequest)

    assert wrong == {
        "scopes[1]": "must be one of: call, watch, numbers",
        "ttl_seconds": "must be an integer >= 60",
    }


def test_a_field_with_a_check_of_its_own_is_named_with_the_others() -> None:
    zone = "must be a time zone of the IANA database, as in America/New_York"

    assert wrong_fields({"time_zone": "Mars/Olympus"}, AccountFields) == {"time_zone": zone}
    assert wrong_fields({"time_zone": "Mars/Olympus", "billing_date": "2026-02-30"}, AccountFields) == {
        "billing_date": "must be a date as in 2026-01-31",
        "time_zone": zone,
    }


@pytest.mark.parametrize("call_id", ["", "a" * 129, "a b", "a/b", "c-1\n", "é", "c\x00", "•"])
def test_an_id_is_made_of_the_ids_characters(call_id: str) -> None:
    assert "call_id" in wrong_fields({"call_id": call_id, "to": "112"}, StartRequest)


@pytest.mark.parametrize("call_id", ["a", "a" * 128, "A-z.0_9~:@+", ".", "-"])
def test_an_id_of_these_characters_is_taken(call_id: str) -> None:
    body = json.dumps({"call_id": call_id, "to": ""}).encode()

    assert decode(body, StartRequest).call_id == call_id


def test_a_destination_is_any_text_of_up_to_256_characters() -> None:
    assert decode(json.dumps({"call_id": "c", "to": "é" * 256}).encode(), StartRequest).to == "é" * 256
    assert wrong_fields({"call_id": "c", "to": "1" * 257}, StartRequest) == {
        "to": "must be a string of length <= 256"
    }


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "\x7f"])
def test_a_name_has_no_control_characters(name: str) -> None:
    assert "name" in wrong_fields({"name": name}, StaffFields)


def test_how_long_ago_is_any_integer() -> None:
    for ago_ms in (-5, 0, 10**30):
        assert (
            decode(json.dumps({"answered_ago_ms": ago_ms}).encode(), AnsweredRequest).answered_ago_ms
            == ago_ms
        )
    ill: tuple[Any, ...] = (1.5, "5", None, True, [])
    for wrong in ill:
        assert "answered_ago_ms" in wrong_fields({"answered_ago_ms": wrong}, AnsweredRequest)


def test_a_field_left_out_differs_from_one_that_is_null() -> None:
    assert given_fields(decode(b"{}", StaffFields)) == {}
    assert given_fields(decode(b'{"name": null}', StaffFields)) == {"name": None}


def test_of_a_name_given_twice_the_last_value_counts() -> None:
    assert decode(b'{"name": "a", "name": "b"}', StaffFields).name == "b"
    assert decode(b'{"name": 5, "name": "b"}', StaffFields).name == "b"


def test_an_answer_names_a_limited_number_of_wrong_fields() -> None:
    assert len(wrong_fields({f"f{i}": 0 for i in range(5_000)}, StaffFields)) == MAX_ERRORS


def test_the_clock_is_not_set_beyond_the_calendar() -> None:
    assert decode(b'{"at_ms": 253370764800000}', ClockMove).at_ms == 253_370_764_800_000
    assert set(wrong_fields({"at_ms": 253_370_764_800_001, "speed": 100_001}, ClockMove)) == {
        "at_ms",
        "speed",
    }


def test_a_page_has_a_hundred_items_unless_asked_otherwise() -> None:
    assert convert({}, Page) == Page(limit=100, after="")
    assert convert({"limit": "1000", "after": "x"}, Page) == Page(limit=1000, after="x")


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "", " 5", "five", "1.5", "٣", "null"])
def test_a_limit_is_from_1_to_1000(limit: str) -> None:
    assert "limit" in wrong_parameters({"limit": limit}, Page)


def test_all_wrong_parameters_are_named() -> None:
    wrong = wrong_parameters(
        {"limit": "x", "cycle": "2026-11-15", "staff": "a b", "cylce": "2026-11-15T05:00:00Z"}, CallsPage
    )

    assert wrong == {
        "cylce": "unknown field",
        "cycle": "must be an instant in RFC 3339, in UTC with Z, as in 2026-11-15T05:00:00Z",
        "staff": "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ + -",
        "limit": "must be an integer",
    }


def test_the_text_null_is_text() -> None:
    assert convert({"staff": "null"}, CallsPage).staff == "null"
    assert convert({"q": "null"}, AccountsPage) == AccountsPage(q="null")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
field_names = st.sampled_from(
    ["name", "minutes", "connected_channels", "staff_seats", "max_concurrent_calls", "monthly_price", "x"]
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(field_names, json_values))
def test_every_object_is_read_or_told_what_is_wrong_with_it(body: dict[str, Any]) -> None:
    wrong: set[str] = set()
    read: set[str] = set()
    try:
        read = set(given_fields(decode(json.dumps(body).encode(), PlanFields)))
    except InvalidField as refused:
        wrong = {error.field.partition(".")[0] for error in refused.errors}

    assert wrong <= set(body)
    assert wrong or read == set(body)
