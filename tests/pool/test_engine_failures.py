"""An engine that does not answer, dies, or answers to somebody who is gone.

The outcome is then unknown. Who asks again with the same ids is told what became of it; nothing counts twice.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import date
from time import monotonic

import pytest

from gateway.domain.answers import Admitted, Answer, Noted, Settled
from gateway.domain.asks import Answered, Ask, End, Start
from gateway.domain.calls import CallRecord
from gateway.domain.errors import CallgateError, CallUnknown, EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool.connections import TIMEOUT_SECONDS
from gateway.pool.engine import connect
from gateway.pool.live_pool import LivePool
from gateway.pool.operations import Operation
from tests.support.engines import KINDS, EngineServer
from tests.support.pool_model import ANA, MINUTE, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

BILLING_DATE = date(2026, 11, 15)
ACCOUNTS = [f"account-{number}" for number in range(8)]
ANSWERED_WITHIN = 2.0
EMERGENCY_ANSWERED_WITHIN = 0.3


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, start_engine: Callable[..., EngineServer]) -> EngineServer:
    """An engine of the test's own, which keeps what it has said."""
    return start_engine(request.param, persistent=True)


@pytest.fixture
async def accounts(server: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(server.url, Policy()) as accounts:
        await accounts.at(T0)
        for account in ACCOUNTS:
            await accounts.make(account, billing_date=BILLING_DATE, plan=a_plan(100_000))
        yield accounts


def start(account: str, call_id: str) -> Start:
    return Start(account, *ANA, call_id, TO)


def emergency(account: str, call_id: str) -> Start:
    return Start(account, *ANA, call_id, "112", emergency=True, fresh_call_id=f"fresh-{call_id}")


async def unavailable_after(accounts: LiveAccounts, ask: Ask) -> float:
    """Ask, be told that the engine is unavailable, and say how many seconds that took."""
    began = monotonic()
    with pytest.raises(EngineUnavailable):
        await accounts.pool.ask(ask)
    return monotonic() - began


async def ask_until_answered(accounts: LiveAccounts, asks: list[Ask]) -> list[Answer | CallgateError]:
    """Ask as a client does: again, with the same ids, for as long as the engine is unavailable."""
    answers: list[Answer | CallgateError] = []

    async def all_are_answered() -> bool:
        answers[:] = await accounts.ask_all(asks)
        return not any(isinstance(answer, EngineUnavailable) for answer in answers)

    await wait_until(all_are_answered, 20)
    return answers


async def everything_ends_as_one_record_each(accounts: LiveAccounts, call_ids: list[str]) -> None:
    for account in ACCOUNTS:
        view = await accounts.pool.read(account)
        assert sorted(call.call_id for call in view.calls if not call.emergency) == sorted(call_ids)
    await accounts.at(T0 + MINUTE)
    ends: list[Ask] = [End(account, call_id) for account in ACCOUNTS for call_id in call_ids]
    for answer in await accounts.ask_all([*ends, *ends]):
        assert isinstance(answer, Settled)
        assert answer.billed_seconds == 60
    records = [item for item in await accounts.recorded() if isinstance(item, CallRecord)]
    assert Counter((record.account, record.call_id) for record in records) == Counter(
        (account, call_id) for account in ACCOUNTS for call_id in call_ids
    )
    for account in ACCOUNTS:
        view = await accounts.pool.read(account)
        assert (view.settled_seconds, view.held_seconds) == (60 * len(call_ids), 0)


async def test_a_paused_engine_is_unavailable_in_time_and_then_works_again_by_itself(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    """R9, R30."""
    asks: list[Ask] = [start(account, call_id) for account in ACCOUNTS for call_id in ("c-1", "c-2")]
    server.pause()
    try:
        waiting = [asyncio.create_task(unavailable_after(accounts, ask)) for ask in asks]
        taken = [await unavailable_after(accounts, emergency(account, "help")) for account in ACCOUNTS[:5]]
        # The quickest, as the machine may be busy with something else for a moment.
        assert min(taken) <= EMERGENCY_ANSWERED_WITHIN
        assert all(seconds <= ANSWERED_WITHIN for seconds in await asyncio.gather(*waiting))
        with pytest.raises(EngineUnavailable):
            await accounts.pool.read(ACCOUNTS[0])
        with pytest.raises(EngineUnavailable):
            await accounts.pool.find_call(ACCOUNTS[0], "c-1")
        with pytest.raises(EngineUnavailable):
            await accounts.pool.calls_of_device(ACCOUNTS[0], *ANA)
        assert not await accounts.pool.ping()
    finally:
        server.resume()
    answers = await ask_until_answered(accounts, asks)
    assert all(isinstance(answer, Admitted) for answer in answers)
    assert await accounts.pool.ping()
    await everything_ends_as_one_record_each(accounts, ["c-1", "c-2"])


async def test_ends_whose_answers_were_lost_are_settled_once(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    """R17."""
    await accounts.ask_all([start(account, "c-1") for account in ACCOUNTS])
    await accounts.at(T0 + MINUTE)
    ends: list[Ask] = [End(account, "c-1", ANA) for account in ACCOUNTS]
    server.pause()
    try:
        answers = await accounts.ask_all(ends)
        assert all(isinstance(answer, EngineUnavailable) for answer in answers)
    finally:
        server.resume()
    answers = await ask_until_answered(accounts, ends)
    assert [answer.billed_seconds for answer in answers if isinstance(answer, Settled)] == [60] * len(
        ACCOUNTS
    )
    for account in ACCOUNTS:
        assert (await accounts.pool.read(account)).settled_seconds == 60
    records = [item for item in await accounts.recorded() if isinstance(item, CallRecord)]
    assert sorted(record.account for record in records) == ACCOUNTS


async def test_a_killed_engine_is_unavailable_and_then_goes_on_where_it_was(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    asks: list[Ask] = [start(account, "c-1") for account in ACCOUNTS]
    await accounts.ask_all(asks)
    server.kill()
    again: list[Ask] = [*asks, *(start(account, "c-2") for account in ACCOUNTS)]
    taken = [await unavailable_after(accounts, emergency(account, "help")) for account in ACCOUNTS[:3]]
    assert min(taken) <= EMERGENCY_ANSWERED_WITHIN
    answers = await accounts.ask_all(again)
    assert all(isinstance(answer, EngineUnavailable) for answer in answers)
    server.start()
    answers = await ask_until_answered(accounts, again)
    assert [answer.replayed for answer in answers if isinstance(answer, Admitted)][: len(asks)] == [
        True
    ] * len(asks)
    assert all(isinstance(answer, Admitted) for answer in answers)
    await everything_ends_as_one_record_each(accounts, ["c-1", "c-2"])


async def test_an_engine_that_is_killed_under_load_loses_nothing_that_it_answered(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    call_ids = [f"c-{number}" for number in range(60)]
    asks: list[Ask] = [start(account, call_id) for call_id in call_ids for account in ACCOUNTS]
    answered: set[tuple[str, str]] = set()

    async def put(ask: Ask) -> None:
        with suppress(EngineUnavailable):
            await accounts.pool.ask(ask)
            answered.add((ask.account, ask.call_id))

    async with asyncio.TaskGroup() as tasks:
        for number, ask in enumerate(asks):
            tasks.create_task(put(ask))
            if number % 40 == 0:
                await asyncio.sleep(0)
            if number == len(asks) // 2:
                await wait_until(lambda: answered)
                server.kill()
                server.start()
    for account, call_id in answered:
        found = await accounts.pool.find_call(account, call_id)
        assert found is not None
        assert found.call.call_id == call_id
    answers = await ask_until_answered(accounts, asks)
    assert all(isinstance(answer, Admitted) for answer in answers)
    await everything_ends_as_one_record_each(accounts, call_ids)


async def test_looking_at_an_engine_that_has_lost_everything_builds_nothing(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    """R28: shards are built for all to use, at one instant, by who has noticed that they were lost."""
    server.flush()
    with pytest.raises(EngineUnavailable):
        await accounts.pool.policy()
    assert server.client.dbsize() == 0


# A pool that stops


@pytest.fixture
async def stopping(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(engine.url, Policy()) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100_000))
        yield accounts


@asynccontextmanager
async def stopped_on_the_way_out(engine: EngineServer, accounts: LiveAccounts) -> AsyncIterator[LivePool]:
    """A pool of its own that runs, and on leaving must stop as soon as it is told to."""
    before = asyncio.all_tasks()
    other = connect(engine.url)
    pool = LivePool(other, accounts.load, Policy(), simulate=True)
    await pool.clock()
    running = asyncio.create_task(pool.run())
    try:
        yield pool
        running.cancel()
        await asyncio.wait([running], timeout=3)
        stopped = running.done()
    finally:
        engine.resume()
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await asyncio.wait([running])
        await other.close()
    assert stopped


@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_pool_stops_at_once_and_answers_all_that_was_asked(
    engine: EngineServer, stopping: LiveAccounts, is_paused: bool
) -> None:
    """Whatever it is just doing, so many turns of the event loop after the asks came."""
    for turns in range(8):
        answers: list[Answer | CallgateError] = []
        async with stopped_on_the_way_out(engine, stopping) as pool:
            await pool.read("acme")
            if is_paused:
                engine.pause()
            for number in range(700):
                pool.submit(start("acme", f"c-{number}"), answers.append)
            for _ in range(turns):
                await asyncio.sleep(0)
        assert len(answers) == 700


async def test_a_pool_that_has_only_just_begun_stops_at_once(
    engine: EngineServer, stopping: LiveAccounts
) -> None:
    """It is looking at the alarms then."""
    for turns in range(16):
        async with stopped_on_the_way_out(engine, stopping):
            for _ in range(turns):
                await asyncio.sleep(0)


async def test_a_pool_that_has_stopped_answers_that_it_has(
    engine: EngineServer, stopping: LiveAccounts
) -> None:
    async with stopped_on_the_way_out(engine, stopping) as pool:
        assert isinstance(await pool.ask(start("acme", "c-1")), Admitted)
    async with asyncio.timeout(2):
        with pytest.raises(EngineUnavailable):
            await pool.ask(start("acme", "c-2"))


# Those who asked are gone


async def test_after_10000_cancelled_asks_every_answer_still_belongs_to_its_question(
    accounts: LiveAccounts,
) -> None:
    """Of whatever kind, cancelled at whatever moment: not sent yet, under way, or as the answer arrives."""
    chance = random.Random(2026)
    checked = 0

    async def ask(kind: str, account: str, call_id: str) -> None:
        nonlocal checked
        match kind:
            case "start":
                answer = await accounts.pool.ask(start(account, call_id))
                assert isinstance(answer, Admitted)
                assert answer.call_id == call_id
            case "end":
                with pytest.raises(CallUnknown):
                    await accounts.pool.ask(End(account, call_id, ANA))
            case "answer":
                await accounts.pool.ask(start(account, call_id))
                assert await accounts.pool.ask(Answered(account, call_id, ANA)) == Noted(call_id)
            case "read":
                assert (await accounts.pool.read(account)).account == account
            case "find":
                await accounts.pool.ask(start(account, call_id))
                found = await accounts.pool.find_call(account, call_id)
                assert found is not None
                assert (found.call.account, found.call.call_id) == (account, call_id)
            case "device":
                assert await accounts.pool.calls_of_device(account, "ana", call_id) == []
        checked += 1

    kinds = ["start", "start", "end", "answer", "read", "find", "device"]
    asked = cancelled = 0
    while cancelled < 10_000:
        tasks = [
            asyncio.create_task(ask(chance.choice(kinds), chance.choice(ACCOUNTS), f"c-{number}"))
            for number in range(asked, asked + 250)
        ]
        asked += len(tasks)
        doomed = [task for task in tasks if chance.random() < 0.85]
        chance.shuffle(doomed)
        for task in doomed:
            for _ in range(chance.choice([0, 0, 0, 0, 1, 2, 5])):
                await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [each for each in results if isinstance(each, Exception)]
        # On a busy machine an answer may be too late; then it is asked again, or was nobody's answer.
        assert [each for each in failures if not isinstance(each, EngineUnavailable)] == []
        cancelled += sum(isinstance(each, asyncio.CancelledError) for each in results)
    assert checked >= 1000


async def test_what_nobody_waits_for_any_more_is_not_carried_out_when_an_engine_goes_on(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    """R16: it would end the call as of then. Whoever said it says it again, and how long ago it was."""
    account = ACCOUNTS[0]
    shards, shard = accounts.pool._shards, accounts.pool.shard_of(account)
    await accounts.pool.ask(start(account, "c-1"))
    await wait_until(lambda: shards.real_ms(shard))
    server.pause()
    await unavailable_after(accounts, End(account, "c-1"))
    gave_up_ms = shards.real_ms(shard)
    await wait_until(lambda: shards.real_ms(shard) > gave_up_ms + 2000 * TIMEOUT_SECONDS)
    server.resume()
    view = await accounts.pool.read(account)
    assert [call.call_id for call in view.calls] == ["c-1"]
    assert isinstance(await accounts.pool.ask(End(account, "c-1")), Settled)


async def test_an_engine_whose_clock_was_set_is_asked_again_at_once(accounts: LiveAccounts) -> None:
    account = ACCOUNTS[0]
    shards, shard = accounts.pool._shards, accounts.pool.shard_of(account)
    await wait_until(lambda: shards.real_ms(shard))
    real_ms, asked_at = shards._real[shard]
    shards._real[shard] = (real_ms - 300_000, asked_at)
    assert isinstance(await accounts.pool.ask(start(account, "c-1")), Admitted)


def test_how_long_an_end_waited_is_counted_as_time_since_the_end() -> None:
    for ask, at, expected in (
        (End("acme", "c", ANA), 3, "900"),
        (End("acme", "c", ANA, 100), 3, "1000"),
        (Answered("acme", "c", ANA, 100), 2, "1000"),
    ):
        operation = Operation(ask, lambda _: None, 10.0)
        operation.age(10.9)
        assert operation.arguments[at] == expected
        operation = Operation(ask, lambda _: None, 10.0)
        before = operation.arguments
        operation.age(10.01)
        assert operation.arguments == before
