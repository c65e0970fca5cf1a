"""Comparing what Redis holds with itself: calls in progress with their indexes, keys with accounts.

`gateway.service.check` looks at everything again that differs, before it is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.live.gateways import KEY as GATEWAYS_KEY
from gateway.pool.inspection import Inspection, Keys
from gateway.records.store import Records
from gateway.service.attaching import all_accounts
from gateway.service.differences import Difference

_OTHER_KEYS: Final = (GATEWAYS_KEY,)


class KeyCheck:
    """Looks at keys. All of it raises EngineUnavailable and DatabaseUnavailable."""

    def __init__(self, inspection: Inspection, records: Records) -> None:
        self._inspection = inspection
        self._records = records

    async def strays(self) -> list[Difference]:
        """Find keys that are nobody's, and those of accounts that SQL does not know."""
        keys = await self._inspection.keys(_OTHER_KEYS)
        # After the keys: an account is in SQL before it has any.
        known = set(await all_accounts(self._records))
        found = [Difference(None, f"key {key}", "there is one", "of nothing") for key in sorted(keys.strays)]
        found += [
            Difference(account, "pool", "there is one", "there is no such account")
            for account in sorted(keys.accounts["pool"] - known)
        ]
        found += await self._without_pool(keys, known | keys.accounts["pool"])
        return found

    async def calls(self) -> list[Difference]:
        """Find calls that cannot be read, or are in progress and stand in no `order` or no lease.

        Also the reverse, and wrong counts.
        """
        keys = await self._inspection.keys(_OTHER_KEYS)
        accounts = set(await all_accounts(self._records)) | keys.accounts["order"]
        found: list[Difference] = []
        for shard, named in self._inspection.by_shard(accounts).items():
            found += await self._calls_of(shard, [each for each in named if each in keys.accounts["order"]])
            counted = await self._inspection.count(shard, named)
            if counted is not None and counted[0] != counted[1]:
                said = f"{counted[0]} counted, {counted[1]} there"
                found.append(Difference(None, f"calls in progress of shard {shard}", said, "-"))
        return found

    async def _calls_of(self, shard: int, accounts: Iterable[str]) -> list[Difference]:
        calls = await self._inspection.calls(shard, accounts)
        found = []
        for call in sorted(calls.unreadable):
            account, _, call_id = call.partition("/")
            found.append(Difference(account, f"call {call_id}", "cannot be read", "-"))
        suspects = calls.in_progress ^ calls.ordered | calls.in_progress - calls.leased
        if not suspects:
            return found
        still = await self._inspection.still_in_progress(shard, suspects)
        for call in sorted(suspects):
            account, _, call_id = call.partition("/")
            if call not in still:
                if call in calls.ordered:
                    found.append(
                        Difference(account, f"order of call {call_id}", "there, and not in progress", "-")
                    )
            elif call in calls.in_progress:
                if call not in calls.ordered:
                    found.append(
                        Difference(account, f"order of call {call_id}", "in progress, not there", "-")
                    )
                if call not in calls.leased:
                    found.append(
                        Difference(account, f"lease of call {call_id}", "in progress, not there", "-")
                    )
        return found

    async def _without_pool(self, keys: Keys, known: set[str]) -> list[Difference]:
        found = []
        for name in ("order", "phase", "members"):
            for account in sorted(keys.accounts[name] - known):
                if name == "order" and await self._inspection.has_emergencies_only(account):
                    continue
                found.append(Difference(account, name, "there is one", "there is no such account"))
        return found
