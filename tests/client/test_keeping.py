"""Calls and untold ends outlive the program: `keep_in`."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.client import Call, EndsUndelivered, JournalInUse, JournalOfAnother, NoAnswer, Softphone, Timing
from tests.client.scripted import QUICK, Device, Hours, ScriptedGateway
from tests.support.waiting import wait_until

TO = "+14155550100"
BRIEF = Timing(
    answer_seconds=5, close_seconds=0.2, backoff_seconds=0.01, backoff_most_seconds=0.02, beat_seconds=0.02
)


@pytest.fixture
def hours() -> Hours:
    return Hours()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls" / "desk.jsonl"


class Program:
    """Runs of one program, one after the other, each with a phone that keeps its calls in the same file."""

    def __init__(self, scripted: ScriptedGateway, path: Path, hours: Hours) -> None:
        self._scripted = scripted
        self._path = path
        self._hours = hours

    def phone(self, **options: Any) -> Softphone:
        options = {"hang_up_on_exit": False, "timing": BRIEF, "clock": self._hours.clock, **options}
        return Softphone(self._scripted.url, "token", keep_in=self._path, **options)

    async def connected(self) -> Device:
        return await self._scripted.connection()

    def mode(self) -> int:
        return self._path.stat().st_mode & 0o777

    def break_file(self) -> None:
        self._path.unlink(missing_ok=True)
        self._path.mkdir()

    def mend_file(self) -> None:
        self._path.rmdir()

    def lines(self) -> list[dict[str, Any]]:
        text = self._path.read_bytes() if self._path.exists() else b""
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def program(scripted: ScriptedGateway, path: Path, hours: Hours) -> Program:
    return Program(scripted, path, hours)


async def call_of(phone: Softphone, device: Device, call_id: str = "c-1") -> Call:
    starting = asyncio.ensure_future(phone.start(TO, channel="main", call_id=call_id))
    await device.admit(await device.hear())
    return await starting


async def leave_an_end_untold(program: Program) -> None:
    async with program.phone() as phone:
        device = await program.connected()
        call = await call_of(phone, device)
        device.fall_silent()
        call.end()


async def test_an_untold_end_is_told_by_the_next_run(program: Program, hours: Hours, path: Path) -> None:
    with pytest.raises(EndsUndelivered) as undelivered:
        await leave_an_end_untold(program)
    assert str(path) in str(undelivered.value)
    hours.elapsed_ms = 5  # another boot
    hours.wall_ms += 3_600_000
    async with program.phone() as phone:
        device = await program.connected()
        end = await device.hear()
        assert (end["type"], end["call_id"], end["ended_ago_ms"]) == ("call.end", "c-1", 3_600_000)
        assert [call.ended for call in phone.calls] == [True]
        assert phone.left_over == ()
        await device.settle(end)
        await wait_until(lambda: not phone.calls)
    async with program.phone() as phone:
        assert phone.calls == ()
    assert [line["is"] for line in program.lines()] == ["phone"]


async def test_a_time_of_day_that_was_set_back_makes_no_end_of_the_future(
    program: Program, hours: Hours
) -> None:
    with pytest.raises(EndsUndelivered):
        await leave_an_end_untold(program)
    hours.wall_ms -= 3_600_000
    async with program.phone():
        device = await program.connected()
        end = await device.hear()
        assert end["ended_ago_ms"] == 0
        await device.settle(end)


async def test_an_end_is_on_the_disk_before_it_is_sent(program: Program) -> None:
    async with program.phone() as phone:
        device = await program.connected()
        starting = asyncio.ensure_future(phone.start(TO, call_id="c-1"))
        start = await device.hear()
        assert program.lines()[-1]["call_id"] == "c-1"
        await device.admit(start)
        ending = asyncio.ensure_future((await starting).end())
        end = await device.hear()
        assert program.lines()[-1]["ended_at_ms"] > 0
        await device.settle(end)
        await ending
    assert program.mode() == 0o600


async def leave_a_call_in_progress(program: Program, hours: Hours) -> None:
    """Leave a call that was last known alive ten seconds after its answer."""
    async with program.phone() as phone:
        device = await program.connected()
        call = await call_of(phone, device)
        answered = asyncio.ensure_future(call.answered())
        await device.note(await device.hear())
        await answered
        hours.pass_by(10)
        now_ms = hours.wall_ms
        await wait_until(lambda: any(line.get("at_ms") == now_ms for line in program.lines()))


async def test_a_call_that_was_in_progress_ended_when_the_program_was_last_alive(
    program: Program, hours: Hours
) -> None:
    await leave_a_call_in_progress(program, hours)
    hours.pass_by(7)  # within the grace: but the media went with the program
    async with program.phone() as phone:
        device = await program.connected()
        (call,) = phone.left_over
        assert (call.call_id, call.to, call.channel) == ("c-1", TO, "main")
        assert call.admitted_at_ms == 1_795_392_000_000
        answered = await device.hear()  # once more: nobody knows whether it was told
        assert (answered["type"], answered["answered_ago_ms"]) == ("call.answered", 17_000)
        await device.note(answered)
        end = await device.hear()
        assert (end["type"], end["ended_ago_ms"]) == ("call.end", 7_000)
        await device.settle(end)
        await wait_until(lambda: call.settlement)


async def test_the_application_may_go_on_with_a_call_that_was_left_over(
    program: Program, hours: Hours
) -> None:
    await leave_a_call_in_progress(program, hours)
    hours.pass_by(3600)
    asked: list[Call] = []

    def still_up(call: Call) -> bool:
        asked.append(call)
        return True

    async with program.phone(still_up=still_up) as phone:
        device = await program.connected()
        resume = await device.hear()
        assert (resume["type"], resume["receipt"]) == ("call.resume", "receipt of c-1")
        await device.resume(resume)
        await device.note(await device.hear())
        assert tuple(asked) == phone.left_over == phone.calls
        ending = asyncio.ensure_future(phone.calls[0].end())
        end = await device.hear()
        assert end["ended_ago_ms"] == 0
        await device.settle(end)
        await ending


async def test_a_call_still_in_doubt_when_the_program_stops_again_does_not_grow_older(
    program: Program, hours: Hours
) -> None:
    await leave_a_call_in_progress(program, hours)
    never: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    for _ in range(2):
        hours.pass_by(60)
        async with program.phone(still_up=lambda _: never) as phone:
            assert len(phone.left_over) == 1
            await program.connected()
    hours.pass_by(60)
    async with program.phone() as phone:
        device = await program.connected()
        await device.note(await device.hear())
        end = await device.hear()
        assert end["ended_ago_ms"] == 180_000
        await device.settle(end)


async def test_hanging_up_one_that_was_left_over_ends_it_when_it_last_was(
    program: Program, hours: Hours
) -> None:
    await leave_a_call_in_progress(program, hours)
    hours.pass_by(60)
    never: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    async with program.phone(still_up=lambda _: never) as phone:
        device = await program.connected()
        phone.left_over[0].end()
        await device.note(await device.hear())
        end = await device.hear()
        assert end["ended_ago_ms"] == 60_000
        await device.settle(end)


async def test_a_start_without_an_answer_is_no_call_for_the_next_run(program: Program, hours: Hours) -> None:
    async with program.phone() as phone:
        device = await program.connected()
        starting = asyncio.create_task(phone.start(TO, call_id="c-1"))
        await device.hear()
    await asyncio.gather(starting, return_exceptions=True)
    hours.pass_by(100)
    async with program.phone() as phone:
        device = await program.connected()
        end = await device.hear()
        assert (end["type"], end["ended_ago_ms"]) == ("call.end", 100_000)
        assert phone.left_over == ()
        await device.fail(end, "call_unknown")
        await wait_until(lambda: not phone.calls)


@pytest.mark.parametrize("what", ["refused", "never sent"])
async def test_a_start_that_came_to_nothing_is_not_kept(program: Program, what: str) -> None:
    async with program.phone() as phone:
        device = await program.connected()
        if what == "refused":
            starting = asyncio.ensure_future(phone.start(TO))
            start = await device.hear()
            refused = {"reason": "minutes_held", "message": "They are held.", "remaining_seconds": 40}
            await device.say(type="call.refused", re=start["id"], call_id=start["call_id"], **refused)
            assert await asyncio.gather(starting, return_exceptions=True)
        else:
            with pytest.raises(NoAnswer):
                await phone.start(TO, timeout_seconds=0)
    assert [line["is"] for line in program.lines()] == ["phone"]


async def test_a_refused_repeat_does_not_make_it_forget_the_call(program: Program) -> None:
    async with program.phone() as phone:
        device = await program.connected()
        await call_of(phone, device)
        again = asyncio.ensure_future(phone.start("+14155550199", call_id="c-1"))
        await device.fail(await device.hear(), "call_id_conflict")
        await asyncio.gather(again, return_exceptions=True)
    assert [line["call_id"] for line in program.lines() if line["is"] == "call"] == ["c-1"]


async def test_an_emergency_that_no_gateway_has_heard_of_is_told_by_the_next_run(
    program: Program, hours: Hours
) -> None:
    async with program.phone() as phone:
        device = await program.connected()
        device.fall_silent()
        phone.emergency("112", call_id="e-1")
    hours.pass_by(60)
    async with program.phone(still_up=lambda _: True) as phone:
        device = await program.connected()
        start = await device.hear()
        assert (start["type"], start["call_id"], start["to"]) == ("call.start", "e-1", "112")
        await device.admit(start, emergency=True)
        call = phone.left_over[0]
        assert (await call.admitted()).admitted_at_ms == call.admitted_at_ms


# The file.


async def test_two_phones_do_not_share_a_file(program: Program) -> None:
    async with program.phone():
        with pytest.raises(JournalInUse):
            async with program.phone():
                raise AssertionError("entered")
    async with program.phone():
        pass


async def test_another_devices_file_is_left_alone(program: Program, scripted: ScriptedGateway) -> None:
    with pytest.raises(EndsUndelivered):
        await leave_an_end_untold(program)
    before = [line for line in program.lines() if line["is"] == "call"]
    scripted.greets = False

    async def other() -> Device:
        device = await scripted.connection()
        await device.welcome(device="mobile")
        return device

    welcoming = asyncio.ensure_future(other())
    with pytest.raises(JournalOfAnother, match="ana/desk of acme"):
        async with program.phone():
            raise AssertionError("entered")
    device = await welcoming
    assert await device.hear_nothing_until_closed() == 1006
    assert [line for line in program.lines() if line["is"] == "call"] == before


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"is": "call", "key": 1, "ended_at_', id="torn"),
        pytest.param(b'{"is": "phone", "account": "\xff", "staff": "ana", "device": "desk"}\n', id="no text"),
    ],
)
async def test_a_damaged_line_is_passed_over(program: Program, path: Path, hours: Hours, line: bytes) -> None:
    await leave_a_call_in_progress(program, hours)
    with path.open("ab") as file:
        file.write(line)
    async with program.phone() as phone:
        device = await program.connected()
        assert len(phone.left_over) == 1
        await device.note(await device.hear())
        await device.settle(await device.hear())
        await wait_until(lambda: not phone.calls)
    assert [line["is"] for line in program.lines()] == ["phone"]


async def test_the_file_does_not_grow_for_ever(program: Program, path: Path, hours: Hours) -> None:
    hasty = Timing(close_seconds=1, beat_seconds=0.0002)
    async with program.phone(timing=hasty) as phone:
        await call_of(phone, await program.connected())
        await wait_until(lambda: len(program.lines()) > 300)
        await wait_until(lambda: len(program.lines()) < 300, timeout=20, interval=0.0001)


async def test_a_disk_that_fails_holds_nothing_up(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    async with program.phone() as phone:
        device = await program.connected()
        await wait_until(program.lines)
        program.break_file()
        call = await call_of(phone, device)
        assert "could not be written" in caplog.text
        program.mend_file()
        await wait_until(lambda: any(line.get("call_id") == "c-1" for line in program.lines()))
        ending = asyncio.ensure_future(call.end())
        await device.settle(await device.hear())
        await ending


# Killed.


PROGRAM = """
import asyncio, sys
from pathlib import Path
from gateway.client import Softphone, Timing

