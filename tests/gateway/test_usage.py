"""How a cycle's minutes were used up, of a running gateway."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.client import AdminClient
from tests.support.gateways import GatewayProcess
from tests.support.operators import Json, Operator, instant
from tests.support.waiting import wait_until

DAY = 86_400


async def usage(operator: Operator, account: str, **query: Any) -> Json:
    answer = await operator.http.get(f"/v1/accounts/{account}/usage", params=query)
    found: Json = answer.raise_for_status().json()
    return found


async def call(operator: Operator, account: str, call_id: str, seconds: int) -> None:
    await operator.start(call_id, account)
    await operator.pass_by(seconds)
    await operator.end(call_id, account)


async def test_the_running_total_of_a_cycle_by_day_and_by_hour(
    operator: Operator, gateway: GatewayProcess, account: str, year: int
) -> None:
    await operator.at(instant(f"{year}-03-05T06:00:00Z"))
    await operator.account(
        account, name="A business", billing_date=f"{year}-03-05", time_zone="America/New_York"
    )
    start, second_day = f"{year}-03-05T05:00:00Z", instant(f"{year}-03-06T05:00:00Z")
    await call(operator, account, "c-1", 100)
    await operator.at(second_day)
    await call(operator, account, "c-2", 60)
    now_ms = second_day + 60_000

    async def recorded() -> bool:
        found = await usage(operator, account)
        return bool(found["as_of_ms"] == now_ms and found["points"][-1]["used_seconds"] == 160)

    await wait_until(recorded)
    found = await usage(operator, account, cycle=start, step="day")
    assert found == await usage(operator, account)
    assert found == {
        "account": account,
        "name": "A business",
        "time_zone": "America/New_York",
        "cycle": {"start": start, "end": f"{year}-04-05T04:00:00Z"},
        "step": "day",
        "points": [
            {"at_ms": instant(start), "used_seconds": 0},
            {"at_ms": second_day, "used_seconds": 100},
            {"at_ms": now_ms, "used_seconds": 160},
        ],
        "as_of_ms": now_ms,
    }
    hours = (await usage(operator, account, step="hour"))["points"]
    assert [point["used_seconds"] for point in hours] == [0, 0, *[100] * 23, 160]

    await operator.at(instant(f"{year}-04-05T04:00:00Z"))
    past = await usage(operator, account, cycle=start)
    assert past["points"][-1] == {"at_ms": instant(f"{year}-04-05T04:00:00Z"), "used_seconds": 160}
    assert len(past["points"]) == 32
    fresh = await usage(operator, account)
    assert [point["used_seconds"] for point in fresh["points"]] == [0]

    token = await operator.token(account, "ana", "desk", "watch")
    async with AdminClient(gateway.url, token) as reader:
        typed = await reader.usage(account, cycle=start, step="hour")
    assert (typed.time_zone, typed.points[-1].used_seconds) == ("America/New_York", 160)


async def test_who_may_read_it_and_what_is_refused(
    operator: Operator, gateway: GatewayProcess, account: str
) -> None:
    await operator.account(account)
    await operator.account(f"{account}-other")
    address = f"/v1/accounts/{account}/usage"
    for query, field in (({"step": "week"}, "step"), ({"cycle": "today"}, "cycle"), ({"limit": 1}, "limit")):
        answer = await operator.http.get(address, params=query)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert (await operator.http.get(address, params={"cycle": "2001-01-15T00:00:00Z"})).status_code == 404
    assert (await operator.http.get("/v1/accounts/nobody/usage")).status_code == 404
    for whose, scope, status in (
        (account, "watch", 200),
        (account, "call", 403),
        (f"{account}-other", "watch", 403),
    ):
        token = await operator.token(whose, "ana", "desk", scope)
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as reader:
            answer = await reader.get(address, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status
    # Asked for by many at once it is one and the same.
    found = await asyncio.gather(*(usage(operator, account) for _ in range(20)))
    assert {len(each["points"]) for each in found} == {len(found[0]["points"])}


@pytest.mark.parametrize("step", ["hour", "day"])
async def test_an_account_that_has_not_called_has_used_nothing(
    operator: Operator, account: str, step: str
) -> None:
    await operator.account(account)
    points = (await usage(operator, account, step=step))["points"]
    assert {point["used_seconds"] for point in points} == {0}
