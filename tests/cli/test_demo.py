"""`callgate demo`: somebody sees calls within seconds, and Ctrl-C leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.gateways import CALLGATE, GatewayProcess
from tests.support.waiting import wait_until_sync

# It must need, and use, nothing of the user's own deployment.
ELSEWHERE = {
    "CALLGATE_REDIS_URL": "redis://127.0.0.1:9",
    "CALLGATE_DATABASE_URL": "postgresql://127.0.0.1:9/no",
}


@contextmanager
def demo(*flags: str, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [CALLGATE, "demo", *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **ELSEWHERE, "TMPDIR": str(temporary)},
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], *wanted: str) -> str:
    """Read lines until each of `wanted` was seen, in that order."""
    assert process.stdout is not None
    said, left, deadline = "", list(wanted), time.monotonic() + 60
    while left:
        line = process.stdout.readline()
        assert line, f"it ended before {left}: {said}"
        assert time.monotonic() < deadline, f"no {left} in {said}"
        said += line
        if line.startswith(left[0]):
            left.pop(0)
    return said


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid:
                found += [int(entry.name), *children(int(entry.name))]
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_minutes_run_out_calls_are_refused_and_an_upgrade_lets_them_in_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    with demo("--speed", "60", "--port", "0", temporary=tmp_path) as process:
        said = read_until(process, "admitted", "refused", "settled", "refused", "upgraded", "admitted")
        assert "minutes_exhausted" in said
        page, token = re.findall(r"^  (http://\S+/)#token=(\S+)$", said, re.MULTILINE)[0]
        usage = httpx.get(
            f"{page}v1/accounts/demo/usage", headers={"Authorization": f"Bearer {token}"}, trust_env=False
        )
        # A past was made up, too: there is something to see in the chart.
        assert usage.json()["points"][-1]["used_seconds"] > 0
        assert f"  {page}operator" in said
        watching = re.search(r"callgate (watch demo --url \S+ --token \S+)", said)
        assert watching
        seen = subprocess.run(
            [CALLGATE, *watching[1].split(), "--once"], capture_output=True, text=True, check=True
        )
        assert "remaining" in seen.stdout
        placing = re.search(r"callgate (call \S+ --url \S+ --token \S+)", said)
        assert placing
        # An emergency call, since there may be no minutes just now.
        asked = str(re.sub(r" \+\d+ ", " 112 ", placing[1]))
        command = [str(CALLGATE), *asked.split(), "--ring", "0", "--talk", "0"]
        placed = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "Ended after" in placed.stdout
        started = children(process.pid)
        process.send_signal(number)
        began = time.monotonic()
        assert process.stdout is not None
        rest = process.stdout.read()
        assert process.wait(30) == 0
        assert time.monotonic() - began < 15
        assert re.search(r"\d+ calls admitted, \d+ refused, \d+ settled", rest)
        assert "Traceback" not in said + rest
    assert len(started) >= 2  # the gateway and its engine
    wait_until_sync(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    assert list(tmp_path.glob("callgate-demo-*")) == []


@pytest.mark.slow
def test_it_goes_round_for_whoever_looks_later(tmp_path: Path) -> None:
    with demo("--speed", "300", "--port", "0", temporary=tmp_path) as process:
        said = read_until(
            process, "upgraded", "refused", "upgraded", "refused", "note", "new cycle", "admitted", "upgraded"
        )
    assert "failed" not in said
    assert re.findall(r"^upgraded +to (\w+)", said, re.MULTILINE)[:3] == ["Team", "Business", "Team"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start ends what was left")
def test_killed_it_leaves_nothing_running(tmp_path: Path) -> None:
    with demo("--port", "0", temporary=tmp_path) as process:
        read_until(process, "admitted")
        started = children(process.pid)
        assert len(started) >= 2
        process.kill()
        wait_until_sync(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 30)


def test_it_ends_by_itself_and_its_data_can_be_kept_and_used_again(tmp_path: Path) -> None:
    data = tmp_path / "kept"
    for _ in range(2):
        with demo("--port", "0", "--for", "1", "--data-dir", str(data), temporary=tmp_path) as process:
            read_until(process, "Callgate runs on", "admitted")
            assert process.stdout is not None
            process.stdout.read()
            assert process.wait(30) == 0
    assert (data / "callgate.db").exists()


def test_why_its_gateway_does_not_start_is_said(tmp_path: Path) -> None:
    data = tmp_path / "kept"
    # Made in real time, it cannot be gone on with on a simulated clock.
    with GatewayProcess(data):
        pass
    told = subprocess.run(
        [CALLGATE, "demo", "--port", "0", "--data-dir", data], capture_output=True, text=True
    )
    assert told.returncode == 1
    assert "--simulate" in told.stderr
    assert "Traceback" not in told.stderr
