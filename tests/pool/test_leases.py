"""R12-R15, R17 in a real engine: who vouches for a call, and what becomes of one that nobody vouches for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from gateway.domain.answers import Admitted, NotDue, Noted, Resumed, Settled
from gateway.domain.asks import Answered, End, Reap, Resume, Retell, Start
from gateway.domain.calls import OVERTAKEN_MS, CallInProgress, CallRecord, CallReopened
from gateway.domain.errors import CallIdConflict, CallIdUsed, CallUnknown
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.pool.leases import Vouching
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, BOB, HOUR, MINUTE, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

BILLING_DATE = date(2026, 11, 15)
LEASE_MS, GRACE_MS = 600, 300
NEVER_MS = 3_600_000


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    """Under leases so short that a test can wait for their end."""
    async with live_accounts(engine.url, Policy(), lease_ms=LEASE_MS, grace_ms=GRACE_MS) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100))
        yield accounts


@pytest.fixture
async def patient(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    """Under leases that do not end within a test."""
    async with live_accounts(engine.url, Policy(), lease_ms=NEVER_MS) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100))
        yield accounts


async def start(accounts: LiveAccounts, call_id: str, connection: int = 0) -> Admitted:
    answer = await accounts.pool.ask(Start("acme", *ANA, call_id, TO, connection=connection))
    assert isinstance(answer, Admitted)
    return answer


async def renew(
    accounts: LiveAccounts, call_id: str, connection: int = 0, *, heard_ago_ms: int = 0, lost: bool = False
) -> Renewed:
    vouching = Vouching("acme", call_id, connection, heard_ago_ms, lost)
    return (await accounts.pool.renew([vouching]))[0]


async def records(accounts: LiveAccounts) -> list[CallRecord | CallReopened]:
    return [item for item in await accounts.recorded() if isinstance(item, CallRecord | CallReopened)]


async def settled_in_absence(accounts: LiveAccounts, call_id: str, connection: int = 7) -> CallRecord:
    """A call of 90 seconds whose connection was then lost, and that nobody resumed."""
    await start(accounts, call_id, connection)
    await accounts.at(T0 + 90 * SECOND)
    assert await renew(accounts, call_id, connection, lost=True) is Renewed.RENEWED
    return await until_settled(accounts, call_id)


async def until_settled(accounts: LiveAccounts, call_id: str) -> CallRecord:
    found: list[CallRecord] = []

    async def is_settled() -> bool:
        found[:] = [
            item
            for item in await records(accounts)
            if isinstance(item, CallRecord) and item.call_id == call_id
        ]
        return bool(found)

    await wait_until(is_settled, 15)
    return found[-1]


# Leases and their end


async def test_a_call_whose_lease_runs_out_is_settled_as_of_when_it_was_last_known_alive(
    accounts: LiveAccounts,
) -> None:
    """R14: by any gateway, with nobody asking."""
    await start(accounts, "c-1", connection=7)
    await accounts.at(T0 + MINUTE)
    assert await renew(accounts, "c-1", 7) is Renewed.RENEWED
    record = await until_settled(accounts, "c-1")
    assert (record.ended_by, record.ended_at_ms, record.billed_seconds) == ("lease_expired", T0 + MINUTE, 60)
    view = await accounts.pool.read("acme")
    assert (view.calls_in_progress, view.settled_seconds) == (0, 60)


async def test_a_call_whose_connection_was_lost_is_settled_as_of_then(accounts: LiveAccounts) -> None:
    """R13: not as of when somebody noticed."""
    await start(accounts, "c-1", connection=7)
    await accounts.at(T0 + 90 * SECOND)
    await renew(accounts, "c-1", 7, lost=True)
    await accounts.at(T0 + 10 * MINUTE)
    record = await until_settled(accounts, "c-1")
    assert (record.ended_by, record.ended_at_ms) == ("connection_lost", T0 + 90 * SECOND)
    assert record.duration_ms == 90 * SECOND


async def test_a_call_that_is_vouched_for_goes_on(accounts: LiveAccounts) -> None:
    await start(accounts, "kept", connection=7)
    await start(accounts, "lost", connection=7)

    async def lost_is_settled() -> bool:
        assert await renew(accounts, "kept", 7) is Renewed.RENEWED
        return any(record.call_id == "lost" for record in await records(accounts))

    await wait_until(lost_is_settled, 15)
    view = await accounts.pool.read("acme")
    assert [call.call_id for call in view.calls] == ["kept"]


async def test_nothing_is_reaped_before_its_lease_and_grace_are_over(patient: LiveAccounts) -> None:
    await start(patient, "c-1", connection=7)
    assert await patient.pool.ask(Reap("acme", "c-1")) == NotDue("c-1")
    assert await patient.pool.ask(Reap("acme", "unheard-of")) == NotDue("unheard-of")


async def test_nothing_is_reaped_where_no_gateway_was_heard_of_for_too_long(engine: EngineServer) -> None:
    """R14: an engine that was away reaps nobody before all could have renewed."""
    async with live_accounts(engine.url, Policy(), lease_ms=LEASE_MS, grace_ms=GRACE_MS) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100))
        await start(accounts, "c-1", connection=7)
        engine.pause()
        try:
            await wait_until(lambda: _passed(accounts), 5)
        finally:
            engine.resume()
        # The lease ran out meanwhile; whoever vouches for it comes first.
        assert await _renewed(accounts, "c-1", 7) is Renewed.RENEWED
        assert await records(accounts) == []


async def _passed(accounts: LiveAccounts) -> bool:
    """As much time has passed as an ask waits for an engine that does not answer: more than a lease."""
    try:
        await accounts.pool.renew([])
        await accounts.pool.clock()
    except Exception:  # noqa: BLE001 - whatever a paused engine leads to
        return True
    return False


async def _renewed(accounts: LiveAccounts, call_id: str, connection: int) -> Renewed:
    standing = Renewed.UNDECIDED

    async def decided() -> bool:
        nonlocal standing
        try:
            standing = await renew(accounts, call_id, connection)
        except Exception:  # noqa: BLE001 - the engine is only just coming back
            return False
        return standing is not Renewed.UNDECIDED

    await wait_until(decided, 5)
    return standing


# Whose call it is


async def test_the_newer_connection_wins_and_the_older_ones_words_are_refused(patient: LiveAccounts) -> None:
    """R12: two gateways never own one call."""
    await start(patient, "c-1", connection=7)
    answer = await patient.pool.ask(Resume("acme", "c-1", ANA, connection=9))
    assert isinstance(answer, Resumed)
    assert (answer.call_id, answer.late) == ("c-1", False)
    assert await renew(patient, "c-1", 7) is Renewed.NEWER_OWNER
    assert await renew(patient, "c-1", 7, lost=True) is Renewed.NEWER_OWNER
    for ask in (
        Answered("acme", "c-1", ANA, connection=7),
        End("acme", "c-1", ANA, connection=7),
        End("acme", "c-1", ANA, ended_ago_ms=5, connection=7),
        Resume("acme", "c-1", ANA, connection=7),
        Start("acme", *ANA, "c-1", TO, connection=7),
    ):
        with pytest.raises(CallIdConflict):
            await patient.pool.ask(ask)
    assert await renew(patient, "c-1", 9) is Renewed.RENEWED
    assert isinstance(await patient.pool.ask(End("acme", "c-1", ANA, connection=9)), Settled)


async def test_connections_are_numbered_upwards(patient: LiveAccounts) -> None:
    numbers = [await patient.pool.next_connection("acme") for _ in range(3)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0


async def test_a_keepalive_vouches_until_a_connection_does(patient: LiveAccounts) -> None:
    """The contract: only keepalives vouch for a call that HTTP began, until a WebSocket resumes it."""
    await start(patient, "c-1")
    assert await renew(patient, "c-1", 0) is Renewed.RENEWED
    await patient.pool.ask(Resume("acme", "c-1", ANA, connection=5))
    assert await renew(patient, "c-1", 0) is Renewed.RENEWED
    assert await renew(patient, "c-1", 4) is Renewed.NEWER_OWNER, "still the connection's"
    assert isinstance(await patient.pool.ask(End("acme", "c-1", ANA)), Settled), "words over HTTP are heard"
    assert await renew(patient, "c-1", 5) is Renewed.ENDED
    assert await renew(patient, "c-2", 5) is Renewed.UNKNOWN


async def test_nobody_vouches_for_another_devices_call(patient: LiveAccounts) -> None:
    await start(patient, "c-1")
    vouching = Vouching("acme", "c-1", 0, 0, device=BOB)
    assert await patient.pool.renew([vouching]) == [Renewed.UNKNOWN]
    with pytest.raises(CallUnknown):
        await patient.pool.ask(Resume("acme", "c-1", BOB))


# Late return


async def test_a_call_that_comes_back_late_goes_on_from_its_start_with_one_record(
    accounts: LiveAccounts,
) -> None:
    """R15."""
    first = await settled_in_absence(accounts, "c-1")
    assert (first.billed_seconds, first.revision) == (90, 1)
    await accounts.at(T0 + HOUR)
    answer = await accounts.pool.ask(Resume("acme", "c-1", ANA, connection=8))
    assert isinstance(answer, Resumed)
    assert (answer.late, answer.call.admitted_at_ms, answer.call.revision) == (True, T0, 1)
    view = await accounts.pool.read("acme")
    assert (view.settled_seconds, view.used_seconds, view.calls_in_progress) == (0, 3600, 1)
    settled = await accounts.pool.ask(End("acme", "c-1", ANA, connection=8))
    assert isinstance(settled, Settled)
    assert (settled.billed_seconds, settled.revision, settled.ended_by) == (3600, 2, "hangup")
    taken_back = CallReopened("acme", "c-1", T0, 1)
    assert [each for each in await records(accounts) if each == taken_back] == [taken_back]
    view = await accounts.pool.read("acme")
    assert (view.settled_seconds, view.calls_in_progress) == (3600, 0)
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(Resume("acme", "c-1", ANA, connection=8))


async def test_the_first_end_of_a_call_settled_in_its_absence_is_taken_and_repeated(
    accounts: LiveAccounts,
) -> None:
    """R17: a late return and an end in one."""
    await settled_in_absence(accounts, "c-1")
    await accounts.at(T0 + HOUR)
    ended = await accounts.pool.ask(End("acme", "c-1", ANA, ended_ago_ms=30 * MINUTE))
    assert isinstance(ended, Settled)
    assert (ended.ended_at_ms, ended.billed_seconds) == (T0 + 30 * MINUTE, 1800)
    assert (ended.revision, ended.ended_by, ended.replayed) == (2, "hangup", False)
    again = await accounts.pool.ask(End("acme", "c-1", ANA))
    assert isinstance(again, Settled)
    assert (again.billed_seconds, again.revision, again.replayed) == (1800, 2, True)
    assert (await accounts.pool.read("acme")).settled_seconds == 1800
    assert [each.revision for each in await records(accounts)] == [1, 2]


async def test_a_call_comes_back_no_later_than_allowed(accounts: LiveAccounts) -> None:
    await settled_in_absence(accounts, "c-1")
    await accounts.at(T0 + 90 * SECOND + 12 * HOUR + 1)
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(Resume("acme", "c-1", ANA, connection=8))
    settled = await accounts.pool.ask(End("acme", "c-1", ANA))
    assert isinstance(settled, Settled)
    assert (settled.billed_seconds, settled.revision, settled.replayed) == (90, 1, True)


async def test_a_call_of_an_older_cycle_comes_back_to_that_one(accounts: LiveAccounts) -> None:
    """R15, R20: it leaves the running pool alone."""
    end_ms = (await accounts.pool.read("acme")).cycle.end_ms
    await accounts.at(end_ms - MINUTE)
    await start(accounts, "c-1", connection=7)
    await renew(accounts, "c-1", 7, lost=True)
    await until_settled(accounts, "c-1")
    await accounts.at(end_ms + MINUTE)
    answer = await accounts.pool.ask(Resume("acme", "c-1", ANA, connection=8))
    assert isinstance(answer, Resumed)
    assert answer.late
    view = await accounts.pool.read("acme")
    assert (view.used_seconds, view.settled_seconds, view.calls_in_progress) == (0, 0, 1)
    await accounts.pool.ask(End("acme", "c-1", ANA, connection=8))
    last = await until_settled(accounts, "c-1")
    assert (last.billed_seconds, last.cycle_start_ms) == (120, T0)
    assert (await accounts.pool.read("acme")).used_seconds == 0


# The moment of the end


async def test_an_end_told_late_is_taken_from_last_known_alive_to_now(patient: LiveAccounts) -> None:
    """R16."""
    for call_id in ("before", "within", "after"):
        await start(patient, call_id, connection=7)
    await patient.at(T0 + MINUTE)
    for call_id in ("before", "within", "after"):
        await renew(patient, call_id, 7, lost=True)
    await patient.at(T0 + 3 * MINUTE)
    ended = [
        await patient.pool.ask(End("acme", call_id, ANA, ended_ago_ms=ago_ms))
        for call_id, ago_ms in (("before", 3 * MINUTE), ("within", MINUTE), ("after", 0))
    ]
    assert [each.ended_at_ms for each in ended if isinstance(each, Settled)] == [
        T0 + MINUTE,
        T0 + 2 * MINUTE,
        T0 + 3 * MINUTE,
    ]


async def test_answers_are_noted_by_whoever_has_the_call(patient: LiveAccounts) -> None:
    await start(patient, "c-1", connection=7)
    assert await patient.pool.ask(Answered("acme", "c-1", ANA, connection=7)) == Noted("c-1")


async def test_a_keepalive_has_no_connection_to_lose(patient: LiveAccounts) -> None:
    await start(patient, "c-1")
    await patient.at(T0 + MINUTE)
    assert await renew(patient, "c-1", 0, lost=True) is Renewed.RENEWED
    await patient.at(T0 + 2 * MINUTE)
    ended = await patient.pool.ask(End("acme", "c-1", ANA, ended_ago_ms=HOUR))
    assert isinstance(ended, Settled)
    assert ended.ended_at_ms == T0 + 2 * MINUTE, "it is vouched for still"


async def test_whoever_asks_again_how_a_call_ended_is_told(patient: LiveAccounts) -> None:
    """R17: an out-of-order end, also of a connection that had the call no more."""
    await start(patient, "c-1", connection=7)
    await patient.pool.ask(Resume("acme", "c-1", ANA, connection=9))
    await patient.pool.ask(End("acme", "c-1", ANA, connection=9))
    again = await patient.pool.ask(End("acme", "c-1", ANA, connection=7))
    assert isinstance(again, Settled)
    assert again.replayed
    assert await renew(patient, "c-1", 7) is Renewed.ENDED


async def test_an_end_overtakes_only_what_comes_close_behind(patient: LiveAccounts) -> None:
    """R17."""
    resume = Resume("acme", "c-1", ANA, connection=7)
    with pytest.raises(CallUnknown):
        await patient.pool.ask(End("acme", "c-1", ANA))
    await patient.at(T0 + OVERTAKEN_MS)
    with pytest.raises(CallIdUsed):
        await patient.pool.ask(resume)
    await patient.at(T0 + OVERTAKEN_MS + 1)
    with pytest.raises(CallUnknown):
        await patient.pool.ask(resume)


async def test_a_pool_made_anew_leaves_a_call_alone_that_came_back_since_its_settlement(
    patient: LiveAccounts, engine: EngineServer
) -> None:
    """R15, R28: SQL may not know yet that it goes on."""
    (calls,) = patient.keys.named(patient.keys.shard_of("acme"), "calls")
    await start(patient, "c-1", connection=7)
    await start(patient, "c-2", connection=7)
    await patient.at(T0 + 90 * SECOND)
    values: dict[Any, Any] = dict(engine.client.hgetall(calls))
    for call_id in ("c-1", "c-2"):
        await patient.pool.ask(End("acme", call_id, ANA))
    for field, value in values.items():
        # Both settlements were lost; c-1 is known to have come back since.
        revision = 1 if field == b"acme/c-1" else 0
        engine.client.hset(calls, field, value[:4] + bytes([revision, 0]) + value[6:])
    keys = patient.keys.of_account("acme", patient.keys.shard_of("acme"))
    engine.client.zadd(keys[1], dict.fromkeys(values, T0))
    engine.client.delete(keys[0])
    view = await patient.pool.read("acme")
    assert [call.call_id for call in view.calls] == ["c-1"]


@pytest.mark.parametrize("gone_back_to", ["before it was settled", "before it came back", "its beginnings"])
async def test_a_pool_made_anew_has_the_calls_that_sql_knows_to_have_come_back(
    accounts: LiveAccounts, engine: EngineServer, gone_back_to: str
) -> None:
    """R15, R28: what they bill is in no sum, and their next record has a higher revision."""
    shard = accounts.keys.shard_of("acme")
    (calls,) = accounts.keys.named(shard, "calls")
    await start(accounts, "c-1", 7)
    values = {"before it was settled": engine.client.hget(calls, "acme/c-1")}
    await accounts.at(T0 + 90 * SECOND)
    await renew(accounts, "c-1", 7, lost=True)
    await until_settled(accounts, "c-1")
    values["before it came back"] = engine.client.hget(calls, "acme/c-1")
    await accounts.pool.ask(Resume("acme", "c-1", ANA, connection=8))

    value = values.get(gone_back_to)
    pool, order, *_ = accounts.keys.of_account("acme", shard)
    engine.client.delete(pool, calls)
    if value is not None:
        engine.client.hset(calls, "acme/c-1", value)
    if gone_back_to != "before it was settled":
        engine.client.delete(order)

    await accounts.at(T0 + 2 * MINUTE)
    view = await accounts.pool.read("acme")
    assert [(call.call_id, call.revision) for call in view.calls] == [("c-1", 1)]
    assert (view.settled_seconds, view.used_seconds) == (0, 120)
    assert isinstance(await accounts.pool.ask(Resume("acme", "c-1", ANA, connection=9)), Resumed)
    ended = await accounts.pool.ask(End("acme", "c-1", ANA, connection=9))
    assert isinstance(ended, Settled)
    assert (ended.billed_seconds, ended.revision) == (120, 2)
    assert (await accounts.pool.read("acme")).settled_seconds == 120


async def test_a_call_that_came_back_and_whose_device_goes_with_the_engine_ends_as_it_had(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R14, R28: nobody but SQL knows of it any more."""
    first = await settled_in_absence(accounts, "c-1")
    await accounts.pool.ask(Resume("acme", "c-1", ANA, connection=8))
    await accounts.keep_records()
    engine.flush()
    await accounts.at(T0 + HOUR)
    await accounts.pool.read("acme")

    async def has_ended() -> bool:
        return (await accounts.pool.read("acme")).calls_in_progress == 0

    await wait_until(has_ended, 15)
    last = (await records(accounts))[-1]
    assert isinstance(last, CallRecord)
    assert (last.revision, last.ended_by) == (2, "connection_lost")
    assert (last.ended_at_ms, last.billed_seconds) == (first.ended_at_ms, first.billed_seconds)
    assert (await accounts.pool.read("acme")).settled_seconds == 90


