"""Several gateway processes on one port: who starts them, starts a crashed one again, and stops them all.

The supervisor holds what there is only one of: the data directory's lock, the embedded engine and the
listening sockets, these until it is to stop. It never speaks to a client. A worker is the same program
(`gateway.cli.worker`), which is given the sockets and, in the environment, the settings.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final

import anyio
import msgspec
import structlog
from anyio.abc import Process, TaskGroup
from prometheus_client import multiprocess

from gateway.cli.stopping import STOPPING_SECONDS, signals_to
from gateway.cli.worker import (
    EXIT_REFUSED,
    EXIT_WRONG_SETTING,
    LISTENERS_VARIABLE,
    READY_VARIABLE,
    SUPERVISOR_VARIABLE,
)
from gateway.embedded import EmbeddedEngine
from gateway.settings import Settings, as_environment

FIRST_RESTART_SECONDS: Final = 0.5
LAST_RESTART_SECONDS: Final = 30.0
# A worker that lived this long was not failing to start: the next restart is quick again.
STEADY_SECONDS: Final = 60.0
# What is left to a worker after the time in which it should have ended by itself.
KILL_AFTER_SECONDS: Final = 5

_REFUSALS: Final = {EXIT_WRONG_SETTING: 2, EXIT_REFUSED: 1}
"""What a worker ends with that refuses to start, and what `serve` does then."""

_log = structlog.get_logger("gateway.supervisor")


async def supervise(settings: Settings, listeners: Sequence[socket.socket], ready: Callable[[], None]) -> int:
    """Run `settings.workers` workers until SIGTERM or SIGINT, and return the exit status.

    The `listeners` are closed when stopping begins.

    `ready` is called when all of them accept connections. The first worker is started alone, so that a
    refusal is said once, and migrations run once; if it refuses, nothing else is started and the status
    is 2 for a wrong setting, 1 for data that forbids starting so: as without workers.
    """
    async with _embedded_engine(settings) as engine:
        if engine is not None:
            settings = msgspec.structs.replace(settings, redis_url=engine.url)
        with _metrics_directory() as metrics_directory:
            supervisor = _Supervisor(settings, listeners, metrics_directory)
            async with anyio.create_task_group() as tasks:
                if engine is not None:
                    tasks.start_soon(engine.keep_running)
                status = await supervisor.run(ready)
                tasks.cancel_scope.cancel()
    return status


@contextlib.asynccontextmanager
async def _embedded_engine(settings: Settings) -> AsyncIterator[EmbeddedEngine | None]:
    if settings.redis_url is not None:
        yield None
        return
    async with EmbeddedEngine(settings.data_dir) as engine:
        yield engine


@contextlib.contextmanager
def _metrics_directory() -> Iterator[str]:
    # Workers share their metrics through files, so that any of them can answer for all at /metrics.
    directory = tempfile.mkdtemp(prefix="callgate-metrics-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Supervisor:
    def __init__(
        self, settings: Settings, listeners: Sequence[socket.socket], metrics_directory: str
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics_directory = metrics_directory
        self._processes: dict[int, Process] = {}
        self._stopping = anyio.Event()
        self._at_once = anyio.Event()
        self._first_signal = signal.SIGTERM
        self._second_signal: int | None = None
        self._refused_status: int | None = None

    async def run(self, ready: Callable[[], None]) -> int:
        with signals_to(self._take):
            async with anyio.create_task_group() as watch:
                watch.start_soon(self._stop_in_time)
                async with anyio.create_task_group() as workers:
                    await self._start_all(workers)
                    if not self._stopping.is_set():
                        ready()
                watch.cancel_scope.cancel()
        if self._refused_status is not None:
            return self._refused_status
        return 128 + self._second_signal if self._second_signal is not None else 0

    async def _start_all(self, workers: TaskGroup) -> None:
        started = [anyio.Event() for _ in range(self._settings.workers)]
        workers.start_soon(self._keep_worker, 1, started[0])
        await _first_of(started[0], self._stopping)
        if self._stopping.is_set():
            return
        for number, event in enumerate(started[1:], start=2):
            workers.start_soon(self._keep_worker, number, event)
        for event in started[1:]:
            await _first_of(event, self._stopping)

    async def _keep_worker(self, number: int, ready: anyio.Event) -> None:
        delay = FIRST_RESTART_SECONDS
        while not self._stopping.is_set():
            began = anyio.current_time()
            status = await self._run_worker(number, ready)
            if self._stopping.is_set():
                return
            if status in _REFUSALS and number == 1 and not ready.is_set():
                self._refused_status = _REFUSALS[status]
                self._stopping.set()
                return
            if anyio.current_time() - began > STEADY_SECONDS:
                delay = FIRST_RESTART_SECONDS
            _log.error("worker.ended", worker=number, status=status, restart_in_seconds=delay)
            with anyio.move_on_after(delay):
                await self._stopping.wait()
            delay = min(delay * 2, LAST_RESTART_SECONDS)

    async def _run_worker(self, number: int, ready: anyio.Event) -> int:
        reading, writing = os.pipe()
        # Of its own until it has them: the listeners are closed on a signal, whatever is under way here.
        descriptors = [os.dup(listener.fileno()) for listener in self._listeners]
        environment = {
            **os.environ,
            **as_environment(self._settings),
            LISTENERS_VARIABLE: ",".join(map(str, descriptors)),
            READY_VARIABLE: str(writing),
            SUPERVISOR_VARIABLE: str(os.getpid()),
            "PROMETHEUS_MULTIPROC_DIR": self._metrics_directory,
        }
        try:
            # A session of its own: Ctrl-C is for the supervisor, which passes it on.
            process = await anyio.open_process(
                [sys.executable, "-P", "-m", "gateway.cli.worker"],
                stdin=subprocess.DEVNULL,
                stdout=None,
                stderr=None,
                env=environment,
                pass_fds=(*descriptors, writing),
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            for descriptor in (*descriptors, writing):
                os.close(descriptor)
        self._processes[number] = process
        if self._stopping.is_set():
            process.terminate()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._await_ready, reading, number, ready)
                status = await process.wait()
                tasks.cancel_scope.cancel()
        finally:
            os.close(reading)
            del self._processes[number]
            if process.returncode is None:
                process.kill()
                with anyio.CancelScope(shield=True):
                    await process.wait()
            multiprocess.mark_process_dead(process.pid, self._metrics_directory)  # type: ignore[no-untyped-call]
        return status

    async def _await_ready(self, reading: int, number: int, ready: anyio.Event) -> None:
        await anyio.wait_readable(reading)
        if os.read(reading, 1):
            _log.info("worker.ready", worker=number, pid=self._processes[number].pid)
            ready.set()

    async def _stop_in_time(self) -> None:
        await self._stopping.wait()
        self._signal_all(self._first_signal)
        with anyio.move_on_after(self._settings.drain_seconds + STOPPING_SECONDS):
            await self._at_once.wait()
            self._signal_all(signal.SIGTERM)
        await anyio.sleep(KILL_AFTER_SECONDS)
        _log.error("worker.killed", workers=sorted(self._processes))
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def _take(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            _log.info("gateway.stopping", signal=number.name)
            self._first_signal = number
            self._stopping.set()
            # Nobody is started any more. As long as one process has them, the kernel takes connections, also
            # when no worker is left to serve them.
            for listener in self._listeners:
                listener.close()
        else:
            _log.warning("gateway.stopping_at_once", signal=number.name)
            self._second_signal = number
            self._at_once.set()


async def _first_of(*events: anyio.Event) -> None:
    async def wait(event: anyio.Event) -> None:
        await event.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for event in events:
            tasks.start_soon(wait, event)
