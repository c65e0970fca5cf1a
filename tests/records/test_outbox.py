"""The outbox of webhooks: what is written with what, once, under one id (contract, Webhooks)."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from gateway.api.wire import resources
from gateway.domain.calls import PoolNotice
from gateway.domain.webhooks import EVENT_TYPES, USUAL_EVENTS
from gateway.records import events
from gateway.records.outbox import KEPT_MS, DueEvent, Outcome
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.records.making import (
    CYCLE_MS,
    DAY_MS,
    NEXT_CYCLE_MS,
    NOW_MS,
    MemoryStream,
    a_cycle,
    a_record,
    execute,
    rows,
)

FAR_MS = 10**14
PASSED_80 = PoolNotice(
    account="acme",
    cycle_start_ms=CYCLE_MS,
    cycle_end_ms=NEXT_CYCLE_MS,
    kind="threshold",
    percent=80,
    at_ms=NOW_MS,
    allocated_seconds=60_000,
    used_seconds=48_000,
    plan="team",
)
CYCLE = {"start": "2026-11-15T05:00:00Z", "end": "2026-12-15T05:00:00Z"}


@pytest.fixture
async def recorder(records: Records, stream: MemoryStream) -> Recorder:
    await records.outbox.want(EVENT_TYPES)
    return Recorder(records.database, stream, stream.now_ms)


async def waiting(records: Records) -> list[DueEvent]:
    return await records.outbox.due(FAR_MS, 1000)


def body(event: DueEvent) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(event.body)
    return found


async def test_a_threshold_is_told_with_its_figures(
    records: Records, stream: MemoryStream, recorder: Recorder
) -> None:
    stream.add(PASSED_80)
    await recorder.drain()

    (event,) = await waiting(records)

    assert (event.type, event.account, event.failures) == ("threshold", "acme", 0)
    assert event.event_id.startswith("evt_")
    assert "." not in event.event_id
    assert body(event) == {
        "type": "threshold",
        "timestamp": "2026-11-23T00:00:00Z",
        "data": {
            "account": "acme",
            "cycle": CYCLE,
            "plan": "team",
            "allocated_seconds": 60_000,
            "used_seconds": 48_000,
            "percent": 80,
        },
    }


@pytest.mark.parametrize("kind", ["minutes_exhausted", "minutes_restored", "plan_changed"])
async def test_other_notices_are_told_as_what_they_are(
    records: Records, stream: MemoryStream, recorder: Recorder, kind: Any
) -> None:
    stream.add(replace(PASSED_80, kind=kind, percent=None))
    await recorder.drain()

    (event,) = await waiting(records)

    assert body(event)["type"] == event.type == kind
    assert body(event)["data"].keys() == {"account", "cycle", "plan", "allocated_seconds", "used_seconds"}


async def test_what_is_told_again_is_the_same_event(
    records: Records, stream: MemoryStream, recorder: Recorder
) -> None:
    """By another recorder, after an epoch of the engine's, or at another instant after a rebuild."""
    again = [
        PASSED_80,
        replace(PASSED_80, at_ms=NOW_MS + 5, used_seconds=48_001),
    ]
    different = [
        replace(PASSED_80, percent=50),
        replace(PASSED_80, allocated_seconds=300_000),
        replace(PASSED_80, cycle_start_ms=NEXT_CYCLE_MS),
        replace(PASSED_80, account="other"),
        replace(PASSED_80, kind="minutes_exhausted", percent=None),
        replace(PASSED_80, kind="plan_changed", percent=None),
        replace(PASSED_80, kind="plan_changed", percent=None, at_ms=NOW_MS + 1),
    ]
    stream.add(*again, *different)
    await recorder.drain()
    first = {event.event_id for event in await waiting(records)}
    assert len(first) == 1 + len(different)

    stream.shard_epochs[0] = 1  # its stream is read from the beginning
    stream.add(*again, *different)
    await recorder.drain()
    stream.add(*again, *different)
    await Recorder(records.database, stream, stream.now_ms).drain()

    assert {event.event_id for event in await waiting(records)} == first


async def test_what_was_sent_and_is_told_again_is_not_sent_again(
    records: Records, stream: MemoryStream, recorder: Recorder
) -> None:
    stream.add(PASSED_80)
    await recorder.drain()
    (event,) = await waiting(records)
    await records.outbox.note([Outcome(event.event_id, NOW_MS)])

    stream.add(PASSED_80)
    await recorder.drain()

    assert await waiting(records) == []


async def test_ids_differ_from_deployment_to_deployment() -> None:
    one, other = (events.of_notice(uuid.uuid4(), PASSED_80) for _ in range(2))
    assert one.body == other.body
    assert one.event_id != other.event_id


