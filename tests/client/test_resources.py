"""The client's shapes are the gateway's: every field of an answer is there, under its name."""

import subprocess
import sys

import msgspec
import pytest

from gateway.api.wire import frames as served_frames
from gateway.api.wire import resources as served
from gateway.client import frames, resources

NAMES = {"CallRecord": "Call"}


def shapes(module: object) -> dict[str, type[msgspec.Struct]]:
    return {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("name", sorted(shapes(resources)))
def test_a_resource_has_the_fields_that_the_gateway_answers(name: str) -> None:
    assert fields(shapes(resources)[name]) == fields(shapes(served)[NAMES.get(name, name)])


@pytest.mark.parametrize("name", sorted(shapes(frames)))
def test_a_frame_has_the_fields_and_the_type_that_the_gateway_knows(name: str) -> None:
    ours, theirs = shapes(frames)[name], shapes(served_frames)[name]
    assert fields(ours) == fields(theirs)
    assert ours.__struct_config__.tag == theirs.__struct_config__.tag


def fields(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def test_the_client_needs_nothing_of_a_server() -> None:
    servers = {"starlette", "uvicorn", "redis", "sqlalchemy", "structlog", "gateway.settings"}
    program = f"import sys, gateway.client; print(*{servers} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
