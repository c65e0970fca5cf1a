"""`callgate watch`: a pool in the terminal, in a pipe, and once."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from typing import IO, Self

import pytest

from tests.cli.conftest import Callgate
from tests.support.gateways import CALLGATE, GatewayProcess
from tests.support.waiting import wait_until_sync

BIG = ("--name", "Big", "--minutes", "20", "--channels", "5", "--seats", "5")


def environ(gateway: GatewayProcess) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CALLGATE_")}
    return {
        **clean,
        "CALLGATE_URL": gateway.url,
        "CALLGATE_DATA_DIR": str(gateway.data_dir),
        "TERM": "xterm",
        "COLUMNS": "120",
    }


def test_once_shows_the_pool_as_it_is(callgate: Callgate, business: str) -> None:
    told = callgate("watch", business, "--once").output
    assert f"{business}  ten" in told
    assert "0% used" in told
    assert "remaining 10:00   used 0:00   of 10:00   seats 1/2   channels 1/1" in told
    pool = json.loads(callgate("watch", business, "--once", "--json").output)
    assert (pool["account"], pool["remaining_seconds"]) == (business, 600)


def test_an_account_that_is_not_there_ends_it(callgate: Callgate) -> None:
    assert "There is no account none." in callgate("watch", "none", status=1).stderr


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, gateway: GatewayProcess, *arguments: str) -> None:
        self._fd, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [CALLGATE, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ(gateway),
            start_new_session=True,
        )
        os.close(theirs)
        self.raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._fd)

    def until(self, shown: str) -> None:
        """Wait until `shown` has been written, colours and movements of the cursor left out."""
        wait_until_sync(lambda: self._read() and shown in self.text, 20)

    def forget(self) -> None:
        """Forget what has been shown until now."""
        self._read()
        self.raw = b""

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode(errors="replace"))

    def press_ctrl_c(self) -> int:
        """Press it, and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        wait_until_sync(lambda: self._read() and self.process.poll() is not None, 20)
        return self.process.wait()

    def _read(self) -> bool:
        while select.select([self._fd], [], [], 0)[0]:
            try:
                self.raw += os.read(self._fd, 65536)
            except OSError:  # the other side is closed
                break
        return True


def test_in_a_terminal_the_minutes_fall_and_ctrl_c_leaves_it_clean(
    callgate: Callgate, business: str, gateway: GatewayProcess
) -> None:
    calling_flags = ("--account", business, "--staff", "ana", "--ring", "0")
    with (
        Terminal(gateway, "watch", business) as watching,
        Terminal(gateway, "call", "+14155550100", *calling_flags) as calling,
    ):
        watching.until("remaining 10:00")
        calling.until("Answered.")
        calling.until("free so far")
        watching.until("talking")
        callgate("clock", "--advance", "45s")
        watching.until("remaining 9:15")
        calling.until("remaining 9:15")
        callgate("clock", "--speed", "1")
        watching.until("remaining 9:14")
        assert calling.press_ctrl_c() == 0
        assert "billed" in calling.text
        assert watching.press_ctrl_c() == 0
        for terminal in (watching, calling):
            assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l"), "no cursor"
            assert "Traceback" not in terminal.text


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["lines", "json"])
def test_in_a_pipe_it_writes_what_changed(
    callgate: Callgate, business: str, gateway: GatewayProcess, flags: list[str]
) -> None:
    with subprocess.Popen(
        [CALLGATE, "watch", business, *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environ(gateway),
        text=True,
    ) as process:
        assert process.stdout is not None
        assert read_until(process.stdout, lambda line: remaining(line) == 600)
        callgate("plan", "put", "big", *BIG)
        callgate("account", "plan", business, "big")
        assert read_until(process.stdout, lambda line: remaining(line) == 1200)
        process.terminate()
        assert process.wait(20) == 0


def remaining(line: str) -> int:
    if line.startswith("{"):
        return int(json.loads(line)["remaining_seconds"])
    found = re.search(r"remaining (\d+):(\d\d)", line)
    assert found, line
    return int(found[1]) * 60 + int(found[2])


def read_until(lines: IO[str], wanted: Callable[[str], bool]) -> bool:
    deadline = time.monotonic() + 20
    for line in lines:
        if wanted(line):
            return True
        assert time.monotonic() < deadline
    return False


def test_a_gateway_that_goes_away_is_said_and_waited_for(
    start_gateway: Callable[..., GatewayProcess],
) -> None:
    gateway = start_gateway()
    with gateway.client() as client:
        plan = {"name": "Ten", "minutes": 10, "connected_channels": 1, "staff_seats": 1}
        client.put("/v1/plans/ten", json=plan).raise_for_status()
        client.put("/v1/accounts/acme", json={"name": "Acme", "plan": "ten"}).raise_for_status()
    with Terminal(gateway, "watch", "acme") as watching:
        watching.until("remaining 10:00")
        port = gateway.url.rpartition(":")[2]
        gateway.stop()
        watching.until("cannot be reached")
        start_gateway("--port", port, data_dir=gateway.data_dir)
        deadline = time.monotonic() + 20
        while True:
            # What was drawn before it was connected again shows the pool, too, as it was.
            watching.forget()
            watching.until("remaining 10:00")
            if "Not live" not in watching.text:
                break
            assert time.monotonic() < deadline
        assert watching.press_ctrl_c() == 0
