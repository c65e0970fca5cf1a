"""Every query has an index: none reads, or sorts, a whole table that grows with the business."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.webhooks import EVENT_TYPES
from gateway.records.outbox import Outcome
from gateway.records.recorder import Recorder
from gateway.records.store import Records
from tests.records.making import (
    CYCLE_MS,
    NEXT_CYCLE_MS,
    NOW_MS,
    SMALL,
    MemoryStream,
    a_cycle,
    a_record,
    make_plans,
    reopened,
)

GROWING = "accounts|call_records|statements|staff|channels|webhook_events"

WANTED = (
    # That index has only the accounts that lag, so reading all of it is what is wanted.
    "USING INDEX accounts_unapplied",
    # Of one cycle's records, into a few thousand groups: an index for it would make every record dearer.
    "USE TEMP B-TREE FOR GROUP BY: SELECT call_records.ended_at_ms / 900000",
)


@contextmanager
def every_statement() -> Iterator[list[tuple[str, Any]]]:
    """Collect what is sent to the databases."""
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        sent.append((statement, parameters[0] if many else parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def everything_there_is_to_ask(records: Records, stream: MemoryStream) -> None:
    now_ms = NOW_MS
    await records.outbox.want(EVENT_TYPES)
    await make_plans(records)
    await records.plans.put_plan("small", SMALL)
    await records.plans.list_plans(None, 10)
    for account in ("acme", "other"):
        await records.accounts.put_account(account, {"name": "Acme", "plan": "team"}, now_ms)
    _, after = await records.accounts.list_accounts(None, None, 1, now_ms)
    await records.accounts.list_accounts(None, after, 1, now_ms)
    await records.accounts.unapplied(1)
    await records.accounts.mark_applied("acme", 1)
    for n in range(2):
        await records.members.put_staff("acme", f"s-{n}", {}, now_ms)
        await records.members.put_channel("acme", f"c-{n}", {}, now_ms)
    _, after = await records.members.list_staff("acme", None, 1)
    await records.members.list_staff("acme", after, 1)
    await records.members.list_channels("acme", None, 1)
    await records.plan_changes.change_plan("acme", "large", now_ms, NEXT_CYCLE_MS)
    stream.add(a_cycle(), *(a_record(f"c-{n}") for n in range(3)))
    recorder = Recorder(records.database, stream, stream.now_ms)
    await recorder.drain()
    stream.add(reopened(a_record("c-0")))
    await recorder.drain()
    await recorder.as_of_ms()
    await records.configs.config("acme", now_ms)
    await records.calls.find_call("acme", "c-1")
    for cycle_start_ms, staff in ((None, None), (CYCLE_MS, None), (None, "ana"), (CYCLE_MS, "ana")):
        after = None
        for _ in range(2):
            _, after = await records.calls.list_calls(
                "acme", cycle_start_ms=cycle_start_ms, staff=staff, after=after, limit=1
            )
    async for _ in records.calls.calls_of_cycle("acme", CYCLE_MS):
        pass
    await records.statements.get_statement("acme", CYCLE_MS)
    await records.statements.list_statements("acme", None, 10)
    await records.usage.of_cycle("acme", CYCLE_MS, now_ms)

    async def none(_: str) -> None:
        return None

    await records.closing.close_due(
        NEXT_CYCLE_MS + 1, late_resume_ms=1, oldest_call_in_progress=none, save_all=recorder.drain
    )
    event, *_ = await records.outbox.due(10**14, 10)
    await records.outbox.note([Outcome(event.event_id, now_ms)])
    await records.outbox.hurry(now_ms)
    await records.outbox.state()
    await records.outbox.delete_old(now_ms)
    await records.accounts.list_ids(None, None, 1)
    await records.accounts.get_accounts(["acme"], now_ms)
    await records.revocations.revoke("acme", None, None, now_ms)
    await records.revocations.since(0)


async def test_no_query_reads_or_sorts_a_growing_table(tmp_path: Path, stream: MemoryStream) -> None:
    records = Records(tmp_path / "callgate.db")
    await records.open()
    with every_statement() as sent:
        await everything_there_is_to_ask(records, stream)
    asked = {statement: parameters for statement, parameters in sent if _asks(statement)}
    assert len(asked) > 30

    async def plan(connection: AsyncConnection, statement: str, parameters: Any) -> list[str]:
        explained = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return [row.detail for row in explained]

    slow = [
        f"{step}: {statement}"
        for statement, parameters in asked.items()
        for step in await records.database.read(plan, statement, parameters)
        if re.search(rf"SCAN ({GROWING})\b", step) or "TEMP B-TREE" in step
    ]
    await records.close()
    assert [each for each in slow if not any(good in each for good in WANTED)] == []


def _asks(statement: str) -> bool:
    return statement.startswith(("SELECT", "UPDATE", "DELETE"))


@pytest.mark.parametrize("q", ["acme", "nobody"])
async def test_only_search_may_read_all_accounts(records: Records, q: str) -> None:
    await records.accounts.put_account("acme", {"name": "Acme"}, NOW_MS)

    found, _ = await records.accounts.list_accounts(q, None, 10, NOW_MS)

    assert len(found) == (q == "acme")
