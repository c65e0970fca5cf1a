"""The demo's gateway: `callgate serve` as a process of its own, just as an operator would run it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import Process

from gateway import die_with_parent
from gateway.cli.remote import DEFAULT_URL
from gateway.client import AdminClient, ClientError
from gateway.domain.errors import StartRefused
from gateway.secrets import kept_admin_key

LOG_FILE: Final = "gateway.log"
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 45.0
_ANNOUNCED: Final = " is listening on "
_USUAL_PORT: Final = int(DEFAULT_URL.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class DemoGateway:
    """A gateway that runs: where, its admin key, and its process."""

    url: str
    admin_key: str
    process: Process
    log_path: Path

    async def wait_ended(self) -> None:
        """Wait until it ends. It is not meant to: raises StartRefused with what it wrote last."""
        status = await self.process.wait()
        raise StartRefused(f"The gateway ended by itself (status {status}).\n{_last_words(self.log_path)}")


@contextlib.asynccontextmanager
async def demo_gateway(data_dir: Path, port: int | None) -> AsyncIterator[DemoGateway]:
    """Run a gateway on this machine, on a simulated clock, while the block runs, and stop it in order.

    `data_dir` must be there. Without a port it listens on the usual one, or if that is in use on any.
    Raises StartRefused.
    """
    log_path = data_dir / LOG_FILE
    chosen = port if port is not None else _USUAL_PORT if _is_free(_USUAL_PORT) else 0
    flags = [
        "--host",
        "127.0.0.1",
        "--port",
        str(chosen),
        "--data-dir",
        str(data_dir),
        "--log-format",
        "json",
        "--simulate",
    ]
    with log_path.open("ab") as log:
        process = await anyio.open_process(
            # Tied to this process: a demo that is killed leaves nothing running.
            [
                *(sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())),
                *(sys.executable, "-P", "-m", "gateway.cli", "serve", *flags),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_own_environment(),
            # A session of its own: Ctrl-C is for the demo, whose softphones hang up first.
            start_new_session=True,
        )
    try:
        url = await _announced_url(process, log_path)
        admin_key = kept_admin_key(data_dir)
        assert admin_key is not None, "a gateway on loopback keeps its key"
        await _until_ready(url, log_path)
        yield DemoGateway(url, admin_key, process, log_path)
    finally:
        await _stop(process)


def _own_environment() -> dict[str, str]:
    # A made-up account has no place in the engine and database that the user's settings may name.
    return {name: value for name, value in os.environ.items() if not name.startswith("CALLGATE_")}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _announced_url(process: Process, log_path: Path) -> str:
    assert process.stdout is not None
    said = b""
    with anyio.move_on_after(_START_SECONDS):
        try:
            while _ANNOUNCED.encode() not in said or not said.endswith(b"\n"):
                said += await process.stdout.receive()
        except anyio.EndOfStream:
            await process.wait()
            raise StartRefused(f"The gateway did not start.\n{_last_words(log_path)}") from None
        return said.decode().partition(_ANNOUNCED)[2].split()[0].rstrip(",")
    raise StartRefused(f"The gateway did not start within {_START_SECONDS:g} s.\n{_last_words(log_path)}")


async def _until_ready(url: str, log_path: Path) -> None:
    async with AdminClient(url) as client:
        with anyio.move_on_after(_START_SECONDS):
            while True:
                try:
                    if (await client.readiness()).status == "ok":
                        return
                except ClientError:
                    pass
                await anyio.sleep(0.05)
    raise StartRefused(f"The gateway was not ready within {_START_SECONDS:g} s.\n{_last_words(log_path)}")


async def _stop(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # As by Ctrl-C: no balancer has to see first that it goes.
                process.send_signal(signal.SIGINT)
            with anyio.move_on_after(_STOP_SECONDS):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
        await process.aclose()


def _last_words(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").splitlines()
    return "\n".join(lines[-5:]) or "(It wrote nothing.)"
