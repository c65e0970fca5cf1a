"""The command's root: its subcommands, and how errors meant for people end it."""

import importlib
from typing import Final

import click

from gateway import __version__
from gateway.domain.errors import SettingsError, StartRefused

COMMANDS: Final = {
    "serve": "gateway.cli.serve:serve",
    "demo": "gateway.cli.demo:demo",
    "plan": "gateway.cli.plans:plan",
    "account": "gateway.cli.accounts:account",
    "staff": "gateway.cli.members:staff",
    "channel": "gateway.cli.members:channel",
    "token": "gateway.cli.tokens:token",
    "call": "gateway.cli.call:call",
    "watch": "gateway.cli.watch:watch",
    "policy": "gateway.cli.policy:policy",
    "clock": "gateway.cli.clock:clock",
    "check": "gateway.cli.check:check",
    "rebuild": "gateway.cli.rebuild:rebuild",
}
"""Each subcommand and where it is. They are imported when asked for: `callgate token` needs no server."""


class _Refusal(click.ClickException):
    exit_code = 1

    def __init__(self, error: SettingsError | StartRefused) -> None:
        super().__init__(error.message)


class _WrongSetting(_Refusal):
    exit_code = 2


class CallgateCommands(click.Group):
    """The subcommands, imported when needed. What refuses to start ends in a sentence, not a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which `--help` has them."""
        return [*COMMANDS, *sorted(self.commands.keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a subcommand, or None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), COMMANDS[cmd_name]
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the subcommand; exit status 2 for a wrong setting, 1 for data that forbids starting so."""
        try:
            return super().invoke(ctx)
        except (SettingsError, StartRefused) as error:
            raise _refusal(error) from error
        except ExceptionGroup as group:
            # What runs beside the server refuses from within a task group.
            if refusals := group.subgroup((SettingsError, StartRefused)):
                raise _refusal(_first(refusals)) from group
            raise


def _refusal(error: SettingsError | StartRefused) -> _Refusal:
    return _WrongSetting(error) if isinstance(error, SettingsError) else _Refusal(error)


def _first(group: ExceptionGroup[Exception]) -> SettingsError | StartRefused:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SettingsError | StartRefused)
    return error


@click.group(
    cls=CallgateCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="The first steps, and all the rest: see README.md and docs/.",
)
@click.version_option(__version__, prog_name="callgate")
def main() -> None:
    """Callgate: a real-time call gateway with live minute enforcement."""
