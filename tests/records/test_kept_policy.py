"""The policy that a deployment's data is kept under."""

import pytest

from gateway.domain.errors import NotFound
from gateway.domain.policy import Policy
from gateway.records.store import Records

FIRST = Policy(free_seconds=30, increment_seconds=6, hold_seconds=120, count_from="answer")
SECOND = Policy(free_seconds=0, increment_seconds=1, hold_seconds=0, count_from="admission")


async def test_the_first_gateway_settles_the_policy_for_all(records: Records) -> None:
    assert await records.policy.read() is None
    with pytest.raises(NotFound):
        await records.policy.require()

    assert await records.policy.settle(FIRST) == FIRST
    assert await records.policy.settle(SECOND) == FIRST
    assert await records.policy.read() == await records.policy.require() == FIRST
    assert await records.policy.coming() is None


async def test_a_policy_that_is_being_set_is_found_until_it_is_in_force(records: Records) -> None:
    """By whoever is started after the one that set it has died."""
    await records.policy.settle(FIRST)

    await records.policy.begin(SECOND)
    assert await records.policy.coming() == SECOND
    assert await records.policy.require() == SECOND
    assert await records.policy.settle(FIRST) == FIRST

    await records.policy.finish(SECOND)
    assert await records.policy.coming() is None
    assert await records.policy.require() == SECOND
    assert await records.policy.settle(FIRST) == SECOND
