"""Everything that is kept in SQL, in one place: what `gateway.service` works with."""

from __future__ import annotations

from pathlib import Path

from gateway.records.account_configs import AccountConfigs
from gateway.records.accounts import Accounts
from gateway.records.calls import Calls
from gateway.records.closing import Closing
from gateway.records.database import Database
from gateway.records.deployment import Deployment
from gateway.records.kept_policy import KeptPolicy
from gateway.records.members import Members
from gateway.records.outbox import Outbox
from gateway.records.plan_changes import PlanChanges
from gateway.records.plans import Plans
from gateway.records.revocations import SavedRevocations
from gateway.records.statements import Statements
from gateway.records.usage import Usage


class Records:
    """The database and all that is read from it and written to it, but for the recorder."""

    def __init__(self, where: str | Path) -> None:
        """Take a path (SQLite) or a `postgresql://` address. Raises SettingsError for another address."""
        self.database = Database(where)
        self.plans = Plans(self.database)
        self.accounts = Accounts(self.database)
        self.plan_changes = PlanChanges(self.database)
        self.members = Members(self.database)
        self.configs = AccountConfigs(self.database)
        self.calls = Calls(self.database)
        self.statements = Statements(self.database)
        self.usage = Usage(self.database)
        self.closing = Closing(self.database)
        self.outbox = Outbox(self.database)
        self.revocations = SavedRevocations(self.database)
        self.deployment = Deployment(self.database)
        self.policy = KeptPolicy(self.deployment)

    async def open(self) -> None:
        """Reach the database and bring its tables up to this version.

        Raises DatabaseUnavailable, or StartRefused if the tables are a later version's.
        """
        await self.database.connect()
        await self.database.migrate()

    async def close(self) -> None:
        """Wait for what is being written, and close all connections."""
        await self.database.close()
