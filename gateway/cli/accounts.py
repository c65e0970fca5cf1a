"""`callgate account`: the businesses, their plans and what they used."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

import click
from msgspec import UNSET

from gateway.cli.kinds import ID
from gateway.cli.output import instant, minutes, say_fields, say_json, say_table
from gateway.cli.remote import Remote, remote_options
from gateway.client.resources import Account, AccountItem, CallRecord, PlanChange, Pool, Statement

_EXAMPLES = """\b
Examples:
  callgate account put acme --name "Acme Ltd" --plan team --time-zone America/New_York
      billed from today there; --billing-date 2026-01-31 says another day
  callgate account plan acme business
      more minutes at once; fewer from the next cycle
  callgate account list --search acme
  callgate account show acme
  callgate account put acme --status suspended
"""


@click.group(epilog=_EXAMPLES, short_help="Make, change and read accounts.")
def account() -> None:
    """Make, change and read accounts: each a business with a plan, a billing date and one pool of minutes."""


@account.command("put", epilog='Example:  callgate account put acme --name "Acme Ltd" --plan team')
@click.argument("account_id", metavar="ACCOUNT", type=ID)
@click.option("--name", help="What people call it; a new account needs one.")
@click.option("--plan", type=ID, help="Its first plan. (Later: callgate account plan.)")
@click.option(
    "--billing-date",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The day that its billing cycles begin on; by default today. It stays.",
)
@click.option("--time-zone", metavar="ZONE", help="As in America/New_York; by default UTC.")
@click.option(
    "--status", type=click.Choice(["active", "suspended"]), help="Suspended accounts start no calls."
)
@remote_options
def put(
    remote: Remote,
    account_id: str,
    name: str | None,
    plan: str | None,
    billing_date: datetime | None,
    time_zone: str | None,
    status: Literal["active", "suspended"] | None,
) -> None:
    """Make an account, or change its name, time zone or status."""
    day: date | None = None if billing_date is None else billing_date.date()

    async def work() -> Account:
        async with remote.admin() as admin:
            return await admin.put_account(
                account_id,
                name=UNSET if name is None else name,
                plan=UNSET if plan is None else plan,
                billing_date=UNSET if day is None else day,
                time_zone=UNSET if time_zone is None else time_zone,
                status=UNSET if status is None else status,
            )

    found = remote.run(work())
    if remote.as_json:
        say_json(found)
    else:
        say_fields(_account_fields(found))


@account.command("show", epilog="Example:  callgate account show acme")
@click.argument("account_id", metavar="ACCOUNT", type=ID)
@remote_options
def show(remote: Remote, account_id: str) -> None:
    """Show an account, and its pool as it is now."""

    async def work() -> tuple[Account, Pool]:
        async with remote.admin() as admin:
            return await admin.get_account(account_id), await admin.pool(account_id)

    found, pool = remote.run(work())
    if remote.as_json:
        say_json({"account": found, "pool": pool})
        return
    fields = _account_fields(found)
    fields += [
        ("cycle", f"{pool.cycle.start} to {pool.cycle.end}"),
        ("allocated", f"{minutes(pool.allocated_seconds)} min"),
        ("used", f"{minutes(pool.used_seconds)} min"),
        ("remaining", f"{minutes(pool.remaining_seconds)} min"),
        ("calls in progress", pool.calls_in_progress),
        ("seats", f"{pool.seats.used} of {pool.seats.limit}"),
        ("channels", f"{pool.channels.used} of {pool.channels.limit}"),
    ]
    say_fields(fields)


@account.command("list", epilog="Example:  callgate account list --sort used_percent")
@click.option("--search", metavar="TEXT", help="Only those whose id or name holds this.")
@click.option(
    "--sort",
    type=click.Choice(["used_percent"]),
    help="used_percent: the nearest to exhaustion first. By default by their ids.",
)
@click.option("--limit", type=click.IntRange(1), help="How many at most; by default all.")
@remote_options
def list_accounts(remote: Remote, search: str | None, sort: str | None, limit: int | None) -> None:
    """List accounts, with what each has used of its minutes."""

    async def work() -> list[AccountItem]:
        async with remote.admin() as admin:
            found = admin.accounts(
                q=UNSET if search is None else search, sort="used_percent" if sort else UNSET
            )
            items: list[AccountItem] = []
            async for each in found:
                items.append(each)
                if len(items) == limit:
                    break
            return items

    items = remote.run(work())
    if remote.as_json:
        say_json(items)
        return
    say_table(
        ("ACCOUNT", "NAME", "PLAN", "STATUS", "USED", "ALLOCATED", "CALLS"),
        [
            (
                each.account,
                each.name,
                each.plan,
                each.status,
                minutes(each.used_seconds),
                minutes(each.allocated_seconds),
                each.calls_in_progress,
            )
            for each in items
        ],
        nothing="There are no such accounts." if search else "There are no accounts.",
    )


@account.command("plan", epilog="Example:  callgate account plan acme business")
@click.argument("account_id", metavar="ACCOUNT", type=ID)
@click.argument("plan", type=ID)
@remote_options
def change_plan(remote: Remote, account_id: str, plan: str) -> None:
    """Move an account to another plan: to as many minutes or more at once, to fewer from the next cycle."""

    async def work() -> PlanChange:
        async with remote.admin() as admin:
            return await admin.change_plan(account_id, plan)

    change = remote.run(work())
    if remote.as_json:
        say_json(change)
    elif change.pending is None:
        click.echo(f"{account_id} is on the plan {change.plan} since {change.effective_at}.")
    else:
        moves = f"{account_id} moves to the plan {change.pending} at {change.effective_at}"
        click.echo(f"{moves}; until then {change.plan}.")


@account.command("withdraw", epilog="Example:  callgate account withdraw acme")
@click.argument("account_id", metavar="ACCOUNT", type=ID)
@remote_options
def withdraw(remote: Remote, account_id: str) -> None:
    """Withdraw the plan that an account was to move to."""

    async def work() -> None:
        async with remote.admin() as admin:
            await admin.withdraw_pending_plan(account_id)

    remote.run(work())
    if not remote.as_json:
        click.echo(f"{account_id} stays on its plan.")


@account.command("calls", epilog="Example:  callgate account calls acme --staff ana --limit 20")
@click.argument("account_id", metavar="ACCOUNT", type=ID)
@click.option(
    "--cycle", metavar="START", help="Only those of the cycle that begins then, as a statement says."
)
@click.option("--staff", type=ID, help="Only those of this staff member.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@remote_options
def calls(remote: Remote, account_id: str, cycle: str | None, staff: str | None, limit: int) -> None:
    """List call records, the newest first."""

    async def work() -> list[CallRecord]:
        records: list[CallRecord] = []
        async with remote.admin() as admin:
            found = admin.calls(
                account_id, cycle=UNSET if cycle is None else cycle, staff=UNSET if staff is None else staff
            )
            async for each in found:
                records.append(each)
                if len(records) == limit:
                    break
        return records

    records = remote.run(work())
    if remote.as_json:
        say_json(records)
        return
    say_table(
        ("ADMITTED", "STAFF", "DEVICE", "TO", "LENGTH", "BILLED", "ENDED BY", "CALL"),
        [
            (
                instant(each.admitted_at_ms),
                each.staff,
                each.device,
                each.to,
                minutes(each.duration_ms // 1000),
                minutes(each.billed_seconds),
                each.ended_by,
                each.call_id,
            )
            for each in records
        ],
        nothing="There are no such call records.",
    )


@account.command("statements", epilog="Example:  callgate account statements acme")
@click.argument("account_id", metavar="ACCOUNT", type=ID)
@remote_options
def statements(remote: Remote, account_id: str) -> None:
    """List what each billing cycle came to, the newest first."""

    async def work() -> list[Statement]:
        async with remote.admin() as admin:
            return [each async for each in admin.statements(account_id)]

    found = remote.run(work())
    if remote.as_json:
        say_json(found)
        return
    say_table(
        ("CYCLE FROM", "TO", "PLAN", "ALLOCATED", "USED", "OVERRUN", "COUNTED", "FREE", "STATE"),
        [
            (
                each.cycle.start,
                each.cycle.end,
                each.plan,
                minutes(each.allocated_seconds),
                minutes(each.used_seconds),
                minutes(each.overrun_seconds),
                each.calls_counted,
                each.calls_free,
                "closed" if each.closed else "open",
            )
            for each in found
        ],
        nothing="There are no statements yet.",
    )


def _account_fields(found: Account) -> list[tuple[str, object]]:
    pending = None if found.pending_plan is None else f"{found.pending_plan} from {found.pending_from}"
    return [
        ("account", found.account),
        ("name", found.name),
        ("plan", found.plan),
        ("pending plan", pending),
        ("billing date", found.billing_date),
        ("time zone", found.time_zone),
        ("status", found.status),
    ]
