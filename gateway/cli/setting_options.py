"""The settings as flags of a command."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gateway.setting_kinds import Setting, YesNo
from gateway.settings import SETTINGS, Settings, environment_name, flag_name

Command = TypeVar("Command", bound=Callable[..., Any])


def setting_options(command: Command) -> Command:
    """Add a flag for every setting; the command gets them by name, None where not given, for `load_settings`.

    The values stay text: what is accepted is decided where the environment's and the file's values are
    checked, too.
    """
    for field, setting in reversed(list(SETTINGS.items())):
        flag = flag_name(setting)
        described = f"{setting.description}{_default(field, setting)}  [{environment_name(setting)}]"
        if isinstance(setting.kind, YesNo):
            option = click.option(f"{flag}/--no-{flag[2:]}", setting.name, default=None, help=described)
        else:
            option = click.option(flag, setting.name, metavar=setting.kind.placeholder, help=described)
        command = option(command)
    return command


def _default(field: str, setting: Setting) -> str:
    default = getattr(_DEFAULTS, field)
    if default is None or default in ((), frozenset(), False):
        return ""
    return f" (default: {setting.kind.write(default)})"


_DEFAULTS = Settings()
