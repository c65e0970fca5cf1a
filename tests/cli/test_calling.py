"""`callgate call`: a softphone in the terminal."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Callgate
from tests.support.gateways import CALLGATE, GatewayProcess
from tests.support.waiting import wait_until_sync

TO = "+14155550100"


def test_a_call_is_placed_answered_and_hung_up(callgate: Callgate, business: str) -> None:
    said = callgate("call", TO, "--account", business, "--staff", "ana", "--ring", "0", "--talk", "0").output
    told = [line.split(".")[0] for line in said.splitlines()]
    assert told == [
        f"Calling {TO} as ana/terminal of {business} ",
        "Admitted",
        "Answered",
        "Hanging up ",
        "Ended after 0",
    ]
    assert "free: nothing was billed. 10:00 min remaining." in said


def test_with_a_token_it_is_that_devices_call(callgate: Callgate, business: str) -> None:
    token = callgate("token", business, "--staff", "ana", "--device", "desk").stdout.strip()
    told = callgate(
        *("call", TO, "--call-id", "c-1", "--channel", "main", "--ring", "0", "--talk", "0", "--json"),
        CALLGATE_TOKEN=token,
    )
    settled = json.loads(told.output)
    assert (settled["call_id"], settled["billed_seconds"], settled["ended_by"]) == ("c-1", 0, "hangup")
    assert settled["remaining_seconds"] == 600
    calls = json.loads(callgate("account", "calls", business, "--json").output)
    assert [(each["device"], each["channel"], each["to"]) for each in calls] in ([], [("desk", "main", TO)])


def test_a_token_is_not_given_beside_whose_call_it_is(callgate: Callgate, business: str) -> None:
    as_ana = ("--account", business, "--staff", "ana", "--ring", "0", "--talk", "0")
    refused = callgate("call", TO, "--token", "another", *as_ana, status=2)
    assert "Give --token, or --account and --staff, not both." in refused.stderr
    assert "not both" in callgate("call", TO, "--token", "another", *as_ana[:2], status=2).stderr


def test_a_token_of_the_environment_yields_to_whose_call_it_is(callgate: Callgate, business: str) -> None:
    as_ana = ("--account", business, "--staff", "ana", "--ring", "0", "--talk", "0")
    assert "Ended" in callgate("call", TO, *as_ana, CALLGATE_TOKEN="another").output


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["nonsense"], "Refused (destination_invalid)"),
        ([TO, "--channel", "none"], "Refused (channel_unknown)"),
        ([TO, "--call-id", "c-1"], "already ended"),
    ],
    ids=["no number", "no such channel", "an id that was used"],
)
def test_a_refusal_is_said_in_one_line(
    callgate: Callgate, business: str, asked: list[str], said: str
) -> None:
    as_ana = ("--account", business, "--staff", "ana", "--ring", "0", "--talk", "0", "--json")
    callgate("call", TO, "--call-id", "c-1", *as_ana)
    assert said in callgate("call", *asked, *as_ana, status=1).stderr


def test_a_wrong_token_is_said_in_one_line(callgate: Callgate) -> None:
    assert "not valid" in callgate("call", TO, "--token", "wrong", status=1).stderr


def test_an_emergency_call_asks_for_no_permission(callgate: Callgate, business: str) -> None:
    callgate("account", "put", business, "--status", "suspended")
    as_ana = ("--account", business, "--staff", "ana", "--ring", "0", "--talk", "0")
    said = callgate("call", "112", *as_ana).output
    assert "Placed" in said
    assert "free: nothing was billed" in said


@contextlib.contextmanager
def calling(gateway: GatewayProcess, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Run `callgate call` as a process of its own, to send signals to."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CALLGATE_")}
    environ |= {"CALLGATE_URL": gateway.url, "CALLGATE_DATA_DIR": str(gateway.data_dir)}
    process = subprocess.Popen(
        [CALLGATE, "call", TO, *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environ,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_hangs_up_and_says_what_was_billed(
    callgate: Callgate, business: str, gateway: GatewayProcess, number: signal.Signals
) -> None:
    with calling(gateway, "--account", business, "--staff", "ana", "--ring", "0") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Answered"):
                break
        callgate("clock", "--advance", "90s")
        process.send_signal(number)
        assert "Ended after 90.000 s, billed 90 s (1:30 min). 8:30 min remaining." in process.stdout.read()
        assert process.wait(20) == 0


def test_ctrl_c_before_the_gateway_answered_leaves_no_call(
    callgate: Callgate, business: str, gateway: GatewayProcess
) -> None:
    with calling(gateway, "--account", business, "--staff", "ana") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Calling"):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0

    def calls_in_progress() -> int:
        pool = json.loads(callgate("watch", business, "--once", "--json").output)
        return int(pool["calls_in_progress"])

    wait_until_sync(lambda: calls_in_progress() == 0)
