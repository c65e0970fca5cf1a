"""The files of deploy/ are accepted by what they are for."""

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis

from gateway.cli import main as callgate
from gateway.cli.stopping import STOPPING_SECONDS
from gateway.settings import Settings, load_settings
from tests.docs.pages import ROOT
from tests.support.engines import KINDS, engine_binary
from tests.support.waiting import wait_until_sync

DEPLOY: Final = ROOT / "deploy"
ENGINE_STOP_SECONDS: Final = 20


@pytest.fixture(params=KINDS)
def configured_engine(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A server of each kind, started with deploy/redis.conf, listening and writing elsewhere."""
    directory = Path(tempfile.mkdtemp(prefix="cg-conf-"))
    socket = directory / "s"
    process = subprocess.Popen(
        [
            *(engine_binary(request.param), DEPLOY / "redis.conf"),
            *("--port", "0", "--unixsocket", socket, "--dir", directory),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    client = redis.Redis(unix_socket_path=str(socket), protocol=2)

    def answers() -> bool:
        assert process.poll() is None, process.communicate()[0]
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    try:
        wait_until_sync(answers)
        yield client
    finally:
        client.close()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        shutil.rmtree(directory)


def test_engines_take_the_configuration_and_are_safe_by_it(configured_engine: redis.Redis) -> None:
    asked = configured_engine.config_get("append*", "maxmemory-policy", "save", "protected-mode")
    assert {name: asked[name] for name in ("appendonly", "appendfsync", "maxmemory-policy", "save")} == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    assert asked["protected-mode"] == "yes"


def test_the_settings_file_is_accepted() -> None:
    settings = load_settings(config_path=DEPLOY / "callgate.toml")
    assert settings.data_dir == Path("/var/lib/callgate")
    assert settings.emergency_numbers == Settings().emergency_numbers


def test_the_unit_starts_what_there_is_and_waits_long_enough_for_its_end() -> None:
    unit = (DEPLOY / "callgate.service").read_text(encoding="utf-8")
    (started,) = re.findall(r"^ExecStart=\S+/callgate (.*)$", unit, re.MULTILINE)
    command, *flags = started.split()
    found = callgate.commands.get(command) or callgate.get_command(None, command)  # type: ignore[arg-type]
    assert found
    options = {flag for parameter in found.params for flag in parameter.opts}
    assert {flag for flag in flags if flag.startswith("--")} <= options
    (stop_seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(stop_seconds) >= Settings().drain_seconds + STOPPING_SECONDS + ENGINE_STOP_SECONDS


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    # It looks whether the program can be started: put one where it says.
    program = tmp_path / "callgate"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    unit = (DEPLOY / "callgate.service").read_text(encoding="utf-8")
    copy = tmp_path / "callgate.service"
    copy.write_text(unit.replace("/opt/callgate/bin/callgate serve", f"{program} serve"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
