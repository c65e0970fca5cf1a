"""The dashboard's files over HTTP: what they weigh, how they may be kept, and what a page may do."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gateway.api.pages import DIST, PAGES, page_routes

BUDGET_BYTES = 100_000


@pytest.fixture
def pages() -> TestClient:
    """The pages alone."""
    if not (DIST / "index.html").is_file():
        pytest.fail("the dashboard was not built: make web", pytrace=False)
    return TestClient(Starlette(routes=list(page_routes())))


def all_paths() -> list[str]:
    """Every address of the pages."""
    names = (path.relative_to(DIST).as_posix() for path in sorted(DIST.rglob("*")) if path.is_file())
    files = [f"/{name}" for name in names if not name.endswith((".gz", ".html")) and "/." not in f"/{name}"]
    return [*PAGES, *files]


def packed_bytes(pages: TestClient, path: str) -> int:
    with pages.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        return len(b"".join(answer.iter_raw()))


def test_all_there_is_weighs_under_a_hundred_kilobytes(pages: TestClient) -> None:
    weights = {path: packed_bytes(pages, path) for path in all_paths()}

    assert len(weights) >= 7
    assert 20_000 < sum(weights.values()) < BUDGET_BYTES, weights


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_load_from_here_alone_and_run_nothing_inline(pages: TestClient, path: str) -> None:
    answer = pages.get(path)

    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style| style=| on\w+=|https?://", answer.text)


def test_what_has_a_hash_in_its_name_is_kept_for_ever_and_the_rest_is_asked_for_again(
    pages: TestClient,
) -> None:
    for path in all_paths():
        kept = pages.get(path).headers["cache-control"]
        assert kept == ("public, max-age=31536000, immutable" if path.startswith("/assets/") else "no-cache")


@pytest.mark.parametrize("path", ["/", "/operator", "/callgate.js", "/favicon.svg"])
def test_it_is_sent_once_and_then_only_confirmed(pages: TestClient, path: str) -> None:
    first = pages.get(path)
    for coding in ("gzip", "identity"):
        headers = {"Accept-Encoding": coding}
        etag = pages.get(path, headers=headers).headers["etag"]
        again = pages.get(path, headers={**headers, "If-None-Match": f'"other", W/{etag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        changed = pages.get(path, headers={**headers, "If-None-Match": '"other"'})
        assert (changed.status_code, changed.content) == (200, first.content)
    assert first.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, br", "gzip"),
        ("br;q=1, gzip;q=0.5", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0", None),
        ("br", None),
        ("", None),
    ],
)
def test_it_is_compressed_for_those_who_take_that(
    pages: TestClient, accepted: str, coding: str | None
) -> None:
    with pages.stream("GET", "/", headers={"Accept-Encoding": accepted}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding") == coding
    plain = (DIST / "index.html").read_bytes()
    assert (gzip.decompress(raw) if coding else raw) == plain


def test_head_is_answered_and_nothing_else_than_get(pages: TestClient) -> None:
    assert pages.head("/").status_code == 200
    assert pages.post("/").status_code == 405
    assert pages.get("/assets/nothing.js").status_code == 404
    assert pages.get("/index.html").status_code == 404


def test_no_path_leads_out_of_what_was_built(pages: TestClient) -> None:
    for path in ("/assets/..%2f..%2f..%2fapi%2fpages.py", "/%2e%2e/api/pages.py", "/.sources"):
        assert pages.get(path).status_code == 404


def test_where_nothing_was_built_the_page_says_how_to(tmp_path: Path) -> None:
    pages = TestClient(Starlette(routes=list(page_routes(tmp_path))))

    for path in PAGES:
        answer = pages.get(path)
        assert answer.status_code == 503
        assert "make web" in answer.text
        assert answer.headers["cache-control"] == "no-store"
    assert pages.get("/callgate.js").status_code == 404
