"""Accounts of a running gateway: who may call (R8), seats and channels (R25), suspension, lists."""

from __future__ import annotations

import httpx
import pytest

from tests.support.devices import connected
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator
from tests.support.waiting import wait_until

MINUTE = 60


def refused(answer: httpx.Response) -> tuple[int, str, int, int]:
    said = answer.json()
    return answer.status_code, said["code"], said["limit"], said["in_use"]


async def test_one_staff_member_more_than_the_plan_has_seats_is_refused(
    operator: Operator, account: str
) -> None:
    """R25: removing one frees the seat at once."""
    await operator.plan("two-seats", minutes=10, staff_seats=2)
    await operator.account(account, plan="two-seats", people=("ana", "ben"))
    address = f"/v1/accounts/{account}/staff"
    assert refused(await operator.http.put(f"{address}/cyd")) == (409, "seat_limit", 2, 2)
    assert (await operator.http.put(f"{address}/ben", json={"name": "Ben"})).status_code == 200
    assert (await operator.pool(account))["seats"] == {"used": 2, "limit": 2}
    assert (await operator.http.delete(f"{address}/ana")).status_code == 204
    assert (await operator.http.delete(f"{address}/ana")).status_code == 404
    assert (await operator.http.put(f"{address}/cyd")).status_code == 201
    assert (await operator.pool(account))["seats"] == {"used": 2, "limit": 2}


async def test_one_channel_more_than_the_plan_allows_is_refused(operator: Operator, account: str) -> None:
    """R25."""
    await operator.plan("one-channel", minutes=10, connected_channels=1)
    await operator.account(account, plan="one-channel")
    address = f"/v1/accounts/{account}/channels"
    line = {"label": "Main line", "number": "+14155550199"}
    assert (await operator.http.put(f"{address}/main", json=line)).json() == {"channel": "main", **line}
    assert refused(await operator.http.put(f"{address}/second")) == (409, "channel_limit", 1, 1)
    assert (await operator.pool(account))["channels"] == {"used": 1, "limit": 1}
    assert (await operator.start("c-1", account, channel="main"))["type"] == "call.admitted"
    await operator.http.delete(f"{address}/main")
    assert (await operator.http.put(f"{address}/second")).status_code == 201
    assert (await operator.start("c-2", account, channel="main"))["reason"] == "channel_unknown"
    assert (await operator.call("c-1", account))["channel"] == "main"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"account": "no-such-account"}, "account_unknown"),
        ({"staff": "nobody"}, "staff_unknown"),
        ({"channel": "none"}, "channel_unknown"),
        ({"to": "not a number"}, "destination_invalid"),
    ],
)
async def test_a_refusal_has_its_reason_and_a_sentence_and_changes_nothing(
    operator: Operator, account: str, asked: dict[str, str], reason: str
) -> None:
    """R8, R10."""
    await operator.account(account)
    before = await operator.pool(account)
    answer = await operator.start("c-1", **({"account": account} | asked))
    assert (answer["type"], answer["reason"]) == ("call.refused", reason)
    assert answer["message"].endswith(".")
    assert answer["remaining_seconds"] == (0 if reason == "account_unknown" else 6000)
    assert await operator.pool(account) == before


async def test_a_suspended_account_starts_no_call_and_keeps_those_it_has(
    operator: Operator, account: str
) -> None:
    """R8, R11."""
    await operator.account(account)
    await operator.start("c-1", account)
    await operator.suspend(account)
    assert (await operator.start("c-2", account))["reason"] == "account_suspended"
    assert (await operator.start("c-1", account))["replayed"]
    await operator.pass_by(2 * MINUTE)
    assert (await operator.pool(account))["used_seconds"] == 120
    assert (await operator.end("c-1", account))["billed_seconds"] == 120
    await operator.suspend(account, suspended=False)
    assert (await operator.start("c-2", account))["type"] == "call.admitted"


