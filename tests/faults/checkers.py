"""Whether all books agree once the faults are over: the devices', Redis', the records', the statements'.

`settled` waits until nothing is pending, no longer than reliability allows; `compare` says all that differs.
Nothing here is forgiving: a call whose device came back ends when the device says, and one whose device did
not ends no earlier than its gateway could have told of it last.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from tests.faults.load import Booked, Books, by_id
from tests.support.gateways import CALLGATE
from tests.support.operators import Json, Operator


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may differ, in ms.

    `end`: between the moment a device hangs up and the end in the record; what a word may take that a gateway
    takes but cannot pass on at once (it waits for the engine for 2 s at most). `absence`: how long before its
    device was gone a call may be said to have ended: a renewal's interval, and the device's own silence.
    `read`: clocks of a client and of an engine are read one after the other. Without `one_clock` the engine's
    is not the devices', and instants are not compared.
    """

    end: float = 2500.0
    absence: float = 3500.0
    read: float = 30.0
    one_clock: bool = True

    def where_the_clock_was_set(self, by_ms: float) -> Bounds:
        """What may differ where the host's clock, the engine's and the books', was set by so much meanwhile.

        How long ago something was is counted by another clock, which nobody sets.
        """
        return replace(self, end=self.end + by_ms, absence=self.absence + by_ms, read=self.read + by_ms)


@dataclass(slots=True)
class Report:
    """What was found, in figures."""

    attempted: int = 0
    acknowledged: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    records: int = 0
    billed_seconds: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    recovered: int = 0
    """Unknown outcomes that turned out to be calls, each with its record."""
    reaped: int = 0
    late_returns: int = 0
    elsewhere: int = 0
    worst_end_ms: float = 0.0
    worst_absence_ms: float = 0.0
    seconds_to_settle: float = 0.0
    clock_set_ms: float = 0.0
    """By how much the host's clock was set meanwhile."""

    def faults(self) -> list[str]:
        """All that must not be."""
        return [
            *(f"lost: {each}" for each in self.lost),
            *(f"duplicated: {each}" for each in self.duplicated),
            *(f"unexpected: {each}" for each in self.unexpected),
            *(f"early: {each}" for each in self.early),
            *(f"wrong: {each}" for each in self.wrong),
        ]

    def __str__(self) -> str:
        return (
            f"attempted {self.attempted}, acknowledged {self.acknowledged}, refused {dict(self.refused)}, "
            f"unknown {self.unknown}, recovered {self.recovered}, records {self.records}, "
            f"billed {self.billed_seconds} s; lost {len(self.lost)}, duplicated {len(self.duplicated)}, "
            f"unexpected {len(self.unexpected)}, early {len(self.early)}, wrong {len(self.wrong)}; "
            f"reaped {self.reaped}, late returns {self.late_returns}, elsewhere {self.elsewhere}; "
            f"worst end {self.worst_end_ms:.0f} ms, "
            f"worst absence {self.worst_absence_ms:.0f} ms, settled after {self.seconds_to_settle:.1f} s; "
            f"the clock was set by {self.clock_set_ms:.0f} ms"
        )


async def settled(
    operator: Operator, accounts: Sequence[str], engines: Iterable[redis.Redis], within_seconds: float
) -> float:
    """Wait until nothing is pending, and return after how many seconds that was so."""
    began = time.monotonic()
    engines = list(engines)
    while True:
        pending = await _pending(operator, accounts, engines)
        seconds = time.monotonic() - began
        if not pending:
            return seconds
        assert seconds < within_seconds, f"after {seconds:.1f} s still: {pending}"
        await asyncio.sleep(0.25)


async def _pending(operator: Operator, accounts: Sequence[str], engines: Sequence[redis.Redis]) -> list[str]:
    found = []
    for account in accounts:
        pool = await operator.pool(account)
        if pool["calls_in_progress"]:
            found.append(f"{account}: {pool['calls_in_progress']} calls in progress")
        used = sum(each["used_seconds"] for each in await operator.statements(account))
        if used != pool["settled_seconds"]:
            found.append(f"{account}: settled {pool['settled_seconds']} s, in the statement {used} s")
    lag = (await operator.http.get("/v1/status")).json()["recorder"]
    if lag is None or lag["entries"]:
        found.append(f"records wait: {lag}")
    for engine in engines:
        for key, count in await asyncio.to_thread(_kept_alive, engine):
            found.append(f"{key}: {count}")
    return found


def _kept_alive(engine: redis.Redis) -> list[tuple[str, int]]:
    """Calls in progress, and leases."""
    found = []
    for key in engine.scan_iter(match="cg:*:calls", count=1000):
        going = sum(value[:1] == b"L" for value in engine.hvals(key))
        if going:
            found.append((f"{key.decode()} in progress", going))
    leases = engine.scan_iter(match="cg:*:leases", count=1000)
    found += [(key.decode(), int(engine.zcard(key))) for key in leases]
    return found


