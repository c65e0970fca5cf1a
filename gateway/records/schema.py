"""Bringing the tables up to this version (alembic)."""

from __future__ import annotations

from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.errors import StartRefused

MIGRATIONS: Final = "gateway.records:migrations"
"""Where the migrations lie inside the package, in alembic's notation."""


async def upgrade(connection: AsyncConnection) -> None:
    """Run the migrations that are missing, within the transaction that `connection` is in.

    Raises StartRefused if the tables were made by a later version.
    """
    await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for revision in MigrationContext.configure(connection).get_current_heads():
        if revision not in known:
            raise StartRefused(
                "The database was made by a later version of Callgate: its tables are of revision "
                f"{revision}, this version knows them up to {max(known)}. Start that version or a later one."
            )
    command.upgrade(config, "head")
