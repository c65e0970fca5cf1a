"""Live pools on Sentinels and on a Cluster: all that can be asked, and on after a failover by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import date
from functools import partial

import pytest

from gateway.domain.answers import Admitted, Answer, Noted, Refused, Settled
from gateway.domain.asks import Answered, Ask, End, Start
from gateway.domain.calls import CallRecord, CycleOpened
from gateway.domain.errors import CallgateError, EngineUnavailable
from gateway.domain.policy import Policy
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, CYCLE_END, MINUTE, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.topologies import Cluster, SentinelSetup
from tests.support.waiting import wait_until

BILLING_DATE = date(2026, 11, 15)
ACCOUNTS = [f"account-{number}" for number in range(12)]
# A Cluster is asked shard by shard.
SHARDS = 16
FAILED_OVER_WITHIN = 15.0

pytestmark = pytest.mark.slow

Setup = SentinelSetup | Cluster


@pytest.fixture(params=["sentinels", "cluster"])
def setup(request: pytest.FixtureRequest) -> Setup:
    start: Callable[..., Setup] = request.getfixturevalue(f"start_{request.param}")
    return start()


@pytest.fixture
async def accounts(setup: Setup) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(setup.url, Policy(), shards=SHARDS) as accounts:
        await accounts.at(T0)
        for account in ACCOUNTS:
            await accounts.make(account, billing_date=BILLING_DATE, plan=a_plan(2))
        yield accounts


def start(account: str, call_id: str) -> Start:
    return Start(account, *ANA, call_id, TO)


async def test_all_that_can_be_asked(accounts: LiveAccounts) -> None:
    pool = accounts.pool
    asks: list[Ask] = []
    for account in ACCOUNTS:
        asks += [
            start(account, "c-1"),
            start(account, "c-1"),
            Answered(account, "c-1"),
            start(account, "c-2"),
        ]
        asks += [start(account, "c-3"), End(account, "c-2")]
    answers = await accounts.ask_all(asks)
    kinds = [Admitted, Admitted, Noted, Admitted, Refused, Settled]
    assert [type(answer) for answer in answers] == kinds * len(ACCOUNTS)
    assert await pool.count_calls() == len(ACCOUNTS)
    assert set(await pool.read_many(ACCOUNTS)) == set(ACCOUNTS)
    assert set((await pool.oldest_calls(ACCOUNTS)).values()) == {T0}
    found = await pool.find_call(ACCOUNTS[0], "c-1")
    assert found is not None
    assert found.call.admitted_at_ms == T0
    assert [call.call_id for call in await pool.calls_of_device(ACCOUNTS[3], *ANA)] == ["c-1"]
    assert await pool.ping()

    # An alarm of each pool: it is reset on time, with nobody asking (R19).
    await accounts.at(CYCLE_END + MINUTE)
    for account in ACCOUNTS:
        view = await pool.read(account)
        assert (view.cycle.start_ms, view.settled_seconds, view.calls_in_progress) == (CYCLE_END, 0, 1)
    ends: list[Ask] = [End(account, "c-1") for account in ACCOUNTS]
    assert all(isinstance(answer, Settled) for answer in await accounts.ask_all(ends))

    # The records of each shard, in order; what is committed is deleted.
    entries = await pool.records.read({}, 1000)
    items = [item for entry in entries for item in entry.items]
    assert (
        sorted(item.call_id for item in items if isinstance(item, CallRecord)) == ["c-1"] * 12 + ["c-2"] * 12
    )
    assert {item.account for item in items if isinstance(item, CycleOpened)} == set(ACCOUNTS)
    assert await pool.records.backlog({}) == len(items)
    states = (await pool.records.states()).there
    saved = {
        entry.shard: (states[entry.shard].run, states[entry.shard].epoch, entry.entry_id) for entry in entries
    }
    await pool.records.trim(saved)
    assert await pool.records.backlog({}) == 0


async def is_answered(accounts: LiveAccounts, ask: Ask, answers: list[Answer | CallgateError]) -> bool:
    (answer,) = await accounts.ask_all([ask])
    if isinstance(answer, EngineUnavailable):
        return False
    answers.append(answer)
    return True


def lose_primary(setup: Setup, way: str, account_key: str) -> EngineServer | None:
    """Have the primary of a key replaced; answers which server is to be brought back."""
    if isinstance(setup, SentinelSetup):
        old = setup.primary
        wait_for: Callable[[], object] = partial(setup.wait_for_failover, old)
        planned: Callable[[], object] = setup.failover
    else:
        old = setup.owner_of(account_key)
        (replica,) = setup.replicas_of(old)
        wait_for = partial(setup.wait_for_failover, replica)
        planned = partial(setup.failover, old)
    if way == "planned":
        planned()
        return None
    (old.kill if way == "killed" else old.pause)()
    wait_for()
    return old


def all_is_replicated(setup: Setup) -> bool:
    if isinstance(setup, SentinelSetup):
        return setup.in_step()
    return all(
        replica.info("replication")["master_repl_offset"] == server.info("replication")["master_repl_offset"]
        for server in setup.servers[:3]
        for replica in setup.replicas_of(server)
    )


@pytest.mark.parametrize("way", ["killed", "paused", "planned"])
async def test_it_goes_on_after_a_failover_and_calls_in_progress_with_it(
    accounts: LiveAccounts, setup: Setup, way: str
) -> None:
    """R11."""
    started: list[Ask] = [start(account, "c-1") for account in ACCOUNTS]
    assert all(isinstance(answer, Admitted) for answer in await accounts.ask_all(started))
    await wait_until(lambda: all_is_replicated(setup), 5)
    account_key = accounts.keys.of_account(ACCOUNTS[0], accounts.keys.shard_of(ACCOUNTS[0]))[0]
    old = lose_primary(setup, way, account_key)
    for account in ACCOUNTS:
        answers: list[Answer | CallgateError] = []
        ask = partial(is_answered, accounts, start(account, "c-1"), answers)
        await wait_until(ask, FAILED_OVER_WITHIN)
        (answer,) = answers
        assert isinstance(answer, Admitted)
        assert (answer.replayed, answer.admitted_at_ms) == (True, T0)
    ended = await accounts.ask_all([End(account, "c-1") for account in ACCOUNTS])
    assert [type(answer) for answer in ended] == [Settled] * len(ACCOUNTS)
    for account in ACCOUNTS:
        view = await accounts.pool.read(account)
        assert view.calls_in_progress == 0
    if way == "paused" and old is not None:
        old.resume()
