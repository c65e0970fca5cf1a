"""Plans of a running gateway: R21 to R24, and what of them can be changed."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.operators import Json, Operator, instant

MINUTE = 60


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def plans(operator: Operator, *minutes: int, **fields: Any) -> None:
    for each in minutes:
        await operator.plan(f"of-{each}", minutes=each, **fields)


async def test_the_first_plan_gives_all_its_minutes_at_once(
    operator: Operator, account: str, year: int
) -> None:
    """R21: wherever in the cycle the account is."""
    await operator.account(account, plan=None, billing_date=f"{year}-01-01", people=())
    pool = await operator.pool(account)
    assert (pool["plan"], pool["allocated_seconds"], pool["seats"]["limit"]) == (None, 0, 0)
    await operator.at(instant(f"{year}-01-28T00:00:00Z"))
    assert (await operator.start("c-1", account))["reason"] == "staff_unknown"
    await plans(operator, 50)
    changed = await operator.move_to(account, "of-50")
    assert changed == {"plan": "of-50", "effective_at": f"{year}-01-28T00:00:00Z", "pending": None}
    assert (await operator.pool(account))["remaining_seconds"] == 3000
    await operator.staff(account, "ana")
    assert (await operator.start("c-1", account))["type"] == "call.admitted"


async def test_a_plan_without_minutes_admits_nobody(operator: Operator, account: str, year: int) -> None:
    """R8."""
    await operator.account(account, minutes=0)
    assert (await operator.start("c-1", account))["reason"] == "no_calling_plan"


async def test_an_upgrade_holds_at_once_and_what_was_used_stays(
    operator: Operator, account: str, year: int
) -> None:
    """R22: refused callers can call again that instant."""
    await operator.account(account, minutes=10)
    await plans(operator, 5, 20)
    await operator.start("c-1", account)
    await operator.pass_by(11 * MINUTE)
    assert (await operator.start("c-2", account))["reason"] == "minutes_exhausted"
    await operator.move_to(account, "of-5")
    changed = await operator.move_to(account, "of-20")
    assert (changed["plan"], changed["pending"]) == ("of-20", None)
    pool = await operator.pool(account)
    assert (pool["allocated_seconds"], pool["used_seconds"], pool["pending_plan"]) == (1200, 660, None)
    assert (await operator.start("c-2", account))["type"] == "call.admitted"


async def test_a_downgrade_waits_for_the_boundary(operator: Operator, account: str, year: int) -> None:
    """R23."""
    await operator.account(account, minutes=10, billing_date=f"{year}-01-10")
    await plans(operator, 5)
    changed = await operator.move_to(account, "of-5")
    boundary = f"{year}-01-10T00:00:00Z"
    assert changed == {"plan": "minutes-10", "effective_at": boundary, "pending": "of-5"}
    pool = await operator.pool(account)
    assert (pool["plan"], pool["pending_plan"], pool["allocated_seconds"]) == ("minutes-10", "of-5", 600)
    shown = await operator.account_as_it_is(account)
    assert (shown["plan"], shown["pending_plan"], shown["pending_from"]) == ("minutes-10", "of-5", boundary)

    await operator.at(instant(boundary))
    pool = await operator.pool(account)
    assert (pool["plan"], pool["pending_plan"], pool["allocated_seconds"]) == ("of-5", None, 300)
    shown = await operator.account_as_it_is(account)
    assert (shown["plan"], shown["pending_plan"], shown["pending_from"]) == ("of-5", None, None)


async def test_what_is_pending_can_be_replaced_and_withdrawn(
    operator: Operator, account: str, year: int
) -> None:
    """R23."""
    await operator.account(account, minutes=10, billing_date=f"{year}-01-10")
    await plans(operator, 3, 5)
    await operator.move_to(account, "of-5")
    assert (await operator.move_to(account, "of-3"))["pending"] == "of-3"
    for _ in range(2):
        gone = await operator.http.delete(f"/v1/accounts/{account}/plan/pending")
        assert gone.status_code in {204, 404}
    assert (await operator.pool(account))["pending_plan"] is None
    await operator.at(instant(f"{year}-01-10T00:00:00Z"))
    assert (await operator.pool(account))["plan"] == "minutes-10"


async def test_while_a_smaller_plan_is_pending_its_seats_and_channels_bind(
    operator: Operator, account: str, year: int
) -> None:
    """R23: no seat or channel can be added beyond the smaller plan's."""
    await operator.account(account, minutes=10)
    await plans(operator, 4, staff_seats=1, connected_channels=0)
    await operator.move_to(account, "of-4")
    http, address = operator.http, f"/v1/accounts/{account}"
    assert refused(await http.put(f"{address}/staff/ben")) == (409, "seat_limit")
    assert refused(await http.put(f"{address}/channels/main")) == (409, "channel_limit")
    await http.delete(f"{address}/plan/pending")
    assert (await http.put(f"{address}/staff/ben")).status_code == 201
    assert (await http.put(f"{address}/channels/main")).status_code == 201


