"""The description of the API says what the code does: both are made from the same operations."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from gateway.api.openapi import openapi_document, operation_errors
from gateway.api.operations import PATH_KINDS, AnyOperation
from gateway.api.problems import STATUS
from gateway.api.routes import ALL_OPERATIONS
from gateway.domain.identifiers import ID_PATTERN

DOCUMENT: dict[str, Any] = json.loads(msgspec.json.encode(openapi_document(ALL_OPERATIONS)))

CONTRACT = [
    "PUT /v1/plans/{plan}",
    "GET /v1/plans",
    "GET /v1/plans/{plan}",
    "PUT /v1/accounts/{account}",
    "GET /v1/accounts/{account}",
    "GET /v1/accounts",
    "PUT /v1/accounts/{account}/plan",
    "DELETE /v1/accounts/{account}/plan/pending",
    "PUT /v1/accounts/{account}/staff/{staff}",
    "DELETE /v1/accounts/{account}/staff/{staff}",
    "GET /v1/accounts/{account}/staff",
    "PUT /v1/accounts/{account}/channels/{channel}",
    "DELETE /v1/accounts/{account}/channels/{channel}",
    "GET /v1/accounts/{account}/channels",
    "GET /v1/accounts/{account}/pool",
    "GET /v1/accounts/{account}/profile",
    "GET /v1/accounts/{account}/calls",
    "GET /v1/accounts/{account}/calls/{call_id}",
    "GET /v1/accounts/{account}/statements",
    "GET /v1/accounts/{account}/statements/{cycle_start}",
    "GET /v1/accounts/{account}/statements/{cycle_start}.csv",
    "GET /v1/accounts/{account}/usage",
    "POST /v1/tokens",
    "POST /v1/tokens/revoke",
    "POST /v1/calls",
    "POST /v1/calls/{call_id}/answered",
    "POST /v1/calls/{call_id}/end",
    "POST /v1/calls/{call_id}/resume",
    "POST /v1/calls/keepalive",
    "GET /v1/policy",
    "PUT /v1/policy",
    "GET /v1/simulation/clock",
    "POST /v1/simulation/clock",
    "GET /v1/status",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
]


def name_of(operation: AnyOperation) -> str:
    return f"{operation.method} {operation.path}"


def references(value: Any) -> set[str]:
    """Every `$ref` within."""
    if isinstance(value, dict):
        found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*(references(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(references(inner) for inner in value))
    return set()


def test_it_describes_these_addresses() -> None:
    described = [
        f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods
    ]

    assert sorted(described) == sorted(CONTRACT)
    assert sorted(map(name_of, ALL_OPERATIONS)) == sorted(CONTRACT)


def test_every_reference_leads_somewhere_and_no_schema_is_left_over() -> None:
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}

    assert references(DOCUMENT) == schemas


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation.handler.__name__ for operation in ALL_OPERATIONS]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("operation", ALL_OPERATIONS, ids=name_of)
def test_every_answer_of_an_operation_is_described(operation: AnyOperation) -> None:
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]
    statuses = {str(status) for status in operation.answers}
    statuses |= {str(STATUS[error]) for error in operation_errors(operation)}

    assert set(described["responses"]) == statuses
    assert ("requestBody" in described) == (operation.body is not None)
    assert bool(described["security"]) == (operation.access != "open")
    for status, answer in described["responses"].items():
        if int(status) >= 400 and int(status) not in operation.answers:
            assert list(answer["content"]) == ["application/problem+json"]


@pytest.mark.parametrize("operation", ALL_OPERATIONS, ids=name_of)
def test_every_name_in_a_path_is_described(operation: AnyOperation) -> None:
    names = re.findall(r"\{(\w+)\}", operation.path)
    parameters = DOCUMENT["paths"][operation.path][operation.method.lower()]["parameters"]

    assert set(names) <= set(PATH_KINDS)
    assert [each["name"] for each in parameters if each["in"] == "path"] == names
    assert [each["name"] for each in parameters if each["in"] == "query"] == [
        field.encode_name for field in msgspec.structs.fields(operation.query)
    ]


def test_patterns_are_written_as_json_schema_reads_them() -> None:
    text = json.dumps(DOCUMENT)

    assert "\\\\A" not in text
    assert "\\\\Z" not in text
    account = DOCUMENT["paths"]["/v1/accounts/{account}"]["get"]["parameters"][0]
    assert account["schema"]["pattern"] == ID_PATTERN


def test_bodies_refuse_unknown_fields_and_say_so() -> None:
    for operation in ALL_OPERATIONS:
        if operation.body is not None:
            schema = DOCUMENT["components"]["schemas"][operation.body.__name__]
            assert schema["additionalProperties"] is False


def test_both_credentials_are_described() -> None:
    assert set(DOCUMENT["components"]["securitySchemes"]) == {"adminKey", "token"}
