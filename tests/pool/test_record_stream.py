"""The records stream on a real engine: what is saved stays for its time, and is no backlog."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from datetime import date
from math import inf
from typing import Any

import pytest

from gateway.domain.asks import End, Start
from gateway.domain.calls import CallRecord
from gateway.domain.errors import EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool.record_stream import RecordStream, StreamEntry
from gateway.records.ingest import Progress
from tests.support.engines import KINDS, EngineServer
from tests.support.pool_model import ANA, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.waiting import wait_until

HOUR_MS = 3_600_000


@pytest.fixture
async def accounts(engine: EngineServer) -> AsyncIterator[LiveAccounts]:
    """Two accounts, in shards of their own, with what the making of their pools left in the stream."""
    async with live_accounts(engine.url, Policy()) as accounts:
        await accounts.at(T0)
        for account in ("acme", "other"):
            await accounts.make(account, billing_date=date(2026, 11, 15), plan=a_plan(1_000_000))
        yield accounts


async def call(accounts: LiveAccounts, account: str, call_id: str) -> None:
    await accounts.pool.ask(Start(account, *ANA, call_id, TO))
    await accounts.pool.ask(End(account, call_id))


async def everything(stream: RecordStream) -> list[StreamEntry]:
    return await stream.read({}, 1000)


def saved(entries: list[StreamEntry]) -> dict[int, Progress]:
    """How far SQL is that has saved these."""
    return {
        entry.shard: Progress(entry.entry_id, 0, entry.first_number + len(entry.items) - 1)
        for entry in entries
    }


async def test_the_backlog_counts_what_is_not_saved_however_much_is_kept(accounts: LiveAccounts) -> None:
    stream = accounts.pool.records
    opened = await everything(stream)
    assert await stream.backlog({}) == sum(len(entry.items) for entry in opened) == 2
    assert await stream.backlog(saved(opened)) == 0

    for number in range(3):
        await call(accounts, "acme", f"c-{number}")
    await call(accounts, "other", "c-1")

    assert await stream.backlog(saved(opened)) == 4
    assert await stream.backlog({}) == 6
    assert await stream.backlog(saved((await everything(stream))[:-1])) == 1
    assert await stream.backlog(saved(await everything(stream))) == 0


async def test_numbers_that_began_again_after_a_loss_are_no_reason_to_see_no_backlog(
    accounts: LiveAccounts,
) -> None:
    stream = accounts.pool.records
    far_ahead = {entry.shard: Progress("0-0", 0, 1_000) for entry in await everything(stream)}

    assert await stream.backlog(far_ahead) == 2


async def test_the_last_entry_up_to_a_position_is_found(accounts: LiveAccounts) -> None:
    stream = accounts.pool.records
    await call(accounts, "acme", "c-1")
    entries = await everything(stream)
    last = {entry.shard: entry for entry in entries}

    assert await stream.last_up_to({shard: each.entry_id for shard, each in last.items()}) == last
    assert await stream.last_up_to(dict.fromkeys(last, "99999999999999-0")) == last
    assert await stream.last_up_to(dict.fromkeys(last, "1-1")) == {}
    assert await stream.last_up_to({0: "0-0"}) == {}


async def test_a_shard_that_lacks_what_sql_has_gets_an_epoch_and_numbers_above_that(
    accounts: LiveAccounts,
) -> None:
    """R26: so that SQL takes what is told in it, and nothing of the one before."""
    stream, shard = accounts.pool.records, accounts.pool.shard_of("acme")
    before = (await stream.states()).there
    in_sql = Progress("1-1", before[shard].epoch + HOUR_MS, 1_000)
    await stream.renew({shard: in_sql})
    after = (await stream.states()).there
    assert after[shard].epoch > in_sql.epoch
    assert {s for s in before if before[s].epoch != after[s].epoch} == {shard}
    await stream.renew({shard: in_sql})
    assert (await stream.states()).there[shard].epoch == after[shard].epoch, "another gateway was first"
    await call(accounts, "acme", "c-1")
    last = [entry for entry in await everything(stream) if entry.shard == shard][-1]
    assert last.first_number > in_sql.record_number


async def test_only_what_is_saved_is_deleted(accounts: LiveAccounts) -> None:
    stream = accounts.pool.records
    await call(accounts, "acme", "c-1")
    states = (await stream.states()).there
    positions = {
        each.shard: (states[each.shard].run, states[each.shard].epoch, each.entry_id)
        for each in await everything(stream)
    }
    await call(accounts, "acme", "c-2")

    await stream.trim(positions)

    left = await everything(stream)
    assert [item.call_id for entry in left for item in entry.items if hasattr(item, "call_id")] == ["c-2"]


async def test_nothing_is_deleted_of_another_run_or_epoch_than_that_of_what_was_saved(
    accounts: LiveAccounts,
) -> None:
    """R26: it may hold what a deposed primary, of which the other was read, never knew."""
    stream, shard = accounts.pool.records, accounts.pool.shard_of("acme")
    await call(accounts, "acme", "c-1")
    before = await everything(stream)
    last = [each for each in before if each.shard == shard][-1].entry_id
    state = (await stream.states()).there[shard]

    await stream.trim({shard: (state.run + 1, state.epoch, last)})
    await stream.trim({shard: (state.run, state.epoch - 1, last)})
    assert await everything(stream) == before

    await stream.trim({shard: (state.run, state.epoch, last)})
    assert await everything(stream) == [each for each in before if each.shard != shard]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_entry_s_id_tells_which_run_of_an_engine_gave_it(
    kind: str, start_engine: Callable[..., EngineServer]
) -> None:
    """R26: so that two that go on from the same data, in one millisecond too, never give the same id."""
    server, runs, ids = start_engine(kind, persistent=True), [], []
    async with live_accounts(server.url, Policy(), shards=1, lease_ms=1500) as accounts:
        stream = accounts.pool.records

        async def is_there() -> bool:
            try:
                return bool((await stream.states()).there)
            except EngineUnavailable:
                return False

        await accounts.at(T0)
        await accounts.make("acme", billing_date=date(2026, 11, 15), plan=a_plan(1_000_000))
        for run in range(2):
            await call(accounts, "acme", f"c-{run}")
            runs.append((await stream.states()).there[0].run)
            ids.append((await everything(stream))[-1].entry_id)
            server.kill()
            server.start()
            await wait_until(is_there, 10)

    assert runs[0] != runs[1]
    assert [int(each.split("-")[1]) // 2**20 for each in ids] == [run % 2**32 for run in runs]


async def test_an_entry_that_cannot_be_decoded_is_handed_on_as_it_is_with_the_reason(
    accounts: LiveAccounts, engine: EngineServer
) -> None:
    """It becomes a dead letter, and those behind it are read."""
    stream = accounts.pool.records
    shard = accounts.keys.shard_of("acme")
    await call(accounts, "acme", "c-1")
    key = accounts.keys.named(shard, "records")[0]
    latest: Any = engine.client.xrevrange(key, count=1)
    fields = latest[0][1]
    endless = fields[b"d"].replace(struct.pack("<d", T0), struct.pack("<d", inf))
    assert endless != fields[b"d"]
    spoilt: list[dict[Any, Any]] = [
        {b"d": endless},
        {b"d": b"?"},
        {b"d": fields[b"d"][:-30]},
        {b"p": b"1/2"},
        {b"p": b"30/0/60/0"},
        {b"n": b"many"},
    ]
    for each in spoilt:
        engine.client.xadd(key, {**fields, **each})
    engine.client.xadd(key, {"nothing": "known"})
    await call(accounts, "acme", "c-2")
    *_, before, _, _, _, _, _, _, nothing, after = [
        entry for entry in await everything(stream) if entry.shard == shard
    ]
    assert (before.unread_because, after.unread_because) == (None, None)
    assert [item.call_id for item in after.items if isinstance(item, CallRecord)] == ["c-2"]
    assert nothing.items == [b"nothing=known"]
    unread = [entry for entry in await everything(stream) if entry.unread_because is not None]
    assert len(unread) == 7
    assert all(isinstance(entry.items[-1], bytes) and entry.unread_because for entry in unread)