@pytest.mark.parametrize(
    ("sql_has", "sum_then"),
    [
        pytest.param(None, 90, id="nothing of it"),
        pytest.param(97, 90, id="the repeated end"),
        pytest.param(90, 97, id="the first, as in the sum"),
    ],
)
async def test_the_first_end_stands_though_it_was_lost_and_its_words_came_again(
    patient: LiveAccounts, sql_has: int | None, sum_then: int
) -> None:
    """R17, R26: its device was told what the call came to, and a network had repeated what it said.

    What SQL has of it is what the pool, which was made from it, has in its sum (here it is as it was).
    """
    await start(patient, "c-1")
    await patient.at(T0 + 97 * SECOND)
    await patient.pool.ask(End("acme", "c-1", ANA))
    repeated = await until_settled(patient, "c-1")
    ended_at_ms = T0 + 90 * SECOND
    first = replace(
        repeated, ended_at_ms=ended_at_ms, settled_at_ms=ended_at_ms, duration_ms=90_000, billed_seconds=90
    )
    for _ in range(2):
        await patient.pool.ask(Retell(first, sql_has is not None, sql_has or 0))
        assert (await records(patient))[-1] == replace(first, revision=2)
        assert (await patient.pool.read("acme")).settled_seconds == sum_then
    await patient.pool.ask(Retell(repeated, saved=True))
    assert len(await records(patient)) == 2


