"""Moving an account from plan to plan (R21-R23)."""

import pytest

from gateway.domain.errors import ChannelLimit, InvalidField, NotFound, SeatLimit
from gateway.records.plan_changes import PlanChangeResult
from gateway.records.store import Records
from tests.records.making import NEXT_CYCLE_MS, NOW_MS, make_plans


@pytest.fixture
async def acme(records: Records) -> Records:
    """Records with the plans and the account acme, which has none yet."""
    await make_plans(records)
    await records.accounts.put_account("acme", {"name": "Acme"}, NOW_MS)
    return records


async def change(records: Records, plan: str, now_ms: int = NOW_MS) -> PlanChangeResult:
    return await records.plan_changes.change_plan("acme", plan, now_ms, NEXT_CYCLE_MS)


async def plans(records: Records, now_ms: int = NOW_MS) -> tuple[str | None, str | None]:
    account = await records.accounts.get_account("acme", now_ms)
    return account.plan, account.pending_plan


async def test_a_first_plan_holds_at_once(acme: Records) -> None:
    """R21."""
    assert await change(acme, "team") == PlanChangeResult("team", NOW_MS, None)
    assert await plans(acme) == ("team", None)


async def test_an_upgrade_holds_at_once_and_withdraws_a_coming_change(acme: Records) -> None:
    """R22."""
    await change(acme, "team")
    await change(acme, "small")

    assert await change(acme, "large") == PlanChangeResult("large", NOW_MS, None)
    assert await plans(acme) == ("large", None)


async def test_a_downgrade_holds_from_the_next_cycle(acme: Records) -> None:
    """R23."""
    await change(acme, "team")

    assert await change(acme, "small") == PlanChangeResult("team", NEXT_CYCLE_MS, "small")
    assert await plans(acme) == ("team", "small")
    assert await plans(acme, NEXT_CYCLE_MS) == ("small", None)


async def test_a_coming_change_is_replaced_by_another_or_withdrawn(acme: Records) -> None:
    """R23."""
    await acme.plans.put_plan(
        "none", {"name": "None", "minutes": 0, "connected_channels": 0, "staff_seats": 0}
    )
    await change(acme, "team")
    await change(acme, "small")

    assert await change(acme, "none") == PlanChangeResult("team", NEXT_CYCLE_MS, "none")
    await acme.plan_changes.withdraw_pending("acme", NOW_MS)
    assert await plans(acme) == ("team", None)
    with pytest.raises(NotFound):
        await acme.plan_changes.withdraw_pending("acme", NOW_MS)


async def test_a_change_is_decided_against_the_plan_in_force_by_then(acme: Records) -> None:
    await change(acme, "team")
    await change(acme, "small")

    again = await change(acme, "team", NEXT_CYCLE_MS)

    assert again == PlanChangeResult("team", NEXT_CYCLE_MS, None), "up from small, at once"
    with pytest.raises(NotFound):
        await acme.plan_changes.withdraw_pending("acme", NEXT_CYCLE_MS)


async def test_asking_twice_is_asking_once(acme: Records) -> None:
    await change(acme, "team")
    await change(acme, "small")
    before = await acme.accounts.get_account("acme", NOW_MS)

    assert await change(acme, "small") == PlanChangeResult("team", NEXT_CYCLE_MS, "small")
    assert await acme.accounts.get_account("acme", NOW_MS) == before


async def test_a_change_is_refused_if_more_seats_or_channels_are_in_use(acme: Records) -> None:
    """R23."""
    await change(acme, "team")
    for staff in ("ana", "bob"):
        await acme.members.put_staff("acme", staff, {}, NOW_MS)

    with pytest.raises(SeatLimit) as seats:
        await change(acme, "small")
    await acme.members.delete_staff("acme", "bob", NOW_MS)
    for channel in ("main", "second"):
        await acme.members.put_channel("acme", channel, {}, NOW_MS)
    with pytest.raises(ChannelLimit) as channels:
        await change(acme, "small")

    assert (seats.value.limit, seats.value.in_use) == (1, 2)
    assert (channels.value.limit, channels.value.in_use) == (1, 2)
    assert await plans(acme) == ("team", None)


async def test_an_unknown_plan_is_an_invalid_field_and_an_unknown_account_not_found(acme: Records) -> None:
    with pytest.raises(InvalidField) as raised:
        await change(acme, "nothing")
    assert [error.field for error in raised.value.errors] == ["plan"]
    with pytest.raises(NotFound):
        await acme.plan_changes.change_plan("nobody", "team", NOW_MS, NEXT_CYCLE_MS)
