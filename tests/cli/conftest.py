"""A gateway for the commands to talk to, and the commands."""

import os
import re
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.support.gateways import GatewayProcess


class Callgate:
    """Runs `callgate` as a person at a gateway's machine would."""

    def __call__(self, *arguments: str, status: int = 0, **environ: str) -> Result:
        """Run it; it must end with `status`, and if that is 1 with one line that says why."""
        result = CliRunner().invoke(main, arguments, env=environ, prog_name="callgate")
        assert result.exit_code == status, result.output
        if status == 1:
            assert result.stderr.startswith("Error: "), result.output
            assert result.stderr.count("\n") == 1, result.output
        return result

    def check(self, *flags: str) -> str:
        """Run `callgate check`, which must find something, and return what it says."""
        result = CliRunner().invoke(main, ["check", *flags], prog_name="callgate")
        assert (result.exit_code, result.stderr) == (1, ""), result.output
        return result.stdout


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One for all tests of a module: each works on accounts of its own. Its billing clock stands still."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), "--simulate")
    with process:
        yield process


@pytest.fixture
def callgate(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Callgate:
    """`callgate`, pointed at the gateway and where it keeps its key."""
    for name in [name for name in os.environ if name.startswith("CALLGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CALLGATE_URL", gateway.url)
    monkeypatch.setenv("CALLGATE_DATA_DIR", str(gateway.data_dir))
    return Callgate()


@pytest.fixture
def business(callgate: Callgate, request: pytest.FixtureRequest) -> str:
    """An account of the test's own, with a plan of 10 minutes, Ana, and the channel `main`; its id."""
    account = re.sub("[^a-z0-9]+", "-", str(request.node.name).removeprefix("test_").lower())[:100]
    callgate("plan", "put", "ten", "--name", "Ten", "--minutes", "10", "--channels", "1", "--seats", "2")
    callgate("account", "put", account, "--name", "A business", "--plan", "ten")
    callgate("staff", "put", account, "ana")
    callgate("channel", "put", account, "main")
    return account
