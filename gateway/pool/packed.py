"""The packed values that scripts read and write (lua/README.md), and their way into domain objects.

Numbers are little-endian; instants and seconds are doubles, exact for integers up to 2^53.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from gateway.domain.calls import (
    CallInProgress,
    CallRecord,
    CallReopened,
    CycleOpened,
    EndedBy,
    NoticeKind,
    PoolNotice,
    Threshold,
    ThresholdsPassed,
)
from gateway.domain.policy import CountFrom, Policy
from gateway.domain.pool_minutes import THRESHOLDS_PERCENT

IN_PROGRESS: Final = b"L"
ENDED: Final = b"E"
OVERTAKEN: Final = b"T"

_IN_PROGRESS_HEAD: Final = Struct("<BBBBHdddddd")
_ENDED_HEAD: Final = Struct("<BBHHdddd")
_OVERTAKEN: Final = Struct("<Bd")
_POOL_HEAD: Final = Struct("<BBBdddddddddddddddddIIBdIIIIdddII")
_POOL_EPOCH: Final = Struct("<3xd")
_REOPENED: Final = Struct("<Hd")
_LENGTH: Final = Struct("<H")
_CYCLE_TAIL: Final = Struct("<Bdddd")
_PASSED_TAIL: Final = Struct("<dddd")
_NOTICE_TAIL: Final = Struct("<BBdddddB")

NO_VALUE: Final = (ValueError, KeyError, OverflowError, struct.error)
"""What unpacking raises for a value that is damaged: cut off, or with something else within it."""

COUNT_FROM: Final[tuple[CountFrom, ...]] = ("admission", "answer")
ENDED_BY: Final[dict[int, EndedBy]] = {1: "hangup", 2: "connection_lost", 3: "lease_expired"}
NOTICES: Final[dict[int, NoticeKind]] = {
    1: "threshold",
    2: "minutes_exhausted",
    3: "minutes_restored",
    4: "plan_changed",
}
_ENDED_BY_NUMBER: Final = {name: number for number, name in ENDED_BY.items()}
UNLIMITED: Final = -1


@lru_cache(maxsize=64)
def unpack_policy(packed: bytes) -> Policy:
    """A policy from "free/increment/hold/count_from"."""
    free, increment, hold, count_from = packed.split(b"/")
    return Policy(int(free), int(increment), int(hold), COUNT_FROM[int(count_from)])


def is_in_progress(packed: bytes) -> bool:
    """Whether a value of `calls` is a call in progress."""
    return packed.startswith(IN_PROGRESS)


def is_ended(packed: bytes) -> bool:
    """Whether a value of `calls` is a call that has ended."""
    return packed.startswith(ENDED)


def _payload(packed: bytes, start: int) -> tuple[str, str, str | None, str]:
    who, channel, to = packed[start:].decode().split("|", 2)
    staff, device = who.split("/", 1)
    return staff, device, channel or None, to


def is_readable(packed: bytes) -> bool:
    """Whether a value of `calls` can be worked with."""
    try:
        if is_in_progress(packed):
            unpack_call_in_progress("", "", packed, 0)
        elif is_ended(packed):
            unpack_end(packed)
            _payload(packed, _ENDED_HEAD.size + _IN_PROGRESS_HEAD.size)
        else:
            return packed.startswith(OVERTAKEN) and len(packed) >= _OVERTAKEN.size
    except NO_VALUE:
        return False
    return True


def unpack_call_in_progress(account: str, call_id: str, packed: bytes, cycle_start_ms: int) -> CallInProgress:
    """A call in progress from its value; `cycle_start_ms` is the running cycle's (R20)."""
    _, emergency, _, offline, revision, admitted_at_ms, answered_at_ms, call_cycle_start_ms, *_ = (
        _IN_PROGRESS_HEAD.unpack_from(packed)
    )
    staff, device, channel, to = _payload(packed, _IN_PROGRESS_HEAD.size)
    return CallInProgress(
        account=account,
        call_id=call_id,
        staff=staff,
        device=device,
        channel=channel,
        to=to,
        admitted_at_ms=int(admitted_at_ms),
        answered_at_ms=int(answered_at_ms) or None,
        cycle_start_ms=int(call_cycle_start_ms),
        emergency=bool(emergency),
        counts=not emergency and admitted_at_ms >= cycle_start_ms,
        revision=revision,
        admitted_offline=bool(offline),
    )


class PackedEnd(NamedTuple):
    """What the value of a call that has ended says, but who called whom."""

    emergency: bool
    admitted_at_ms: int
    answered_at_ms: int | None
    ended_at_ms: int
    settled_at_ms: int
    duration_ms: int
    billed_seconds: int
    ended_by: EndedBy
    revision: int
    cycle_start_ms: int
    admitted_offline: bool


