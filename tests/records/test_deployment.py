"""What holds for the deployment as a whole."""

import asyncio

from gateway.records.store import Records


async def test_what_is_put_is_read_back_and_may_be_put_anew(records: Records) -> None:
    assert await records.deployment.get("policy") is None

    await records.deployment.put("policy", "one")
    await records.deployment.put("policy", "two")

    assert await records.deployment.get("policy") == "two"


async def test_gateways_that_start_at_once_settle_for_the_same(records: Records) -> None:
    answers = await asyncio.gather(*(records.deployment.settle("shards", str(n)) for n in range(8)))

    assert len(set(answers)) == 1
    assert await records.deployment.settle("shards", "another") == answers[0]
