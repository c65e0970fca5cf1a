"""Every command explains itself, with examples."""

import click
import pytest
from click.testing import CliRunner

from gateway.cli import main


def commands(command: click.Command = main, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += commands(child, (*path, name))
    return found


@pytest.mark.parametrize("path", [path for path in commands() if path], ids=" ".join)
def test_help_says_what_it_does_and_how(path: tuple[str, ...]) -> None:
    told = CliRunner().invoke(main, [*path, "--help"], prog_name="callgate")
    assert told.exit_code == 0
    assert "Example" in told.output
    assert f"  callgate {' '.join(path)}" in told.output
    assert max(map(len, told.output.splitlines())) <= 120


def test_all_commands_are_listed() -> None:
    listed = CliRunner().invoke(main, ["--help"]).output
    named = "serve demo plan account staff channel token call watch policy clock check"
    assert [name for name in named.split() if f"\n  {name} " not in listed] == []
