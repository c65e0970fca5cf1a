"""Many asks at once: each account's are carried out in the order in which they were made (R6)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import date
from functools import partial

import pytest

from gateway.domain.admission import RefusalReason
from gateway.domain.answers import Admitted, Answer, NotDue, Noted, Refused, Resumed, Settled
from gateway.domain.asks import AccountConfig, Answered, Ask, End, Start
from gateway.domain.calls import CallRecord
from gateway.domain.errors import (
    CallgateError,
    CallIdConflict,
    CallIdUsed,
    CallUnknown,
    DatabaseUnavailable,
)
from gateway.domain.policy import Policy
from gateway.pool.batcher import MAX_BATCH
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, BOB, MINUTE, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, everything_in, live_accounts
from tests.support.waiting import wait_until

BILLING_DATE = date(2026, 11, 15)


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(engine.url, Policy()) as accounts:
        await accounts.at(T0)
        yield accounts


def sign_up(accounts: LiveAccounts, account: str, minutes: int = 1000) -> None:
    """Make an account in SQL alone: the engine has not heard of it."""
    accounts.configs[account] = AccountConfig(
        account, 1, "active", BILLING_DATE, "UTC", a_plan(minutes), staff=frozenset({"ana", "bob"})
    )


def start(account: str, call_id: str) -> Start:
    return Start(account, *ANA, call_id, TO)


def emergency(account: str, call_id: str, fresh: str = "fresh") -> Start:
    return Start(account, *ANA, call_id, "112", emergency=True, fresh_call_id=fresh)


def said(answer: Answer | CallgateError) -> str:
    """An answer in a word."""
    match answer:
        case CallgateError():
            return answer.code
        case Refused():
            return answer.reason.value
        case Admitted() | Settled():
            return type(answer).__name__.lower() + (" again" if answer.replayed else "")
        case Noted() | Resumed() | NotDue():
            return type(answer).__name__.lower()


async def test_many_calls_of_one_account_are_each_carried_out_in_order(accounts: LiveAccounts) -> None:
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(1000))
    asks: list[Ask] = []
    for number in range(400):
        call_id = f"c-{number}"
        asks += [start("acme", call_id), start("acme", call_id), Answered("acme", call_id)]
        asks += [End("acme", call_id), End("acme", call_id), start("acme", call_id)]
    answers = await accounts.ask_all(asks)
    whole = ["admitted", "admitted again", "noted", "settled", "settled again", "call_id_used"]
    assert [said(answer) for answer in answers] == whole * 400
    records = [item for item in await accounts.recorded() if isinstance(item, CallRecord)]
    assert [record.call_id for record in records] == [f"c-{number}" for number in range(400)]
    assert (await accounts.pool.read("acme")).calls_in_progress == 0


async def test_asks_of_many_accounts_and_shards_go_together_and_each_account_keeps_its_order(
    accounts: LiveAccounts,
) -> None:
    names = [f"account-{number}" for number in range(100)]
    assert len({accounts.keys.shard_of(name) for name in names}) > 60
    for name in names:
        await accounts.make(name, billing_date=BILLING_DATE, plan=a_plan(2))
    asks: list[tuple[Ask, str]] = []
    for name in names:
        asks += [
            (start(name, "c-1"), "admitted"),
            (End(name, "c-2"), "call_unknown"),
            (start(name, "c-1"), "admitted again"),
            (Start(name, *ANA, "c-1", "+14155550101"), "call_id_conflict"),
            (End(name, "c-1", BOB), "call_unknown"),
            (start(name, "c-2"), "call_id_used"),
            (start(name, "c-3"), "admitted"),
            (start(name, "c-4"), "minutes_held"),
            (emergency(name, "c-1", "f-1"), "admitted"),
            (End(name, "c-1"), "settled"),
            (start(name, "c-4"), "admitted"),
            (End(name, "f-1"), "settled"),
        ]
    answers: defaultdict[str, list[str]] = defaultdict(list)
    done = asyncio.Event()

    def note(name: str, answer: Answer | CallgateError) -> None:
        answers[name].append(said(answer))
        if sum(map(len, answers.values())) == len(asks):
            done.set()

    # Not account by account: the first ask of all, then the second of all, ...
    for ask, _ in (asks[first + 12 * number] for first in range(12) for number in range(100)):
        accounts.pool.submit(ask, partial(note, ask.account))
    await done.wait()
    assert dict(answers) == {name: [expected for _, expected in asks[:12]] for name in names}


async def test_of_those_who_ask_for_the_last_minute_at_once_one_is_admitted(accounts: LiveAccounts) -> None:
    """R6, R7: also if all ask again with the same ids."""
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(1))
    asks = [start("acme", f"c-{number}") for number in range(200)]
    for first in ("admitted", "admitted again"):
        answers = [said(answer) for answer in await accounts.ask_all(asks)]
        assert answers == [first, *["minutes_held"] * 199]
    await accounts.at(T0 + MINUTE)
    answers = [said(answer) for answer in await accounts.ask_all(asks)]
    assert answers == ["admitted again", *["minutes_exhausted"] * 199]


# Pools that are not there yet (R8)


async def test_a_missing_pool_is_loaded_once_and_the_asks_keep_their_order(accounts: LiveAccounts) -> None:
    await accounts.make("other", billing_date=BILLING_DATE, plan=a_plan(10))
    accounts.loads.clear()
    sign_up(accounts, "acme")
    accounts.database_answers.clear()
    first = asyncio.create_task(
        accounts.ask_all([start("acme", "c-1"), Answered("acme", "c-1"), start("acme", "c-2")])
    )
    await wait_until(lambda: accounts.loads == ["acme"])
    then = asyncio.create_task(
        accounts.ask_all([End("acme", "c-2"), End("acme", "c-1"), start("acme", "c-2")])
    )
    assert said(await accounts.pool.ask(start("other", "c-1"))) == "admitted", "others need not wait"
    accounts.database_answers.set()
    assert [said(answer) for answer in await first] == ["admitted", "noted", "admitted"]
    assert [said(answer) for answer in await then] == ["settled", "settled", "call_id_used"]
    assert accounts.loads == ["acme"]


async def test_asks_of_one_call_keep_their_order_where_a_batch_ends_between_them(
    accounts: LiveAccounts,
) -> None:
    """What waits behind a batch comes behind all of it that waits for its pool, repeated words as well."""
    sign_up(accounts, "acme")
    others = [Answered("acme", f"other-{number}") for number in range(MAX_BATCH - 2)]
    asks: list[Ask] = [start("acme", "c-1"), start("acme", "c-1"), *others, End("acme", "c-1")]
    first, again, *_, last = await accounts.ask_all(asks)
    assert [said(answer) for answer in (first, again, last)] == ["admitted", "admitted again", "settled"]


async def test_an_account_is_unknown_only_if_sql_says_so(accounts: LiveAccounts) -> None:
    answers = await accounts.ask_all(
        [start("nobody", "c-1"), Answered("nobody", "c-1"), End("nobody", "c-1"), start("nobody", "c-1")]
    )
    unknown = Refused("c-1", RefusalReason.ACCOUNT_UNKNOWN, 0)
    assert (answers[0], answers[3]) == (unknown, unknown)
    assert [said(answer) for answer in answers[1:3]] == ["call_unknown", "call_unknown"]
    sign_up(accounts, "nobody")
    assert said(await accounts.pool.ask(start("nobody", "c-2"))) == "admitted"


async def test_while_sql_cannot_be_asked_nothing_is_decided(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    sign_up(accounts, "acme")
    await accounts.make("other", billing_date=BILLING_DATE, plan=a_plan(10))
    before = everything_in(engine)
    accounts.database_failure = DatabaseUnavailable()
    asks: list[Ask] = [
        start("acme", "c-1"),
        Answered("acme", "c-1"),
        End("acme", "c-1"),
        emergency("acme", "c-2"),
    ]
    answers = await accounts.ask_all(asks)
    assert [said(answer) for answer in answers] == ["database_unavailable"] * 4
    assert everything_in(engine) == before
    with pytest.raises(DatabaseUnavailable):
        await accounts.pool.read("acme")
    assert said(await accounts.pool.ask(start("other", "c-1"))) == "admitted", "its pool is there"
    accounts.database_failure = None
    # The emergency not with those that have the pool loaded: it is not waited for long (R30).
    answers = [*await accounts.ask_all(asks[:3]), *await accounts.ask_all(asks[3:])]
    assert [said(answer) for answer in answers] == ["admitted", "noted", "settled", "admitted"]


# Emergencies of an account that SQL does not know (R30)


async def test_an_emergency_of_an_unknown_account_is_admitted_answered_ended_and_recorded(
    accounts: LiveAccounts,
) -> None:
    answers = await accounts.ask_all(
        [
            emergency("nobody", "c-1"),
            emergency("nobody", "c-1"),
            start("nobody", "c-2"),
            Answered("nobody", "c-1", ANA),
            End("nobody", "c-1", BOB),
        ]
    )
    assert [said(answer) for answer in answers] == [
        "admitted",
        "admitted again",
        "account_unknown",
        "noted",
        "call_unknown",
    ]
    await accounts.at(T0 + 45 * SECOND)
    settled, again = await accounts.ask_all([End("nobody", "c-1", ANA), End("nobody", "c-1", ANA)])
    assert isinstance(settled, Settled)
    assert (settled.duration_ms, settled.billed_seconds, settled.emergency) == (45_000, 0, True)
    assert said(again) == "settled again"
    (record,) = await accounts.recorded()
    assert isinstance(record, CallRecord)
    assert (record.account, record.call_id, record.to, record.emergency) == ("nobody", "c-1", "112", True)
    assert (record.admitted_at_ms, record.answered_at_ms, record.ended_at_ms) == (T0, T0, T0 + 45_000)


async def test_an_emergency_goes_on_when_its_account_is_made(accounts: LiveAccounts) -> None:
    await accounts.pool.ask(emergency("newcomer", "c-1"))
    view = await accounts.make("newcomer", billing_date=BILLING_DATE, plan=a_plan(1))
    assert [(call.call_id, call.emergency, call.counts) for call in view.calls] == [("c-1", True, False)]
    assert (view.calls_in_progress, view.used_seconds, view.held_seconds) == (1, 0, 0)
    answers = await accounts.ask_all(
        [start("newcomer", "c-2"), emergency("newcomer", "c-1"), End("newcomer", "c-1")]
    )
    assert [said(answer) for answer in answers] == ["admitted", "admitted again", "settled"]
    assert (await accounts.pool.read("newcomer")).calls_in_progress == 1


async def test_what_an_unknown_account_may_not_do_raises_as_it_does_for_others(
    accounts: LiveAccounts,
) -> None:
    with pytest.raises(CallUnknown):
        await accounts.pool.ask(End("nobody", "c-1"))
    await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(10))
    await accounts.pool.ask(start("acme", "c-1"))
    with pytest.raises(CallIdConflict):
        await accounts.pool.ask(Start("acme", *BOB, "c-1", TO))
    await accounts.pool.ask(End("acme", "c-1"))
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(start("acme", "c-1"))
