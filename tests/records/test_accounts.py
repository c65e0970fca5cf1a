"""Making, changing, finding and listing accounts."""

import asyncio
from datetime import date

import pytest

from gateway.domain.errors import ImmutableField, InvalidField, NotFound
from gateway.records.accounts import Account, AccountFields
from gateway.records.store import Records
from tests.records.making import CYCLE_MS, NEXT_CYCLE_MS, NOW_MS, make_plans


async def make(records: Records, account: str = "acme", **fields: str) -> Account:
    values: AccountFields = {"name": account.title()}
    values.update(fields)  # type: ignore[typeddict-item]
    made, _ = await records.accounts.put_account(account, values, NOW_MS)
    return made


async def ids(records: Records, q: str | None = None) -> list[str]:
    found, _ = await records.accounts.list_accounts(q, None, 100, NOW_MS)
    return [account.account for account in found]


async def test_a_new_account_is_active_in_utc_billed_from_today_and_has_no_plan(records: Records) -> None:
    account, made = await records.accounts.put_account("acme", {"name": "Acme"}, NOW_MS)

    assert made
    assert account == Account(
        account="acme",
        name="Acme",
        plan=None,
        pending_plan=None,
        pending_from_ms=None,
        billing_date=date(2026, 11, 23),
        time_zone="UTC",
        status="active",
        created_at_ms=NOW_MS,
        revision=1,
        applied_revision=0,
    )
    assert await records.accounts.get_account("acme", NOW_MS) == account


async def test_today_is_today_in_the_accounts_time_zone(records: Records) -> None:
    account = await make(records, time_zone="Pacific/Honolulu")

    assert account.billing_date == date(2026, 11, 22)


async def test_a_new_account_names_every_field_that_is_wrong(records: Records) -> None:
    with pytest.raises(InvalidField) as raised:
        await records.accounts.put_account(
            "acme", {"plan": "none", "time_zone": "Mars/Olympus", "status": "active"}, NOW_MS
        )

    assert {error.field for error in raised.value.errors} == {"name", "plan", "time_zone"}
    with pytest.raises(NotFound):
        await records.accounts.get_account("acme", NOW_MS)


async def test_name_time_zone_and_status_change_and_what_is_left_out_stays(records: Records) -> None:
    before = await make(records)

    account, made = await records.accounts.put_account(
        "acme", {"time_zone": "Europe/Berlin", "status": "suspended"}, NOW_MS + 5
    )

    assert not made
    assert (account.name, account.time_zone, account.status) == ("Acme", "Europe/Berlin", "suspended")
    assert (account.billing_date, account.created_at_ms) == (before.billing_date, NOW_MS)


@pytest.mark.parametrize(
    "fields", [{"plan": "large"}, {"plan": None}, {"billing_date": date(2026, 1, 31)}], ids=str
)
async def test_plan_and_billing_date_of_an_account_are_not_changed_by_putting_it(
    records: Records, fields: AccountFields
) -> None:
    await make_plans(records)
    before = await make(records, plan="team")

    with pytest.raises(ImmutableField):
        await records.accounts.put_account("acme", {"name": "Other", **fields}, NOW_MS)

    assert await records.accounts.get_account("acme", NOW_MS) == before


async def test_putting_an_account_as_it_is_changes_nothing(records: Records) -> None:
    await make_plans(records)
    before = await make(records, plan="team")
    same: AccountFields = {
        "name": before.name,
        "plan": before.plan,
        "billing_date": before.billing_date,
        "time_zone": before.time_zone,
        "status": before.status,
    }

    assert await records.accounts.put_account("acme", same, NOW_MS + 5) == (before, False)


async def test_every_change_raises_the_revision_until_the_pool_has_it(records: Records) -> None:
    await make_plans(records)
    revisions = [(await make(records, plan="team")).revision]
    for change in (
        lambda: records.accounts.put_account("acme", {"status": "suspended"}, NOW_MS),
        lambda: records.members.put_staff("acme", "ana", {}, NOW_MS),
        lambda: records.members.delete_staff("acme", "ana", NOW_MS),
        lambda: records.members.put_channel("acme", "main", {}, NOW_MS),
        lambda: records.members.delete_channel("acme", "main", NOW_MS),
        lambda: records.plan_changes.change_plan("acme", "small", NOW_MS, NEXT_CYCLE_MS),
        lambda: records.plan_changes.withdraw_pending("acme", NOW_MS),
        lambda: records.plan_changes.change_plan("acme", "large", NOW_MS, NEXT_CYCLE_MS),
    ):
        await change()
        revisions.append((await records.accounts.get_account("acme", NOW_MS)).revision)
    assert revisions == list(range(1, 10))

    assert await records.accounts.unapplied(10) == ["acme"]
    await records.accounts.mark_applied("acme", 8)
    assert await records.accounts.unapplied(10) == ["acme"]
    await records.accounts.mark_applied("acme", 9)
    await records.accounts.mark_applied("acme", 3)
    assert await records.accounts.unapplied(10) == []


