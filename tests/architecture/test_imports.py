"""Imports point one way: cli -> service, api, sip -> sessions, live, records -> pool -> domain."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import gateway

ROOT: Final = Path(gateway.__file__).parent

# What a part may import of the others. `settings`, `embedded`, … are single modules, here by their name.
LEAVES: Final = {"__init__", "metrics", "turns", "die_with_parent", "urls"}
CONFIGURATION: Final = {"settings", "setting_kinds", "observability", "secrets", "embedded"}
MAY_IMPORT: Final[dict[str, set[str]]] = {
    "domain": set(),
    "metrics": set(),
    "turns": {"metrics"},
    "die_with_parent": set(),
    "urls": set(),
    "setting_kinds": {"domain", "urls"},
    "settings": {"domain", "setting_kinds"},
    "secrets": {"domain", "settings"},
    "observability": {"domain", "settings"},
    "embedded": {"domain", "die_with_parent"},
    "client": {"domain"},
    "pool": {"domain", "metrics", "turns", "urls"},
    "sessions": {"domain", "metrics", "turns", "pool"},
    "live": {"domain", "metrics", "turns", "pool"},
    "records": {"domain", "metrics", "turns", "pool"},
    "service": {"domain", "pool", "sessions", "live", "records"} | LEAVES | CONFIGURATION,
    "api": {"domain", "pool", "sessions", "live", "records", "service"} | LEAVES | CONFIGURATION,
    "sip": {"domain", "pool", "sessions", "live", "records", "service"} | LEAVES | CONFIGURATION,
    "cli": {"domain", "pool", "sessions", "live", "records", "service", "api", "sip", "client"}
    | LEAVES
    | CONFIGURATION,
    "__init__": set(),
}

# Libraries that only some parts may know.
CONFINED: Final = {
    "redis": {"pool", "live", "service"},
    "starlette": {"api"},
    "sqlalchemy": {"records"},
    "alembic": {"records"},
    "aiosqlite": {"records"},
    "asyncpg": {"records"},
    "uvicorn": {"cli"},
    "click": {"cli"},
    "whenever": {"domain"},
    "jwt": {"api", "sessions", "service", "cli"},
}
DOMAIN_LIBRARIES: Final = {"whenever"}


def _modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def _part(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of every import, wherever in the module it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            if node.module == "gateway":
                for alias in node.names:
                    known = (ROOT / alias.name).is_dir() or (ROOT / f"{alias.name}.py").is_file()
                    yield node.lineno, f"gateway.{alias.name}" if known else "gateway.__init__"
            else:
                yield node.lineno, node.module


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_part_may(path: Path) -> None:
    part = _part(path)
    assert part in MAY_IMPORT, f"{part} is a new part: say in this test what it may import"
    wrong = []
    for line, name in _imported(path):
        if name == "gateway" or name.startswith("gateway."):
            other = name.split(".")[1] if "." in name else "__init__"
            if other != part and other not in MAY_IMPORT[part] | {"__init__"}:
                wrong.append(f"{path}:{line} imports {name}")
    assert not wrong


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    part = _part(path)
    wrong = []
    for line, name in _imported(path):
        library = name.split(".")[0]
        if library in CONFINED and part not in CONFINED[library]:
            wrong.append(f"{path}:{line} imports {library}, which only {sorted(CONFINED[library])} may")
    assert not wrong


@pytest.mark.parametrize("path", sorted((ROOT / "domain").rglob("*.py")), ids=lambda path: path.name)
def test_the_domain_is_pure(path: Path) -> None:
    """Standard library and whenever only; no event loop, clock, randomness or input and output."""
    import sys

    impure = {
        "asyncio",
        "os",
        "random",
        "secrets",
        "socket",
        "subprocess",
        "threading",
        "time",
        "pathlib",
        "logging",
    }
    wrong = []
    for line, name in _imported(path):
        library = name.split(".")[0]
        allowed = library == "gateway" or library in DOMAIN_LIBRARIES or library in sys.stdlib_module_names
        if not allowed or library in impure:
            wrong.append(f"{path}:{line} imports {name}")
    assert not wrong


def test_every_part_of_the_order_is_a_part_that_may_be_imported() -> None:
    """A name misspelt in the table above would allow nothing and forbid nothing."""
    named = set().union(*MAY_IMPORT.values())
    assert named <= MAY_IMPORT.keys()


def test_the_order_has_no_circle() -> None:
    reachable: dict[str, set[str]] = {}

    def walk(part: str, seen: tuple[str, ...]) -> set[str]:
        assert part not in seen, f"a circle: {' -> '.join((*seen, part))}"
        if part not in reachable:
            found = set(MAY_IMPORT[part])
            for other in MAY_IMPORT[part]:
                found |= walk(other, (*seen, part))
            reachable[part] = found
        return reachable[part]

    for part in MAY_IMPORT:
        walk(part, ())
