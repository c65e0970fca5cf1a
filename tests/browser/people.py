"""The people of these tests: an account with ana and ben, a token to watch it, and their softphones."""

from __future__ import annotations

from typing import Any

from gateway.client import Softphone
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator


async def business(operator: Operator, account: str, *, minutes: int = 60, **fields: Any) -> str:
    """Make an account of ana and ben; return a token that watches it."""
    await operator.plan(f"{account}-plan", minutes=minutes, staff_seats=5, connected_channels=2, name="Team")
    given = {"name": "Acme Dental", "billing_date": "2026-11-15", "time_zone": "America/New_York"}
    await operator.account(account, plan=f"{account}-plan", people=("ana", "ben"), **{**given, **fields})
    return await watching(operator, account)


async def watching(operator: Operator, account: str, **fields: Any) -> str:
    """Return a token that only watches."""
    body = {"account": account, "scopes": ["watch"], **fields}
    return str((await operator.http.post("/v1/tokens", json=body)).raise_for_status().json()["token"])


async def phone_of(operator: Operator, gateway: GatewayProcess, account: str, staff: str) -> Softphone:
    """Return a softphone of this staff member, to be entered."""
    return Softphone(gateway.url, await operator.token(account, staff, "cell", "call"))


async def clock(operator: Operator, **fields: Any) -> int:
    """Set the billing clock, or its speed; return what it shows."""
    answer = await operator.http.post("/v1/simulation/clock", json=fields)
    return int(answer.raise_for_status().json()["now_ms"])