async def main():
    timing = Timing(beat_seconds=0.05, backoff_seconds=0.01, backoff_most_seconds=0.02)
    async with Softphone(sys.argv[1], "token", keep_in=Path(sys.argv[2]), timing=timing) as phone:
        call = await phone.start("+14155550100", call_id="c-1")
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        call.end()
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("hung_up", [False, True])
async def test_a_program_that_was_killed_left_everything(
    scripted: ScriptedGateway, path: Path, hung_up: bool
) -> None:
    killed = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        scripted.url,
        str(path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None
    assert killed.stdin is not None
    device = await scripted.connection()
    await device.admit(await device.hear())
    assert await killed.stdout.readline() == b"up\n"
    if hung_up:
        killed.stdin.write(b"\n")
        assert (await device.hear())["type"] == "call.end"
    killed.kill()
    await killed.wait()
    async with Softphone(scripted.url, "token", keep_in=path, timing=QUICK) as phone:
        device = await scripted.connection()
        end = await device.hear()
        assert (end["type"], end["call_id"]) == ("call.end", "c-1")
        assert 0 <= end["ended_ago_ms"] < 10_000
        assert bool(phone.left_over) is not hung_up
        await device.settle(end)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process is stopped there")
async def test_a_stopped_program_does_not_resume_by_itself(scripted: ScriptedGateway, path: Path) -> None:
    scripted.grace_seconds = 1
    stopped = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        scripted.url,
        str(path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        device = await scripted.connection()
        await device.admit(await device.hear())
        assert stopped.stdout is not None
        await stopped.stdout.readline()
        os.kill(stopped.pid, signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        await device.say(type="notice", kind="waiting", message="It is in the buffer when it goes on.")
        device.vanish()
        passed: Callable[[], bool] = lambda: asyncio.get_running_loop().time() - began > 2.5  # noqa: E731
        await wait_until(passed)
        os.kill(stopped.pid, signal.SIGCONT)
        device = await scripted.connection()
        end = await device.hear()
        assert end["type"] == "call.end"
        assert end["ended_ago_ms"] >= 2_400
        await device.settle(end)
    finally:
        stopped.kill()
        await stopped.wait()
