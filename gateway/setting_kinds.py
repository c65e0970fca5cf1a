"""The kinds of values that settings have: how each is read from text or TOML, and written back.

A kind's `read` raises ValueError with what would have been accepted, and never repeats the value of a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol
from urllib.parse import urlsplit

from gateway.domain.webhooks import EVENT_TYPES, SECRET_BYTES, SECRET_PREFIX, secret_key
from gateway.urls import split_url

SHORTEST_TOKEN_SECRET_BYTES = 32


class Kind(Protocol):
    """How one kind of value is read and written."""

    placeholder: str
    """What `--help` shows in its place."""
    empty_is_a_value: bool
    """Whether an empty environment variable means "none" instead of "not set"."""

    def read(self, value: object) -> Any:
        """Return the checked value of what a flag, a variable or the
        file says; ValueError if not accepted."""

    def write(self, value: Any) -> str:
        """Return the text that `read` makes `value` of."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its kind, its description, whether it is kept out of sight, and its outside name."""

    kind: Kind
    description: str
    secret: bool = False
    name: str = ""

    def named(self, name: str) -> Setting:
        """Return this setting under `name`."""
        return replace(self, name=name)


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from `least` to `most`."""

    least: int
    most: int
    placeholder: str = "N"
    empty_is_a_value: ClassVar[bool] = False

    def read(self, value: object) -> int:
        """Take an int, or its decimal digits."""
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
            number = int(value)
        elif type(value) is int:
            number = value
        else:
            raise ValueError(f"must be a whole number, not {value!r}{_service_link_hint(value)}")
        if not self.least <= number <= self.most:
            raise ValueError(f"must be from {self.least} to {self.most}, not {number}")
        return number

    def write(self, value: int) -> str:
        """Write its digits."""
        return str(value)


def _service_link_hint(value: object) -> str:
    # Kubernetes puts CALLGATE_PORT=tcp://… into pods beside a service called "callgate".
    if isinstance(value, str) and value.startswith("tcp://"):
        return ". Kubernetes set it for a service of this name: set enableServiceLinks to false"
    return ""


@dataclass(frozen=True, slots=True)
class Replicas:
    """A number of replicas, or all of them."""

    placeholder: str = "N|all"
    empty_is_a_value: ClassVar[bool] = False

    def read(self, value: object) -> int | Literal["all"]:
        """Take `all`, or a number from 0 to 100."""
        if value == "all":
            return "all"
        try:
            return Integer(0, 100).read(value)
        except ValueError:
            raise ValueError(f"must be `all` or a number from 0 to 100, not {value!r}") from None

    def write(self, value: int | Literal["all"]) -> str:
        """Write the word or the digits."""
        return str(value)


class Choice:
    """One of a few words."""

    empty_is_a_value: ClassVar[bool] = False

    def __init__(self, *words: str) -> None:
        self.words = words
        self.placeholder = "|".join(words)

    def read(self, value: object) -> str:
        """Take one of the words."""
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"must be {' or '.join(self.words)}, not {value!r}")
        return value

    def write(self, value: str) -> str:
        """Write the word."""
        return value


@dataclass(frozen=True, slots=True)
class YesNo:
    """Yes or no."""

    placeholder: str = "yes|no"
    empty_is_a_value: ClassVar[bool] = False

    def read(self, value: object) -> bool:
        """Take a bool, or one of the words people use for one."""
        if isinstance(value, bool):
            return value
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in {"1", "true", "yes", "on"}:
            return True
        if word in {"0", "false", "no", "off"}:
            return False
        raise ValueError(f"must be yes or no, not {value!r}")

    def write(self, value: bool) -> str:
        """Write `1` or `0`."""
        return "1" if value else "0"


@dataclass(frozen=True, slots=True)
class Text:
    """Text that `check` accepts; it returns the text to keep or raises ValueError."""

    check: Callable[[str], str]
    placeholder: str = "TEXT"
    empty_is_a_value: ClassVar[bool] = False

    def read(self, value: object) -> str:
        """Take non-empty text."""
        if not isinstance(value, str) or not value.strip():
            raise ValueError("must be text, and not empty")
        return self.check(value.strip())

    def write(self, value: str) -> str:
        """Write it as it is."""
        return value


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory, which need not exist yet."""

    placeholder: str = "DIR"
    empty_is_a_value: ClassVar[bool] = False

    def read(self, value: object) -> Path:
        """Take a path; `~` is the user's home, and what is relative starts where the command does."""
        if not isinstance(value, str | Path) or not str(value):
            raise ValueError(f"must be a directory, not {value!r}")
        path = Path(value).expanduser().absolute()
        if path.exists() and not path.is_dir():
            raise ValueError(f"must be a directory, but {path} is a file")
        return path

    def write(self, value: Path) -> str:
        """Write the absolute path."""
        return str(value)


_OF_ONE_SERVER: Final = ("redis", "rediss")


