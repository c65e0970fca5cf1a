"""What is released: the wheel and the sdist hold all that is needed, and run where there is nothing else."""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archives import unpack
from tests.support.gateways import GatewayProcess

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def build(source: Path, target: str, directory: Path) -> Path:
    """Build with the build backend that is installed here: nothing is fetched for it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", directory],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as made from the sdist, which thereby is shown to be complete."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        unpack(archive, unpacked)
    (source,) = unpacked.iterdir()
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment with the wheel, what it depends on as pinned, and nothing else."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    settings = {**os.environ, "UV_SYSTEM_CERTS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    subprocess.run([UV, "venv", "-q", "-p", sys.executable, environment], env=settings, check=True)
    install: list[str | Path] = [
        UV,
        "pip",
        "install",
        "-q",
        "-p",
        environment,
        "-c",
        ROOT / "constraints.txt",
        wheel,
    ]
    # What `make venv` fetched is in the cache; the index is asked only for what is not.
    if subprocess.run([*install, "--offline"], env=settings, capture_output=True).returncode != 0:
        subprocess.run(install, env=settings, check=True)
    return environment / "bin"


def files_of(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and "node_modules" not in path.parts:
            yield path.relative_to(directory).as_posix()


def test_the_wheel_holds_the_package_the_scripts_and_the_migrations(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    sources = ("web/client/", "web/public/", "web/src/", "web/test/")
    package = {
        f"gateway/{name}"
        for name in files_of(ROOT / "gateway")
        # Of the front end what was built, and nothing that it was built from.
        if not name.startswith(sources) and (not name.startswith("web/") or name.startswith("web/dist/"))
    }
    scripts = {f"gateway/_lua/{name}" for name in files_of(ROOT / "lua")}
    assert any(name.endswith(".lua") for name in scripts)
    assert any(name.startswith("gateway/records/migrations/versions/") for name in package)
    assert {"gateway/py.typed", "gateway/web/dist/index.html", "gateway/web/dist/callgate.js"} <= package
    of_the_distribution = {name for name in held if ".dist-info/" in name}
    assert held - of_the_distribution == package | scripts
    assert any(name.endswith("/licenses/LICENSE") for name in of_the_distribution)


def test_the_sdist_holds_the_sources_the_tests_and_the_pins(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "hatch_build.py", "constraints.txt", "Makefile", "LICENSE", "README.md"}
    assert needed <= held
    for directory in ("gateway", "lua", "tests", "docs"):
        files = {f"{directory}/{name}" for name in files_of(ROOT / directory)}
        assert {name for name in files if not name.startswith("gateway/web/client/dist/")} <= held
    assert not any("node_modules" in name for name in held)


def test_the_pins_carry_no_address_and_no_path() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    assert "://" not in pins
    assert "file:" not in pins
    assert "/home/" not in pins
    for line in pins.splitlines():
        assert line.lstrip().startswith("#") or "==" in line, line


def test_an_installed_wheel_has_the_command(installed: Path, tmp_path: Path) -> None:
    told = subprocess.run(
        [installed / "callgate", "--help"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "serve" in told.stdout


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_an_installed_wheel_serves_and_decides(
    flags: tuple[str, ...], installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # away from the checkout, whose scripts and package must not be found
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with (
        GatewayProcess(tmp_path / "data", *flags, program=installed / "callgate") as gateway,
        gateway.client() as client,
    ):
        plan = {"name": "Team", "minutes": 100, "connected_channels": 2, "staff_seats": 5}
        account = {"name": "Acme", "plan": "team", "billing_date": "2026-01-31", "time_zone": "UTC"}
        client.put("/v1/plans/team", json=plan).raise_for_status()
        client.put("/v1/accounts/acme", json=account).raise_for_status()
        client.put("/v1/accounts/acme/staff/ana", json={}).raise_for_status()
        asked = {"call_id": "c-1", "to": "+14155550100", "account": "acme", "staff": "ana", "device": "desk"}
        answer = client.post("/v1/calls", json=asked).raise_for_status().json()
        assert answer["type"] == "call.admitted"
        page = client.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert gateway.stop() == 0
