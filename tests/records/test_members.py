"""Staff and channels, and the limits that a plan puts on them (R25)."""

import asyncio

import pytest

from gateway.domain.errors import ChannelLimit, InvalidField, NotFound, SeatLimit
from gateway.records.members import Channel, StaffMember
from gateway.records.store import Records
from tests.records.making import NEXT_CYCLE_MS, NOW_MS, make_plans


@pytest.fixture
async def acme(records: Records) -> Records:
    """Records with the account acme on the plan team: 3 seats, 2 channels."""
    await make_plans(records)
    await records.accounts.put_account("acme", {"name": "Acme", "plan": "team"}, NOW_MS)
    return records


async def test_staff_are_made_changed_and_removed(acme: Records) -> None:
    members = acme.members

    assert await members.put_staff("acme", "ana", {}, NOW_MS) == (StaffMember("ana", None), True)
    assert await members.put_staff("acme", "ana", {"name": "Ana"}, NOW_MS) == (
        StaffMember("ana", "Ana"),
        False,
    )
    assert await members.put_staff("acme", "ana", {}, NOW_MS) == (StaffMember("ana", "Ana"), False)
    assert await members.get_staff("acme", "ana") == StaffMember("ana", "Ana")
    assert await members.put_staff("acme", "ana", {"name": None}, NOW_MS) == (StaffMember("ana"), False)
    await members.delete_staff("acme", "ana", NOW_MS)
    with pytest.raises(NotFound):
        await members.get_staff("acme", "ana")


async def test_channels_are_made_changed_and_removed(acme: Records) -> None:
    members = acme.members

    made = await members.put_channel("acme", "main", {"label": "Main", "number": "+14155550199"}, NOW_MS)
    assert made == (Channel("main", "Main", "+14155550199"), True)
    assert await members.put_channel("acme", "main", {"label": "Line 1"}, NOW_MS) == (
        Channel("main", "Line 1", "+14155550199"),
        False,
    )
    assert await members.list_channels("acme", None, 10) == (
        [Channel("main", "Line 1", "+14155550199")],
        None,
    )
    await members.delete_channel("acme", "main", NOW_MS)
    assert await members.list_channels("acme", None, 10) == ([], None)


async def test_putting_a_member_as_it_is_raises_no_revision(acme: Records) -> None:
    await acme.members.put_staff("acme", "ana", {"name": "Ana"}, NOW_MS)
    before = await acme.accounts.get_account("acme", NOW_MS)

    await acme.members.put_staff("acme", "ana", {"name": "Ana"}, NOW_MS)

    assert await acme.accounts.get_account("acme", NOW_MS) == before


async def test_one_staff_member_more_than_the_plan_allows_is_refused(acme: Records) -> None:
    for staff in ("ana", "bob", "cleo"):
        await acme.members.put_staff("acme", staff, {}, NOW_MS)

    with pytest.raises(SeatLimit) as raised:
        await acme.members.put_staff("acme", "dora", {}, NOW_MS)
    assert (raised.value.limit, raised.value.in_use) == (3, 3)
    await acme.members.put_staff("acme", "ana", {"name": "Ana"}, NOW_MS)  # has her seat
    await acme.members.delete_staff("acme", "bob", NOW_MS)
    await acme.members.put_staff("acme", "dora", {}, NOW_MS)


async def test_one_channel_more_than_the_plan_allows_is_refused(acme: Records) -> None:
    await acme.members.put_channel("acme", "main", {}, NOW_MS)
    await acme.members.put_channel("acme", "second", {}, NOW_MS)

    with pytest.raises(ChannelLimit) as raised:
        await acme.members.put_channel("acme", "third", {}, NOW_MS)
    assert (raised.value.limit, raised.value.in_use) == (2, 2)


async def test_the_last_seat_goes_to_one_of_those_who_ask_at_once(acme: Records) -> None:
    answers = await asyncio.gather(
        *(acme.members.put_staff("acme", f"s-{n}", {}, NOW_MS) for n in range(10)), return_exceptions=True
    )

    assert sum(isinstance(answer, SeatLimit) for answer in answers) == 7
    listed, _ = await acme.members.list_staff("acme", None, 100)
    assert len(listed) == 3


async def test_without_a_plan_there_are_no_seats_and_no_channels(records: Records) -> None:
    await records.accounts.put_account("acme", {"name": "Acme"}, NOW_MS)

    with pytest.raises(SeatLimit) as seats:
        await records.members.put_staff("acme", "ana", {}, NOW_MS)
    with pytest.raises(ChannelLimit) as channels:
        await records.members.put_channel("acme", "main", {}, NOW_MS)

    assert (seats.value.limit, channels.value.limit) == (0, 0)


async def test_a_coming_smaller_plan_limits_what_is_added_already(acme: Records) -> None:
    """R23."""
    await acme.members.put_staff("acme", "ana", {}, NOW_MS)
    await acme.plan_changes.change_plan("acme", "small", NOW_MS, NEXT_CYCLE_MS)

    with pytest.raises(SeatLimit) as raised:
        await acme.members.put_staff("acme", "bob", {}, NOW_MS)

    assert (raised.value.limit, raised.value.in_use) == (1, 1)


async def test_members_of_no_account_are_not_found(records: Records) -> None:
    for ask in (
        records.members.put_staff("acme", "ana", {}, NOW_MS),
        records.members.delete_staff("acme", "ana", NOW_MS),
        records.members.list_staff("acme", None, 10),
        records.members.put_channel("acme", "main", {}, NOW_MS),
        records.members.delete_channel("acme", "main", NOW_MS),
        records.members.list_channels("acme", None, 10),
    ):
        with pytest.raises(NotFound):
            await ask


async def test_a_member_that_is_not_there_is_not_removed(acme: Records) -> None:
    with pytest.raises(NotFound, match="no staff member ana"):
        await acme.members.delete_staff("acme", "ana", NOW_MS)
    with pytest.raises(NotFound, match="no channel main"):
        await acme.members.delete_channel("acme", "main", NOW_MS)


async def test_members_are_listed_by_id_page_by_page(acme: Records) -> None:
    await acme.accounts.put_account("other", {"name": "Other", "plan": "team"}, NOW_MS)
    await acme.members.put_staff("other", "zoe", {}, NOW_MS)
    for staff in ("cleo", "Ana", "bob"):
        await acme.members.put_staff("acme", staff, {}, NOW_MS)

    first, after = await acme.members.list_staff("acme", None, 2)
    second, end = await acme.members.list_staff("acme", after, 2)

    assert [member.staff for member in first + second] == ["Ana", "bob", "cleo"]
    assert end is None


async def test_a_text_that_no_database_keeps_is_named(acme: Records) -> None:
    with pytest.raises(InvalidField) as raised:
        await acme.members.put_channel("acme", "main", {"label": "\0", "number": "+1\0"}, NOW_MS)

    assert [error.field for error in raised.value.errors] == ["label", "number"]
