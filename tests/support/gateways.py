"""Whole gateways for tests: `callgate serve` as a process of its own, as an operator starts it.

The fixture `start_gateway` gives a factory: `start_gateway("--simulate", redis_url=engine.url)`. Its
gateways listen on a free port of loopback, keep their data in a directory of their own unless told
otherwise, and end with the test.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from signal import SIGCONT, SIGINT, Signals
from types import TracebackType
from typing import Self

import httpx
import pytest

CALLGATE = Path(sys.executable).with_name("callgate")
START_SECONDS = 60.0
_LAST_LINE = "Stop it with Ctrl-C."


class GatewayProcess:
    """One `callgate serve`, with whatever workers and embedded engine it starts.

    `url` is where it listens, `admin_key` opens its admin addresses, `log()` is what it wrote to standard
    error. `program` is what is started next.
    """

    def __init__(
        self, data_dir: Path, *flags: str, environ: Mapping[str, str] | None = None, program: Path = CALLGATE
    ) -> None:
        self.data_dir = data_dir
        self.flags = flags
        self.announcement = ""
        self._given = dict(environ or {})
        # Nothing of the surroundings may decide a test, and a shell's own settings least of all.
        self._environ = {
            name: value for name, value in os.environ.items() if not name.startswith("CALLGATE_")
        }
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> Self:
        """Start the process and return at once."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, "serve", "--port", "0", "--data-dir", self.data_dir, *self.flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**self._environ, **self._given},
            )
        return self

    def start(self) -> Self:
        """Start the process and wait until it accepts connections; RuntimeError with its log if it ends."""
        self.launch()
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        announced = b""
        # Not select(): a test with many devices has more than 1,024 files open.
        output = select.poll()
        output.register(self.process.stdout, select.POLLIN)
        while _LAST_LINE.encode() not in announced:
            left = max(0.0, deadline - time.monotonic())
            piece = os.read(self.process.stdout.fileno(), 65536) if output.poll(left * 1000) else b""
            if not piece:
                self.kill()
                raise RuntimeError(f"no start (status {self.process.returncode}):\n{self.log()}")
            announced += piece
        self.announcement = announced.decode()
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, running or not."""
        assert self._process is not None, "not launched"
        return self._process

    @property
    def url(self) -> str:
        """`http://…`, as announced."""
        return self.announcement.split(" is listening on ")[1].split()[0].rstrip(",")

    @property
    def websocket_url(self) -> str:
        """`ws://…`, as announced."""
        return self.url.replace("http://", "ws://", 1)

    @property
    def admin_key(self) -> str:
        """The key it was given, or made."""
        given = self._given.get("CALLGATE_ADMIN_KEY")
        return given if given is not None else (self.data_dir / "admin.key").read_text().strip()

    def client(self) -> httpx.Client:
        """A client of its HTTP addresses that holds the admin key; close it."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.admin_key}"}, timeout=30
        )

    def async_client(self) -> httpx.AsyncClient:
        """As `client`, for a test that runs an event loop."""
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30)

    @property
    def _log_path(self) -> Path:
        return self.data_dir / "gateway.log"

    def log(self) -> str:
        """Return what it wrote to standard error, of all its starts."""
        return self._log_path.read_text(errors="replace")

    def signal(self, number: Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self, timeout_seconds: float = 45, by: Signals = SIGINT) -> int:
        """Ask it to end as an operator would, wait, and return its exit status.

        SIGTERM is that of a gateway behind a balancer, which goes on serving for a while.
        """
        if self.process.poll() is None:
            self.process.send_signal(by)
        status = self.process.wait(timeout_seconds)
        self._close()
        return status

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would; its embedded engine and its workers follow."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, if it still runs."""
        self.end()

    def end(self) -> None:
        """End it whatever state it is in: in order if it can, else by SIGKILL."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(SIGCONT)
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.kill()


@pytest.fixture
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., GatewayProcess]]:
    """A factory `start_gateway(*flags, data_dir=None, redis_url=None, database_url=None, environ=None)`."""
    gateways: list[GatewayProcess] = []

    def start(
        *flags: str,
        data_dir: Path | None = None,
        redis_url: str | None = None,
        database_url: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> GatewayProcess:
        given = dict(environ or {})
        if redis_url is not None:
            given["CALLGATE_REDIS_URL"] = redis_url
        if database_url is not None:
            given["CALLGATE_DATABASE_URL"] = database_url
        directory = data_dir if data_dir is not None else tmp_path_factory.mktemp("gateway")
        gateway = GatewayProcess(directory, *flags, environ=given)
        gateways.append(gateway)
        return gateway.start()

    yield start
    for gateway in gateways:
        gateway.end()
