"""One worker of several: a gateway process that was given its sockets and settings by the supervisor."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Final

import uvloop

from gateway.die_with_parent import die_with_parent
from gateway.domain.errors import SettingsError, StartRefused
from gateway.observability import configure_logging, log_uncaught
from gateway.settings import load_settings

LISTENERS_VARIABLE: Final = "CALLGATE_WORKER_LISTENERS"
READY_VARIABLE: Final = "CALLGATE_WORKER_READY"
SUPERVISOR_VARIABLE: Final = "CALLGATE_WORKER_SUPERVISOR"

EXIT_REFUSED: Final = 78
"""The data forbids starting so (EX_CONFIG of sysexits.h): starting again would change nothing."""
EXIT_WRONG_SETTING: Final = 64
"""A setting is wrong that only whoever works by it can tell (EX_USAGE): nor would it here."""


def main() -> int:
    """Serve until told to stop, and return the exit status."""
    # Until they are taken as asked, signals just end it: there is nothing to stop in order yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Without its supervisor there is no embedded engine either: drain, and leave the port to the next one, at
    # once, with no waiting for balancers (SIGINT).
    die_with_parent(int(os.environ.pop(SUPERVISOR_VARIABLE)), signal.SIGINT)
    listeners = [
        socket.socket(fileno=int(descriptor)) for descriptor in os.environ.pop(LISTENERS_VARIABLE).split(",")
    ]
    ready_descriptor = int(os.environ.pop(READY_VARIABLE))
    settings = load_settings(environ=os.environ)
    configure_logging(settings.log_format, settings.log_level)
    log_uncaught()
    # Imported after PROMETHEUS_MULTIPROC_DIR is known to be set, which is looked at when metrics are made.
    from gateway.cli.server import run_gateway

    def ready() -> None:
        os.write(ready_descriptor, b"1")
        os.close(ready_descriptor)

    status = EXIT_REFUSED
    try:
        return uvloop.run(run_gateway(settings, listeners, ready))
    except* (SettingsError, StartRefused) as refused:
        for error in _each_of(refused):
            sys.stderr.write(f"Error: {error}\n")
        if refused.subgroup(SettingsError) is not None:
            status = EXIT_WRONG_SETTING
    return status


def _each_of(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each_of(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main())