async def test_a_plan_too_small_for_what_is_in_use_is_refused(
    operator: Operator, account: str, year: int
) -> None:
    """R23: up or down, saying which and how many."""
    await operator.account(account, minutes=10)
    await operator.staff(account, "ben")
    http, address = operator.http, f"/v1/accounts/{account}"
    await http.put(f"{address}/channels/main")
    for minutes, limits, code, limit, in_use in (
        (5, {"staff_seats": 1, "connected_channels": 1}, "seat_limit", 1, 2),
        (20, {"staff_seats": 2, "connected_channels": 0}, "channel_limit", 0, 1),
    ):
        await operator.plan(f"small-{minutes}", minutes=minutes, **limits)
        answer = await http.put(f"{address}/plan", json={"plan": f"small-{minutes}"})
        assert refused(answer) == (409, code)
        assert (answer.json()["limit"], answer.json()["in_use"]) == (limit, in_use)
    pool = await operator.pool(account)
    assert (pool["plan"], pool["pending_plan"]) == ("minutes-10", None)


async def test_to_cancel_is_to_move_to_a_plan_of_no_minutes(
    operator: Operator, account: str, year: int
) -> None:
    """R23: what was paid for can be used up."""
    await operator.account(account, minutes=10, billing_date=f"{year}-01-10")
    await plans(operator, 0)
    assert (await operator.move_to(account, "of-0"))["pending"] == "of-0"
    assert (await operator.start("c-1", account))["type"] == "call.admitted"
    await operator.at(instant(f"{year}-01-10T00:00:00Z"))
    assert (await operator.start("c-2", account))["reason"] == "no_calling_plan"
    assert (await operator.end("c-1", account))["counted"]


async def test_a_plan_in_use_only_changes_its_name_and_its_price(
    operator: Operator, account: str, year: int
) -> None:
    await plans(operator, 77)
    await operator.account(account, plan="of-77")

    async def change(**fields: Any) -> httpx.Response:
        return await operator.http.put("/v1/plans/of-77", json=fields)

    price: Json = {"amount": "49.00", "currency": "USD"}
    changed = await change(name="Seventy-seven", monthly_price=price)
    assert (changed.status_code, changed.json()["name"]) == (200, "Seventy-seven")
    for fields in ({"minutes": 78}, {"staff_seats": 1}, {"max_concurrent_calls": 3}):
        assert refused(await change(**fields)) == (409, "plan_in_use")
    assert (await operator.http.get("/v1/plans/of-77")).json() == {
        "plan": "of-77",
        "name": "Seventy-seven",
        "minutes": 77,
        "connected_channels": 100,
        "staff_seats": 500,
        "max_concurrent_calls": None,
        "monthly_price": price,
    }


async def test_what_an_account_was_made_with_stays(operator: Operator, account: str, year: int) -> None:
    await operator.account(account, minutes=10, billing_date=f"{year}-01-10")
    await plans(operator, 20)
    address = f"/v1/accounts/{account}"
    for fields in ({"billing_date": f"{year}-01-11"}, {"plan": "of-20"}):
        answer = await operator.http.put(address, json={"name": "Renamed", **fields})
        assert refused(answer) == (409, "immutable_field")
    assert (await operator.account_as_it_is(account))["name"] == account
    same = {"name": "Renamed", "billing_date": f"{year}-01-10", "plan": "minutes-10"}
    assert (await operator.http.put(address, json=same)).status_code == 200
