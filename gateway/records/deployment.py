"""What holds for a deployment as a whole and is kept with its data: policy, simulation, shards."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.database import Database
from gateway.records.tables import deployment
from gateway.records.upserts import insert


class Deployment:
    """Texts by key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: str) -> str | None:
        """Return what stands under a key, or None."""
        return await self._database.read(value_of, key)

    async def put(self, key: str, value: str) -> None:
        """Write a key anew."""
        await self._database.write(put_value, key, value)

    async def settle(self, key: str, value: str) -> str:
        """Write a key unless it is there, and return what stands then: the same for all gateways."""
        return await self._database.write(settle_value, key, value)


async def value_of(connection: AsyncConnection, key: str) -> str | None:
    """Return what stands under a key, or None."""
    query = select(deployment.c.value).where(deployment.c.key == key)
    return (await connection.execute(query)).scalar_one_or_none()


async def put_value(connection: AsyncConnection, key: str, value: str) -> None:
    """Write a key anew."""
    await connection.execute(
        insert(connection, deployment)
        .values(key=key, value=value)
        .on_conflict_do_update(index_elements=[deployment.c.key], set_={"value": value})
    )


async def settle_value(connection: AsyncConnection, key: str, value: str) -> str:
    """Write a key unless it is there, and return what stands then."""
    await connection.execute(
        insert(connection, deployment).values(key=key, value=value).on_conflict_do_nothing()
    )
    stands = await value_of(connection, key)
    assert stands is not None
    return stands
