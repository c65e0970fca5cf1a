"""Real engines for tests: the Valkey that Callgate embeds, and Debian's Redis 7.

Fixtures
    `valkey`, `redis7`      one server of that kind for the whole run, emptied for each test that asks for it
    `engine`, `engine_url`  the same test on each kind in turn; the URL is a `unix://` one
    `start_engine`          a factory for servers of a test's own, to kill, pause, restart or fill

A hypothesis test, which cannot take a fixture anew for each example, calls `engine.flush()` itself.
"""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway import die_with_parent
from gateway.embedded import valkey_binary
from tests.support.peers import missing_peer
from tests.support.waiting import wait_until_sync

KINDS = ("valkey", "redis7")


class EngineServer:
    """A Redis or Valkey server of the tests, on a unix socket in a directory of its own.

    With `persistent` it appends and syncs every write, as the embedded engine does; else it keeps nothing.
    With a `port` it listens on 127.0.0.1 too. `user` is who `client` is, with that password. Its data are in
    `within`, if given, and `environ` is added to the environment that it is started in.
    """

    def __init__(
        self,
        binary: Path,
        *,
        persistent: bool = False,
        options: tuple[str, ...] = (),
        port: int = 0,
        user: str = "",
        within: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        # Not pytest's tmp_path: a unix socket's path must stay under 104 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="cg-test-", dir=within))
        self._environ = {**os.environ, **(environ or {})}
        self.socket = self.directory / "s"
        self.url = f"unix://{self.socket}"
        self.port = port
        self._user = user or None
        self._binary = binary
        durability = (
            ("--appendonly", "yes", "--appendfsync", "always") if persistent else ("--appendonly", "no")
        )
        self._arguments = (
            *("--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)),
            *("--dir", str(self.directory), "--save", ""),
            *("--maxmemory-policy", "noeviction", "--enable-debug-command", "local"),
            *durability,
            *options,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    die_with_parent.__file__,
                    str(os.getpid()),
                    self._binary,
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environ,
            )
        wait_until_sync(self._answers, 30)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            log = (self.directory / "log").read_text(errors="replace")
            raise RuntimeError(f"{self._binary} ended with {self.process.returncode}:\n{log[-2000:]}")
        try:
            return bool(self.client.ping())
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's process, running or not."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def client(self) -> redis.Redis:
        """A plain synchronous client, for a test's own looks at the keys."""
        if self._client is None:
            self._client = redis.Redis(
                unix_socket_path=str(self.socket), protocol=2, username=self._user, password=self._user
            )
        return self._client

    def flush(self) -> None:
        """Empty it, cached scripts included."""
        self.client.flushall()
        self.client.script_flush()

    def ask(self, *command: str | bytes | int) -> Any:
        """Its raw reply to a command."""
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]  # untyped in redis-py

    def info(self, section: str) -> dict[str, Any]:
        """What it says of itself."""
        found: dict[str, Any] = self.client.info(section)
        return found

    def pause(self) -> None:
        """Stop it from running at all (SIGSTOP): connections stay open and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it with SIGKILL; `start` brings it back, with what it had synced if it is persistent."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as an operator would, whatever state it is in."""
        if self._process is None or self._process.poll() is not None:
            return
        self.resume()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def discard(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        if self._client is not None:
            self._client.close()
        shutil.rmtree(self.directory)


@functools.cache
def redis7_binary() -> Path | None:
    """Return the redis-server of version 7 on the PATH, if there is one."""
    found = shutil.which("redis-server")
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    return Path(found) if re.search(r"\bv=7\.", version) else None


def engine_binary(kind: str) -> Path:
    """Return the server program of one of `KINDS`; where it is missing the test is skipped or fails."""
    if kind == "valkey":
        return valkey_binary()
    assert kind == "redis7", kind
    binary = redis7_binary()
    if binary is None:
        missing_peer(
            "redis-server 7", "run `sudo make peers` (Debian 12, Ubuntu 24.04), or put one on the PATH"
        )
    return binary


def _serve(kind: str) -> Iterator[EngineServer]:
    server = EngineServer(engine_binary(kind))
    try:
        server.start()
        yield server
    finally:
        server.discard()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[EngineServer]:
    """One Valkey for the run; ask for `valkey` unless you flush by yourself."""
    yield from _serve("valkey")


@pytest.fixture(scope="session")
def redis7_server() -> Iterator[EngineServer]:
    """One Redis 7 for the run; ask for `redis7` unless you flush by yourself."""
    yield from _serve("redis7")


@pytest.fixture
def valkey(valkey_server: EngineServer) -> EngineServer:
    """A running Valkey, empty."""
    valkey_server.flush()
    return valkey_server


@pytest.fixture
def redis7(redis7_server: EngineServer) -> EngineServer:
    """A running Redis 7, empty."""
    redis7_server.flush()
    return redis7_server


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest) -> EngineServer:
    """Each kind of engine in turn, running and empty."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, EngineServer)
    return server


@pytest.fixture
def engine_url(engine: EngineServer) -> str:
    """The `unix://` URL of each kind of engine in turn, running and empty."""
    return engine.url


@pytest.fixture
def start_engine() -> Iterator[Callable[..., EngineServer]]:
    """A factory `start_engine(kind="valkey", persistent=False, options=(), …)`; they end with the test."""
    servers: list[EngineServer] = []

    def start(kind: str = "valkey", **given: Any) -> EngineServer:
        server = EngineServer(engine_binary(kind), **given)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.discard()
