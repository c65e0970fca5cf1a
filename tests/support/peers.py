"""Programs that pip does not install, and what happens to a test that needs a missing one.

On a person's machine such a test is skipped, and the run's summary says loudly what was not tested. Where
`CALLGATE_REQUIRE_PEERS=1` is set (`.ci/run` sets it) the test fails.
"""

import os
from typing import Final, NoReturn

import pytest

NOT_TESTED: Final = "is missing, so this was NOT tested: "


def missing_peer(name: str, remedy: str) -> NoReturn:
    """Skip the asking test, or fail it where peers are required. `remedy` says how to get the peer."""
    message = f"{name} {NOT_TESTED}{remedy}"
    if os.environ.get("CALLGATE_REQUIRE_PEERS") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name every missing peer at the end of the run."""
    # From the reports, as tests may have run in other processes.
    skipped = (str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()))
    missing = sorted({reason for reason in skipped if NOT_TESTED in reason})
    if missing:
        terminalreporter.section("NOT TESTED: missing peers", sep="!", red=True, bold=True)
        for reason in missing:
            terminalreporter.line(reason.removeprefix("Skipped: "), red=True)
