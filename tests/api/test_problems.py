"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

import inspect
import json

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from gateway.api import problems
from gateway.api.problems import STATUS, answer_callgate_error, answer_http_exception, answer_unexpected_error
from gateway.domain import errors
from gateway.domain.errors import (
    CallgateError,
    DatabaseUnavailable,
    EngineUnavailable,
    FieldError,
    InvalidField,
    SeatLimit,
    SettingsError,
    StartRefused,
    TooFast,
    Unauthorized,
    UnknownType,
)

NOT_FOR_HTTP = {SettingsError, StartRefused, UnknownType}


def client_of(error: Exception) -> TestClient:
    """A client of an application whose every answer is this error."""

    async def fail(_: Request) -> Response:
        raise error

    app = Starlette(
        routes=[Route("/fails", fail)],
        exception_handlers={
            CallgateError: answer_callgate_error,
            HTTPException: answer_http_exception,
            Exception: answer_unexpected_error,
        },
    )
    return TestClient(app, raise_server_exceptions=False)


def test_a_problem_has_the_rfc_s_members_and_a_code() -> None:
    answer = client_of(SeatLimit("All 5 seats are taken.", limit=5, in_use=5)).get("/fails")

    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:callgate:problem:seat_limit",
        "title": SeatLimit.summary,
        "status": 409,
        "detail": "All 5 seats are taken.",
        "code": "seat_limit",
        "limit": 5,
        "in_use": 5,
    }


def test_every_error_of_the_domain_has_its_status() -> None:
    concrete = {
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, CallgateError) and "code" in vars(each)
    }

    assert concrete - NOT_FOR_HTTP <= set(STATUS)
    assert not NOT_FOR_HTTP & set(STATUS)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("bad_json", 400),
        ("unauthorized", 401),
        ("forbidden", 403),
        ("not_found", 404),
        ("call_unknown", 404),
        ("call_id_used", 409),
        ("call_id_conflict", 409),
        ("plan_in_use", 409),
        ("seat_limit", 409),
        ("channel_limit", 409),
        ("immutable_field", 409),
        ("too_large", 413),
        ("invalid_field", 422),
        ("too_fast", 429),
        ("engine_unavailable", 503),
        ("database_unavailable", 503),
    ],
)
def test_the_contract_s_codes_have_the_contract_s_statuses(code: str, status: int) -> None:
    assert {error.code: of for error, of in STATUS.items()}[code] == status


def test_invalid_fields_are_all_listed() -> None:
    wrong = InvalidField(errors=[FieldError("to", "is missing"), FieldError("call_id", "is too long")])

    answer = client_of(wrong).get("/fails")

    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"field": "to", "message": "is missing"},
        {"field": "call_id", "message": "is too long"},
    ]


@pytest.mark.parametrize("error", [TooFast(), EngineUnavailable(), DatabaseUnavailable()])
def test_what_passes_says_when_to_come_back(error: CallgateError) -> None:
    assert int(client_of(error).get("/fails").headers["retry-after"]) > 0


def test_who_is_unknown_is_told_how_to_authenticate() -> None:
    assert client_of(Unauthorized()).get("/fails").headers["www-authenticate"] == "Bearer"


def test_an_unknown_address_is_a_problem() -> None:
    answer = client_of(Unauthorized()).get("/nowhere")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_method_that_is_not_taken_is_a_problem_that_names_those_that_are() -> None:
    answer = client_of(Unauthorized()).delete("/fails")

    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("error", [ZeroDivisionError("secret details"), SettingsError("the secret setting")])
def test_a_fault_of_the_gateway_tells_nothing_of_the_inside(error: Exception) -> None:
    answer = client_of(error).get("/fails")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.text)["code"] == "internal_error"
    assert "secret" not in answer.text


def test_the_codes_that_http_adds_are_not_the_contract_s() -> None:
    added = {each.code for each in STATUS if each.__module__ == problems.__name__}

    assert added == {"method_not_allowed", "upgrade_required", "internal_error", "going_away"}
