"""Revocations are kept, and every gateway hears of each."""

import asyncio

import pytest

from gateway.domain.errors import NotFound
from gateway.records.revocations import SavedRevocation
from gateway.records.store import Records
from tests.records.making import NOW_MS


@pytest.fixture
async def acme(records: Records) -> Records:
    """Records with the account acme."""
    await records.accounts.put_account("acme", {"name": "Acme"}, NOW_MS)
    return records


async def test_revocations_come_in_their_order(acme: Records) -> None:
    await acme.revocations.revoke("acme", "ana", "desk", 10)
    await acme.revocations.revoke("acme", "ana", None, 20)
    await acme.revocations.revoke("acme", None, None, 30)

    every = [
        SavedRevocation(1, "acme", "ana", "desk", 10),
        SavedRevocation(2, "acme", "ana", None, 20),
        SavedRevocation(3, "acme", None, None, 30),
    ]
    assert await acme.revocations.since(0) == every
    assert await acme.revocations.since(2) == every[2:]
    assert await acme.revocations.since(3) == []


async def test_of_one_subject_the_latest_is_kept_and_told_again(acme: Records) -> None:
    await acme.revocations.revoke("acme", "ana", None, 20)
    await acme.revocations.revoke("acme", "ana", None, 30)
    await acme.revocations.revoke("acme", "ana", None, 10)

    assert await acme.revocations.since(0) == [SavedRevocation(3, "acme", "ana", None, 30)]


async def test_a_gateway_that_asks_for_the_newer_ones_misses_none(acme: Records) -> None:
    heard: list[SavedRevocation] = []

    async def listen() -> None:
        while len(heard) < 30:
            heard.extend(await acme.revocations.since(heard[-1].number if heard else 0))

    listening = asyncio.create_task(listen())
    await asyncio.gather(*(acme.revocations.revoke("acme", f"s-{n}", None, n) for n in range(30)))
    async with asyncio.timeout(10):
        await listening

    assert sorted(each.number for each in heard) == list(range(1, 31))


async def test_tokens_of_an_account_that_is_not_there_are_not_revoked(records: Records) -> None:
    with pytest.raises(NotFound):
        await records.revocations.revoke("acme", None, None, 1)
