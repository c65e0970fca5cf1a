"""The dashboard's pages, as they were built: read once, sent as they are.

A page may load nothing but what this gateway serves, and run no script but the built ones: its
Content-Security-Policy forbids the rest, inline scripts and styles among it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

DIST: Final = Path(__file__).parent.parent / "web" / "dist"
PAGES: Final = MappingProxyType({"/": "index.html", "/operator": "operator.html"})
"""The pages, and the built file of each."""

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; "
    "script-src 'self'; "
    "style-src 'self'; "
    "img-src 'self'; "
    "connect-src 'self'; "
    "base-uri 'none'; "
    "form-action 'none'; "
    "frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; "
    "trusted-types lit-html"
)
HEADERS: Final = MappingProxyType(
    {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }
)

_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_REVALIDATED: Final = "no-cache"
_MEDIA_TYPES: Final = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
        ".txt": "text/plain; charset=utf-8",
    }
)
_NOT_BUILT: Final = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Callgate</title></head><body>
<h1>The dashboard was not built</h1>
<p>This gateway runs from a checkout in which the front end has not been built yet. Run <code>make web</code>
there, and start the gateway again. Everything else works without it.</p>
</body></html>
"""


@dataclass(frozen=True, slots=True)
class _File:
    """A built file, plain and compressed, with the headers that both are sent with."""

    plain: bytes
    packed: bytes | None
    etag: str
    media_type: str
    cache_control: str

    async def answer(self, request: Request) -> Response:
        """Answer a GET or a HEAD, whose body the server leaves out."""
        packed = self.packed if _takes_gzip(request.headers) else None
        etag = f'"{self.etag}{"-gz" if packed is not None else ""}"'
        headers = {**HEADERS, "ETag": etag, "Cache-Control": self.cache_control, "Vary": "Accept-Encoding"}
        if _has(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        if packed is not None:
            headers["Content-Encoding"] = "gzip"
        return Response(packed or self.plain, headers=headers, media_type=self.media_type)


def page_routes(folder: Path = DIST) -> Sequence[BaseRoute]:
    """Return the routes of the pages and of all that they load.

    Where nothing was built, a page says how to.
    """
    if not (folder / PAGES["/"]).is_file():
        return [Route(path, _not_built) for path in PAGES]
    files = dict(_files(folder))
    pages = [Route(path, files.pop(name).answer) for path, name in PAGES.items()]
    return pages + [Route(f"/{name}", file.answer) for name, file in files.items()]


def _files(folder: Path) -> Iterator[tuple[str, _File]]:
    for path in sorted(folder.rglob("*")):
        media_type = _MEDIA_TYPES.get(path.suffix)
        if media_type is None or not path.is_file():
            continue
        plain, packed = path.read_bytes(), path.with_name(path.name + ".gz")
        name = path.relative_to(folder).as_posix()
        yield (
            name,
            _File(
                plain=plain,
                packed=packed.read_bytes() if packed.is_file() else None,
                etag=hashlib.sha256(plain).hexdigest()[:24],
                media_type=media_type,
                # The names of these hold a hash of their content.
                cache_control=_IMMUTABLE if name.startswith("assets/") else _REVALIDATED,
            ),
        )


def _takes_gzip(headers: Headers) -> bool:
    for each in headers.get("accept-encoding", "").split(","):
        coding, _, parameters = each.partition(";")
        if coding.strip().lower() in ("gzip", "*"):
            return parameters.replace(" ", "").rstrip("0").rstrip(".") != "q="
    return False


def _has(if_none_match: str, etag: str) -> bool:
    return if_none_match.strip() == "*" or etag in (
        each.strip().removeprefix("W/") for each in if_none_match.split(",")
    )


async def _not_built(_: Request) -> Response:
    headers = {**HEADERS, "Cache-Control": "no-store"}
    return Response(_NOT_BUILT, status_code=503, headers=headers, media_type="text/html")
