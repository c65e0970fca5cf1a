"""`callgate serve`: run a gateway."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from socket import socket

import anyio
import click
import structlog
import uvloop

from gateway import __version__
from gateway.cli.listening import bind, url_of
from gateway.cli.setting_options import setting_options
from gateway.observability import configure_logging, log_uncaught
from gateway.secrets import KeptSecrets, ensure_secrets
from gateway.settings import Settings, load_settings, misspelt_variables

_EXAMPLES = """\b
Examples:
  callgate serve
      an embedded engine and SQLite in your data directory, on http://127.0.0.1:8080
  callgate serve --port 9000 --data-dir ./data
      another port, another place
  callgate serve --config /etc/callgate.toml --workers 4
      settings from a file, four processes that share the port
  callgate serve --host 0.0.0.0 --redis-url redis://cache:6379/0 \\
      --database-url postgresql://callgate@db/callgate
      engine and database of your own (keys in CALLGATE_ADMIN_KEY, CALLGATE_TOKEN_SECRET)
  callgate serve --simulate --data-dir ./what-if
      billing on a clock of its own that POST /v1/simulation/clock moves

Every flag is a setting, which the environment (its name in brackets) and the settings file (the flag's name,
with underscores) can give as well; flags win over the environment, and that over the file.
"""


@click.command(epilog=_EXAMPLES, short_help="Run a gateway.")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="CALLGATE_CONFIG",
    help="TOML file with settings.  [CALLGATE_CONFIG]",
)
@setting_options
def serve(config: Path | None, **flags: str | bool | None) -> None:
    """Run a gateway until Ctrl-C or SIGTERM.

    Nothing needs to be installed for it: without --redis-url it runs an engine of its own, without
    --database-url it keeps its records in SQLite, both in the data directory. The first signal lets
    connected devices go elsewhere and saves what is to be saved; a second one stops at once. SIGTERM is for
    a gateway behind a balancer: it serves HTTP on for a while, until the balancer has seen that it goes.
    No call in progress is ended by any of them.
    """
    settings = load_settings(flags, os.environ, config)
    configure_logging(settings.log_format, settings.log_level)
    log_uncaught()
    log = structlog.get_logger("gateway.serve")
    for variable, meant in misspelt_variables(os.environ):
        log.warning("settings.unknown_variable", variable=variable, probably=meant)
    kept = ensure_secrets(settings)
    listeners = bind(settings.host, settings.port)
    try:
        status = _run(kept, listeners)
    finally:
        for listener in listeners:
            listener.close()
    sys.exit(status)


def _run(kept: KeptSecrets, listeners: Sequence[socket]) -> int:
    settings = kept.settings

    def ready() -> None:
        click.echo(_announcement(kept, listeners))

    if settings.workers > 1:
        from gateway.cli.supervisor import supervise

        return anyio.run(supervise, settings, listeners, ready)
    from gateway.cli.server import run_gateway

    return uvloop.run(run_gateway(settings, listeners, ready))


def _announcement(kept: KeptSecrets, listeners: Sequence[socket]) -> str:
    settings = kept.settings
    url = url_of(listeners[0])
    lines = [
        f"Callgate {__version__} is listening on {url}" + _workers(settings),
        f"  engine          {'as set by redis_url' if settings.redis_url else 'embedded'}",
        f"  database        {'as set by database_url' if settings.database_url else 'SQLite'}",
        f"  data directory  {settings.data_dir}",
        f"  admin key       {kept.admin_key_path or 'as set by admin_key'}",
    ]
    if settings.simulate:
        lines.append("  clock           simulated: POST /v1/simulation/clock moves it")
    lines.append("Stop it with Ctrl-C.")
    return "\n".join(lines)


def _workers(settings: Settings) -> str:
    return f", with {settings.workers} workers" if settings.workers > 1 else ""
