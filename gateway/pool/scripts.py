"""Lua scripts: found, assembled from their fragments, and run by their digest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from redis.exceptions import NoScriptError

from gateway import metrics
from gateway.pool.cluster import ClusterClient
from gateway.pool.connections import Server

Client = Server | ClusterClient
"""A connection to the engine: one server (or a Sentinel's primary), or a Cluster."""

Argument = str | bytes | int
"""What a script is given; numbers go as text."""

_INCLUDE: Final = re.compile(r"^-- @include (\w+)$", re.MULTILINE)
_CONSTANT: Final = re.compile(r"^local ([A-Z][A-Z0-9_]+) = (-?\d+|'[^'\n]*')(?: --.*)?\n", re.MULTILINE)
_FLAGS: Final = re.compile(r"^-- @flags ([a-z ,-]+)$", re.MULTILINE)
_SHEBANG: Final = "#!lua"
ALLOW_OOM: Final = "allow-oom"
"""A script with this flag runs also when the engine has no memory left, as all must but what begins calls."""


def script_folder() -> Traversable:
    """The folder of the scripts: within the installed package, or the checkout's lua/."""
    packaged = files("gateway") / "_lua"
    if packaged.is_dir():
        return packaged
    return Path(__file__).parents[2] / "lua"


def assemble(name: str, folder: Traversable | None = None, flags: str = "") -> str:
    """The whole text of a script: the fragments it includes, in the order named, then itself.

    `flags` go into its first line, by default those that its header names. Raises ValueError for a fragment
    that is missing or named twice; fragments include nothing themselves.
    """
    folder = folder or script_folder()
    source = (folder / f"{name}.lua").read_text(encoding="utf-8")
    included = _INCLUDE.findall(source)
    if len(set(included)) != len(included):
        raise ValueError(f"{name}.lua includes a fragment twice")
    named = _FLAGS.search(source)
    flags = flags or (named[1] if named else "")
    parts = [f"{_SHEBANG} flags={flags}" if flags else _SHEBANG]
    for fragment in included:
        path = folder / "lib" / f"{fragment}.lua"
        if not path.is_file():
            raise ValueError(f"{name}.lua includes {fragment}, which is not in lib/")
        text = path.read_text(encoding="utf-8")
        if _INCLUDE.search(text):
            raise ValueError(f"the fragment {fragment} includes another")
        parts.append(text)
    parts.append(source)
    return _fold_constants("\n".join(parts))


def _fold_constants(text: str) -> str:
    """Put the values of `local NAME = value` lines in the place of the names.

    Lua 5.1 has no constants, and a script's functions are made anew at each call, each looking for every
    local that it uses among all of them: with a hundred constants that cost more than deciding a call.
    """
    values = dict(_CONSTANT.findall(text))
    text = _CONSTANT.sub("", text)
    if not values:
        return text
    names = re.compile(r"\b(?:" + "|".join(values) + r")\b")
    code = (
        line if line.startswith("--") else names.sub(lambda name: values[name[0]], line)
        for line in text.split("\n")
    )
    return "\n".join(code)


class Script:
    """One script, known to the engine by the SHA-1 of its text."""

    def __init__(self, name: str, flags: str = "") -> None:
        self.name = name
        self.source = assemble(name, flags=flags)
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        self._seconds = metrics.SCRIPT_SECONDS.labels(script=name)

    async def run(self, client: Client, keys: Sequence[str], arguments: Iterable[Argument] = ()) -> Any:
        """Run it. A client whose engine has not met it sends its whole text, once.

        Raises redis.exceptions.RedisError; the outcome is then unknown unless it is a ResponseError.
        """
        started = perf_counter()
        try:
            return await client.execute_command("EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.execute_command("EVAL", self.source, len(keys), *keys, *arguments)
        finally:
            self.took(perf_counter() - started)

    def took(self, seconds: float) -> None:
        """Count a run of it in the metrics."""
        self._seconds.observe(seconds)


@cache
def script(name: str, flags: str = "") -> Script:
    """The script of that name, assembled once; `flags` in place of those that its header names."""
    return Script(name, flags)
