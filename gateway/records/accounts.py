"""Accounts: the businesses, each with a plan, a billing date and a pool."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final, TypedDict

from sqlalchemy import Row, Select, false, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.asks import AccountStatus
from gateway.domain.cycles import today_in, valid_time_zone
from gateway.domain.errors import FieldError, ImmutableField, NotFound
from gateway.records.database import Database
from gateway.records.fields import check, missing, unkeepable
from gateway.records.paging import after_id, page_of
from gateway.records.plans import plans_by_id
from gateway.records.tables import accounts
from gateway.records.upserts import insert


@dataclass(frozen=True, slots=True)
class Account:
    """An account as SQL has it. `plan` is the one in force: a pending one whose instant has come is that.

    `revision` rises with every change; `applied_revision` is the one that its live pool has.
    """

    account: str
    name: str
    plan: str | None
    pending_plan: str | None
    pending_from_ms: int | None
    billing_date: date
    time_zone: str
    status: AccountStatus
    created_at_ms: int
    revision: int
    applied_revision: int


class AccountFields(TypedDict, total=False):
    """What of an account to set; a field left out keeps its value."""

    name: str
    plan: str | None
    billing_date: date
    time_zone: str
    status: AccountStatus


_IMMUTABLE: Final = ("plan", "billing_date")


class Accounts:
    """The accounts of a deployment. They are never deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put_account(self, account: str, fields: AccountFields, now_ms: int) -> tuple[Account, bool]:
        """Make an account, or change its name, time zone or status; return it, and whether it was made.

        A new one needs a name; by default it is active, in UTC, billed from today on, and has no plan.

        Raises InvalidField for what a new one lacks, an unknown plan or time zone; ImmutableField for another
        plan or billing date on one that exists.
        """
        return await self._database.write(_put_account, account, fields, now_ms)

    async def get_account(self, account: str, now_ms: int) -> Account:
        """Return an account as it is at `now_ms`. Raises NotFound."""
        return await self._database.read(account_at, account, now_ms)

    async def list_accounts(
        self, q: str | None, after: str | None, limit: int, now_ms: int
    ) -> tuple[list[Account], str | None]:
        """Return a page of the accounts in order of their ids, and the cursor of the next page.

        With `q` only those whose id or name contains it, whatever the case.
        """
        return await self._database.read(_list_accounts, q, after_id(after), limit, now_ms)

    async def list_ids(self, q: str | None, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Return a page as `list_accounts` does, of the accounts' ids alone."""
        return await self._database.read(_list_ids, q, after_id(after), limit)

    async def get_accounts(self, accounts: Collection[str], now_ms: int) -> dict[str, Account]:
        """Return those of these accounts that exist, as they are at `now_ms`."""
        return await self._database.read(_get_accounts, accounts, now_ms)

    async def unapplied(self, limit: int) -> list[str]:
        """Return up to `limit` accounts with a change that has not reached their live pools."""
        return await self._database.read(_unapplied, limit)

    async def mark_applied(self, account: str, revision: int) -> None:
        """Note that the account's live pool has everything up to `revision`; never goes back."""
        await self._database.write(_mark_applied, account, revision)


async def account_at(connection: AsyncConnection, account: str, now_ms: int) -> Account:
    """Return an account as it is at `now_ms`. Raises NotFound."""
    row = (await connection.execute(select(accounts).where(accounts.c.account == account))).one_or_none()
    if row is None:
        raise no_such_account(account)
    return _account(row, now_ms)


async def account_to_change(connection: AsyncConnection, account: str, now_ms: int) -> Account:
    """Return an account that nobody else changes before this transaction ends. Raises NotFound."""
    found = await _locked(connection, account, now_ms)
    if found is None:
        raise no_such_account(account)
    return found


async def save(connection: AsyncConnection, changed: Account) -> Account:
    """Write a changed account, which `account_to_change` gave, and raise its revision."""
    changed = replace(changed, revision=changed.revision + 1)
    where = accounts.c.account == changed.account
    await connection.execute(update(accounts).where(where).values(_columns(changed)))
    return changed


def no_such_account(account: str) -> NotFound:
    """Make the error for an account that does not exist."""
    return NotFound(f"There is no account {account}.")


async def _put_account(
    connection: AsyncConnection, account: str, fields: AccountFields, now_ms: int
) -> tuple[Account, bool]:
    errors = unkeepable(fields)
    if "time_zone" in fields and not valid_time_zone(fields["time_zone"]):
        errors.append(FieldError("time_zone", "must be an IANA time zone such as America/New_York"))
    before = await _locked(connection, account, now_ms)
    if before is None:
        made = await _new(connection, account, fields, now_ms, errors)
        row = insert(connection, accounts).values(_columns(made)).on_conflict_do_nothing()
        if (await connection.execute(row)).rowcount:
            return made, True
        before = await account_to_change(connection, account, now_ms)  # another gateway was first
    check(errors)
    _check_immutable(before, fields)
    after = replace(before, **fields)
    return (before if after == before else await save(connection, after)), False


async def _new(
    connection: AsyncConnection, account: str, fields: AccountFields, now_ms: int, errors: list[FieldError]
) -> Account:
    errors = [*missing(fields, ["name"]), *errors]
    plan = fields.get("plan")
    # Kept until the account is on it: else its minutes could change in between.
    if plan is not None and not await plans_by_id(connection, [plan], keep=True):
        errors.append(unknown_plan(plan))
    check(errors)
    time_zone = fields.get("time_zone", "UTC")
    return Account(
        account=account,
        name=fields["name"],
        plan=plan,
        pending_plan=None,
        pending_from_ms=None,
        billing_date=fields.get("billing_date") or today_in(time_zone, now_ms),
        time_zone=time_zone,
        status=fields.get("status", "active"),
        created_at_ms=now_ms,
        revision=1,
        applied_revision=0,
    )


def unknown_plan(plan: str) -> FieldError:
    """Say that there is no such plan, of the field that names it."""
    return FieldError("plan", f"there is no plan {plan}")


def _check_immutable(before: Account, fields: Mapping[str, Any]) -> None:
    for name in _IMMUTABLE:
        if name in fields and fields[name] != getattr(before, name):
            remedy = "; change it at …/plan" if name == "plan" else ""
            raise ImmutableField(f"{name} of an existing account cannot be changed here{remedy}.", field=name)


async def _locked(connection: AsyncConnection, account: str, now_ms: int) -> Account | None:
    one = select(accounts).where(accounts.c.account == account).with_for_update(key_share=True)
    row = (await connection.execute(one)).one_or_none()
    return None if row is None else _account(row, now_ms)


async def _list_accounts(
    connection: AsyncConnection, q: str | None, after: str, limit: int, now_ms: int
) -> tuple[list[Account], str | None]:
    rows = await connection.execute(_page(select(accounts), q, after, limit))
    return page_of([_account(row, now_ms) for row in rows], limit, lambda account: (account.account,))


async def _list_ids(
    connection: AsyncConnection, q: str | None, after: str, limit: int
) -> tuple[list[str], str | None]:
    found = await connection.scalars(_page(select(accounts.c.account), q, after, limit))
    return page_of(list(found), limit, lambda account: (account,))


def _page(query: Select[Any], q: str | None, after: str, limit: int) -> Select[Any]:
    page = query.where(accounts.c.account > after).order_by(accounts.c.account).limit(limit + 1)
    if not q:
        return page
    if unkeepable({"q": q}):
        return page.where(false())  # no account can contain that
    return page.where(accounts.c.search_text.contains(q.casefold(), autoescape=True))


async def _get_accounts(
    connection: AsyncConnection, named: Collection[str], now_ms: int
) -> dict[str, Account]:
    query = select(accounts).where(accounts.c.account.in_(named))
    return {row.account: _account(row, now_ms) for row in await connection.execute(query)}


async def _unapplied(connection: AsyncConnection, limit: int) -> list[str]:
    lagging = accounts.c.applied_revision < accounts.c.revision
    query = select(accounts.c.account).where(lagging).order_by(accounts.c.account).limit(limit)
    return list(await connection.scalars(query))


async def _mark_applied(connection: AsyncConnection, account: str, revision: int) -> None:
    behind = (accounts.c.account == account) & (accounts.c.applied_revision < revision)
    await connection.execute(update(accounts).where(behind).values(applied_revision=revision))


def _account(row: Row[Any], now_ms: int) -> Account:
    due = row.pending_from_ms is not None and row.pending_from_ms <= now_ms
    return Account(
        account=row.account,
        name=row.name,
        plan=row.pending_plan if due else row.plan,
        pending_plan=None if due else row.pending_plan,
        pending_from_ms=None if due else row.pending_from_ms,
        billing_date=row.billing_date,
        time_zone=row.time_zone,
        status=row.status,
        created_at_ms=row.created_at_ms,
        revision=row.revision,
        applied_revision=row.applied_revision,
    )


def _columns(account: Account) -> dict[str, Any]:
    return {
        **{
            column.name: getattr(account, column.name)
            for column in accounts.c
            if column.name != "search_text"
        },
        # Folded here, where all of Unicode is known: SQLite folds ASCII only.
        "search_text": f"{account.account}\n{account.name}".casefold(),
    }
