"""`callgate plan`: what accounts subscribe to."""

from __future__ import annotations

import click
from msgspec import UNSET

from gateway.cli.kinds import ID
from gateway.cli.output import say_fields, say_json, say_table
from gateway.cli.remote import Remote, remote_options
from gateway.client.resources import Plan, Price

_EXAMPLES = """\b
Examples:
  callgate plan put team --name Team --minutes 1000 --channels 2 --seats 5 --price 49.00 --currency USD
  callgate plan put team --name "Team (2026)"
      an existing plan: what is left out stays
  callgate plan list
  callgate plan show team --json
"""


@click.group(epilog=_EXAMPLES, short_help="Make, change and read plans.")
def plan() -> None:
    """Make, change and read plans: minutes a cycle, connected channels, staff seats, a price."""


@plan.command(
    "put", epilog="Example:  callgate plan put team --name Team --minutes 1000 --channels 2 --seats 5"
)
@click.argument("plan_id", metavar="PLAN", type=ID)
@click.option("--name", help="What people call it.")
@click.option("--minutes", type=click.IntRange(0), help="Calling minutes in each billing cycle.")
@click.option("--channels", type=click.IntRange(0), help="How many channels an account may connect.")
@click.option("--seats", type=click.IntRange(0), help="How many staff members an account may have.")
@click.option("--max-calls", type=click.IntRange(1), help="How many calls may be in progress at once.")
@click.option("--no-max-calls", is_flag=True, help="Take that limit away.")
@click.option("--price", metavar="AMOUNT", help="What a month costs, as in 49.00.")
@click.option("--currency", metavar="CODE", help="The currency of that, as in USD.")
@remote_options
def put(
    remote: Remote,
    plan_id: str,
    name: str | None,
    minutes: int | None,
    channels: int | None,
    seats: int | None,
    max_calls: int | None,
    no_max_calls: bool,
    price: str | None,
    currency: str | None,
) -> None:
    """Make a plan, or change it. Once accounts are on it, only its name and price can change."""
    if (price is None) != (currency is None):
        raise click.UsageError("--price and --currency go together.")
    if no_max_calls and max_calls is not None:
        raise click.UsageError("--max-calls and --no-max-calls exclude each other.")

    async def work() -> Plan:
        async with remote.admin() as admin:
            return await admin.put_plan(
                plan_id,
                name=UNSET if name is None else name,
                minutes=UNSET if minutes is None else minutes,
                connected_channels=UNSET if channels is None else channels,
                staff_seats=UNSET if seats is None else seats,
                max_concurrent_calls=None if no_max_calls else UNSET if max_calls is None else max_calls,
                monthly_price=UNSET if price is None or currency is None else Price(price, currency),
            )

    _say(remote, remote.run(work()))


@plan.command("show", epilog="Example:  callgate plan show team")
@click.argument("plan_id", metavar="PLAN", type=ID)
@remote_options
def show(remote: Remote, plan_id: str) -> None:
    """Show one plan."""

    async def work() -> Plan:
        async with remote.admin() as admin:
            return await admin.get_plan(plan_id)

    _say(remote, remote.run(work()))


@plan.command("list", epilog="Example:  callgate plan list")
@remote_options
def list_plans(remote: Remote) -> None:
    """List all plans."""

    async def work() -> list[Plan]:
        async with remote.admin() as admin:
            return [each async for each in admin.plans()]

    plans = remote.run(work())
    if remote.as_json:
        say_json(plans)
        return
    columns = ("PLAN", "NAME", "MINUTES", "CHANNELS", "SEATS", "CALLS AT ONCE", "PRICE")
    say_table(
        columns,
        [
            (
                each.plan,
                each.name,
                each.minutes,
                each.connected_channels,
                each.staff_seats,
                each.max_concurrent_calls,
                _price(each),
            )
            for each in plans
        ],
        nothing="There are no plans. `callgate plan put` makes one.",
    )


def _say(remote: Remote, found: Plan) -> None:
    if remote.as_json:
        say_json(found)
        return
    say_fields(
        [
            ("plan", found.plan),
            ("name", found.name),
            ("minutes", found.minutes),
            ("channels", found.connected_channels),
            ("seats", found.staff_seats),
            (
                "calls at once",
                "unlimited" if found.max_concurrent_calls is None else found.max_concurrent_calls,
            ),
            ("price", _price(found)),
        ]
    )


def _price(found: Plan) -> str | None:
    price = found.monthly_price
    return None if price is None else f"{price.amount} {price.currency}"
