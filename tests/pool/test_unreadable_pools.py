"""An account whose pool, or call, is not what it should be is stopped by itself, and shown."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from math import nan
from time import monotonic
from typing import Any

import pytest
import structlog

from gateway import metrics
from gateway.domain.answers import Admitted, Refused, Settled
from gateway.domain.asks import Ask, End, Start
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.pool import alarms, leases, operations, seldom
from gateway.pool.leases import Vouching
from gateway.pool.operations import DEADLINE_SECONDS
from gateway.pool.unreadable import PoolUnreadable
from gateway.sessions.devices import DeviceConnections
from gateway.sessions.keeper import Keeper
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

BAD = "account-3"
GOOD = [f"account-{number}" for number in range(8) if number != 3]
ALL = sorted([BAD, *GOOD])


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    """Accounts of one shard, so that they share lane, batch and section."""
    async with live_accounts(engine.url, Policy(), shards=1) as accounts:
        await accounts.at(T0)
        for account in ALL:
            await accounts.make(account, billing_date=date(2026, 11, 15), plan=a_plan(100))
        yield accounts


def pool_key(accounts: LiveAccounts, account: str = BAD) -> str:
    return accounts.keys.of_account(account, accounts.keys.shard_of(account))[0]


def spoil(engine: EngineServer, accounts: LiveAccounts, kind: str) -> Any:
    """Make the pool of `BAD` one that cannot be decoded; answers what it was."""
    key = pool_key(accounts)
    whole: Any = engine.client.get(key)
    if kind == "another layout":
        engine.client.setrange(key, 0, b"\x63")
    elif kind == "cut off":
        engine.client.set(key, whole[:40])
    else:
        engine.client.delete(key)
        engine.client.rpush(key, "x")
    return whole


@contextmanager
def keys_forbidden(engine: EngineServer, but_for: tuple[str, ...]) -> Iterator[None]:
    """Have the engine refuse scripts that name other keys than these, as it would if it failed."""
    engine.ask("ACL", "SETUSER", "default", "resetkeys", *(f"~{pattern}" for pattern in but_for))
    try:
        yield
    finally:
        engine.ask("ACL", "SETUSER", "default", "allkeys")


def start(account: str, call_id: str) -> Start:
    return Start(account, *ANA, call_id, TO)


def cut_off(engine: EngineServer, accounts: LiveAccounts, call_id: str, length: int = 60) -> None:
    """Leave of a call of `BAD` in progress no more than scripts look at: who calls whom is not whole."""
    calls = accounts.keys.named(accounts.keys.shard_of(BAD), "calls")[0]
    whole: Any = engine.client.hget(calls, f"{BAD}/{call_id}")
    engine.client.hset(calls, f"{BAD}/{call_id}", whole[:length])


@pytest.mark.parametrize("kind", ["another layout", "cut off", "no string"])
async def test_a_pool_that_cannot_be_decoded_stops_only_its_account(
    accounts: LiveAccounts, engine: EngineServer, kind: str
) -> None:
    spoil(engine, accounts, kind)
    began = monotonic()
    for number in range(3):
        answers = await accounts.ask_all([start(account, f"c-{number}") for account in ALL])
        for account, answer in zip(ALL, answers, strict=True):
            assert isinstance(answer, PoolUnreadable if account == BAD else Admitted), (account, answer)
    # It is not asked for again and again until its time is up.
    assert monotonic() - began < DEADLINE_SECONDS
    assert accounts.pool.unreadable.lately().keys() == {BAD}
    for account in GOOD:
        assert (await accounts.pool.read(account)).calls_in_progress == 3


async def test_a_busy_account_that_cannot_be_decoded_holds_up_nobody(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    spoil(engine, accounts, "another layout")

    async def ask_for_it(number: int) -> None:
        for attempt in range(20):
            with pytest.raises(PoolUnreadable):
                await accounts.pool.ask(start(BAD, f"c-{number}-{attempt}"))

    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(ask_for_it(number))
        for number in range(20):
            answers = await accounts.ask_all([start(account, f"c-{number}") for account in GOOD])
            assert all(isinstance(answer, Admitted) for answer in answers)


async def test_others_of_its_batch_are_decided_once(accounts: LiveAccounts, engine: EngineServer) -> None:
    """R9, R17: what the script had written before it broke down is found when it is asked again."""
    await accounts.ask_all([start(account, "c-1") for account in ALL])
    await accounts.at(T0 + 60 * SECOND)
    spoil(engine, accounts, "another layout")
    asks: list[Ask] = [End(account, "c-1", ANA) for account in ALL]
    asks += [start(account, "c-2") for account in ALL]
    await accounts.ask_all(asks)
    for account in GOOD:
        view = await accounts.pool.read(account)
        assert (view.settled_seconds, [call.call_id for call in view.calls]) == (60, ["c-2"])
    recorded = [item for item in await accounts.recorded() if getattr(item, "call_id", None) == "c-1"]
    assert sorted(item.account for item in recorded) == GOOD


async def test_what_waits_for_sql_is_decided_once_though_another_account_has_to_be_asked_again(
    accounts: LiveAccounts, engine: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R6: decided twice, the call that was refused would be admitted behind the end, and nobody told."""
    monkeypatch.setattr(operations, "DEADLINE_SECONDS", 20.0)
    single = a_plan(100, max_concurrent_calls=1)
    await accounts.make("single", billing_date=date(2026, 11, 15), plan=single)
    await accounts.pool.ask(start("single", "first"))
    spoil(engine, accounts, "another layout")
    with pytest.raises(PoolUnreadable):
        await accounts.pool.ask(start(BAD, "c-1"))
    engine.client.delete(pool_key(accounts, "single"))
    accounts.database_answers.clear()
    asks: list[Ask] = [start("single", "refused"), End("single", "first", ANA), start(BAD, "c-2")]
    failures_before = metrics.ENGINE_FAILURES._value.get()
    with keys_forbidden(engine, but_for=("cg:[^{]*", "cg:{0}:[^p]*", f"cg:{{0}}:p*[^{BAD[-1]}]")):
        answering = asyncio.create_task(accounts.ask_all(asks))
        await wait_until(lambda: metrics.ENGINE_FAILURES._value.get() >= failures_before + 3)
        accounts.database_answers.set()
    answers = await answering
    assert [type(answer) for answer in answers] == [Refused, Settled, PoolUnreadable]
    assert (await accounts.pool.read("single")).calls == ()


