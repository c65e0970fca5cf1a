"""The documentation as text: its pages, their headings, links and code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (?P<text>.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page."""

    path: Path
    text: str

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def prose(self) -> str:
        """The page without its blocks of code."""
        return _FENCE.sub("", self.text)

    @property
    def blocks(self) -> list[Block]:
        """Its blocks of code, in order."""
        return [Block(each["language"], each["text"]) for each in _FENCE.finditer(self.text)]

    @property
    def anchors(self) -> set[str]:
        """What a link may name after `#`: the headings, as GitHub writes them."""
        return {_anchor(heading["text"]) for heading in _HEADING.finditer(self.prose)}

    @property
    def links(self) -> list[str]:
        """The targets of its links."""
        return [link["target"] for link in _LINK.finditer(self.prose)]

    @property
    def code(self) -> list[str]:
        """What stands between backticks in its prose."""
        return _CODE.findall(self.prose)

    def section(self, heading: str) -> Page:
        """The part under a heading, up to the next of its level or above. AssertionError if there is none."""
        begin = re.search(rf"^(?P<level>#+) {re.escape(heading)}$", self.text, re.MULTILINE)
        assert begin, f"{self} has no heading {heading!r}"
        end = re.compile(rf"^#{{1,{len(begin['level'])}}} ", re.MULTILINE).search(self.text, begin.end())
        return Page(self.path, self.text[begin.end() : end.start() if end else None])

    @property
    def rows(self) -> list[list[str]]:
        """The cells of every row of its tables, without their heads."""
        rows: list[list[str]] = []
        for line in self.prose.splitlines():
            if line.startswith("| ---"):
                rows.pop()
            elif line.startswith("| "):
                rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        return rows


def _anchor(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")


def page(name: str) -> Page:
    """A page by its path in the repository."""
    return Page(ROOT / name, (ROOT / name).read_text(encoding="utf-8"))


def pages() -> Iterator[Page]:
    """Every page."""
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield page(str(path.relative_to(ROOT)))
