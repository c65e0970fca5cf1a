"""An operator at a gateway's HTTP addresses, who makes plans, accounts and tokens, and reads the books.

`async with operating(gateway) as operator`. What is made with few words is what most tests want: an account
on a plan of its own, with the staff member `ana`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx

from tests.support.gateways import GatewayProcess

Json = dict[str, Any]

PLAN_LIMITS: Json = {"connected_channels": 100, "staff_seats": 500}


def instant(text: str) -> int:
    """Return the milliseconds of an instant, `2027-01-31T00:00:00Z`."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


class Operator:
    """Holds the admin key. `http` is for what has no method here."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    # Making.

    async def plan(self, plan: str, *, minutes: int, **fields: Any) -> None:
        """Make a plan, with seats and channels to spare unless given."""
        body = {"name": plan, "minutes": minutes, **PLAN_LIMITS, **fields}
        (await self.http.put(f"/v1/plans/{plan}", json=body)).raise_for_status()

    async def account(
        self, account: str = "acme", *, minutes: int = 100, people: Sequence[str] = ("ana",), **fields: Any
    ) -> None:
        """Make an account with its staff members, on a plan of so many minutes unless one is given."""
        if "plan" not in fields:
            fields["plan"] = f"minutes-{minutes}"
            await self.plan(fields["plan"], minutes=minutes)
        body = {"name": account, "billing_date": "2026-01-15", **fields}
        (await self.http.put(f"/v1/accounts/{account}", json=body)).raise_for_status()
        for staff in people:
            await self.staff(account, staff)

    async def staff(self, account: str, staff: str) -> None:
        """Give an account a staff member."""
        (await self.http.put(f"/v1/accounts/{account}/staff/{staff}")).raise_for_status()

    async def token(
        self, account: str = "acme", staff: str = "ana", device: str = "desk", *scopes: str
    ) -> str:
        """Have a token issued, of the scope `call` unless others are given."""
        body = {"account": account, "staff": staff, "device": device, "scopes": scopes or ("call",)}
        issued = await self.http.post("/v1/tokens", json=body)
        return str(issued.raise_for_status().json()["token"])

    async def suspend(self, account: str, *, suspended: bool = True) -> None:
        """Suspend an account, or restore it."""
        body = {"status": "suspended" if suspended else "active"}
        (await self.http.put(f"/v1/accounts/{account}", json=body)).raise_for_status()

    async def account_as_it_is(self, account: str) -> Json:
        """Read an account."""
        return await self._json("GET", f"/v1/accounts/{account}")

    async def move_to(self, account: str, plan: str) -> Json:
        """Move an account to another plan."""
        return await self._json("PUT", f"/v1/accounts/{account}/plan", {"plan": plan})

    # Time.

    async def at(self, now_ms: int) -> None:
        """Let it be so late, by the standing billing clock."""
        clock = await self._json("POST", "/v1/simulation/clock", {"at_ms": now_ms})
        assert clock == {"now_ms": now_ms, "speed": 0}

    async def now_ms(self) -> int:
        """Read the billing clock."""
        return int((await self._json("GET", "/v1/simulation/clock"))["now_ms"])

    async def pass_by(self, seconds: float) -> int:
        """Let so many seconds of billing time pass; returns what the clock then shows."""
        clock = await self._json("POST", "/v1/simulation/clock", {"advance_ms": round(seconds * 1000)})
        return int(clock["now_ms"])

    # Calls, as a server-side client places them.

    async def start(
        self, call_id: str, account: str = "acme", to: str = "+14155550100", **fields: Any
    ) -> Json:
        """Ask for a call of ana's desk phone, or of another that is given."""
        asked = {"account": account, "staff": "ana", "device": "desk", "call_id": call_id, "to": to}
        return await self._json("POST", "/v1/calls", asked | fields)

    async def end(self, call_id: str, account: str = "acme", **fields: Any) -> Json:
        """End a call."""
        return await self._json("POST", f"/v1/calls/{call_id}/end?account={account}", fields)

    # Reading.

    async def pool(self, account: str = "acme") -> Json:
        """Read a pool."""
        return await self._json("GET", f"/v1/accounts/{account}/pool")

    async def call(self, call_id: str, account: str = "acme") -> Json:
        """Read one call, in progress or ended."""
        return await self._json("GET", f"/v1/accounts/{account}/calls/{call_id}")

    async def calls(self, account: str = "acme", **query: Any) -> list[Json]:
        """Read all call records, page by page."""
        return await self.listed(f"/v1/accounts/{account}/calls", "calls", **query)

    async def statements(self, account: str = "acme") -> list[Json]:
        """Read all statements, newest first."""
        return await self.listed(f"/v1/accounts/{account}/statements", "statements")

    async def listed(self, address: str, name: str, **query: Any) -> list[Json]:
        """Read a list to its end."""
        items: list[Json] = []
        after: str | None = ""
        while after is not None:
            page = await self.http.get(address, params={**query, "after": after} if after else query)
            content = page.raise_for_status().json()
            items += content[name]
            after = content["next"]
        return items

    async def metric(self, name: str) -> float:
        """Read a metric by its name and labels; 0 if there is none."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))

    async def _json(self, method: str, address: str, body: Json | None = None) -> Json:
        answer = await self.http.request(method, address, json=body)
        content: Json = answer.json()
        assert answer.status_code == 200, content
        return content


@asynccontextmanager
async def operating(gateway: GatewayProcess) -> AsyncIterator[Operator]:
    """An operator of this gateway."""
    async with gateway.async_client() as http:
        yield Operator(http)
