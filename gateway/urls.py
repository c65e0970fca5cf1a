"""URLs whose authority may name several hosts: `redis+sentinel://s1:26379,[::1]:26380/calls`.

`urllib.parse` refuses a bracketed IPv6 address among them, and takes what is behind the last colon of all for
the port.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

_AFTER_AUTHORITY: Final = "/?#"


class SplitUrl(NamedTuple):
    """The parts of a URL; `user` is `name:password` as it stands there, `hosts` are `host[:port]` each."""

    scheme: str
    user: str
    hosts: tuple[str, ...]
    path: str
    query: str


def split_url(url: str) -> SplitUrl:
    """Take a URL apart (RFC 3986); one without an authority has a single host, which is empty.

    Raises ValueError where `urllib.parse` does.
    """
    scheme, separator, rest = url.partition("://")
    end = min((at for mark in _AFTER_AUTHORITY if (at := rest.find(mark)) >= 0), default=len(rest))
    user, _, hosts = rest[:end].rpartition("@")
    parts = urlsplit(scheme + separator + rest[end:])
    return SplitUrl(parts.scheme, user, tuple(hosts.split(",")), parts.path, parts.query)
