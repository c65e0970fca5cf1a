"""How the front end is built, and its own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def build(root: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, root / "hatch_build.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The sources of the front end, with nothing built."""
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    ignored = shutil.ignore_patterns("node_modules", "dist")
    shutil.copytree(ROOT / "gateway" / "web", tmp_path / "gateway" / "web", ignore=ignored)
    return tmp_path


def test_the_tests_in_typescript_pass() -> None:
    done = build(ROOT, "run", "--silent", "test")

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_built_is_built_again_only_after_a_change(checkout: Path) -> None:
    web = checkout / "gateway" / "web"
    (web / "dist").mkdir()
    shutil.copytree(ROOT / "gateway" / "web" / "dist", web / "dist", dirs_exist_ok=True)
    # Whoever asks for npm now gets an error.
    nowhere = {"PATH": os.environ["PATH"], "npm_config_registry": "http://127.0.0.1:9/"}

    assert build(checkout, **nowhere).returncode == 0
    (web / "src" / "format.ts").write_text("export {};\n", encoding="utf-8")
    assert build(checkout, **nowhere).returncode == 1


def test_a_registry_that_is_not_there_is_told_of_plainly(checkout: Path, tmp_path: Path) -> None:
    done = build(
        checkout,
        npm_config_registry="http://127.0.0.1:9/",
        npm_config_cache=str(tmp_path / "npm"),
        npm_config_fetch_retries="0",
    )

    assert done.returncode == 1
    assert "npm cannot fetch the packages that the dashboard is built from" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (checkout / "gateway" / "web" / "dist" / ".sources").exists()


def test_the_lock_file_names_no_registry() -> None:
    lock = (ROOT / "gateway" / "web" / "package-lock.json").read_text(encoding="utf-8")

    assert '"integrity": "sha512-' in lock
    assert '"resolved": "http' not in lock


def test_what_is_published_has_its_types_and_its_readme() -> None:
    client = ROOT / "gateway" / "web" / "client"

    assert (client / "dist" / "callgate.js").is_file()
    assert "class Softphone" in (client / "dist" / "softphone.d.ts").read_text(encoding="utf-8")
    assert (client / "README.md").is_file()