async def test_it_is_asked_again_as_soon_as_it_was_mended(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    whole = spoil(engine, accounts, "cut off")
    await accounts.ask_all([start(account, "c-1") for account in ALL])
    engine.client.set(pool_key(accounts), whole)
    assert isinstance(await accounts.pool.ask(start(BAD, "c-1")), Admitted)
    assert accounts.pool.unreadable.lately() == {}


async def test_it_is_made_anew_once_its_key_is_deleted(accounts: LiveAccounts, engine: EngineServer) -> None:
    """R28."""
    await accounts.pool.ask(start(BAD, "c-1"))
    spoil(engine, accounts, "cut off")
    engine.client.delete(pool_key(accounts))
    assert isinstance(await accounts.pool.ask(start(BAD, "c-2")), Admitted)
    assert (await accounts.pool.read(BAD)).calls_in_progress == 2


async def test_a_pool_is_made_anew_beside_a_call_that_is_cut_off(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R28: with the other calls that are in progress."""
    await accounts.ask_all([start(BAD, "c-1"), start(BAD, "c-2")])
    cut_off(engine, accounts, "c-1")
    engine.client.delete(pool_key(accounts))
    assert sorted(await accounts.pool.read_many(ALL)) == ALL
    assert [call.call_id for call in await accounts.pool.calls_of(BAD)] == ["c-2"]
    assert await accounts.pool.calls_of_device(BAD, *ANA) == await accounts.pool.calls_of(BAD)
    answers = await accounts.ask_all([start(account, "c-3") for account in ALL])
    assert all(isinstance(answer, Admitted) for answer in answers)


async def test_cycles_turn_on_time_though_a_pool_is_to_be_made_anew_beside_a_call_that_is_cut_off(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R19."""
    ends_ms = (await accounts.pool.read(BAD)).cycle.end_ms
    await accounts.pool.ask(start(BAD, "c-1"))
    cut_off(engine, accounts, "c-1")
    engine.client.delete(pool_key(accounts))
    async with asyncio.timeout(10):
        await accounts.at(ends_ms)
    packed = await accounts.pool.glance(ALL)
    assert all(pool is not None and pool.cycle_start_ms == ends_ms for pool in packed.values())


async def test_an_account_that_sql_holds_in_a_way_that_cannot_be_used_stops_nobody_else(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R19, R28: its pool cannot be made."""
    ends_ms = (await accounts.pool.read(BAD)).cycle.end_ms
    accounts.configs[BAD] = replace(accounts.configs[BAD], time_zone="Mars/Olympus")
    engine.client.delete(pool_key(accounts))
    assert sorted(await accounts.pool.read_many(ALL)) == GOOD
    answers = await accounts.ask_all([start(account, "c-1") for account in ALL])
    for account, answer in zip(ALL, answers, strict=True):
        assert isinstance(answer, PoolUnreadable if account == BAD else Admitted)
    async with asyncio.timeout(10):
        await accounts.at(ends_ms)
    packed = await accounts.pool.glance(GOOD)
    assert all(pool is not None and pool.cycle_start_ms == ends_ms for pool in packed.values())
    assert accounts.pool.unreadable.lately().keys() == {BAD}


@pytest.mark.parametrize("what", ["a time zone that there is none of", "a key of another type"])
async def test_a_change_of_an_account_whose_pool_cannot_be_made_is_answered_so(
    accounts: LiveAccounts, engine: EngineServer, what: str
) -> None:
    """Whoever finishes changes goes on with other accounts' then."""
    config = replace(accounts.configs[BAD], revision=2)
    engine.client.delete(pool_key(accounts))
    if what == "a key of another type":
        engine.client.set(accounts.keys.of_account(BAD, accounts.keys.shard_of(BAD))[1], "x")
    else:
        config = replace(config, time_zone="Mars/Olympus")
    with pytest.raises(PoolUnreadable):
        await accounts.pool.apply(config)
    assert accounts.pool.unreadable.lately().keys() == {BAD}


@pytest.mark.parametrize("length", [60, 55])
async def test_a_call_that_is_cut_off_is_told_to_whoever_asks_for_it(
    accounts: LiveAccounts, engine: EngineServer, length: int
) -> None:
    await accounts.ask_all([start(account, "c-1") for account in ALL])
    cut_off(engine, accounts, "c-1", length)
    with pytest.raises(PoolUnreadable):
        await accounts.pool.find_call(BAD, "c-1")
    assert await accounts.pool.find_call(GOOD[0], "c-1") is not None


async def test_pools_that_are_read_together_with_it_are_read(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    spoil(engine, accounts, "another layout")
    assert sorted(await accounts.pool.read_many(ALL)) == GOOD
    assert sorted(await accounts.pool.read_live(ALL)) == GOOD
    with pytest.raises(PoolUnreadable):
        await accounts.pool.read(BAD)


@pytest.mark.parametrize("at_once", [alarms.MOST_DUE, 1])
async def test_the_cycles_of_others_turn_on_time(
    accounts: LiveAccounts, engine: EngineServer, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R19: with nobody calling; what cannot be read stays due, and stands before them in each round."""
    monkeypatch.setattr(alarms, "MOST_DUE", at_once)
    ends_ms = (await accounts.pool.read(BAD)).cycle.end_ms
    spoil(engine, accounts, "another layout")
    async with asyncio.timeout(10):
        await accounts.at(ends_ms)
    packed = await accounts.pool.glance(GOOD)
    assert all(pool is not None and pool.cycle_start_ms == ends_ms for pool in packed.values())


async def test_the_clock_moves_on_though_more_are_due_than_are_passed_over(
    accounts: LiveAccounts, engine: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind them nothing is found to be due; nobody waits for that for ever."""
    monkeypatch.setattr(alarms, "MOST_DUE", 1)
    monkeypatch.setattr(alarms, "MOST_PASSED_OVER", 0)
    ends_ms = (await accounts.pool.read(BAD)).cycle.end_ms
    spoil(engine, accounts, "another layout")
    async with asyncio.timeout(10):
        await accounts.at(ends_ms)
        assert (await accounts.pool.clock()).now_ms == ends_ms


async def test_the_cycles_of_others_turn_on_time_behind_one_whose_pool_cannot_be_made(
    accounts: LiveAccounts, engine: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R19: they need no SQL, and do not wait for it."""
    monkeypatch.setattr(alarms, "MOST_DUE", 1)
    ends_ms = (await accounts.pool.read(BAD)).cycle.end_ms
    engine.client.delete(pool_key(accounts))
    accounts.database_failure = DatabaseUnavailable()
    with pytest.raises(DatabaseUnavailable):
        await accounts.at(ends_ms)
    packed = await accounts.pool.glance(GOOD)
    assert all(pool is not None and pool.cycle_start_ms == ends_ms for pool in packed.values())
    accounts.database_failure = None
    await accounts.at(ends_ms)
    assert (await accounts.pool.read(BAD)).cycle.start_ms == ends_ms


async def test_a_plan_s_name_that_cannot_be_decoded_keeps_no_cycle_of_others_from_turning(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R19: scripts only pass it on."""
    ends_ms = (await accounts.pool.read(BAD)).cycle.end_ms
    key = pool_key(accounts)
    whole: Any = engine.client.get(key)
    plan = a_plan(100).plan.encode()
    assert whole.count(plan + b"\0") == 1
    engine.client.set(key, whole.replace(plan + b"\0", b"\xff" * len(plan) + b"\0"))
    async with asyncio.timeout(10):
        await accounts.at(ends_ms)
    packed = await accounts.pool.glance(GOOD)
    assert all(pool is not None and pool.cycle_start_ms == ends_ms for pool in packed.values())
    assert accounts.pool.unreadable.lately().keys() == {BAD}


async def test_a_call_that_cannot_be_decoded_keeps_no_other_from_its_lease(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R12."""
    await accounts.ask_all([Start(account, *ANA, "c-1", TO, connection=7) for account in ALL])
    calls = accounts.keys.named(accounts.keys.shard_of(BAD), "calls")[0]
    engine.client.hset(calls, f"{BAD}/c-1", b"Lx")
    renewed = await accounts.pool.renew([Vouching(account, "c-1", 7, 0) for account in ALL])
    assert renewed == [Renewed.UNREADABLE if account == BAD else Renewed.RENEWED for account in ALL]


async def test_each_call_whose_lease_cannot_be_renewed_is_logged_once_a_minute(
    accounts: LiveAccounts, engine: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its id, for whoever is to delete it."""
    call_ids = ["c-1", "c-2"]
    await accounts.ask_all([Start(BAD, *ANA, call_id, TO, connection=7) for call_id in call_ids])
    calls = accounts.keys.named(accounts.keys.shard_of(BAD), "calls")[0]
    for call_id in call_ids:
        engine.client.hset(calls, f"{BAD}/{call_id}", b"Lx")
    now = monotonic()
    monkeypatch.setattr(seldom, "monotonic", lambda: now)
    monkeypatch.setattr(leases, "log", structlog.get_logger("test"))
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await accounts.pool.renew([Vouching(BAD, call_id, 7, 0) for call_id in call_ids])
        assert [(line["event"], line["account"], line["call_id"]) for line in lines] == [
            ("lease.unreadable", BAD, call_id) for call_id in call_ids
        ]
        now += seldom.AGAIN_SECONDS
        await accounts.pool.renew([Vouching(BAD, "c-1", 7, 0)])
    assert [line["call_id"] for line in lines] == [*call_ids, "c-1"]


async def test_a_call_that_cannot_be_decoded_keeps_no_other_of_a_lost_connection_from_its_grace(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """R13: it is told once, so that the grace of the others ends."""
    await accounts.ask_all([Start(BAD, *ANA, call_id, TO, connection=7) for call_id in ("c-1", "c-2")])
    calls = accounts.keys.named(accounts.keys.shard_of(BAD), "calls")[0]
    engine.client.hset(calls, f"{BAD}/c-1", b"Lx")
    told: list[str] = []

    async def renew(vouchings: Sequence[Vouching]) -> list[Renewed]:
        told.extend(each.call_id for each in vouchings)
        return await accounts.pool.renew(vouchings)

    def known(*_: str) -> None:
        """Nothing is known of any call."""

    keeper = Keeper(DeviceConnections(), renew, accounts.pool.submit, known, lease_ms=15_000)
    keeper.lost(BAD, ["c-1", "c-2"], 7, 0)
    await keeper.tell_lost()
    await keeper.tell_lost()
    assert told == ["c-1", "c-2"]


@pytest.mark.parametrize("value", [b"", b"Lx", b"Ex", b"?" * 100])
async def test_a_call_whose_value_is_none_stops_only_its_account(
    accounts: LiveAccounts, engine: EngineServer, value: bytes
) -> None:
    await accounts.ask_all([start(account, "c-1") for account in ALL])
    await accounts.at(T0 + 60 * SECOND)
    calls = accounts.keys.named(accounts.keys.shard_of(BAD), "calls")[0]
    whole: Any = engine.client.hget(calls, f"{BAD}/c-1")
    engine.client.hset(calls, f"{BAD}/c-1", value)
    answers = await accounts.ask_all([End(account, "c-1", ANA) for account in ALL])
    for account, answer in zip(ALL, answers, strict=True):
        assert isinstance(answer, PoolUnreadable if account == BAD else Settled)
    assert [call.call_id for call in (await accounts.pool.read(BAD)).calls] == []
    engine.client.hset(calls, f"{BAD}/c-1", whole)
    await accounts.ask_all([End(BAD, "c-1", ANA)])
    for account in ALL:
        view = await accounts.pool.read(account)
        assert (view.settled_seconds, view.calls_in_progress) == (60, 0)


async def test_an_ended_call_that_cannot_be_decoded_stops_nobody_else(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    await accounts.ask_all([start(account, "c-1") for account in ALL])
    await accounts.ask_all([End(account, "c-1", ANA) for account in ALL])
    calls = accounts.keys.named(accounts.keys.shard_of(BAD), "calls")[0]
    value: Any = engine.client.hget(calls, f"{BAD}/c-1")
    engine.client.hset(calls, f"{BAD}/c-1", value[:6] + struct.pack("<d", nan) + value[14:])  # ended never
    answers = await accounts.ask_all([End(account, "c-1") for account in ALL])
    for account, answer in zip(ALL, answers, strict=True):
        assert isinstance(answer, EngineUnavailable if account == BAD else Settled)
    assert isinstance(await accounts.pool.ask(start(BAD, "c-2")), Admitted)


async def test_a_key_of_another_type_stops_only_its_account(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """Others' calls are settled and counted once, though the script came upon it in their midst."""
    await accounts.ask_all([start(account, "c-1") for account in ALL])
    await accounts.at(T0 + 60 * SECOND)
    order = accounts.keys.of_account(BAD, accounts.keys.shard_of(BAD))[1]
    engine.client.rename(order, "kept {" + order.split("{", 1)[1])
    engine.client.set(order, "x")
    answers = await accounts.ask_all([End(account, "c-1", ANA) for account in ALL])
    for account, answer in zip(ALL, answers, strict=True):
        assert isinstance(answer, PoolUnreadable if account == BAD else Settled)
    for account, view in (await accounts.pool.read_many(GOOD)).items():
        assert (account, view.settled_seconds, view.calls_in_progress) == (account, 60, 0)
    await accounts.at((await accounts.pool.read(GOOD[0])).cycle.end_ms)
    assert all(view.settled_seconds == 0 for view in (await accounts.pool.read_many(GOOD)).values())


async def test_a_call_that_cannot_be_decoded_keeps_no_other_from_being_reaped(engine: EngineServer) -> None:
    """R14: their leases were given in one batch, and lapse together."""
    async with live_accounts(engine.url, Policy(), shards=1, lease_ms=600, grace_ms=100) as accounts:
        await accounts.at(T0)
        for account in ALL:
            await accounts.make(account, billing_date=date(2026, 11, 15), plan=a_plan(100))
        await accounts.ask_all([start(account, "c-1") for account in ALL])
        calls = accounts.keys.named(accounts.keys.shard_of(BAD), "calls")[0]
        engine.client.hset(calls, f"{BAD}/c-1", b"Lx")

        async def all_others_are_settled() -> bool:
            views = await accounts.pool.read_many(GOOD)
            return not any(view.calls_in_progress for view in views.values())

        await wait_until(all_others_are_settled, 20)


async def test_an_ended_call_that_cannot_be_decoded_keeps_none_from_being_forgotten(
    engine: EngineServer,
) -> None:
    """R9."""
    async with live_accounts(engine.url, Policy(), shards=1, call_id_memory_hours=1) as accounts:
        await accounts.at(T0)
        for account in ALL:
            await accounts.make(account, billing_date=date(2026, 11, 15), plan=a_plan(100))
        await accounts.ask_all([start(account, "c-1") for account in ALL])
        await accounts.ask_all([End(account, "c-1", ANA) for account in ALL])
        calls = accounts.keys.named(accounts.keys.shard_of(BAD), "calls")[0]
        engine.client.hset(calls, f"{BAD}/c-1", b"Ex")
        await accounts.at(T0 + 2 * 3600 * SECOND)
        await accounts.forget_old_calls()
        assert engine.client.hlen(calls) == 1