def unpack_end(packed: bytes) -> PackedEnd:
    """How a call ended, from its value."""
    _, ended_by, revision, _, ended_at_ms, settled_at_ms, duration_ms, billed_seconds = (
        _ENDED_HEAD.unpack_from(packed)
    )
    _, emergency, _, offline, _, admitted_at_ms, answered_at_ms, cycle_start_ms, *_ = (
        _IN_PROGRESS_HEAD.unpack_from(packed, _ENDED_HEAD.size)
    )
    return PackedEnd(
        emergency=bool(emergency),
        admitted_at_ms=int(admitted_at_ms),
        answered_at_ms=int(answered_at_ms) or None,
        ended_at_ms=int(ended_at_ms),
        settled_at_ms=int(settled_at_ms),
        duration_ms=int(duration_ms),
        billed_seconds=int(billed_seconds),
        ended_by=ENDED_BY[ended_by],
        revision=revision,
        cycle_start_ms=int(cycle_start_ms),
        admitted_offline=bool(offline),
    )


def admission_of_ended(packed: bytes) -> int:
    """When a call was admitted that has ended, from its value (ms)."""
    return int(_IN_PROGRESS_HEAD.unpack_from(packed, _ENDED_HEAD.size)[5])


def pack_call(call: CallInProgress, *, lost: bool = False, alive_at_ms: int = 0) -> bytes:
    """The value of a call in progress, for a pool that does not know it; nobody vouches for it yet.

    `alive_at_ms` is when one whose connection counts as lost was last known alive, 0 if that is not known.
    """
    return _packed_call(
        call.emergency,
        lost,
        call.admitted_offline,
        call.revision,
        call.admitted_at_ms,
        call.answered_at_ms,
        call.cycle_start_ms,
        alive_at_ms,
        (call.staff, call.device, call.channel, call.to),
    )


def pack_record(record: CallRecord) -> bytes:
    """The value of a call that has ended, from its record."""
    progress = _packed_call(
        record.emergency,
        False,
        record.admitted_offline,
        record.revision - 1,
        record.admitted_at_ms,
        record.answered_at_ms,
        record.cycle_start_ms,
        0,
        (record.staff, record.device, record.channel, record.to),
    )
    head = _ENDED_HEAD.pack(
        ENDED[0],
        _ENDED_BY_NUMBER[record.ended_by],
        record.revision,
        len(progress),
        record.ended_at_ms,
        record.settled_at_ms,
        record.duration_ms,
        record.billed_seconds,
    )
    return head + progress


def _packed_call(
    emergency: bool,
    lost: bool,
    offline: bool,
    revision: int,
    admitted_at_ms: int,
    answered_at_ms: int | None,
    cycle_start_ms: int,
    alive_at_ms: int,
    payload: tuple[str, str, str | None, str],
) -> bytes:
    staff, device, channel, to = payload
    head = _IN_PROGRESS_HEAD.pack(
        IN_PROGRESS[0],
        emergency,
        lost,
        offline,
        revision,
        admitted_at_ms,
        answered_at_ms or 0,
        cycle_start_ms,
        0,
        alive_at_ms,
        0,
    )
    return head + f"{staff}/{device}|{channel or ''}|{to}".encode()


def unpack_record(account: str, call_id: str, packed: bytes, policy: Policy) -> CallRecord:
    """The record of a call that has ended, from its value."""
    end = unpack_end(packed)
    staff, device, channel, to = _payload(packed, _ENDED_HEAD.size + _IN_PROGRESS_HEAD.size)
    return CallRecord(
        account=account,
        call_id=call_id,
        staff=staff,
        device=device,
        channel=channel,
        to=to,
        admitted_at_ms=end.admitted_at_ms,
        answered_at_ms=end.answered_at_ms,
        ended_at_ms=end.ended_at_ms,
        settled_at_ms=end.settled_at_ms,
        duration_ms=end.duration_ms,
        billed_seconds=end.billed_seconds,
        counted=end.billed_seconds > 0,
        ended_by=end.ended_by,
        emergency=end.emergency,
        cycle_start_ms=end.cycle_start_ms,
        revision=end.revision,
        policy=policy,
        admitted_offline=end.admitted_offline,
    )


Item = CallRecord | CallReopened | CycleOpened
"""What SQL is told."""

Notice = PoolNotice | ThresholdsPassed
"""What SQL is told beside, of which nothing is billed."""


def _text(packed: bytes, at: int) -> tuple[str, int]:
    """A text that tells its own length, and where what follows it begins."""
    (length,) = _LENGTH.unpack_from(packed, at)
    start = at + _LENGTH.size
    return packed[start : start + length].decode(), start + length


