"""Making and changing plans."""

import pytest

from gateway.domain.errors import InvalidField, NotFound, PlanInUse
from gateway.domain.plans import Plan, Price
from gateway.records.plans import PlanFields
from gateway.records.store import Records
from tests.records.making import NOW_MS, TEAM, make_plans


async def test_a_plan_is_made_once_and_read_back(records: Records) -> None:
    fields: PlanFields = {**TEAM, "max_concurrent_calls": 7, "monthly_price": Price("49.00", "USD")}
    plan = Plan("team", "Team", 1000, 2, 3, 7, Price("49.00", "USD"))

    assert await records.plans.put_plan("team", fields) == (plan, True)
    assert await records.plans.put_plan("team", fields) == (plan, False)
    assert await records.plans.get_plan("team") == plan


async def test_a_new_plan_names_every_field_that_it_lacks(records: Records) -> None:
    with pytest.raises(InvalidField) as raised:
        await records.plans.put_plan("team", {"name": "Team"})

    assert [error.field for error in raised.value.errors] == ["minutes", "connected_channels", "staff_seats"]
    with pytest.raises(NotFound):
        await records.plans.get_plan("team")


async def test_a_field_left_out_keeps_its_value(records: Records) -> None:
    await records.plans.put_plan("team", {**TEAM, "monthly_price": Price("49.00", "USD")})

    plan, made = await records.plans.put_plan("team", {"minutes": 2000})

    assert (plan.minutes, plan.name, plan.monthly_price, made) == (2000, "Team", Price("49.00", "USD"), False)


async def test_an_optional_field_is_taken_away(records: Records) -> None:
    await records.plans.put_plan(
        "team", {**TEAM, "max_concurrent_calls": 7, "monthly_price": Price("49.00", "USD")}
    )

    plan, _ = await records.plans.put_plan("team", {"max_concurrent_calls": None, "monthly_price": None})

    assert plan == await records.plans.get_plan("team") == Plan("team", "Team", 1000, 2, 3)


@pytest.mark.parametrize(
    "change",
    [{"minutes": 999}, {"connected_channels": 3}, {"staff_seats": 4}, {"max_concurrent_calls": 1}],
    ids=lambda change: next(iter(change)),
)
async def test_of_a_plan_in_use_only_name_and_price_change(records: Records, change: PlanFields) -> None:
    await records.plans.put_plan("team", TEAM)
    await records.accounts.put_account("acme", {"name": "Acme", "plan": "team"}, NOW_MS)

    with pytest.raises(PlanInUse):
        await records.plans.put_plan("team", change)
    plan, _ = await records.plans.put_plan(
        "team", {**TEAM, "name": "The team", "monthly_price": Price("1", "EUR")}
    )

    assert plan == Plan("team", "The team", 1000, 2, 3, None, Price("1", "EUR"))


async def test_a_plan_that_an_account_is_coming_to_is_in_use(records: Records) -> None:
    await make_plans(records)
    await records.accounts.put_account("acme", {"name": "Acme", "plan": "team"}, NOW_MS)
    await records.plan_changes.change_plan("acme", "small", NOW_MS, NOW_MS + 1)

    with pytest.raises(PlanInUse):
        await records.plans.put_plan("small", {"minutes": 99})


async def test_plans_are_listed_by_id_page_by_page(records: Records) -> None:
    await make_plans(records)

    first, after = await records.plans.list_plans(None, 2)
    second, end = await records.plans.list_plans(after, 2)

    assert [plan.plan for plan in first + second] == ["large", "small", "team"]
    assert end is None


@pytest.mark.parametrize("name", ["a\0b", "half \ud800"])
async def test_a_text_that_no_database_keeps_is_named(records: Records, name: str) -> None:
    with pytest.raises(InvalidField) as raised:
        await records.plans.put_plan("team", {**TEAM, "name": name})

    assert [error.field for error in raised.value.errors] == ["name"]