async def compare(
    operator: Operator, accounts: Sequence[str], books: Books, bounds: Bounds, *, may_lose: bool = False
) -> Report:
    """Compare all books. Call it once nothing is pending."""
    report = Report(
        attempted=len(books.calls), acknowledged=len(books.admitted), clock_set_ms=books.clock_set_ms
    )
    bounds = bounds.where_the_clock_was_set(books.clock_set_ms)
    report.wrong += books.phones_ended
    for account in accounts:
        booked = by_id(each for each in books.calls if each.account == account)
        records = await operator.calls(account, limit=1000)
        _compare_calls(report, booked, records, bounds)
        await _compare_sums(report, operator, account, records)
    return report


def _compare_calls(
    report: Report, booked: Mapping[str, Booked], records: Sequence[Json], bounds: Bounds
) -> None:
    report.records += len(records)
    report.billed_seconds += sum(each["billed_seconds"] for each in records)
    counts = Counter(each["call_id"] for each in records)
    report.duplicated += [call_id for call_id, count in counts.items() if count > 1]
    by_call = {each["call_id"]: each for each in records}
    for record in records:
        call = booked.get(record["call_id"])
        if call is None or call.refused:
            report.unexpected.append(f"{record}: {call}")
    for call in booked.values():
        found = by_call.get(call.call_id)
        if call.refused is not None:
            report.refused[call.refused] += 1
        elif call.failed is not None:
            report.unknown += 1
            report.recovered += found is not None
        elif found is None:
            report.lost.append(str(call))
        else:
            _compare_call(report, call, found, bounds)


def _compare_call(report: Report, call: Booked, record: Json, bounds: Bounds) -> None:
    what = f"{record['call_id']}: {call} {record}"
    if record["state"] != "ended":
        report.wrong.append(f"in progress: {what}")
        return
    admitted_ms, ended_ms = record["admitted_at_ms"], record["ended_at_ms"]
    if admitted_ms != call.admitted_at_ms or call.told_ms is None:
        report.wrong.append(f"admitted at another moment: {what}")
        return
    told_in_time = call.asked_ms - bounds.read <= admitted_ms <= call.told_ms + bounds.read
    if bounds.one_clock and not told_in_time:
        report.wrong.append(f"not admitted while it was asked for: {what}")
    duration_ms = ended_ms - admitted_ms
    if record["duration_ms"] != duration_ms or record["billed_seconds"] != -(-duration_ms // 1000):
        report.wrong.append(f"does not add up: {what}")
    if record["revision"] > 1:
        report.late_returns += 1
    if record["ended_by"] != "hangup":
        report.reaped += 1
    if call.elsewhere:
        report.elsewhere += 1
        report.wrong.append(f"taken over: {what}")
    elif call.left_ms is not None:
        _compare_absence(report, call, record, what, bounds)
    else:
        _compare_end(report, call, record, what, bounds)


def _compare_end(report: Report, call: Booked, record: Json, what: str, bounds: Bounds) -> None:
    assert call.ended_ms is not None, what
    off_ms = record["ended_at_ms"] - call.ended_ms if bounds.one_clock else 0
    report.worst_end_ms = max(report.worst_end_ms, abs(off_ms))
    if off_ms < -bounds.read:
        report.early.append(f"by {-off_ms:.0f} ms: {what}")
    elif off_ms > bounds.end or record["ended_by"] != "hangup":
        report.wrong.append(f"ended {off_ms:.0f} ms late: {what}")
    told = call.settlement
    if told is None:
        report.wrong.append(f"was not told what it came to: {what}")
    elif (told.duration_ms, told.billed_seconds, told.revision) != (
        record["duration_ms"],
        record["billed_seconds"],
        record["revision"],
    ):
        report.wrong.append(f"was told something else: {what}")


def _compare_absence(report: Report, call: Booked, record: Json, what: str, bounds: Bounds) -> None:
    assert call.left_ms is not None
    off_ms = call.left_ms - record["ended_at_ms"]
    report.worst_absence_ms = max(report.worst_absence_ms, abs(off_ms))
    if off_ms > bounds.absence:
        report.early.append(f"{off_ms:.0f} ms before its device fell silent: {what}")
    elif off_ms < -bounds.end:
        report.wrong.append(f"ended {-off_ms:.0f} ms after its device fell silent: {what}")
    if record["ended_by"] not in ("connection_lost", "lease_expired"):
        report.wrong.append(f"ended by {record['ended_by']}: {what}")


async def _compare_sums(report: Report, operator: Operator, account: str, records: Sequence[Json]) -> None:
    billed = sum(each["billed_seconds"] for each in records)
    pool = await operator.pool(account)
    statements = await operator.statements(account)
    used = sum(each["used_seconds"] for each in statements)
    calls = sum(each["calls_counted"] + each["calls_free"] for each in statements)
    if not pool["settled_seconds"] == pool["used_seconds"] == used == billed:
        report.wrong.append(
            f"{account}: pool settled {pool['settled_seconds']}, used {pool['used_seconds']}, "
            f"statement {used}, records {billed}"
        )
    if calls != len(records):
        report.wrong.append(f"{account}: {calls} calls in statements, {len(records)} records")


def check_says(environ: Mapping[str, str], *arguments: Any) -> str:
    """Run `callgate check`; what it said if it found a difference, else nothing."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CALLGATE_")}
    done = subprocess.run(
        [CALLGATE, "check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**plain, **environ, "COLUMNS": "200"},
        timeout=120,
    )
    return "" if done.returncode == 0 else f"{done.stdout}\n{done.stderr}"