@dataclass(frozen=True, slots=True)
class Url:
    """A URL of one of `schemes`. It may carry a password, and so is never repeated in an error."""

    schemes: tuple[str, ...]
    placeholder: str = "URL"
    empty_is_a_value: ClassVar[bool] = False

    def read(self, value: object) -> str:
        """Take a URL with a host, or with a path where the scheme is `unix`."""
        accepted = " or ".join(f"{scheme}://…" for scheme in self.schemes)
        if not isinstance(value, str):
            raise ValueError(f"must be {accepted}")
        url = value.strip()
        try:
            parts = split_url(url)
            # Sentinels, a Cluster's nodes and PostgreSQL's standbys are several, separated by commas.
            hosts = [urlsplit(f"//{host}") for host in parts.hosts]
            # A single one may be left out where a socket is named instead, as PostgreSQL's `?host=/run/…`.
            are_valid = all(host.port != 0 and (host.hostname or len(hosts) == 1) for host in hosts)
        except ValueError:
            raise ValueError(f"must be {accepted} with a valid host and port") from None
        if parts.scheme not in self.schemes:
            raise ValueError(f"must be {accepted}")
        if parts.scheme == "unix":
            if not parts.path:
                raise ValueError("must name a socket, as in unix:///run/valkey/valkey.sock")
        elif not (parts.user or any(parts.hosts)) or not are_valid:
            raise ValueError(f"must be {accepted} with a host")
        elif len(hosts) > 1 and parts.scheme in _OF_ONE_SERVER:
            raise ValueError("names several servers, which only redis+cluster:// and redis+sentinel:// may")
        return url

    def write(self, value: str) -> str:
        """Write it as it is."""
        return value


@dataclass(frozen=True, slots=True)
class CommaList:
    """Several items, none twice, separated by commas (in TOML also a list); empty is none."""

    check: Callable[[str], str]
    placeholder: str = "A,B,…"
    empty_is_a_value: ClassVar[bool] = True

    def read(self, value: object) -> frozenset[str]:
        """Take text or a list of text; each item is checked."""
        return frozenset(self.check(item) for item in _items(value))

    def write(self, value: frozenset[str]) -> str:
        """Write them in order, for what reads it and for people."""
        return ",".join(sorted(value))


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets in the order given, separated by commas, each of at least 32 bytes."""

    placeholder: str = "SECRET,…"
    empty_is_a_value: ClassVar[bool] = False

    def read(self, value: object) -> tuple[str, ...]:
        """Take text or a list of text; an error tells which one is too short, not what it is."""
        secrets = tuple(_items(value))
        for number, secret in enumerate(secrets, start=1):
            if len(secret.encode()) < SHORTEST_TOKEN_SECRET_BYTES:
                which = f"secret number {number}" if len(secrets) > 1 else "the secret"
                length = len(secret.encode())
                raise ValueError(
                    f"{which} must have {SHORTEST_TOKEN_SECRET_BYTES} bytes or more, not {length}"
                )
        return secrets

    def write(self, value: tuple[str, ...]) -> str:
        """Write them in their order."""
        return ",".join(value)


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """Secrets of webhooks, separated by commas, as the Standard Webhooks specification writes them."""

    placeholder: str = "whsec_…,…"
    empty_is_a_value: ClassVar[bool] = False

    def read(self, value: object) -> tuple[str, ...]:
        """Take text or a list of text; an error tells what is wrong with one, not what it is."""
        secrets = tuple(_items(value))
        for number, secret in enumerate(secrets, start=1):
            try:
                secret_key(secret)
            except ValueError as error:
                which = f"secret number {number}" if len(secrets) > 1 else "the secret"
                least, most = SECRET_BYTES
                wanted = f"{SECRET_PREFIX} and base64 of {least} to {most} bytes"
                raise ValueError(f"{which} must be {wanted}, but {error}") from None
        return secrets

    def write(self, value: tuple[str, ...]) -> str:
        """Write them in their order."""
        return ",".join(value)


def _items(value: object) -> list[str]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [item.strip() for item in value if item.strip()]
    raise ValueError("must be text with commas between the items, or a list of texts")


def host_name(text: str) -> str:
    """Accept an address or a name to listen on."""
    bare = text.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", bare):
            return bare
    raise ValueError(f"must be an address such as 127.0.0.1, ::1 or 0.0.0.0, or a host's name, not {text!r}")


def printable(text: str) -> str:
    """Accept what a header can carry: visible ASCII, without spaces."""
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must consist of visible ASCII characters, without spaces")
    return text


def emergency_number(text: str) -> str:
    """Accept a number as R30 compares it: without separators."""
    number = text.translate(str.maketrans("", "", "-.() "))
    if not re.fullmatch(r"\+?[0-9]{2,15}", number):
        raise ValueError(f"each must be a number of 2 to 15 digits, not {text!r}")
    return number


def sip_domain(text: str) -> str:
    """Accept a host as it stands in a SIP URI."""
    return host_name(text).lower()


def origin(text: str) -> str:
    """Accept a browser's `Origin` (RFC 6454): scheme, host, and port unless it is the scheme's own."""
    accepted = f"each must be an origin such as https://desk.example.com, not {text!r}"
    try:
        parts = urlsplit(text.lower())
        port = parts.port
    except ValueError:
        raise ValueError(accepted) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
        raise ValueError(accepted)
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(accepted)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    standard = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in {None, standard} else "")


def webhook_event(text: str) -> str:
    """Accept the type of an event."""
    if text not in EVENT_TYPES:
        raise ValueError(f"each must be one of {', '.join(EVENT_TYPES)}, not {text!r}")
    return text