def unpack_items(packed: bytes, policy: Policy) -> Iterator[Item]:
    """The items of one entry of the records stream, in order."""
    at = 0
    while at < len(packed):
        kind = packed[at : at + 1]
        at += 1
        if kind == b"R":
            start = packed.index(b"\0", at) + 1
            account, call_id = packed[at : start - 1].decode().split("/")
            follows = _ENDED_HEAD.unpack_from(packed, start)[3]
            at = start + _ENDED_HEAD.size + follows
            yield unpack_record(account, call_id, packed[start:at], policy)
        elif kind == b"B":
            start = packed.index(b"\0", at) + 1
            account, call_id = packed[at : start - 1].decode().split("/")
            revision, admitted_at_ms = _REOPENED.unpack_from(packed, start)
            at = start + _REOPENED.size
            yield CallReopened(account, call_id, int(admitted_at_ms), revision)
        elif kind == b"C":
            account, at = _text(packed, at)
            plan, at = _text(packed, at)
            has_plan, index, start_ms, end_ms, allocated = _CYCLE_TAIL.unpack_from(packed, at)
            at += _CYCLE_TAIL.size
            yield CycleOpened(
                account=account,
                cycle_start_ms=int(start_ms),
                cycle_end_ms=int(end_ms),
                cycle_index=int(index),
                plan=plan if has_plan else None,
                allocated_seconds=int(allocated),
            )
        else:
            raise ValueError(f"an item of unknown kind {kind!r} in the records stream")


def unpack_notices(packed: bytes) -> Iterator[Notice]:
    """The notices of one entry of the records stream, in order."""
    at = 0
    while at < len(packed):
        kind = packed[at : at + 1]
        at += 1
        account, at = _text(packed, at)
        if kind == b"T":
            start_ms, *passed_ms = (int(each) for each in _PASSED_TAIL.unpack_from(packed, at))
            at += _PASSED_TAIL.size
            yield ThresholdsPassed(account, start_ms, passed_thresholds(passed_ms))
        elif kind == b"N":
            number, percent, start_ms, end_ms, at_ms, allocated, used, has_plan = _NOTICE_TAIL.unpack_from(
                packed, at
            )
            at += _NOTICE_TAIL.size
            plan, at = _text(packed, at)
            yield PoolNotice(
                account=account,
                cycle_start_ms=int(start_ms),
                cycle_end_ms=int(end_ms),
                kind=NOTICES[number],
                percent=percent or None,
                at_ms=int(at_ms),
                allocated_seconds=int(allocated),
                used_seconds=int(used),
                plan=plan if has_plan else None,
            )
        else:
            raise ValueError(f"a notice of unknown kind {kind!r} in the records stream")


@dataclass(frozen=True, slots=True)
class PackedPool:
    """A pool's state as Redis has it; the sums of folded calls are left out."""

    suspended: bool
    version: int
    revision: int
    allocated_seconds: int
    settled_seconds: int
    cycle_index: int
    cycle_start_ms: int
    cycle_end_ms: int
    coming_ends_ms: tuple[int, int, int]
    counting: int
    calls: int
    emergencies: int
    seats_used: int
    seats_limit: int
    channels_used: int
    channels_limit: int
    plan: str | None
    pending_plan: str | None
    thresholds: tuple[Threshold, ...]


def pool_epoch(packed: bytes) -> int:
    """The epoch in which a pool was made, from its value; 0 of what is no pool's."""
    if len(packed) < _POOL_EPOCH.size:
        return 0
    (epoch,) = _POOL_EPOCH.unpack_from(packed)
    return int(epoch)


def unpack_pool(packed: bytes) -> PackedPool:
    """A pool's state from its value."""
    (
        _,
        status,
        has_plan,
        _epoch,
        version,
        revision,
        allocated,
        settled,
        index,
        start_ms,
        end_ms,
        next_1,
        next_2,
        next_3,
        *_sums,
        counting,
        calls,
        emergencies,
        _free,
        _increment,
        _count_from,
        _max_concurrent,
        seats_used,
        seats_limit,
        channels_used,
        channels_limit,
        pending_from_ms,
        _pending_allocated,
        _pending_max_concurrent,
        _pending_seats,
        _pending_channels,
    ) = _POOL_HEAD.unpack_from(packed)
    plan, pending_plan, tail = packed[_POOL_HEAD.size :].decode().split("\0")
    return PackedPool(
        suspended=status == 1,
        version=int(version),
        revision=int(revision),
        allocated_seconds=int(allocated),
        settled_seconds=int(settled),
        cycle_index=int(index),
        cycle_start_ms=int(start_ms),
        cycle_end_ms=int(end_ms),
        coming_ends_ms=(int(next_1), int(next_2), int(next_3)),
        counting=int(counting),
        calls=int(calls),
        emergencies=int(emergencies),
        seats_used=seats_used,
        seats_limit=seats_limit,
        channels_used=channels_used,
        channels_limit=channels_limit,
        plan=plan if has_plan else None,
        pending_plan=pending_plan if pending_from_ms else None,
        thresholds=passed_thresholds(int(at_ms) for at_ms in tail.split()[: len(THRESHOLDS_PERCENT)]),
    )


def passed_thresholds(passed_ms: Iterable[int]) -> tuple[Threshold, ...]:
    """The thresholds that were passed, from the instants of all of them, 0 where it was not."""
    return tuple(
        Threshold(percent, at_ms)
        for percent, at_ms in zip(THRESHOLDS_PERCENT, passed_ms, strict=False)
        if at_ms
    )
