"""What was used of a cycle, by when its calls ended."""

import pytest

from gateway.domain.errors import NotFound
from gateway.domain.usage import SLOT_MS
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.records.making import (
    CYCLE_MS,
    NEXT_CYCLE_MS,
    NOW_MS,
    MemoryStream,
    a_cycle,
    a_record,
    make_plans,
    reopened,
)

SLOT = NOW_MS // SLOT_MS


async def test_records_are_summed_by_the_quarter_of_an_hour_in_which_they_ended(
    records: Records, stream: MemoryStream
) -> None:
    await make_plans(records)
    await records.accounts.put_account("acme", {"name": "Acme", "time_zone": "America/New_York"}, NOW_MS)
    back = a_record("back", ended_at_ms=NOW_MS, billed_seconds=1000)
    stream.add(
        a_cycle(),
        a_record("a", ended_at_ms=NOW_MS, billed_seconds=90),
        a_record("b", ended_at_ms=NOW_MS + SLOT_MS - 1, billed_seconds=31),
        a_record("c", ended_at_ms=NOW_MS + SLOT_MS, billed_seconds=7),
        a_record("free", ended_at_ms=NOW_MS, billed_seconds=0, counted=False),
        a_record("other", account="other", billed_seconds=500),
        a_record("next", cycle_start_ms=NEXT_CYCLE_MS, billed_seconds=700),
        back,
    )
    stream.add(reopened(back))
    await Recorder(records.database, stream, stream.now_ms).drain()

    for cycle_start_ms in (CYCLE_MS, None):
        found = await records.usage.of_cycle("acme", cycle_start_ms, NOW_MS)

        assert found.slots == {SLOT: 121, SLOT + 1: 7}
        assert (found.cycle.start_ms, found.cycle.end_ms) == (CYCLE_MS, NEXT_CYCLE_MS)
        assert (found.account.name, found.account.time_zone) == ("Acme", "America/New_York")


async def test_a_cycle_that_is_not_recorded_yet_is_the_running_one(records: Records) -> None:
    await records.accounts.put_account("acme", {"name": "Acme"}, NOW_MS)
    running = await records.configs.running_cycle("acme", NOW_MS)

    for cycle_start_ms in (running.start_ms, None):
        found = await records.usage.of_cycle("acme", cycle_start_ms, NOW_MS)

        assert (found.cycle, found.slots) == (running, {})


@pytest.mark.parametrize(("account", "cycle_start_ms"), [("nobody", None), ("acme", CYCLE_MS)])
async def test_what_is_not_there_is_said(records: Records, account: str, cycle_start_ms: int | None) -> None:
    await records.accounts.put_account("acme", {"name": "Acme"}, NOW_MS)

    with pytest.raises(NotFound):
        await records.usage.of_cycle(account, cycle_start_ms, NOW_MS)