async def test_whoever_does_not_know_whether_a_call_goes_on_does_not_vouch_for_it(
    accounts: LiveAccounts,
) -> None:
    """R26, R28: a gateway tells again of what it let through. What is known of that stays as it is."""
    first = await settled_in_absence(accounts, "c-1")
    going = CallInProgress("acme", "c-1", *ANA, None, TO, T0, None, first.cycle_start_ms, False, True)
    await accounts.at(T0 + HOUR)
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(Resume("acme", "c-1", None, 0, going, vouched=False))
    assert await records(accounts) == [first]
    await start(accounts, "c-2", 7)
    await renew(accounts, "c-2", 7, lost=True)
    await accounts.at(T0 + 2 * HOUR)
    told = replace(going, call_id="c-2", admitted_at_ms=T0 + HOUR)
    assert isinstance(await accounts.pool.ask(Resume("acme", "c-2", None, 0, told, vouched=False)), Resumed)
    last = await until_settled(accounts, "c-2")
    assert (last.ended_by, last.duration_ms) == ("connection_lost", 0)


async def test_a_renewal_that_comes_behind_the_loss_of_its_connection_brings_nothing_back(
    patient: LiveAccounts,
) -> None:
    await start(patient, "c-1", connection=7)
    await patient.at(T0 + MINUTE)
    await renew(patient, "c-1", 7, lost=True)
    await patient.at(T0 + 2 * MINUTE)
    assert await renew(patient, "c-1", 7) is Renewed.RENEWED
    ended = await patient.pool.ask(End("acme", "c-1", ANA, ended_ago_ms=HOUR))
    assert isinstance(ended, Settled)
    assert ended.ended_at_ms == T0 + MINUTE


