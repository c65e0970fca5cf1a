"""What `/openapi.json` says is what a running gateway does, for whatever schemathesis thinks of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gateways import GatewayProcess

SCHEMATHESIS = Path(sys.executable).with_name("st")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("credential", ["the admin key", "none"])
def test_no_request_is_answered_otherwise_than_described(
    start_gateway: Callable[..., GatewayProcess], credential: str
) -> None:
    gateway = start_gateway()
    headers = ["-H", f"Authorization: Bearer {gateway.admin_key}"] if credential != "none" else []

    found = subprocess.run(
        [
            SCHEMATHESIS,
            "run",
            f"{gateway.url}/openapi.json",
            *headers,
            "--checks",
            ",".join(CHECKS),
            "--max-examples",
            "25",
            "--seed",
            "1",
            "--request-timeout",
            "30",
            "--no-color",
        ],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=gateway.data_dir,
    )

    assert found.returncode == 0, found.stdout + found.stderr
