"""The admin key and the token secret: given by the operator, or made and kept for this user's eyes only.

They are made only for a gateway that listens on loopback. One that others can reach must be given both, so
that its operator knows them, and every other gateway of the deployment has the same.
"""

import ipaddress
import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gateway.domain.errors import SettingsError, StartRefused
from gateway.settings import Settings

ADMIN_KEY_FILE: Final = "admin.key"
TOKEN_SECRET_FILE: Final = "token.secret"  # noqa: S105 - a file's name


@dataclass(frozen=True, slots=True)
class KeptSecrets:
    """Settings with an admin key and token secrets, and the files of those that were made (None: given)."""

    settings: Settings
    admin_key_path: Path | None
    token_secret_path: Path | None


def ensure_secrets(settings: Settings) -> KeptSecrets:
    """Return `settings` with admin key and token secret; what was not given is made and kept.

    Raises SettingsError if one is not given and the host is not loopback, StartRefused if a kept one cannot
    be read or written, or others could have read it.
    """
    needed = {"CALLGATE_ADMIN_KEY": settings.admin_key, "CALLGATE_TOKEN_SECRET": settings.token_secrets}
    missing = [name for name, given in needed.items() if not given]
    if missing and not is_loopback(settings.host):
        raise SettingsError(
            f"{' and '.join(missing)} must be set to listen on {settings.host}: other machines can reach it. "
            "(On 127.0.0.1 they are made and kept by themselves.)"
        )
    admin_key_path = token_secret_path = None
    if settings.admin_key is None:
        admin_key_path = settings.data_dir / ADMIN_KEY_FILE
        admin_key = _kept(admin_key_path, lambda: f"cgadmin_{secrets.token_urlsafe(32)}")
        settings = msgspec.structs.replace(settings, admin_key=admin_key)
    if not settings.token_secrets:
        token_secret_path = settings.data_dir / TOKEN_SECRET_FILE
        token_secret = _kept(token_secret_path, lambda: secrets.token_urlsafe(48))
        settings = msgspec.structs.replace(settings, token_secrets=(token_secret,))
    return KeptSecrets(settings, admin_key_path, token_secret_path)


def kept_admin_key(data_dir: Path) -> str | None:
    """Return the admin key that a gateway made and kept in `data_dir`, if there is one.

    Raises StartRefused as `ensure_secrets` does.
    """
    path = data_dir / ADMIN_KEY_FILE
    return _read(path) if path.exists() else None


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a gateway that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _kept(path: Path, make: Callable[[], str]) -> str:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_once(path, make())
    except OSError as error:
        raise StartRefused(f"{path} cannot be written: {error.strerror}.") from error
    return _read(path)


def _write_once(path: Path, secret: str) -> None:
    # Written aside and linked into place: of two gateways starting at once, both read the same whole file.
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secret}\n")
            file.flush()
            os.fsync(file.fileno())
        Path(path).hardlink_to(aside)
    except FileExistsError:
        return
    finally:
        Path(aside).unlink()


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartRefused(f"{path} cannot be read: {error}.") from error
    if stat.S_IMODE(mode) & 0o077:
        raise StartRefused(
            f"{path} can be read by other users (mode {stat.S_IMODE(mode):04o}). Remove it for a new one, "
            f"or if nobody else can have read it: chmod 600 {path}"
        )
    if not secret:
        raise StartRefused(f"{path} is empty. Remove it, so that a new one is made.")
    return secret
