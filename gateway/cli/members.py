"""`callgate staff` and `callgate channel`: who takes an account's seats, and which lines it has connected."""

from __future__ import annotations

import click
from msgspec import UNSET

from gateway.cli.kinds import ID
from gateway.cli.output import say_fields, say_json, say_table
from gateway.cli.remote import Remote, remote_options
from gateway.client.resources import Channel, StaffMember


@click.group(
    epilog="""\b
Examples:
  callgate staff put acme ana --name "Ana Lima"
  callgate staff list acme
  callgate staff remove acme ana
""",
    short_help="Make, change, remove and list staff members.",
)
def staff() -> None:
    """Make, change, remove and list the staff members of an account. Each takes one seat of its plan."""


@staff.command("put", epilog='Example:  callgate staff put acme ana --name "Ana Lima"')
@click.argument("account", type=ID)
@click.argument("staff_id", metavar="STAFF", type=ID)
@click.option("--name", help="What people call them.")
@remote_options
def put_staff(remote: Remote, account: str, staff_id: str, name: str | None) -> None:
    """Make a staff member, or change the name."""

    async def work() -> StaffMember:
        async with remote.admin() as admin:
            return await admin.put_staff(account, staff_id, name=UNSET if name is None else name)

    found = remote.run(work())
    if remote.as_json:
        say_json(found)
    else:
        say_fields([("staff", found.staff), ("name", found.name)])


@staff.command("remove", epilog="Example:  callgate staff remove acme ana")
@click.argument("account", type=ID)
@click.argument("staff_id", metavar="STAFF", type=ID)
@remote_options
def remove_staff(remote: Remote, account: str, staff_id: str) -> None:
    """Remove a staff member. The seat is free at once; calls in progress go on."""

    async def work() -> None:
        async with remote.admin() as admin:
            await admin.remove_staff(account, staff_id)

    remote.run(work())
    if not remote.as_json:
        click.echo(f"{staff_id} is no longer of {account}.")


@staff.command("list", epilog="Example:  callgate staff list acme")
@click.argument("account", type=ID)
@remote_options
def list_staff(remote: Remote, account: str) -> None:
    """List an account's staff members."""

    async def work() -> list[StaffMember]:
        async with remote.admin() as admin:
            return [each async for each in admin.staff(account)]

    found = remote.run(work())
    if remote.as_json:
        say_json(found)
    else:
        rows = [(each.staff, each.name) for each in found]
        say_table(("STAFF", "NAME"), rows, nothing=f"{account} has no staff members.")


@click.group(
    epilog="""\b
Examples:
  callgate channel put acme main --label "Main line" --number +14155550100
  callgate channel list acme
  callgate channel remove acme main
""",
    short_help="Connect, change, remove and list channels.",
)
def channel() -> None:
    """Connect, change, remove and list the channels of an account: the lines that calls go out from."""


@channel.command("put", epilog='Example:  callgate channel put acme main --label "Main line"')
@click.argument("account", type=ID)
@click.argument("channel_id", metavar="CHANNEL", type=ID)
@click.option("--label", help="What people call it.")
@click.option("--number", help="The number that it shows.")
@remote_options
def put_channel(remote: Remote, account: str, channel_id: str, label: str | None, number: str | None) -> None:
    """Connect a channel, or change its label or number."""

    async def work() -> Channel:
        async with remote.admin() as admin:
            return await admin.put_channel(
                account,
                channel_id,
                label=UNSET if label is None else label,
                number=UNSET if number is None else number,
            )

    found = remote.run(work())
    if remote.as_json:
        say_json(found)
    else:
        say_fields([("channel", found.channel), ("label", found.label), ("number", found.number)])


@channel.command("remove", epilog="Example:  callgate channel remove acme main")
@click.argument("account", type=ID)
@click.argument("channel_id", metavar="CHANNEL", type=ID)
@remote_options
def remove_channel(remote: Remote, account: str, channel_id: str) -> None:
    """Remove a channel. Calls in progress go on."""

    async def work() -> None:
        async with remote.admin() as admin:
            await admin.remove_channel(account, channel_id)

    remote.run(work())
    if not remote.as_json:
        click.echo(f"{channel_id} is no longer connected to {account}.")


@channel.command("list", epilog="Example:  callgate channel list acme")
@click.argument("account", type=ID)
@remote_options
def list_channels(remote: Remote, account: str) -> None:
    """List an account's channels."""

    async def work() -> list[Channel]:
        async with remote.admin() as admin:
            return [each async for each in admin.channels(account)]

    found = remote.run(work())
    if remote.as_json:
        say_json(found)
    else:
        rows = [(each.channel, each.label, each.number) for each in found]
        say_table(("CHANNEL", "LABEL", "NUMBER"), rows, nothing=f"{account} has no channels.")