async def test_a_removed_staff_member_starts_no_call_and_ends_those_in_progress(
    gateway: GatewayProcess, operator: Operator, account: str
) -> None:
    """R11, R25: also over a reconnect, with the token that there was."""
    await operator.account(account)
    token = await operator.token(account)
    async with connected(gateway, token) as device:
        await device.start("c-1")
        await operator.http.delete(f"/v1/accounts/{account}/staff/ana")
        assert (await device.start("c-2"))["reason"] == "staff_unknown"
        assert device.is_open
    await operator.pass_by(MINUTE)
    async with connected(gateway, token) as device:
        assert [call["call_id"] for call in (await device.welcome())["calls"]] == ["c-1"]
        assert (await device.answered("c-1"))["type"] == "call.noted"
        assert (await device.end("c-1"))["billed_seconds"] == 60
    again = {"account": account, "staff": "ana", "device": "desk", "scopes": ["call"]}
    assert (await operator.http.post("/v1/tokens", json=again)).status_code == 404


async def test_lists_are_read_page_by_page_and_miss_nothing(operator: Operator, account: str) -> None:
    """What is made while paging neither repeats nor hides an item."""
    people = [f"staff-{number:02}" for number in range(10)]
    await operator.account(account, people=people)
    address = f"/v1/accounts/{account}/staff"
    seen: list[str] = []
    after = None
    while True:
        query = {"limit": 3} | ({"after": after} if after else {})
        page = (await operator.http.get(address, params=query)).json()
        seen += [member["staff"] for member in page["staff"]]
        after = page["next"]
        if after is None:
            break
        await operator.staff(account, f"staff-00-{len(seen)}")  # sorts before what is still to come
    assert [staff for staff in seen if staff in people] == people
    assert len(seen) == len(set(seen))
    for wrong in ({"limit": 0}, {"limit": 1001}, {"limit": "three"}, {"after": "?"}, {"before": "x"}):
        answer = await operator.http.get(address, params=wrong)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, next(iter(wrong)))


async def test_the_accounts_nearest_to_exhaustion_come_first_when_asked_for(
    operator: Operator, account: str
) -> None:
    """The pages of one reader come from one order, whatever is used meanwhile."""
    for number, minutes in enumerate((100, 2, 10, 5)):
        await operator.account(f"{account}.{number}", minutes=minutes)
        await operator.start("c-1", f"{account}.{number}")
    await operator.pass_by(MINUTE)
    query: dict[str, str | int] = {"q": f"{account}.", "sort": "used_percent", "limit": 3}
    first = (await operator.http.get("/v1/accounts", params=query)).json()
    await operator.end("c-1", f"{account}.1")
    second = (await operator.http.get("/v1/accounts", params=query | {"after": first["next"]})).json()
    assert [item["account"].rpartition(".")[2] for item in first["accounts"]] == ["1", "3", "2"]
    assert [item["used_seconds"] for item in first["accounts"]] == [60, 60, 60]
    assert [item["account"].rpartition(".")[2] for item in second["accounts"]] == ["0"]
    assert second["next"] is None
    # The order is 5 s old at most; figures are of the moment.
    await operator.start("c-2", f"{account}.0")
    await operator.pass_by(90 * MINUTE)

    async def is_first() -> bool:
        found = (await operator.http.get("/v1/accounts", params=query)).json()["accounts"]
        return [item["account"].rpartition(".")[2] for item in found] == ["3", "2", "0"]

    await wait_until(is_first)
    wrong = await operator.http.get("/v1/accounts", params={"sort": "name"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "sort")


async def test_accounts_are_found_by_id_and_name_with_their_pools(operator: Operator, account: str) -> None:
    await operator.account(account, minutes=100)
    await operator.http.put(f"/v1/accounts/{account}", json={"name": "Ünïque Bakery 100%"})
    await operator.start("c-1", account)
    await operator.pass_by(MINUTE)
    item = {
        "account": account,
        "name": "Ünïque Bakery 100%",
        "plan": "minutes-100",
        "status": "active",
        "allocated_seconds": 6000,
        "used_seconds": 60,
        "calls_in_progress": 1,
    }
    for searched in ("ünïque bakery", "100%", account.upper()):
        found = await operator.listed("/v1/accounts", "accounts", q=searched)
        assert found == [item]
    assert await operator.listed("/v1/accounts", "accounts", q="100_") == []
