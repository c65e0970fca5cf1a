"""Programs that pip does not install, and what happens to a test that needs a missing one.

On a person's machine such a test is skipped, and the run's summary says loudly what was not tested. Where
`CALLGATE_REQUIRE_PEERS=1` is set (`.ci/run` sets it) the test fails.
"""

import os
from typing import NoReturn

import pytest

_missing: dict[str, str] = {}


def missing_peer(name: str, remedy: str) -> NoReturn:
    """Skip the asking test, or fail it where peers are required. `remedy` says how to get the peer."""
    _missing[name] = remedy
    message = f"{name} is missing, so this was NOT tested: {remedy}"
    if os.environ.get("CALLGATE_REQUIRE_PEERS") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name every missing peer at the end of the run."""
    if _missing:
        terminalreporter.section("NOT TESTED: missing peers", sep="!", red=True, bold=True)
        for name, remedy in sorted(_missing.items()):
            terminalreporter.line(f"{name}: {remedy}", red=True)
