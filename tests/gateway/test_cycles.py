"""Billing cycles of a running gateway: R18 to R20, and what they leave in the statements (R27)."""

from __future__ import annotations

import calendar

import pytest

from tests.support.operators import Operator, instant
from tests.support.waiting import wait_until

MINUTE = 60
A_DAY = 86_400


async def test_a_cycle_ends_on_the_billing_date_or_the_last_day_of_a_shorter_month(
    operator: Operator, account: str, year: int
) -> None:
    """R18: an anchor on the 31st gives 31 Jan, 28 or 29 Feb, 31 Mar, 30 Apr."""
    await operator.account(account, billing_date=f"{year}-01-31")
    for month in range(1, 7):
        last_day = calendar.monthrange(year, month)[1]
        boundary = f"{year}-{month:02}-{last_day}T00:00:00Z"
        assert (await operator.pool(account))["cycle"]["end"] == boundary
        await operator.at(instant(boundary))
        assert (await operator.pool(account))["cycle"]["start"] == boundary


async def test_a_cycle_begins_at_midnight_of_the_account(operator: Operator, account: str, year: int) -> None:
    """R18: daylight saving moves the instant, not the local date."""
    await operator.account(account, billing_date=f"{year}-01-20", time_zone="America/New_York")
    await operator.at(instant(f"{year}-02-25T12:00:00Z"))
    assert (await operator.pool(account))["cycle"] == {
        "start": f"{year}-02-20T05:00:00Z",
        "end": f"{year}-03-20T04:00:00Z",
    }


async def test_a_changed_time_zone_leaves_the_running_cycle_as_it_is(
    operator: Operator, account: str, year: int
) -> None:
    """R18: it holds from the boundary after it."""
    await operator.account(account, billing_date=f"{year}-01-10")
    await operator.at(instant(f"{year}-01-15T00:00:00Z"))
    running = (await operator.pool(account))["cycle"]
    changed = await operator.http.put(f"/v1/accounts/{account}", json={"time_zone": "Asia/Tokyo"})
    assert changed.status_code == 200
    assert (await operator.pool(account))["cycle"] == running
    await operator.at(instant(running["end"]))
    assert (await operator.pool(account))["cycle"] == {
        "start": f"{year}-02-10T00:00:00Z",
        "end": f"{year}-03-09T15:00:00Z",
    }


async def test_a_pool_resets_at_the_very_millisecond(operator: Operator, account: str, year: int) -> None:
    """R19: nothing carries over."""
    await operator.account(account, billing_date=f"{year}-01-10", minutes=100)
    await operator.start("c-1", account)
    await operator.pass_by(10 * MINUTE)
    await operator.end("c-1", account)
    boundary_ms = instant(f"{year}-01-10T00:00:00Z")
    await operator.at(boundary_ms - 1)
    assert (await operator.pool(account))["used_seconds"] == 600
    await operator.at(boundary_ms)
    pool = await operator.pool(account)
    assert (pool["used_seconds"], pool["allocated_seconds"], pool["remaining_seconds"]) == (0, 6000, 6000)


async def test_it_resets_with_nobody_calling_and_nobody_looking(
    operator: Operator, account: str, year: int
) -> None:
    """R19, and R27: every cycle has its statement, though only the books are read."""
    await operator.account(account, billing_date=f"{year}-01-01", minutes=100)
    await operator.start("c-1", account)
    await operator.pass_by(5 * MINUTE)
    await operator.end("c-1", account)
    await operator.at(instant(f"{year}-04-02T00:00:00Z"))

    async def all_cycles() -> bool:
        statements = await operator.statements(account)
        assert [each["cycle"]["start"] for each in statements] == [
            f"{year}-{month:02}-01T00:00:00Z" for month in (4, 3, 2, 1)
        ]
        return [each["used_seconds"] for each in statements] == [0, 0, 0, 300]

    await wait_until(all_cycles)


async def test_a_call_over_the_boundary_bills_to_the_old_cycle(
    operator: Operator, account: str, year: int
) -> None:
    """R20; and R27: the old statement stays open for it, closes with it and never changes again."""
    await operator.account(account, billing_date=f"{year}-01-10", minutes=100)
    boundary_ms = instant(f"{year}-01-10T00:00:00Z")
    await operator.at(boundary_ms - 120_000)
    await operator.start("c-1", account)
    await operator.at(boundary_ms + 180_000)
    pool = await operator.pool(account)
    assert (pool["used_seconds"], pool["held_seconds"], pool["calls_in_progress"]) == (0, 0, 1)
    assert [call["counts"] for call in pool["calls"]] == [False]
    old = (await operator.statements(account))[1]
    assert (old["closed"], old["closed_at_ms"], old["used_seconds"]) == (False, None, 0)
    address = f"/v1/accounts/{account}/statements/{old['cycle']['start']}"
    assert (await operator.http.get(address)).json()["as_of_ms"] > 0

    assert (await operator.end("c-1", account))["billed_seconds"] == 300
    assert (await operator.pool(account))["used_seconds"] == 0

    async def closed() -> bool:
        return bool((await operator.statements(account))[1]["closed"])

    await wait_until(closed)
    old = (await operator.statements(account))[1]
    assert (old["closed_at_ms"], old["used_seconds"], old["calls_counted"]) == (boundary_ms + 180_000, 300, 1)
    assert "as_of_ms" not in old
    await operator.pass_by(40 * A_DAY)
    assert old in await operator.statements(account)
    assert (
        await operator.http.get(f"/v1/accounts/{account}/statements/{old['cycle']['start']}")
    ).json() == old


async def test_a_statement_closes_at_the_end_of_its_cycle_if_all_calls_have_ended(
    operator: Operator, account: str, year: int
) -> None:
    """R27: the instant is the cycle's end, whenever somebody came to close it."""
    await operator.account(account, billing_date=f"{year}-01-10", minutes=1)
    for call_id, seconds in (("free", 30), ("counted", 61)):
        await operator.start(call_id, account)
        await operator.pass_by(seconds)
        await operator.end(call_id, account)
    await operator.at(instant(f"{year}-01-12T00:00:00Z"))
    closed = (await operator.statements(account))[1]
    assert closed["closed_at_ms"] == instant(f"{year}-01-10T00:00:00Z")
    assert (closed["allocated_seconds"], closed["used_seconds"], closed["overrun_seconds"]) == (60, 61, 1)
    assert (closed["calls_counted"], closed["calls_free"]) == (1, 1)


@pytest.mark.parametrize("cycle", ["2020-01-01T00:00:00Z", "2020-01-01T00:00:00.001Z"])
async def test_there_is_no_statement_of_a_cycle_that_never_was(
    operator: Operator, account: str, year: int, cycle: str
) -> None:
    await operator.account(account, billing_date=f"{year}-01-01")
    for address in (f"{cycle}", f"{cycle}.csv"):
        answer = await operator.http.get(f"/v1/accounts/{account}/statements/{address}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
