"""Call records of a running gateway: R9, R17, R26, and how they are read."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.operators import Json, Operator, instant
from tests.support.waiting import wait_until

HOUR = 3600
WHOLE, MASKED = "+14155550100", "+1•••••••0100"


async def records_once_there_are(operator: Operator, account: str, count: int) -> list[Json]:
    """Wait for the recorder, and return all records of an account."""

    async def enough() -> list[Json]:
        records = await operator.calls(account)
        return records if len(records) >= count else []

    found: list[Json] = await wait_until(enough)
    return found


async def test_a_call_is_found_from_its_admission_on(operator: Operator, account: str, year: int) -> None:
    await operator.account(account, billing_date=f"{year}-01-01")
    line = {"label": "Main"}
    await operator.http.put(f"/v1/accounts/{account}/channels/main", json=line)
    admitted_at_ms = (await operator.start("c-1", account, channel="main"))["admitted_at_ms"]
    await operator.pass_by(8)
    await operator.http.post(f"/v1/calls/c-1/answered?account={account}")
    await operator.pass_by(82)
    call = await operator.call("c-1", account)
    assert call == {
        "call_id": "c-1",
        "account": account,
        "staff": "ana",
        "device": "desk",
        "channel": "main",
        "to": "+14155550100",
        "state": "in_progress",
        "admitted_at_ms": admitted_at_ms,
        "answered_at_ms": admitted_at_ms + 8_000,
        "ended_at_ms": None,
        "duration_ms": 90_000,
        "billed_seconds": 90,
        "counted": None,
        "ended_by": None,
        "emergency": False,
        "cycle_start": f"{year}-01-01T00:00:00Z",
        "revision": None,
    }
    assert await operator.calls(account) == []

    # It was alive until the clock was moved, and so it ended no earlier (R16).
    await operator.end("c-1", account, ended_ago_ms=10_000)
    record = call | {
        "state": "ended",
        "ended_at_ms": admitted_at_ms + 90_000,
        "duration_ms": 90_000,
        "billed_seconds": 90,
        "counted": True,
        "ended_by": "hangup",
        "revision": 1,
    }
    assert await operator.call("c-1", account) == record
    assert await records_once_there_are(operator, account, 1) == [record]
    answer = await operator.http.get(f"/v1/accounts/{account}/calls/c-2")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_call_id_that_is_forgotten_is_a_new_call_with_a_record_of_its_own(
    operator: Operator, account: str, year: int
) -> None:
    """R9: it is remembered for 48 hours."""
    await operator.account(account, billing_date=f"{year}-01-01")
    first = await operator.start("c-1", account)
    await operator.pass_by(60)
    settled = await operator.end("c-1", account)
    await operator.pass_by(48 * HOUR - 1)
    used = {"account": account, "staff": "ana", "device": "desk", "call_id": "c-1", "to": "+14155550100"}
    refused = await operator.http.post("/v1/calls", json=used)
    assert (refused.status_code, refused.json()["code"]) == (409, "call_id_used")
    await operator.pass_by(2)
    assert await operator.end("c-1", account) == settled | {"replayed": True}  # R17: SQL knows it still

    second = await operator.start("c-1", account)
    assert (second["type"], second["replayed"]) == ("call.admitted", False)
    assert (await operator.call("c-1", account))["admitted_at_ms"] == second["admitted_at_ms"]
    await operator.pass_by(40)
    await operator.end("c-1", account)
    records = await records_once_there_are(operator, account, 2)
    assert [(record["admitted_at_ms"], record["billed_seconds"]) for record in records] == [
        (second["admitted_at_ms"], 40),
        (first["admitted_at_ms"], 60),
    ]


async def test_an_end_that_overtakes_its_start_keeps_it_from_starting(
    operator: Operator, account: str
) -> None:
    """R17: for 60 s."""
    await operator.account(account)
    end = f"/v1/calls/c-1/end?account={account}"
    answer = await operator.http.post(end)
    assert (answer.status_code, answer.json()["code"]) == (404, "call_unknown")
    start = {"account": account, "staff": "ana", "device": "desk", "call_id": "c-1", "to": "+14155550100"}
    await operator.pass_by(59)
    assert (await operator.http.post("/v1/calls", json=start)).json()["code"] == "call_id_used"
    await operator.pass_by(2)
    assert (await operator.start("c-1", account))["type"] == "call.admitted"


async def test_ending_twice_is_ending_once(operator: Operator, account: str) -> None:
    """R17."""
    await operator.account(account)
    await operator.start("c-1", account)
    await operator.pass_by(45)
    first = await operator.end("c-1", account)
    await operator.pass_by(45)
    for ago_ms in (0, 40_000):
        again = await operator.end("c-1", account, ended_ago_ms=ago_ms)
        assert again == first | {"replayed": True}
    assert len(await records_once_there_are(operator, account, 1)) == 1


async def test_records_are_listed_newest_first_by_cycle_and_by_staff(
    operator: Operator, account: str, year: int
) -> None:
    await operator.account(account, billing_date=f"{year}-01-01", people=("ana", "ben"))
    for month in (1, 2):
        await operator.at(instant(f"{year}-{month:02}-10T00:00:00Z"))
        for staff in ("ana", "ben"):
            await operator.start(f"{staff}-{month}", account, staff=staff)
            await operator.pass_by(60)
            await operator.end(f"{staff}-{month}", account)
    await records_once_there_are(operator, account, 4)

    async def listed(**query: Any) -> list[str]:
        return [record["call_id"] for record in await operator.calls(account, **query)]

    february = f"{year}-02-01T00:00:00Z"
    assert await listed() == ["ben-2", "ana-2", "ben-1", "ana-1"]
    assert await listed(limit=1) == ["ben-2", "ana-2", "ben-1", "ana-1"]
    assert await listed(cycle=february) == ["ben-2", "ana-2"]
    assert await listed(staff="ana") == ["ana-2", "ana-1"]
    assert await listed(staff="ana", cycle=february) == ["ana-2"]
    assert await listed(cycle=f"{year}-02-02T00:00:00Z") == []


async def test_a_page_hides_and_repeats_nothing_while_calls_end(
    operator: Operator, account: str, year: int
) -> None:
    await operator.account(account, billing_date=f"{year}-01-01")

    async def place(names: list[str]) -> None:
        for name in names:  # of one instant: their ids alone tell them apart
            await operator.start(name, account)
            await operator.end(name, account)

    before = [f"c-{number}" for number in range(10)]
    await place(before)
    await records_once_there_are(operator, account, 10)
    address, seen = f"/v1/accounts/{account}/calls", []
    page = (await operator.http.get(address, params={"limit": 4})).json()
    seen += page["calls"]
    await operator.pass_by(1)
    await place(["later-1", "later-2"])
    await records_once_there_are(operator, account, 12)
    while page["next"]:
        page = (await operator.http.get(address, params={"limit": 4, "after": page["next"]})).json()
        seen += page["calls"]
    assert sorted(record["call_id"] for record in seen) == before


async def test_a_list_says_as_of_when_it_is(operator: Operator, account: str, year: int) -> None:
    """Everything that was settled before is in it."""
    await operator.account(account, billing_date=f"{year}-01-01")
    for number in range(20):
        await operator.start(f"c-{number}", account)
        await operator.pass_by(1)
        await operator.end(f"c-{number}", account)
        await operator.pass_by(1)
        page = (await operator.http.get(f"/v1/accounts/{account}/calls")).json()
        assert page["as_of_ms"] <= await operator.now_ms()
        ended = {record["call_id"] for record in page["calls"]}
        for earlier in range(number + 1):
            settled_at_ms = instant(f"{year}-01-01T00:00:00Z") + (2 * earlier + 1) * 1000
            assert f"c-{earlier}" in ended or settled_at_ms >= page["as_of_ms"]
    assert len(await records_once_there_are(operator, account, 20)) == 20


@pytest.mark.parametrize(
    ("device", "scopes", "seen"),
    [
        ("tablet", ["watch"], {"own": MASKED, "another": MASKED}),
        ("tablet", ["watch", "numbers"], {"own": WHOLE, "another": WHOLE}),
        ("desk", ["watch"], {"own": WHOLE, "another": MASKED}),
    ],
)
async def test_numbers_are_masked_but_for_those_who_may_see_them(
    operator: Operator, account: str, device: str, scopes: list[str], seen: dict[str, str]
) -> None:
    """With the scope `numbers` one may see all, and a device those of its own calls."""
    await operator.account(account)
    for call_id, of in (("own", "desk"), ("another", "laptop")):
        await operator.start(call_id, account, device=of)
        await operator.start(f"{call_id}-ended", account, device=of)
        await operator.end(f"{call_id}-ended", account)
    await records_once_there_are(operator, account, 2)
    bearer = {"Authorization": f"Bearer {await operator.token(account, 'ana', device, *scopes)}"}
    address = f"/v1/accounts/{account}"
    async with httpx.AsyncClient(base_url=operator.http.base_url, headers=bearer) as reader:
        in_progress = (await reader.get(f"{address}/pool")).json()["calls"]
        assert {call["call_id"]: call["to"] for call in in_progress} == seen
        listed = (await reader.get(f"{address}/calls")).json()["calls"]
        assert {call["call_id"].removesuffix("-ended"): call["to"] for call in listed} == seen
        for call_id, to in seen.items():
            assert (await reader.get(f"{address}/calls/{call_id}")).json()["to"] == to


async def test_a_token_reads_its_own_account_only(operator: Operator, account: str) -> None:
    await operator.account(account)
    await operator.account(f"{account}-2")
    bearer = {"Authorization": f"Bearer {await operator.token(account, 'ana', 'desk', 'watch')}"}
    async with httpx.AsyncClient(base_url=operator.http.base_url, headers=bearer) as reader:
        for what in ("pool", "calls", "statements"):
            assert (await reader.get(f"/v1/accounts/{account}/{what}")).status_code == 200
            other = await reader.get(f"/v1/accounts/{account}-2/{what}")
            assert (other.status_code, other.json()["code"]) == (403, "forbidden")
