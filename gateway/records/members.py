"""What takes the seats and channels of an account: its staff members and its lines (R25)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Generic, TypedDict, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.errors import NotFound
from gateway.domain.plans import Plan, add_channel, add_seat
from gateway.records.accounts import account_at, account_to_change, save
from gateway.records.database import Database
from gateway.records.fields import check, unkeepable
from gateway.records.paging import after_id, page_of
from gateway.records.plans import plans_by_id
from gateway.records.tables import channels, staff

ASKED_AT_ONCE: Final = 500
"""How many members are asked about in one query."""


@dataclass(frozen=True, slots=True)
class StaffMember:
    """A person of an account, taking one seat."""

    staff: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Channel:
    """A line or number of an account, taking one connected channel."""

    channel: str
    label: str | None = None
    number: str | None = None


class StaffFields(TypedDict, total=False):
    """What of a staff member to set; a field left out keeps its value."""

    name: str | None


class ChannelFields(TypedDict, total=False):
    """What of a channel to set; a field left out keeps its value."""

    label: str | None
    number: str | None


M = TypeVar("M", StaffMember, Channel)


@dataclass(frozen=True, slots=True)
class _Kind(Generic[M]):
    """What tells staff members and channels apart."""

    table: Table
    make: Callable[..., M]
    add_one: Callable[[Plan | None, Plan | None, int], None]
    noun: str

    @property
    def id(self) -> Column[str]:
        """The column of its id."""
        return self.table.c[self.table.name.removesuffix("s")]


_STAFF = _Kind(staff, StaffMember, add_seat, "staff member")
_CHANNELS = _Kind(channels, Channel, add_channel, "channel")


class Members:
    """The staff members and channels of all accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put_staff(
        self, account: str, staff: str, fields: StaffFields, now_ms: int
    ) -> tuple[StaffMember, bool]:
        """Make or change a staff member; return it, and whether it was made.

        Raises NotFound for the account; SeatLimit if all seats are in use (R25), or if a coming plan has no
        more of them (R23).
        """
        return await self._database.write(_put, _STAFF, account, staff, fields, now_ms)

    async def delete_staff(self, account: str, staff: str, now_ms: int) -> None:
        """Remove a staff member, which frees the seat. Raises NotFound."""
        await self._database.write(_delete, _STAFF, account, staff, now_ms)

    async def get_staff(self, account: str, staff: str) -> StaffMember:
        """Return a staff member. Raises NotFound."""
        return await self._database.read(_get, _STAFF, account, staff)

    async def removed(self, members: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return which of these staff members (account and id) there are not, or not any more."""
        left = set(members)
        named = sorted(left)
        for first in range(0, len(named), ASKED_AT_ONCE):
            left -= await self._database.read(_present, named[first : first + ASKED_AT_ONCE])
        return left

    async def list_staff(
        self, account: str, after: str | None, limit: int
    ) -> tuple[list[StaffMember], str | None]:
        """Return a page of an account's staff in order of their ids, and the cursor of the next page.

        Raises NotFound for the account.
        """
        return await self._database.read(_list, _STAFF, account, after_id(after), limit)

    async def put_channel(
        self, account: str, channel: str, fields: ChannelFields, now_ms: int
    ) -> tuple[Channel, bool]:
        """Make or change a channel; return it, and whether it was made.

        Raises NotFound for the account; ChannelLimit if all are in use (R25), or if a coming plan has no more
        of them (R23).
        """
        return await self._database.write(_put, _CHANNELS, account, channel, fields, now_ms)

    async def delete_channel(self, account: str, channel: str, now_ms: int) -> None:
        """Remove a channel, which frees its place. Raises NotFound."""
        await self._database.write(_delete, _CHANNELS, account, channel, now_ms)

    async def list_channels(
        self, account: str, after: str | None, limit: int
    ) -> tuple[list[Channel], str | None]:
        """Return a page of an account's channels in order of their ids, and the cursor of the next page.

        Raises NotFound for the account.
        """
        return await self._database.read(_list, _CHANNELS, account, after_id(after), limit)


async def in_use(connection: AsyncConnection, table: Table, account: str) -> int:
    """Count the staff members or channels of an account."""
    count = await connection.scalar(select(func.count()).select_from(table).where(table.c.account == account))
    assert count is not None
    return int(count)


async def _put(
    connection: AsyncConnection,
    kind: _Kind[M],
    account: str,
    member: str,
    fields: Mapping[str, Any],
    now_ms: int,
) -> tuple[M, bool]:
    check(unkeepable(fields))
    owner = await account_to_change(connection, account, now_ms)
    before = await _find(connection, kind, account, member)
    if before is None:
        plans = await plans_by_id(connection, [owner.plan, owner.pending_plan])
        kind.add_one(
            None if owner.plan is None else plans[owner.plan],
            None if owner.pending_plan is None else plans[owner.pending_plan],
            await in_use(connection, kind.table, account),
        )
        after = kind.make(member, **fields)
        await connection.execute(insert(kind.table).values(account=account, **asdict(after)))
    else:
        after = replace(before, **fields)
        if after == before:
            return before, False
        await connection.execute(update(kind.table).where(_is(kind, account, member)).values(asdict(after)))
    await save(connection, owner)
    return after, before is None


async def _delete(
    connection: AsyncConnection, kind: _Kind[M], account: str, member: str, now_ms: int
) -> None:
    owner = await account_to_change(connection, account, now_ms)
    deleted = await connection.execute(delete(kind.table).where(_is(kind, account, member)))
    if not deleted.rowcount:
        raise _no_such_member(kind, account, member)
    await save(connection, owner)


async def _get(connection: AsyncConnection, kind: _Kind[M], account: str, member: str) -> M:
    found = await _find(connection, kind, account, member)
    if found is None:
        raise _no_such_member(kind, account, member)
    return found


async def _present(connection: AsyncConnection, members: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    query = select(staff.c.account, staff.c.staff).where(tuple_(staff.c.account, staff.c.staff).in_(members))
    return {(row.account, row.staff) for row in await connection.execute(query)}


async def _list(
    connection: AsyncConnection, kind: _Kind[M], account: str, after: str, limit: int
) -> tuple[list[M], str | None]:
    await account_at(connection, account, now_ms=0)  # tells no account from none on it
    query = (
        _select(kind)
        .where(kind.table.c.account == account, kind.id > after)
        .order_by(kind.id)
        .limit(limit + 1)
    )
    rows = [kind.make(*row) for row in await connection.execute(query)]
    return page_of(rows, limit, lambda member: (getattr(member, kind.id.name),))


async def _find(connection: AsyncConnection, kind: _Kind[M], account: str, member: str) -> M | None:
    row = (await connection.execute(_select(kind).where(_is(kind, account, member)))).one_or_none()
    return None if row is None else kind.make(*row)


def _select(kind: _Kind[M]) -> Select[Any]:
    return select(*(column for column in kind.table.c if column.name != "account"))


def _is(kind: _Kind[M], account: str, member: str) -> ColumnElement[bool]:
    return and_(kind.table.c.account == account, kind.id == member)


def _no_such_member(kind: _Kind[M], account: str, member: str) -> NotFound:
    return NotFound(f"The account {account} has no {kind.noun} {member}.")
