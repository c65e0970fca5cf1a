"""`callgate serve` as an operator meets it: starting, refusing to start, draining and stopping."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from tests.support.gateways import CALLGATE, GatewayProcess
from tests.support.processes import command_line, descendants, none_running
from tests.support.waiting import wait_until_sync

SECRET = "0123456789abcdef0123456789abcdef"
StartGateway = Callable[..., GatewayProcess]


def serve(*flags: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a `callgate serve` that is expected to end by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CALLGATE_")}
    return subprocess.run(
        [CALLGATE, "serve", *flags], env={**clean, **environ}, capture_output=True, text=True, timeout=60
    )


def make_account(gateway: GatewayProcess) -> str:
    """Make an account with one staff member, and return the token of a device."""
    with gateway.client() as client:
        plan = {"name": "Team", "minutes": 100, "connected_channels": 2, "staff_seats": 5}
        client.put("/v1/plans/team", json=plan).raise_for_status()
        account = {"name": "Acme", "plan": "team", "billing_date": "2026-01-31", "time_zone": "UTC"}
        client.put("/v1/accounts/acme", json=account).raise_for_status()
        client.put("/v1/accounts/acme/staff/ana", json={}).raise_for_status()
        asked = {"account": "acme", "staff": "ana", "device": "desk", "scopes": ["call"], "ttl_seconds": 3600}
        made = client.post("/v1/tokens", json=asked).raise_for_status()
        return str(made.json()["token"])


def connect(gateway: GatewayProcess, token: str) -> websockets.sync.client.ClientConnection:
    return websockets.sync.client.connect(
        f"{gateway.websocket_url}/v1/device",
        subprotocols=[websockets.Subprotocol("callgate.v1")],
        additional_headers={"Authorization": f"Bearer {token}"},
    )


def test_with_nothing_given_it_runs_and_says_where_everything_is(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    assert gateway.url.startswith("http://127.0.0.1:")
    assert f"data directory  {gateway.data_dir}" in gateway.announcement
    assert f"admin key       {gateway.data_dir}/admin.key" in gateway.announcement
    assert gateway.admin_key not in gateway.announcement
    with gateway.client() as client:
        assert client.get("/healthz").status_code == 200
        wait_until_sync(lambda: client.get("/readyz").status_code == 200)
        answer = client.get("/v1/plans")
        assert answer.status_code == 200
        assert "server" not in answer.headers
    assert gateway.stop() == 0
    assert gateway.admin_key not in gateway.log()


def test_what_was_made_is_there_after_a_restart(start_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = start_gateway(data_dir=tmp_path)
    make_account(gateway)
    key = gateway.admin_key
    assert gateway.stop() == 0
    gateway = start_gateway(data_dir=tmp_path)
    assert gateway.admin_key == key
    with gateway.client() as client:
        assert client.get("/v1/accounts/acme/pool").json()["allocated_seconds"] == 6000


def test_its_log_lines_are_json_where_there_is_no_terminal(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    gateway.stop()
    for line in gateway.log().splitlines():
        assert "event" in json.loads(line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_leave_of_devices_and_leaves_nothing_running(
    start_gateway: StartGateway, number: signal.Signals
) -> None:
    gateway = start_gateway()
    with connect(gateway, make_account(gateway)) as device:
        assert json.loads(device.recv(10))["type"] == "welcome"
        started = descendants(gateway.process.pid)
        gateway.signal(number)
        notice = json.loads(device.recv(10))
        assert (notice["type"], notice["kind"]) == ("notice", "going_away")
        with pytest.raises(ConnectionClosed) as closed:
            device.recv(20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert gateway.process.wait(30) == 0
    assert started
    wait_until_sync(lambda: none_running(started))


def test_behind_a_balancer_it_says_that_it_goes_and_serves_on_for_a_while(
    start_gateway: StartGateway,
) -> None:
    """SIGTERM: devices go at once, but no request is refused before a balancer can know of it."""
    gateway = start_gateway("--drain-seconds", "12")
    token = make_account(gateway)
    with gateway.client() as client, connect(gateway, token) as device:
        device.recv(10)
        assert "connection" not in client.get("/v1/plans").headers
        gateway.signal(signal.SIGTERM)
        assert json.loads(device.recv(10))["kind"] == "going_away"
        with pytest.raises(ConnectionClosed) as closed:
            device.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert client.get("/readyz").status_code == 503
        answer = client.get("/v1/plans")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert gateway.process.wait(30) == 0


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_ctrl_c_waits_for_no_balancer(start_gateway: StartGateway, flags: tuple[str, ...]) -> None:
    gateway = start_gateway("--drain-seconds", "600", *flags)
    gateway.signal(signal.SIGINT)
    assert gateway.process.wait(30) == 0
    told = [json.loads(line) for line in gateway.log().splitlines()]
    assert {line["serving_on_seconds"] for line in told if line["event"] == "gateway.draining"} == {0.0}


@contextlib.contextmanager
def half_a_request(gateway: GatewayProcess) -> Iterator[None]:
    """Hold a connection on which a request never arrives whole: a stopping server waits for it."""
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        yield


def test_a_peer_that_does_not_finish_cannot_hold_up_the_stop(start_gateway: StartGateway) -> None:
    gateway = start_gateway("--drain-seconds", "1")
    with half_a_request(gateway):
        assert gateway.stop(timeout_seconds=15) == 0


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_a_second_signal_stops_at_once(start_gateway: StartGateway, flags: tuple[str, ...]) -> None:
    gateway = start_gateway("--drain-seconds", "600", *flags)
    everyone = descendants(gateway.process.pid)
    with half_a_request(gateway):
        gateway.signal(signal.SIGTERM)
        wait_until_sync(lambda: "gateway.draining" in gateway.log())
        gateway.signal(signal.SIGTERM)
        assert gateway.process.wait(15) == 128 + signal.SIGTERM
    assert none_running(everyone)


def test_a_frame_over_64_kib_closes_with_1009_and_one_of_64_kib_does_not(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    token = make_account(gateway)
    with connect(gateway, token) as device:
        device.recv(10)
        device.send("x" * 65536)
        assert json.loads(device.recv(10))["code"] == "bad_json"
        device.send("x" * 65537)
        with pytest.raises(ConnectionClosed) as closed:
            device.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_connections_are_not_compressed(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    with connect(gateway, make_account(gateway)) as device:
        assert device.protocol.extensions == []


def test_a_port_in_use_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = serve("--port", str(port), "--data-dir", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: Port {port} on 127.0.0.1 is in use by another program.")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--host", "192.0.2.1", "--admin-key", "k", "--token-secret", SECRET],
            "is not an address of this machine",
        ),
        (
            ["--host", "no-such-host.invalid", "--admin-key", "k", "--token-secret", SECRET],
            "cannot be resolved",
        ),
    ],
)
def test_a_host_that_is_not_ours_is_said(flags: list[str], said: str, tmp_path: Path) -> None:
    ended = serve("--port", "0", "--data-dir", tmp_path, *flags)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("flags", "environ", "said"),
    [
        (["--port", "eighty"], {}, "Error: --port: must be a whole number"),
        ([], {"CALLGATE_HOLD_SECONDS": "-1"}, "Error: CALLGATE_HOLD_SECONDS: must be from 0 to 3600"),
        (["--config", "/none.toml"], {}, "Error: The settings file /none.toml cannot be read"),
        (["--host", "0.0.0.0"], {}, "Error: CALLGATE_ADMIN_KEY and CALLGATE_TOKEN_SECRET must be set"),
        (["--no-such-flag"], {}, "No such option"),
    ],
)
def test_a_wrong_setting_ends_with_status_2_and_names_it(
    flags: list[str], environ: dict[str, str], said: str, tmp_path: Path
) -> None:
    ended = serve("--data-dir", tmp_path, *flags, **environ)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_looks_misspelt_is_warned_about(start_gateway: StartGateway) -> None:
    gateway = start_gateway(environ={"CALLGATE_GRACE_SECOND": "5"})
    gateway.stop()
    assert '"probably":"CALLGATE_GRACE_SECONDS"' in gateway.log()


def test_a_data_directory_in_use_is_refused(start_gateway: StartGateway, tmp_path: Path) -> None:
    first = start_gateway(data_dir=tmp_path)
    ended = serve("--port", "0", "--data-dir", tmp_path)
    assert ended.returncode == 1
    assert f"in use by another Callgate (process {first.process.pid})" in ended.stderr


@pytest.mark.parametrize("command", [[], ["serve"]])
def test_help_has_examples_and_every_flag(command: list[str]) -> None:
    told = subprocess.run([CALLGATE, *command, "--help"], capture_output=True, text=True, check=True).stdout
    if command:
        assert "Examples:" in told
        for flag in ("--redis-url", "--workers", "--simulate", "CALLGATE_TOKEN_SECRET"):
            assert flag in told
    else:
        assert "serve" in told


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestWorkers:
    """Several processes on one port."""

    def test_they_share_the_port_the_pool_and_the_metrics(self, start_gateway: StartGateway) -> None:
        gateway = start_gateway("--workers", "2")
        assert ", with 2 workers" in gateway.announcement
        token = make_account(gateway)
        for number in range(8):
            with connect(gateway, token) as device:
                device.recv(10)
                asked = {"type": "call.start", "id": 1, "call_id": f"c-{number}", "to": "+14155550100"}
                device.send(json.dumps(asked))
                assert json.loads(device.recv(10))["type"] == "call.admitted"
        with gateway.client() as client:
            assert client.get("/v1/accounts/acme/pool").json()["calls_in_progress"] == 8
            counted = client.get("/metrics").text
        assert 'callgate_admissions_total{decision="admitted",reason=""} 8.0' in counted
        assert gateway.stop() == 0

    def test_one_that_crashes_is_started_again_and_the_others_go_on(
        self, start_gateway: StartGateway
    ) -> None:
        gateway = start_gateway("--workers", "2")
        make_account(gateway)
        before = workers_of(gateway)
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        with gateway.client() as client:
            assert client.get("/v1/accounts/acme").status_code == 200
        wait_until_sync(lambda: len(workers_of(gateway)) == 2 and workers_of(gateway) != before, 20)
        assert "worker.ended" in gateway.log()
        assert gateway.stop() == 0

    def test_once_none_of_them_serves_the_port_it_is_closed(self, start_gateway: StartGateway) -> None:
        """A balancer that is refused goes elsewhere; one that is let in and hears nothing does not."""
        gateway = start_gateway("--workers", "2", "--drain-seconds", "1")
        with half_a_request(gateway):  # so that one takes its time to end
            gateway.signal(signal.SIGTERM)
            wait_until_sync(lambda: "gateway.draining" in gateway.log())
            wait_until_sync(lambda: is_refused(gateway))
            assert workers_of(gateway)
        assert gateway.process.wait(30) == 0

    def test_they_end_with_a_supervisor_that_is_killed(self, start_gateway: StartGateway) -> None:
        gateway = start_gateway("--workers", "2")
        everyone = descendants(gateway.process.pid)
        assert len(everyone) == 3  # two workers and the engine
        gateway.kill()
        wait_until_sync(lambda: none_running(everyone), 30)

    def test_a_refusal_is_said_once_and_ends_it(self, start_gateway: StartGateway, tmp_path: Path) -> None:
        gateway = start_gateway(data_dir=tmp_path)
        make_account(gateway)
        gateway.stop()
        ended = serve("--port", "0", "--workers", "3", "--simulate", "--data-dir", tmp_path)
        assert ended.returncode == 1
        assert ended.stderr.count("Error: ") == 1

    def test_a_wrong_setting_that_only_a_worker_can_tell_is_one_all_the_same(self, tmp_path: Path) -> None:
        """So that systemd does not start it again and again (RestartPreventExitStatus=2)."""
        address = "redis://127.0.0.1:6379/0?nonsense=1"
        ended = serve("--port", "0", "--workers", "2", "--redis-url", address, "--data-dir", tmp_path)
        assert ended.returncode == 2
        assert ended.stderr.count("Error: ") == 1
        assert "redis_url" in ended.stderr


def is_refused(gateway: GatewayProcess) -> bool:
    host, port = gateway.url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def workers_of(gateway: GatewayProcess) -> set[int]:
    started = descendants(gateway.process.pid)
    return {pid for pid in started if "gateway.cli.worker" in command_line(pid)}
