"""One gateway process: serving, draining on a signal, and stopping in time."""

import contextlib
import faulthandler
import math
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import anyio
import structlog
import uvicorn

from gateway.api.app import create_app
from gateway.cli.http_protocol import BoundedHttp
from gateway.cli.listening import why_not
from gateway.cli.stopping import STOPPING_SECONDS, serving_on_seconds, signals_to
from gateway.cli.websocket_protocol import HeardWebSocket
from gateway.domain.errors import StartRefused
from gateway.service import open_callgate
from gateway.settings import Settings

LARGEST_FRAME_BYTES: Final = 64 * 1024
PING_INTERVAL_SECONDS: Final = 10.0
PING_TIMEOUT_SECONDS: Final = 5.0
# Longer than balancers keep an idle connection, so that they, and not the gateway, close it.
KEEP_ALIVE_SECONDS: Final = 75

# What closing connections may take, when the drain used up its time: a peer that reads nothing never closes.
_CLOSING_SECONDS: Final = 2

_log = structlog.get_logger("gateway.server")


async def run_gateway(
    settings: Settings, listeners: Sequence[socket.socket], ready: Callable[[], None]
) -> int:
    """Serve until SIGTERM or SIGINT, drain, stop; return the exit status: 0, or 128 + the second signal.

    `ready` is called once connections are accepted. The first signal starts the drain, bounded by
    `drain_seconds`; SIGTERM's has HTTP served on for a while, until balancers have seen `/readyz`. A second
    signal stops at once. A process that is not gone in time says where and ends.
    """
    stop = _Stop(settings.drain_seconds)
    with signals_to(stop.take), stop.scope:
        async with open_callgate(settings) as service, anyio.create_task_group() as tasks:
            server = _Server(server_config(create_app(service, settings)))
            tasks.start_soon(server.serve, list(listeners))
            await server.accepting.wait()
            stop.may_drain = True
            ready()
            await stop.asked.wait()
            _log.info(
                "gateway.draining",
                seconds=settings.drain_seconds,
                serving_on_seconds=stop.serving_on_seconds,
            )
            with anyio.move_on_after(settings.drain_seconds) as drain:
                async with anyio.create_task_group() as going:
                    going.start_soon(anyio.sleep, stop.serving_on_seconds)
                    await service.drain()
            if drain.cancelled_caught:
                _log.warning("gateway.drain_unfinished", seconds=settings.drain_seconds)
            left = max(_CLOSING_SECONDS, math.ceil(drain.deadline - anyio.current_time()))
            server.config.timeout_graceful_shutdown = left
            server.should_exit = True
    # The watchdog stays: a thread that hangs in the data directory would keep the process from ending.
    _log.info("gateway.stopped", at_once=stop.at_once_status is not None)
    return stop.at_once_status or 0


class _Stop:
    """What signals have asked for."""

    def __init__(self, drain_seconds: int) -> None:
        self.asked = anyio.Event()
        self.scope = anyio.CancelScope()
        self.may_drain = False
        self.serving_on_seconds = 0.0
        self.at_once_status: int | None = None
        self._drain_seconds = drain_seconds

    def take(self, number: signal.Signals) -> None:
        if not self.asked.is_set():
            _log.info("gateway.stopping", signal=number.name)
            self.serving_on_seconds = serving_on_seconds(number, self._drain_seconds)
            self.asked.set()
            # From its own thread, so that it ends a process whose event loop hangs, too.
            faulthandler.dump_traceback_later(self._drain_seconds + STOPPING_SECONDS, exit=True)
            if not self.may_drain:
                self.scope.cancel()
        else:
            _log.warning("gateway.stopping_at_once", signal=number.name)
            self.at_once_status = 128 + number
            self.scope.cancel()


class _Server(uvicorn.Server):
    """uvicorn, leaving signals to us: its own handler would close the connections before they are drained."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            # Two programs may bind one port; only the first may listen on it.
            raise StartRefused(why_not(error, *(sockets or [])[0].getsockname()[:2])) from error
        self.accepting.set()


def server_config(app: Callable[..., Any]) -> uvicorn.Config:
    """Return how uvicorn serves the application: with protocols of ours, and without what we do ourselves."""
    return uvicorn.Config(
        app,
        http=BoundedHttp,
        ws=HeardWebSocket,
        ws_max_size=LARGEST_FRAME_BYTES,
        ws_ping_interval=PING_INTERVAL_SECONDS,
        ws_ping_timeout=PING_TIMEOUT_SECONDS,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
