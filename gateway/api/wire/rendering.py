"""The domain's values as what goes over the wire, and how much of a number its reader may see."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType

from gateway.api.auth import Identity
from gateway.api.receipts import Receipts
from gateway.api.wire import frames, live_frames, resources
from gateway.api.wire.over_http import AdmittedOverHttp
from gateway.domain.admission import MESSAGES
from gateway.domain.answers import Admitted, Answer, PoolView, Refused, Resumed, Settled
from gateway.domain.asks import Ask, Start
from gateway.domain.billing import billed_seconds, duration_ms
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.cycles import Cycle, rfc3339
from gateway.domain.destinations import mask
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from gateway.live.pictures import Happening

CallFrame = (
    frames.CallAdmitted | frames.CallRefused | frames.CallNoted | frames.CallSettled | frames.CallResumed
)


def answer_over_http(ask: Ask, answer: Answer, receipts: Receipts, lease_seconds: int) -> CallFrame:
    """Return a pool's answer as HTTP has it: without `re`, and an admission with its lease."""
    frame = answer_frame(ask, answer, receipts, UNSET)
    if isinstance(frame, frames.CallAdmitted):
        return AdmittedOverHttp(**msgspec.structs.asdict(frame), lease_seconds=lease_seconds)
    return frame


def answer_frame(ask: Ask, answer: Answer, receipts: Receipts, re: frames.Re | UnsetType) -> CallFrame:
    """Return a pool's answer as a frame."""
    if isinstance(answer, Admitted):
        assert isinstance(ask, Start)
        return frames.CallAdmitted(
            re=re,
            call_id=answer.call_id,
            admitted_at_ms=answer.admitted_at_ms,
            remaining_seconds=answer.remaining_seconds,
            receipt=receipts.issue_admitted(ask, answer),
            replayed=answer.replayed,
            emergency=answer.emergency,
            admitted_offline=answer.admitted_offline,
        )
    if isinstance(answer, Settled):
        return frames.CallSettled(
            re=re,
            call_id=answer.call_id,
            duration_ms=answer.duration_ms,
            billed_seconds=answer.billed_seconds,
            counted=answer.counted,
            ended_by=answer.ended_by,
            revision=answer.revision,
            replayed=answer.replayed,
            remaining_seconds=answer.remaining_seconds,
        )
    if isinstance(answer, Refused):
        return frames.CallRefused(
            re=re,
            call_id=answer.call_id,
            reason=answer.reason,
            message=MESSAGES[answer.reason],
            remaining_seconds=answer.remaining_seconds,
        )
    if isinstance(answer, Resumed):
        return frames.CallResumed(
            re=re,
            call_id=answer.call_id,
            admitted_at_ms=answer.call.admitted_at_ms,
            receipt=receipts.issue(answer.call),
        )
    return frames.CallNoted(re=re, call_id=answer.call_id)


def shown_to(reader: Identity, call: CallInProgress | CallRecord) -> str:
    """Return a call's `to` as its reader may see it: whole for the admin, its device, and with `numbers`."""
    whole = (
        reader.admin or "numbers" in reader.scopes or reader.is_device(call.account, call.staff, call.device)
    )
    return call.to if whole else mask(call.to)


def plan(value: Plan) -> resources.Plan:
    """Return a plan as its resource."""
    price = value.monthly_price
    return resources.Plan(
        plan=value.plan,
        name=value.name,
        minutes=value.minutes,
        connected_channels=value.connected_channels,
        staff_seats=value.staff_seats,
        max_concurrent_calls=value.max_concurrent_calls,
        monthly_price=None if price is None else resources.Price(price.amount, price.currency),
    )


def policy(value: Policy) -> resources.Policy:
    """Return a policy as its resource."""
    return resources.Policy(value.free_seconds, value.increment_seconds, value.hold_seconds, value.count_from)


def cycle_span(cycle: Cycle) -> resources.CycleSpan:
    """Return a cycle as the two instants it lies between."""
    return resources.CycleSpan(rfc3339(cycle.start_ms), rfc3339(cycle.end_ms))


def pool_calls(calls: Iterable[CallInProgress], reader: Identity) -> list[resources.PoolCall]:
    """Return calls in progress as a pool, or a device's welcome, lists them."""
    return [
        resources.PoolCall(
            call_id=call.call_id,
            staff=call.staff,
            device=call.device,
            channel=call.channel,
            to=shown_to(reader, call),
            admitted_at_ms=call.admitted_at_ms,
            answered_at_ms=call.answered_at_ms,
            counts=call.counts,
            emergency=call.emergency,
        )
        for call in calls
    ]


