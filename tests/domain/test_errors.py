from __future__ import annotations

import gateway.domain.errors as errors
from gateway.domain.errors import CallgateError, CallIdUsed, FieldError, InvalidField, SeatLimit

CONTRACT = [
    "bad_json",
    "unauthorized",
    "forbidden",
    "not_found",
    "call_unknown",
    "call_id_used",
    "call_id_conflict",
    "plan_in_use",
    "seat_limit",
    "channel_limit",
    "immutable_field",
    "too_large",
    "invalid_field",
    "too_fast",
    "engine_unavailable",
    "database_unavailable",
    "unknown_type",
]

FOR_THE_COMMAND_LINE = ["settings_error", "start_refused"]


def error_classes() -> list[type[CallgateError]]:
    return [
        member
        for name, member in vars(errors).items()
        if isinstance(member, type)
        and issubclass(member, CallgateError)
        and member is not CallgateError
        and not name.startswith("_")
    ]


def is_narrower(error: type[CallgateError]) -> bool:
    """Whether clients are told it as the error that it is a kind of."""
    return error.__bases__[0] in error_classes()


def test_every_code_of_the_contract_is_one_error() -> None:
    codes = [each.code for each in error_classes() if not is_narrower(each)]
    assert sorted(codes) == sorted(CONTRACT + FOR_THE_COMMAND_LINE)


def test_the_tree_in_the_docstring_shows_every_error_with_its_code() -> None:
    lines = [line.split("──")[1].split() for line in (errors.__doc__ or "").splitlines() if "──" in line]
    assert [(line[0], line[1]) for line in lines] == [(each.__name__, each.code) for each in error_classes()]


def test_an_error_says_what_is_wrong_in_a_sentence() -> None:
    assert str(CallIdUsed()) == CallIdUsed.summary
    assert CallIdUsed("c-1 has ended.").message == str(CallIdUsed("c-1 has ended.")) == "c-1 has ended."


def test_a_limit_says_what_it_is_and_what_is_in_use() -> None:
    error = SeatLimit(limit=5, in_use=6)
    assert (error.limit, error.in_use) == (5, 6)
    assert error.members == {"limit": 5, "in_use": 6}


def test_invalid_fields_are_all_named() -> None:
    error = InvalidField(
        errors=[FieldError("to", "is missing"), FieldError("minutes", "must not be negative")]
    )
    assert error.message == "to: is missing; minutes: must not be negative"
    assert error.members["errors"] == [
        {"field": "to", "message": "is missing"},
        {"field": "minutes", "message": "must not be negative"},
    ]