@pytest.mark.parametrize("types", [(), USUAL_EVENTS, ("call_recorded",)])
async def test_only_what_is_wanted_is_written(
    records: Records, stream: MemoryStream, recorder: Recorder, types: Any
) -> None:
    await records.outbox.want(types)
    stream.add(a_cycle(), PASSED_80, a_record())
    await recorder.drain()
    await close(records, recorder)

    told = {event.type for event in await waiting(records)}

    assert told == {"threshold", "cycle_closed", "call_recorded"} & set(types)


async def close(records: Records, recorder: Recorder) -> None:
    async def none(_: str) -> None:
        return None

    await records.closing.close_due(
        NEXT_CYCLE_MS + DAY_MS, late_resume_ms=0, oldest_call_in_progress=none, save_all=recorder.drain
    )


async def test_a_statement_that_closes_is_told_as_it_is_read(
    records: Records, stream: MemoryStream, recorder: Recorder
) -> None:
    await records.outbox.want(USUAL_EVENTS)
    stream.add(a_cycle(), a_record(billed_seconds=90))
    await recorder.drain()
    for _ in range(2):
        await close(records, recorder)

    (event,) = await waiting(records)

    content = body(event)
    assert (content["type"], content["timestamp"]) == ("cycle_closed", "2026-12-15T05:00:00Z")
    statement = content["data"].pop("statement")
    assert content["data"] == {
        "account": "acme",
        "cycle": CYCLE,
        "allocated_seconds": 60_000,
        "used_seconds": 90,
    }
    assert set(statement) == set(resources.Statement.__struct_fields__) - {"as_of_ms"}
    assert (statement["closed"], statement["closed_at_ms"]) == (True, NEXT_CYCLE_MS)
    assert (statement["calls_counted"], statement["overrun_seconds"]) == (1, 0)


async def test_a_record_is_told_with_the_figures_of_its_cycle(
    records: Records, stream: MemoryStream, recorder: Recorder
) -> None:
    stream.add(a_cycle(), a_record("c-1", billed_seconds=90), a_record("c-2", billed_seconds=31))
    await recorder.drain()
    stream.add(a_record("c-1", billed_seconds=40, revision=2))
    await recorder.drain()

    told = await waiting(records)

    assert sorted(
        (body(e)["data"]["record"]["call_id"], body(e)["data"]["record"]["revision"]) for e in told
    ) == [
        ("c-1", 1),
        ("c-1", 2),
        ("c-2", 1),
    ]
    for event in told:
        data = body(event)["data"]
        assert set(data.pop("record")) == set(resources.Call.__struct_fields__) - {"admitted_offline"}
        assert data == {"account": "acme", "cycle": CYCLE, "allocated_seconds": 60_000, "used_seconds": 71}
    # What was once made stays as it is.
    stream.add(a_record("c-3", billed_seconds=500))
    await recorder.drain()
    assert {event.body for event in told} < {event.body for event in await waiting(records)}


async def test_an_emergency_of_an_unknown_account_is_told_without_a_cycle(
    records: Records, stream: MemoryStream, recorder: Recorder
) -> None:
    """R30."""
    stream.add(
        a_record(account="nobody", cycle_start_ms=0, emergency=True, billed_seconds=0, to="112\0\ud7ff")
    )
    await recorder.drain()

    found = await waiting(records)

    if found:  # PostgreSQL refuses the number: then it is a dead letter, and no event
        assert body(found[0])["data"]["cycle"] == {"start": "1970-01-01T00:00:00Z", "end": None}
    assert len(found) == len(await rows(records.database, "SELECT 1 FROM call_records"))


async def test_what_is_too_old_is_deleted_sent_or_not(
    records: Records, stream: MemoryStream, recorder: Recorder
) -> None:
    stream.add(PASSED_80, replace(PASSED_80, percent=50), replace(PASSED_80, percent=100))
    await recorder.drain()
    first, second, third = await waiting(records)
    await records.outbox.note([Outcome(first.event_id, NOW_MS)])
    await execute(
        records.database, f"UPDATE webhook_events SET created_at_ms = 1 WHERE event_id <> '{third.event_id}'"
    )

    assert await records.outbox.delete_old(KEPT_MS + 1) == 0
    assert await records.outbox.delete_old(KEPT_MS + 2) == 1

    assert [event.event_id for event in await waiting(records)] == [third.event_id]
    assert second.event_id != third.event_id


async def test_how_it_goes_is_known_to_all(
    records: Records, stream: MemoryStream, recorder: Recorder
) -> None:
    stream.add(PASSED_80)
    await recorder.drain()
    await records.outbox.failing(5, "HTTP 500")
    await records.outbox.gone()
    state = await records.outbox.state()
    assert (state.waiting, state.failing_since_ms, state.error, state.gone) == (1, 5, "HTTP 500", True)

    await records.outbox.want(USUAL_EVENTS)  # a gateway starts
    await records.outbox.failing(None)
    state = await records.outbox.state()
    assert (state.waiting, state.failing_since_ms, state.error, state.gone) == (1, None, None, False)