def pool(view: PoolView, reader: Identity) -> resources.Pool:
    """Return a pool as its resource."""
    return resources.Pool(
        account=view.account,
        version=view.version,
        at_ms=view.at_ms,
        clock_speed=view.clock_speed,
        plan=view.plan,
        pending_plan=view.pending_plan,
        cycle=cycle_span(view.cycle),
        policy=policy(view.policy),
        allocated_seconds=view.allocated_seconds,
        settled_seconds=view.settled_seconds,
        used_seconds=view.used_seconds,
        remaining_seconds=view.remaining_seconds,
        overrun_seconds=view.overrun_seconds,
        held_seconds=view.held_seconds,
        calls_in_progress=view.calls_in_progress,
        calls=pool_calls(view.calls, reader),
        thresholds=[resources.Threshold(passed.percent, passed.at_ms) for passed in view.thresholds],
        empty_at_ms=view.empty_at_ms,
        seats=resources.InUse(view.seats_used, view.seats_limit),
        channels=resources.InUse(view.channels_used, view.channels_limit),
    )


def pool_frame(view: PoolView, reader: Identity) -> str:
    """Return a pool as the frame that dashboards are sent: its fields beside the type."""
    return '{"type":"pool",' + frames.encode_text(pool(view, reader))[1:]


def pool_notice(happening: Happening, view: PoolView) -> str:
    """Return what happened to a pool as the frame that dashboards are sent."""
    kind = happening.kind
    return frames.encode_text(
        live_frames.PoolNotice(
            kind=kind,
            message=_happening_message(happening, view),
            at_ms=happening.at_ms,
            percent=UNSET if happening.percent is None else happening.percent,
            plan=view.plan if kind == "plan_changed" else UNSET,
            cycle=cycle_span(view.cycle) if kind == "cycle_reset" else UNSET,
        )
    )


def _happening_message(happening: Happening, view: PoolView) -> str:
    if happening.kind == "threshold":
        return f"{happening.percent}% of this cycle's minutes are used."
    if happening.kind == "minutes_exhausted":
        return "All minutes of this cycle are used: calls in progress go on, new ones are refused."
    if happening.kind == "cycle_reset":
        return "A new billing cycle began: all its minutes are there."
    return f"The plan is now {view.plan}." if view.plan is not None else "There is no plan now."


def call_record(record: CallRecord, reader: Identity) -> resources.Call:
    """Return the record of a call that ended as its resource."""
    return resources.Call(
        call_id=record.call_id,
        account=record.account,
        staff=record.staff,
        device=record.device,
        channel=record.channel,
        to=shown_to(reader, record),
        state="ended",
        admitted_at_ms=record.admitted_at_ms,
        answered_at_ms=record.answered_at_ms,
        ended_at_ms=record.ended_at_ms,
        duration_ms=record.duration_ms,
        billed_seconds=record.billed_seconds,
        counted=record.counted,
        ended_by=record.ended_by,
        emergency=record.emergency,
        cycle_start=rfc3339(record.cycle_start_ms),
        revision=record.revision,
        admitted_offline=record.admitted_offline or UNSET,
    )


def call_in_progress(
    call: CallInProgress, at_ms: int, policy_now: Policy, reader: Identity
) -> resources.Call:
    """Return a call in progress as a record, as far as it is known at `at_ms`; what its end tells is null."""
    duration = duration_ms(policy_now, call.admitted_at_ms, call.answered_at_ms, at_ms)
    return resources.Call(
        call_id=call.call_id,
        account=call.account,
        staff=call.staff,
        device=call.device,
        channel=call.channel,
        to=shown_to(reader, call),
        state="in_progress",
        admitted_at_ms=call.admitted_at_ms,
        answered_at_ms=call.answered_at_ms,
        ended_at_ms=None,
        duration_ms=duration,
        billed_seconds=0 if call.emergency else billed_seconds(duration, policy_now),
        counted=None,
        ended_by=None,
        emergency=call.emergency,
        cycle_start=rfc3339(call.cycle_start_ms),
        revision=None,
        admitted_offline=call.admitted_offline or UNSET,
    )


def call(
    found: CallInProgress | CallRecord, at_ms: int, policy_now: Policy, reader: Identity
) -> resources.Call:
    """Return a call, in progress or ended, as its resource."""
    if isinstance(found, CallRecord):
        return call_record(found, reader)
    return call_in_progress(found, at_ms, policy_now, reader)