async def test_an_account_that_two_make_at_once_is_made_once(records: Records) -> None:
    both = await asyncio.gather(
        *(records.accounts.put_account("acme", {"name": "Acme"}, NOW_MS) for _ in range(8))
    )

    assert sorted(made for _, made in both) == [False] * 7 + [True]
    assert len({account for account, _ in both}) == 1


async def test_changes_at_once_are_all_made(records: Records) -> None:
    await make_plans(records)
    await make(records, plan="large")

    await asyncio.gather(*(records.members.put_staff("acme", f"s-{n}", {}, NOW_MS) for n in range(9)))

    assert (await records.accounts.get_account("acme", NOW_MS)).revision == 10


async def test_a_coming_plan_is_in_force_from_its_instant_on(records: Records) -> None:
    await make_plans(records)
    await make(records, plan="team")
    await records.plan_changes.change_plan("acme", "small", NOW_MS, NEXT_CYCLE_MS)

    before = await records.accounts.get_account("acme", NEXT_CYCLE_MS - 1)
    after = await records.accounts.get_account("acme", NEXT_CYCLE_MS)

    assert (before.plan, before.pending_plan, before.pending_from_ms) == ("team", "small", NEXT_CYCLE_MS)
    assert (after.plan, after.pending_plan, after.pending_from_ms) == ("small", None, None)
    (listed,), _ = await records.accounts.list_accounts(None, None, 9, NEXT_CYCLE_MS)
    assert listed == after
    changed, _ = await records.accounts.put_account("acme", {"status": "suspended"}, NEXT_CYCLE_MS)
    assert changed.plan == "small"
    assert (await records.accounts.get_account("acme", CYCLE_MS)).plan == "small", "written back"


async def test_search_finds_ids_and_names_whatever_the_case(records: Records) -> None:
    await make(records, "acme", name="ACME Corporation")
    await make(records, "globex", name="Straße und Söhne")
    await make(records, "initech", name="Initech")

    assert await ids(records, "corp") == ["acme"]
    assert await ids(records, "GLOB") == ["globex"]
    assert await ids(records, "SÖHNE") == ["globex"]
    assert await ids(records, "STRASSE") == ["globex"]
    assert await ids(records, "e") == ["acme", "globex", "initech"]
    assert await ids(records, "nobody") == []


@pytest.mark.parametrize(("q", "found"), [("100%", ["b"]), ("a_b", ["a"]), ("\\", ["c"]), ("\0", [])])
async def test_search_takes_every_character_as_it_is(records: Records, q: str, found: list[str]) -> None:
    await make(records, "a", name="a_b")
    await make(records, "b", name="100% axb")
    await make(records, "c", name="back\\slash / 100")

    assert await ids(records, q) == found


async def test_search_follows_a_changed_name(records: Records) -> None:
    await make(records, name="Before")
    await records.accounts.put_account("acme", {"name": "After"}, NOW_MS)

    assert await ids(records, "before") == []
    assert await ids(records, "after") == ["acme"]


async def test_what_is_made_while_paging_neither_repeats_nor_hides_an_account(records: Records) -> None:
    there = [f"a-{n:02}" for n in range(0, 20, 2)]
    for account in there:
        await make(records, account)

    seen: list[str] = []
    after = None
    while True:
        page, after = await records.accounts.list_accounts(None, after, 3, NOW_MS)
        seen += [account.account for account in page]
        if after is None:
            break
        await make(records, f"a-{len(seen):02}-new")  # before, among and after those shown
        await make(records, f"Z-{len(seen)}")

    assert [account for account in seen if account in there] == there
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    "after", ["", "nonsense!", "bm9uc2Vuc2U", "WzFd", "WyJhIiwiYiJd", "WyIAIl0", "W10", "e30"]
)
async def test_a_cursor_of_another_making_is_an_invalid_field(records: Records, after: str) -> None:
    with pytest.raises(InvalidField) as raised:
        await records.accounts.list_accounts(None, after, 10, NOW_MS)

    assert [error.field for error in raised.value.errors] == ["after"]
