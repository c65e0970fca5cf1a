"""Revoked tokens: all that were issued to a subject until some instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.accounts import account_at
from gateway.records.database import Database
from gateway.records.exclusive import one_at_a_time
from gateway.records.tables import revocations
from gateway.records.upserts import insert


@dataclass(frozen=True, slots=True)
class SavedRevocation:
    """Refuses the tokens issued until `until_ms` (real time) to an account, staff member or device.

    `staff` None is everybody of the account, `device` None every device. `number` rises from one revocation
    to the next.
    """

    number: int
    account: str
    staff: str | None
    device: str | None
    until_ms: int


class SavedRevocations:
    """The revocations of a deployment: one, the latest, for each subject."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def revoke(
        self, account: str, staff: str | None, device: str | None, until_ms: int
    ) -> SavedRevocation:
        """Refuse the tokens issued to this subject until `until_ms`. Raises NotFound for the account."""
        return await self._database.write(_revoke, account, staff, device, until_ms)

    async def since(self, number: int) -> list[SavedRevocation]:
        """Return the revocations made after that number, in their order; 0 is before the first."""
        return await self._database.read(_since, number)


async def _revoke(
    connection: AsyncConnection, account: str, staff: str | None, device: str | None, until_ms: int
) -> SavedRevocation:
    await account_at(connection, account, now_ms=0)
    # Numbers become visible in their order, or a gateway that asks for the newer ones would miss one.
    await one_at_a_time(connection, "revocations")
    latest = await connection.scalar(select(func.coalesce(func.max(revocations.c.number), 0)))
    assert latest is not None
    new = insert(connection, revocations).values(
        account=account, staff=staff or "", device=device or "", until_ms=until_ms, number=latest + 1
    )
    later = func.max if connection.dialect.name == "sqlite" else func.greatest
    saved = await connection.execute(
        new.on_conflict_do_update(
            index_elements=list(revocations.primary_key),
            set_={
                "until_ms": later(revocations.c.until_ms, new.excluded.until_ms),
                "number": new.excluded.number,
            },
        ).returning(revocations)
    )
    return _revocation(saved.one())


async def _since(connection: AsyncConnection, number: int) -> list[SavedRevocation]:
    query = select(revocations).where(revocations.c.number > number).order_by(revocations.c.number)
    return [_revocation(row) for row in await connection.execute(query)]


def _revocation(row: Row[Any]) -> SavedRevocation:
    return SavedRevocation(row.number, row.account, row.staff or None, row.device or None, row.until_ms)