async def test_a_settlement_told_again_takes_the_place_of_an_earlier_one_that_sql_has(
    patient: LiveAccounts, engine: EngineServer
) -> None:
    """R15, R26: the pool made from SQL has that in its sum."""
    await start(patient, "c-1", connection=7)
    await patient.at(T0 + 90 * SECOND)
    await patient.pool.ask(End("acme", "c-1", ANA))
    (record,) = await records(patient)
    assert isinstance(record, CallRecord)
    (calls,) = patient.keys.named(patient.keys.shard_of("acme"), "calls")
    engine.client.hdel(calls, "acme/c-1")
    again = replace(record, revision=2, billed_seconds=100, duration_ms=100_000, ended_at_ms=T0 + 100_000)
    await patient.pool.ask(Retell(again, saved=False, billed_before=90))
    assert (await patient.pool.read("acme")).settled_seconds == 100


async def test_an_engine_that_forgot_that_a_call_was_settled_again_does_not_bill_it_again(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R15, R17: in its older data the call ended in its absence. SQL, and so the sum, has the later end."""
    await settled_in_absence(accounts, "c-1")
    (calls,) = accounts.keys.named(accounts.keys.shard_of("acme"), "calls")
    older: Any = engine.client.hget(calls, "acme/c-1")
    await accounts.at(T0 + 200 * SECOND)
    said = End("acme", "c-1", ANA, ended_ago_ms=80 * SECOND)
    again = await accounts.pool.ask(said)
    assert isinstance(again, Settled)
    assert (again.revision, again.billed_seconds) == (2, 120)
    engine.client.hset(calls, "acme/c-1", older)
    await accounts.pool.renew_epochs()
    assert (await accounts.pool.read("acme")).settled_seconds == 120
    repeated = await accounts.pool.ask(replace(said, ended_ago_ms=90 * SECOND))
    assert isinstance(repeated, Settled)
    assert (repeated.revision, repeated.billed_seconds, repeated.replayed) == (2, 120, True)
    assert (await accounts.pool.read("acme")).settled_seconds == 120
