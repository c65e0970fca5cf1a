"""The settings of a gateway: what can be set, where it may come from, and what is accepted.

Each field of `Settings` is declared once, with its default, its description and the check that reads it.
The command's flags, the environment's names, the settings file's keys and `docs/settings.md` all follow
from that declaration.

Order of precedence: a flag, then the environment (`CALLGATE_PORT`), then the TOML file (`port`), then the
default. An empty variable counts as not set, as Compose files and unit files leave them behind; for the
lists it is "none".
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import platformdirs

from gateway.domain.destinations import EMERGENCY_NUMBERS
from gateway.domain.errors import SettingsError
from gateway.domain.policy import CountFrom, Policy
from gateway.domain.webhooks import USUAL_EVENTS
from gateway.setting_kinds import (
    Choice,
    CommaList,
    Directory,
    Integer,
    Kind,
    Replicas,
    Secrets,
    Setting,
    Text,
    Url,
    WebhookSecrets,
    YesNo,
    emergency_number,
    host_name,
    origin,
    printable,
    sip_domain,
    webhook_event,
)

ENVIRONMENT_PREFIX: Final = "CALLGATE_"
REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "redis+sentinel")

WhenEngineDown = Literal["refuse", "admit"]
LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway's settings, checked. Seconds, hours and counts are integers.

    Printing it shows no secret and no password.
    """

    host: Annotated[str, Setting(Text(host_name), "Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Setting(Integer(0, 65_535), "Port to listen on; 0 takes any free one.")] = 8080
    redis_url: Annotated[
        str | None,
        Setting(
            Url(REDIS_SCHEMES), "Redis 7 or Valkey server; without it an embedded engine runs.", secret=True
        ),
    ] = None
    database_url: Annotated[
        str | None,
        Setting(Url(("postgresql",)), "PostgreSQL; without it SQLite in the data directory.", secret=True),
    ] = None
    data_dir: Annotated[Path, Setting(Directory(), "Where the gateway keeps its own data.")] = msgspec.field(
        default_factory=platformdirs.PlatformDirs("callgate", appauthor=False).user_data_path.absolute
    )
    admin_key: Annotated[
        str | None,
        Setting(Text(printable), "Key of the admin addresses; on loopback made if not set.", secret=True),
    ] = None
    token_secrets: Annotated[
        tuple[str, ...],
        Setting(
            Secrets(),
            "Signs device tokens: 32 bytes or more; several for rotation, the first signs, all verify.",
            secret=True,
            name="token_secret",
        ),
    ] = ()
    free_seconds: Annotated[int, Setting(Integer(0, 3600), "A call up to this long is free (R1).")] = 30
    increment_seconds: Annotated[
        int, Setting(Integer(1, 3600), "Longer calls bill in steps of this (R2).")
    ] = 1
    hold_seconds: Annotated[
        int, Setting(Integer(0, 3600), "What a call in progress holds at least (R7).")
    ] = 60
    count_from: Annotated[
        CountFrom, Setting(Choice("admission", "answer"), "Where a call's length begins (R3).")
    ] = "admission"
    grace_seconds: Annotated[
        int, Setting(Integer(0, 3600), "How long a call outlives its lost connection (R13).")
    ] = 30
    lease_seconds: Annotated[int, Setting(Integer(1, 3600), "How long one sign of life vouches (R12).")] = 15
    late_resume_hours: Annotated[
        int, Setting(Integer(0, 168), "How long a call ended in its absence can come back (R15).")
    ] = 12
    call_id_memory_hours: Annotated[
        int, Setting(Integer(1, 720), "How long the id of an ended call is remembered (R9).")
    ] = 48
    records_kept_hours: Annotated[
        int,
        Setting(Integer(0, 168), "How long saved records stay in the engine, to refill a restored database."),
    ] = 2
    when_engine_down: Annotated[
        WhenEngineDown, Setting(Choice("refuse", "admit"), "What a call meets while the engine is away.")
    ] = "refuse"
    wait_replicas: Annotated[
        int | Literal["all"],
        Setting(Replicas(), "Replicas that must have a decision before it is answered: a number, or `all`."),
    ] = 0
    emergency_numbers: Annotated[
        frozenset[str], Setting(CommaList(emergency_number), "Numbers that are always admitted (R30).")
    ] = EMERGENCY_NUMBERS
    sip_domains: Annotated[
        frozenset[str], Setting(CommaList(sip_domain), "Hosts whose SIP users are numbers, for R30.")
    ] = frozenset()
    allowed_origins: Annotated[
        frozenset[str], Setting(CommaList(origin), "Browser origins let in besides the gateway's own.")
    ] = frozenset()
    webhook_url: Annotated[
        str | None, Setting(Url(("https", "http")), "Where webhooks are sent.", secret=True)
    ] = None
    webhook_secrets: Annotated[
        tuple[str, ...],
        Setting(
            WebhookSecrets(),
            "Signs webhooks: `whsec_` and base64 of 24 to 64 bytes; several for rotation, all sign.",
            secret=True,
            name="webhook_secret",
        ),
    ] = ()
    webhook_events: Annotated[
        frozenset[str], Setting(CommaList(webhook_event), "Which events webhooks tell.")
    ] = USUAL_EVENTS
    workers: Annotated[int, Setting(Integer(1, 64), "Processes that share the port.")] = 1
    simulate: Annotated[bool, Setting(YesNo(), "Give billing a clock of its own, for tests and demos.")] = (
        False
    )
    drain_seconds: Annotated[
        int, Setting(Integer(0, 3600), "How long a stopping gateway takes leave of its devices.")
    ] = 10
    log_format: Annotated[
        LogFormat,
        Setting(
            Choice("auto", "console", "json"), "How log lines look; auto: console on a terminal, else JSON."
        ),
    ] = "auto"
    log_level: Annotated[
        LogLevel, Setting(Choice("debug", "info", "warning", "error"), "The least severe log lines written.")
    ] = "info"

    given: frozenset[str] = frozenset()
    """The fields that a flag, the environment or the file gave, as against those left at their defaults."""

    @property
    def policy(self) -> Policy:
        """The billing policy these settings name."""
        return Policy(self.free_seconds, self.increment_seconds, self.hold_seconds, self.count_from)

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{field}={value!r}' for field, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [
            (field, "<set>" if setting.secret and getattr(self, field) else getattr(self, field))
            for field, setting in SETTINGS.items()
        ]


def _declared() -> dict[str, Setting]:
    hints = typing.get_type_hints(Settings, include_extras=True)
    declared = {}
    for field in Settings.__struct_fields__:
        if field == "given":
            continue
        (setting,) = (extra for extra in hints[field].__metadata__ if isinstance(extra, Setting))
        declared[field] = setting if setting.name else setting.named(field)
    return declared


SETTINGS: Final[Mapping[str, Setting]] = _declared()
"""Every setting, by its field in `Settings`."""

_FIELD_OF: Final = {setting.name: field for field, setting in SETTINGS.items()}


def environment_name(setting: Setting) -> str:
    """Return the name of a setting's environment variable."""
    return ENVIRONMENT_PREFIX + setting.name.upper()


def flag_name(setting: Setting) -> str:
    """Return the name of a setting's flag."""
    return "--" + setting.name.replace("_", "-")


def load_settings(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config_path: Path | str | None = None,
) -> Settings:
    """Return the settings that flags, environment and settings file make together.

    `flags` has settings' names as keys; None is a flag not given. Raises SettingsError, naming the
    setting and where its value came from, for the first value that is not accepted, an unknown key in the
    file, a file that cannot be read, and values that contradict each other.
    """
    given: dict[str, tuple[object, str]] = {}
    if config_path is not None:
        given.update(_from_file(Path(config_path)))
    if environ is not None:
        given.update(_from_environment(environ))
    for name, value in (flags or {}).items():
        if value is not None:
            given[_known(name, "flag")] = (value, flag_name(SETTINGS[_FIELD_OF[name]]))
    values: dict[str, Any] = {}
    for field, (value, source) in given.items():
        try:
            values[field] = SETTINGS[field].kind.read(value)
        except ValueError as error:
            name = SETTINGS[field].name
            where = source if name in source.lower().replace("-", "_") else f"{name} ({source})"
            raise SettingsError(f"{where}: {error}") from None
    settings = Settings(**values, given=frozenset(values))
    _check_together(settings)
    return settings


def as_environment(settings: Settings) -> dict[str, str]:
    """Return environment variables from which `load_settings` makes the same settings; secrets included."""
    defaults = Settings()
    return {
        environment_name(setting): setting.kind.write(value)
        for field, setting in SETTINGS.items()
        if (value := getattr(settings, field)) != getattr(defaults, field) or field in settings.given
    }


def misspelt_variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return variables that look like a setting's but are none, each with the one that was probably meant."""
    names = [environment_name(setting) for setting in SETTINGS.values()]
    found = []
    for variable in sorted(environ):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in names:
            close = difflib.get_close_matches(variable, names, n=1, cutoff=0.85)
            found += [(variable, meant) for meant in close]
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    given: dict[str, tuple[object, str]] = {}
    for field, setting in SETTINGS.items():
        name = environment_name(setting)
        value = environ.get(name)
        if value is None or (value == "" and not setting.kind.empty_is_a_value):
            continue
        given[field] = (value, name)
    return given


def _from_file(path: Path) -> dict[str, tuple[object, str]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"The settings file {path} is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"The settings file {path} is not valid TOML: {error}.") from None
    return {_known(name, str(path)): (value, f"{name} in {path}") for name, value in content.items()}


def _known(name: str, source: str) -> str:
    if name in _FIELD_OF:
        return _FIELD_OF[name]
    close = difflib.get_close_matches(name.lower(), _FIELD_OF, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise SettingsError(f"{name} ({source}): there is no such setting.{hint}")


def _check_together(settings: Settings) -> None:
    try:
        _ = settings.policy
    except ValueError as error:
        raise SettingsError(f"{error}.") from None
    if settings.late_resume_hours > settings.call_id_memory_hours:
        raise SettingsError(
            f"late_resume_hours ({settings.late_resume_hours}) must be at most call_id_memory_hours "
            f"({settings.call_id_memory_hours}): a call cannot come back under an id that is forgotten."
        )
    if settings.webhook_url is not None and not settings.webhook_secrets:
        raise SettingsError("webhook_secret must be set with webhook_url: unsigned webhooks are not sent.")


__all__ = ["ENVIRONMENT_PREFIX", "SETTINGS", "Kind", "Setting", "Settings", "as_environment", "load_settings"]
