"""How much of a number its reader sees, and how calls, pools and files are written."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from msgspec import json

from gateway.api.auth import ADMIN, Identity
from gateway.api.csv_export import csv_lines
from gateway.api.wire import rendering
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.policy import Policy

ADMITTED_MS = 1_795_391_940_000
CYCLE_START_MS = 1_794_718_800_000


def bearer(*scopes: str, staff: str | None = None, device: str | None = None) -> Identity:
    """The bearer of a token of acme."""
    return Identity(
        account="acme",
        staff=staff,
        device=device,
        scopes=frozenset(scopes),
        admin=False,
        issued_at_ms=0,
        expires_at_ms=1,
    )


def in_progress(*, emergency: bool = False, answered_at_ms: int | None = None) -> CallInProgress:
    return CallInProgress(
        account="acme",
        call_id="c-1",
        staff="ana",
        device="desk",
        channel="main",
        to="+14155550100",
        admitted_at_ms=ADMITTED_MS,
        answered_at_ms=answered_at_ms,
        cycle_start_ms=CYCLE_START_MS,
        emergency=emergency,
        counts=not emergency,
    )


def ended(call_id: str = "c-1", channel: str | None = "main") -> CallRecord:
    return CallRecord(
        account="acme",
        call_id=call_id,
        staff="ana",
        device="desk",
        channel=channel,
        to="+14155550100",
        admitted_at_ms=ADMITTED_MS,
        answered_at_ms=None,
        ended_at_ms=ADMITTED_MS + 90_000,
        settled_at_ms=ADMITTED_MS + 90_000,
        duration_ms=90_000,
        billed_seconds=90,
        counted=True,
        ended_by="hangup",
        emergency=False,
        cycle_start_ms=CYCLE_START_MS,
        revision=1,
        policy=Policy(),
    )


@pytest.mark.parametrize(
    "reader", [ADMIN, bearer("watch", "numbers"), bearer("watch", staff="ana", device="desk")]
)
def test_whole_numbers_are_for_the_admin_the_scope_numbers_and_the_own_device(reader: Identity) -> None:
    assert rendering.shown_to(reader, in_progress()) == "+14155550100"
    assert rendering.call_record(ended(), reader).to == "+14155550100"


@pytest.mark.parametrize(
    "reader",
    [
        bearer("watch"),
        bearer("watch", staff="ana"),
        bearer("watch", staff="ana", device="mobile"),
        bearer("watch", staff="bob", device="desk"),
    ],
)
def test_others_see_the_last_four_digits(reader: Identity) -> None:
    assert rendering.pool_calls([in_progress()], reader)[0].to == "+1•••••••0100"
    assert rendering.call_record(ended(), reader).to == "+1•••••••0100"


def test_a_device_of_the_same_names_in_another_account_is_another_device() -> None:
    reader = Identity("other", "ana", "desk", frozenset({"watch"}), False, 0, 1)

    assert rendering.shown_to(reader, in_progress()) == "+1•••••••0100"


def test_a_call_in_progress_is_told_so_far() -> None:
    call = rendering.call_in_progress(in_progress(), ADMITTED_MS + 31_000, Policy(), ADMIN)

    assert call.state == "in_progress"
    assert (call.duration_ms, call.billed_seconds) == (31_000, 31)
    assert (call.ended_at_ms, call.counted, call.ended_by, call.revision) == (None, None, None, None)
    assert call.cycle_start == "2026-11-15T05:00:00Z"


def test_that_a_call_was_admitted_offline_is_said_only_where_it_was() -> None:
    offline = replace(in_progress(), admitted_offline=True), replace(ended(), admitted_offline=True)
    said = [
        json.decode(json.encode(rendering.call(call, ADMITTED_MS, Policy(), ADMIN)))
        for call in (in_progress(), ended(), *offline)
    ]

    assert [each.get("admitted_offline") for each in said] == [None, None, True, True]
    assert "admitted_offline" not in said[0]


def test_a_free_call_in_progress_and_an_emergency_have_billed_nothing() -> None:
    young = rendering.call_in_progress(in_progress(), ADMITTED_MS + 30_000, Policy(), ADMIN)
    emergency = rendering.call_in_progress(in_progress(emergency=True), ADMITTED_MS + 90_000, Policy(), ADMIN)

    assert young.billed_seconds == 0
    assert emergency.billed_seconds == 0


def test_from_the_answer_on_where_the_policy_counts_so() -> None:
    policy = Policy(count_from="answer")
    unanswered = rendering.call_in_progress(in_progress(), ADMITTED_MS + 90_000, policy, ADMIN)
    answered = rendering.call_in_progress(
        in_progress(answered_at_ms=ADMITTED_MS + 10_000), ADMITTED_MS + 90_000, policy, ADMIN
    )

    assert unanswered.duration_ms == 0
    assert answered.duration_ms == 80_000


async def read(*records: CallRecord) -> AsyncIterator[CallRecord]:
    """Records as they come from the database."""
    for record in records:
        yield record


async def test_a_statement_s_csv_has_a_header_and_a_line_a_call() -> None:
    records = read(ended("c-1"), ended("c-2", channel=None))

    text = "".join([piece async for piece in csv_lines(records, bearer("watch"))])

    first, second = csv.DictReader(io.StringIO(text))
    assert list(first) == [
        "call_id",
        "account",
        "staff",
        "device",
        "channel",
        "to",
        "state",
        "admitted_at_ms",
        "answered_at_ms",
        "ended_at_ms",
        "duration_ms",
        "billed_seconds",
        "counted",
        "ended_by",
        "emergency",
        "cycle_start",
        "revision",
    ]
    assert first["to"] == "+1•••••••0100"
    assert (first["counted"], first["emergency"], first["answered_at_ms"]) == ("true", "false", "")
    assert (second["call_id"], second["channel"]) == ("c-2", "")


async def test_a_statement_of_many_calls_comes_in_pieces() -> None:
    records = read(*(ended(f"c-{i}") for i in range(1_000)))

    pieces = [piece async for piece in csv_lines(records, ADMIN)]

    assert len(pieces) > 1
    assert "".join(pieces).count("\r\n") == 1_001
