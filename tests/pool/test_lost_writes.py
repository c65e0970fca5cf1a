"""R26, R28: an engine that has lost what it answered, and what is told again until nothing is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from shutil import copytree, rmtree

import pytest

from gateway.domain.answers import Admitted, Noted, Resumed, Settled
from gateway.domain.asks import Answered, End, Resume, Retell, Start
from gateway.domain.calls import UNHEARD_MS, CallInProgress, CallRecord
from gateway.domain.errors import CallIdUsed, CallUnknown
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from tests.support.engines import KINDS, EngineServer
from tests.support.pool_model import ANA, BOB, MINUTE, SECOND, T0, TO, a_plan
from tests.support.pools import LiveAccounts, live_accounts
from tests.support.proxy import FaultyProxy
from tests.support.waiting import wait_until

BILLING_DATE = date(2026, 11, 15)
AOF = "appendonlydir"
FROM_ANSWER = Policy(count_from="answer")


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, start_engine: Callable[..., EngineServer]) -> EngineServer:
    """An engine of the test's own, which keeps what it has said."""
    return start_engine(request.param, persistent=True)


@pytest.fixture
async def accounts(server: EngineServer) -> AsyncIterator[LiveAccounts]:
    async with live_accounts(server.url, Policy(), shards=4, lease_ms=1500) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100))
        yield accounts


@pytest.fixture
def new_epochs(accounts: LiveAccounts) -> list[Mapping[int, bool]]:
    """What the pool says of shards that have lost something, from now on."""
    heard: list[Mapping[int, bool]] = []
    accounts.pool.on_new_epoch(heard.append)
    return heard


async def start(accounts: LiveAccounts, call_id: str) -> Admitted:
    answer = await accounts.pool.ask(Start("acme", *ANA, call_id, TO, connection=7))
    assert isinstance(answer, Admitted)
    return answer


async def end(accounts: LiveAccounts, call_id: str) -> Settled:
    answer = await accounts.pool.ask(End("acme", call_id, ANA, connection=7))
    assert isinstance(answer, Settled)
    return answer


async def record_of(accounts: LiveAccounts, call_id: str) -> CallRecord:
    found = [
        item for item in await accounts.recorded() if isinstance(item, CallRecord) and item.call_id == call_id
    ]
    return found[-1]


def receipt(admitted: Admitted, staff: str = "ana", device: str = "desk") -> CallInProgress:
    """What a receipt says of a call."""
    return CallInProgress(
        account="acme",
        call_id=admitted.call_id,
        staff=staff,
        device=device,
        channel=None,
        to=TO,
        admitted_at_ms=admitted.admitted_at_ms,
        answered_at_ms=None,
        cycle_start_ms=admitted.cycle_start_ms,
        emergency=False,
        counts=True,
    )


def go_back_to(copy: Path, server: EngineServer) -> None:
    """Have an older copy of an engine's data take the place of what it has."""
    server.kill()
    rmtree(server.directory / AOF)
    copytree(copy, server.directory / AOF)
    server.start()


async def heard_of(new_epochs: list[Mapping[int, bool]], accounts: LiveAccounts) -> None:
    async def is_heard() -> bool:
        shard = accounts.pool.shard_of("acme")
        return any(shard in each for each in new_epochs)

    await wait_until(is_heard, 10)


async def test_an_emptied_engine_is_told_again_and_nothing_counts_twice(
    accounts: LiveAccounts, server: EngineServer, new_epochs: list[Mapping[int, bool]]
) -> None:
    saved, unsaved, going = (
        await start(accounts, "saved"),
        await start(accounts, "unsaved"),
        await start(accounts, "going"),
    )
    await accounts.at(T0 + 100 * SECOND)
    await end(accounts, "saved")
    await accounts.keep_records()
    await end(accounts, "unsaved")
    lost = await record_of(accounts, "unsaved")
    server.flush()
    await heard_of(new_epochs, accounts)

    async def all_is_told_again() -> bool:
        """By the gateway that was answered, with nobody asking."""
        view = await accounts.pool.read("acme")
        return (view.settled_seconds, view.calls_in_progress) == (200, 1)

    await wait_until(all_is_told_again, 10)
    assert (await accounts.pool.clock()).now_ms >= T0 + 100 * SECOND
    known = await record_of(accounts, "saved")
    for _ in range(2):
        assert await accounts.pool.ask(Retell(lost, saved=False)) == Noted("unsaved")
        assert await accounts.pool.ask(Retell(known, saved=True)) == Noted("saved")
        answer = await accounts.pool.ask(Resume("acme", "going", ANA, 7, receipt(going)))
        assert isinstance(answer, Resumed)
        view = await accounts.pool.read("acme")
        assert (view.settled_seconds, view.used_seconds, view.calls_in_progress) == (200, 300, 1)
    assert [each.call_id for each in await accounts.recorded() if isinstance(each, CallRecord)] == [
        "saved",
        "unsaved",
    ]
    # What was told again is known as if it had never been lost.
    assert (await end(accounts, "saved")).replayed
    assert (await end(accounts, "unsaved")).replayed
    assert (await end(accounts, "going")).billed_seconds == 100
    assert (await accounts.pool.read("acme")).settled_seconds == 300
    assert saved.admitted_at_ms == unsaved.admitted_at_ms == T0


async def test_an_end_whose_answer_was_lost_on_its_way_is_told_again(
    server: EngineServer, start_proxy: Callable[..., FaultyProxy]
) -> None:
    """Its gateway asked once more, and was answered that the call had ended before."""
    proxy = start_proxy(path=server.socket)
    async with live_accounts(
        f"redis://127.0.0.1:{proxy.port}", Policy(), shards=1, lease_ms=1500
    ) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(1000))
        calls = 0
        while True:
            calls += 1
            await start(accounts, f"c-{calls}")
            await accounts.at(T0 + calls * 100 * SECOND)
            proxy.reset_in_reply(after_bytes=3)  # of whatever is asked next: it may be something else
            if (await end(accounts, f"c-{calls}")).replayed:
                break
        server.flush()

        async def all_is_told_again() -> bool:
            return (await accounts.pool.read("acme")).settled_seconds == calls * 100

        await wait_until(all_is_told_again, 20)


async def test_an_engine_that_restarts_with_all_it_had_goes_on_as_it_was(
    accounts: LiveAccounts, server: EngineServer, new_epochs: list[Mapping[int, bool]]
) -> None:
    await start(accounts, "c-1")
    loads = len(accounts.loads)
    server.kill()
    server.start()
    await wait_until(accounts.pool.ping, 10)
    assert (await accounts.pool.read("acme")).calls_in_progress == 1
    await accounts.at(T0 + MINUTE)
    assert (await end(accounts, "c-1")).billed_seconds == 60
    assert new_epochs == []
    assert len(accounts.loads) == loads, "no pool had to be made anew"


async def test_an_engine_with_an_older_copy_of_its_data_is_found_out_and_set_right(
    accounts: LiveAccounts, server: EngineServer, new_epochs: list[Mapping[int, bool]], tmp_path: Path
) -> None:
    """A ghost: the copy has a call in progress that SQL knows to have ended."""
    await start(accounts, "ghost")
    copytree(server.directory / AOF, tmp_path / AOF)
    await accounts.at(T0 + 100 * SECOND)
    await end(accounts, "ghost")
    going = await start(accounts, "going")
    await accounts.keep_records()
    go_back_to(tmp_path / AOF, server)
    await wait_until(accounts.pool.ping, 10)
    await heard_of(new_epochs, accounts)
    await accounts.at(T0 + 100 * SECOND)
    await accounts.pool.ask(Resume("acme", "going", ANA, 7, receipt(going)))
    view = await accounts.pool.read("acme")
    assert [call.call_id for call in view.calls] == ["going"]
    assert (view.settled_seconds, view.used_seconds) == (100, 100)
    assert (await end(accounts, "ghost")).replayed


@pytest.mark.parametrize("policies", [(Policy(), FROM_ANSWER), (FROM_ANSWER, Policy())], ids=["to", "from"])
async def test_calls_in_an_older_copy_are_counted_by_the_policy_that_sql_has(
    accounts: LiveAccounts,
    server: EngineServer,
    new_epochs: list[Mapping[int, bool]],
    tmp_path: Path,
    policies: tuple[Policy, Policy],
) -> None:
    """R3, R4: and bill what the pool had them use, whichever policy they began under."""
    before, after = policies
    accounts.saved_policy = before
    await accounts.pool.set_policy(before)
    await start(accounts, "answered")
    await start(accounts, "unanswered")
    await accounts.at(T0 + 20 * SECOND)
    await accounts.pool.ask(Answered("acme", "answered"))
    copytree(server.directory / AOF, tmp_path / AOF)
    accounts.saved_policy = after
    await accounts.pool.set_policy(after)
    go_back_to(tmp_path / AOF, server)
    await wait_until(accounts.pool.ping, 10)
    await heard_of(new_epochs, accounts)
    await accounts.at(T0 + 100 * SECOND)
    used = 80 if after == FROM_ANSWER else 200
    assert (await accounts.pool.read("acme")).used_seconds == used
    await end(accounts, "answered")
    await end(accounts, "unanswered")
    await accounts.at(T0 + 1000 * SECOND)
    view = await accounts.pool.read("acme")
    assert (view.used_seconds, view.settled_seconds) == (used, used)


@pytest.mark.parametrize("noticed", [True, False], ids=["told", "ended at once"])
async def test_an_answer_that_an_older_copy_lacks_is_told_again_before_its_call_ends(
    accounts: LiveAccounts,
    server: EngineServer,
    new_epochs: list[Mapping[int, bool]],
    tmp_path: Path,
    noticed: bool,
) -> None:
    """R3: its client was told that it is noted, and will not say it again."""
    accounts.saved_policy = FROM_ANSWER
    await accounts.pool.set_policy(FROM_ANSWER)
    await start(accounts, "c-1")
    await accounts.at(T0 + 20 * SECOND)
    copytree(server.directory / AOF, tmp_path / AOF)
    await accounts.pool.ask(Answered("acme", "c-1"))
    go_back_to(tmp_path / AOF, server)
    await wait_until(accounts.pool.ping, 10)
    if noticed:
        await heard_of(new_epochs, accounts)
        await accounts.at(T0 + 80 * SECOND)

        async def is_told() -> bool:
            return (await accounts.pool.read("acme")).used_seconds == 60

        await wait_until(is_told, 10)
    await accounts.at(T0 + 100 * SECOND)
    assert (await end(accounts, "c-1")).billed_seconds == 80
    assert (await record_of(accounts, "c-1")).answered_at_ms == T0 + 20 * SECOND


async def test_an_answer_is_told_again_by_the_gateway_that_noted_it_whoever_admitted_the_call(
    accounts: LiveAccounts, server: EngineServer, tmp_path: Path
) -> None:
    """Behind a balancer a server-side client says each thing to another gateway."""
    accounts.saved_policy = FROM_ANSWER
    await accounts.pool.set_policy(FROM_ANSWER)
    async with live_accounts(server.url, FROM_ANSWER, shards=4, lease_ms=1500) as others:
        others.configs, others.saved_policy = accounts.configs, FROM_ANSWER
        await start(accounts, "c-1")
        await accounts.at(T0 + 20 * SECOND)
        copytree(server.directory / AOF, tmp_path / AOF)
        await others.pool.clock()
        await others.pool.ask(Answered("acme", "c-1"))
        go_back_to(tmp_path / AOF, server)
        await wait_until(accounts.pool.ping, 10)
        await accounts.at(T0 + 80 * SECOND)

        async def is_told() -> bool:
            return (await accounts.pool.read("acme")).used_seconds == 60

        await wait_until(is_told, 10)


async def test_a_call_that_was_lost_is_made_again_after_its_end_was_not_known(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    admitted = await start(accounts, "c-1")
    server.flush()
    with pytest.raises(CallUnknown):
        await end(accounts, "c-1")
    await accounts.pool.ask(Resume("acme", "c-1", ANA, 7, receipt(admitted)))
    assert not (await end(accounts, "c-1")).replayed


async def test_a_receipt_is_no_good_for_another_device(accounts: LiveAccounts, server: EngineServer) -> None:
    admitted = await start(accounts, "c-1")
    server.flush()
    with pytest.raises(CallUnknown):
        await accounts.pool.ask(Resume("acme", "c-1", BOB, 9, receipt(admitted)))


async def test_a_call_that_was_let_through_without_the_engine_joins_its_pool_unchecked(
    accounts: LiveAccounts,
) -> None:
    """It counts from its admission, and nobody vouches for it yet."""
    await accounts.at(T0 + 10 * MINUTE)
    told = receipt(Admitted("c-1", T0 + MINUTE, None, replayed=False, emergency=False, cycle_start_ms=T0))
    answer = await accounts.pool.ask(Resume("acme", "c-1", None, 0, told, vouched=False))
    assert isinstance(answer, Resumed)
    assert (await accounts.pool.read("acme")).used_seconds == 9 * 60
    ended = await accounts.pool.ask(End("acme", "c-1", ANA, ended_ago_ms=4 * MINUTE))
    assert isinstance(ended, Settled)
    assert (ended.billed_seconds, ended.ended_at_ms) == (5 * 60, T0 + 6 * MINUTE)


async def test_a_call_that_was_carried_out_after_all_and_ended_is_not_let_through_a_second_time(
    accounts: LiveAccounts,
) -> None:
    """R17: the engine's answer was lost; the gateway let the call through without it, a little later."""
    admitted = await start(accounts, "c-1")
    await accounts.at(T0 + 100 * SECOND)
    ended = await end(accounts, "c-1")
    told = replace(receipt(admitted), admitted_at_ms=T0 + 2 * SECOND, admitted_offline=True)
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(Resume("acme", "c-1", None, 0, told, vouched=False))
    assert (await accounts.pool.ask(End("acme", "c-1", None, 0))) == replace(ended, replayed=True)
    assert (await accounts.pool.read("acme")).used_seconds == 100


async def test_a_call_that_began_and_ended_before_its_gateway_let_it_through_has_one_record(
    accounts: LiveAccounts,
) -> None:
    """R26: the engine carried out its start and its end at once, and answered too late."""
    admitted = await start(accounts, "c-1")
    ended = await end(accounts, "c-1")
    await accounts.at(T0 + 2 * SECOND)
    told = replace(receipt(admitted), admitted_at_ms=T0 + 1800, admitted_offline=True)
    with pytest.raises(CallIdUsed):
        await accounts.pool.ask(Resume("acme", "c-1", None, 0, told, vouched=False))
    assert (await end(accounts, "c-1")) == replace(ended, replayed=True)
    view = await accounts.pool.read("acme")
    assert (view.calls_in_progress, view.used_seconds, view.held_seconds) == (0, 0, 0)
    await accounts.at(T0 + MINUTE)
    another = replace(told, admitted_at_ms=T0 + UNHEARD_MS)
    answer = await accounts.pool.ask(Resume("acme", "c-1", None, 0, another, vouched=False))
    assert isinstance(answer, Resumed)
    assert answer.call == another


async def test_an_emergency_that_began_and_ended_before_it_was_let_through_has_one_record(
    accounts: LiveAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R26, R30."""
    monkeypatch.setattr("gateway.pool.operations.EMERGENCY_DEADLINE_SECONDS", 10.0)  # a busy machine
    emergency = Start("acme", *ANA, "e-1", "112", None, True, True, "f-1")
    await accounts.pool.ask(emergency)
    await end(accounts, "e-1")
    await accounts.at(T0 + MINUTE)
    for let_through_ms, call_id in ((T0 + 300, "e-1"), (T0 + UNHEARD_MS, "f-1")):
        answer = await accounts.pool.ask(replace(emergency, admitted_at_ms=let_through_ms))
        assert isinstance(answer, Admitted)
        assert (answer.call_id, answer.replayed) == (call_id, call_id == "e-1")


async def test_a_call_whose_id_was_given_again_after_a_loss_has_its_record_all_the_same(
    accounts: LiveAccounts, server: EngineServer
) -> None:
    """R9, R26: the start that meets the loss is there before what was lost is told again."""
    await start(accounts, "c-1")
    await accounts.at(T0 + 100 * SECOND)
    await end(accounts, "c-1")
    lost = await record_of(accounts, "c-1")
    accounts.may_find.clear()
    server.flush()
    again = await start(accounts, "c-1")
    assert not again.replayed
    accounts.may_find.set()

    async def is_told_again() -> bool:
        return (await accounts.pool.read("acme")).settled_seconds == 100

    await wait_until(is_told_again, 10)
    await accounts.at(T0 + 145 * SECOND)
    for _ in range(2):
        # Another gateway was answered that, too.
        assert await accounts.pool.ask(Retell(lost, saved=False)) == Noted("c-1")
        view = await accounts.pool.read("acme")
        assert (view.settled_seconds, view.used_seconds, view.calls_in_progress) == (100, 145, 1)
    assert (await end(accounts, "c-1")).admitted_at_ms == again.admitted_at_ms
    for told in (lost, await record_of(accounts, "c-1")):
        await accounts.pool.ask(Retell(told, saved=False))
    assert (await accounts.pool.read("acme")).used_seconds == 145
    records = [each for each in await accounts.recorded() if isinstance(each, CallRecord)]
    assert (records[0], len(records)) == (lost, 2)


async def test_in_whatever_order_the_calls_of_an_id_are_told_again_each_counts_once(
    accounts: LiveAccounts,
) -> None:
    """R26: also where the later one takes the earlier one's place, by its settlement or its receipt."""
    for call_id in ("settled", "resumed"):
        admitted = await start(accounts, call_id)
        await accounts.at(admitted.admitted_at_ms + 100 * SECOND)
        await end(accounts, call_id)
        first = await record_of(accounts, call_id)
        at_ms = first.settled_at_ms
        second = replace(
            first, admitted_at_ms=at_ms, ended_at_ms=at_ms + MINUTE, settled_at_ms=at_ms + MINUTE
        )
        second = replace(second, duration_ms=MINUTE, billed_seconds=60)
        await accounts.at(at_ms + MINUTE)
        if call_id == "resumed":
            told = receipt(replace(admitted, admitted_at_ms=at_ms))
            await accounts.pool.ask(Resume("acme", call_id, ANA, 7, told))
        for record in (first, second, first, second):
            await accounts.pool.ask(Retell(record, saved=False))
    assert (await accounts.pool.read("acme")).used_seconds == 2 * 160
    assert len([each for each in await accounts.recorded() if isinstance(each, CallRecord)]) == 4


async def test_a_call_that_is_made_again_ended_when_its_device_says(server: EngineServer) -> None:
    """R16: when it was last known alive is lost with it."""
    async with live_accounts(server.url, Policy(), simulate=False, shards=1) as accounts:
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100))
        now_ms = (await accounts.pool.clock()).now_ms
        told = Admitted("c-1", now_ms - MINUTE, None, replayed=False, emergency=False, cycle_start_ms=T0)
        await accounts.pool.ask(Resume("acme", "c-1", ANA, 9, receipt(told)))
        ended = await accounts.pool.ask(End("acme", "c-1", ANA, ended_ago_ms=20 * SECOND, connection=9))
        assert isinstance(ended, Settled)
        assert 40 * SECOND <= ended.duration_ms < 50 * SECOND


async def test_a_call_whose_device_is_gone_is_billed_up_to_when_it_was_last_known_alive(
    server: EngineServer,
) -> None:
    """R12, R26: also if the engine was emptied since, and the device never comes back."""
    async with live_accounts(server.url, Policy(), shards=1, lease_ms=3000, grace_ms=1000) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=BILLING_DATE, plan=a_plan(100))
        await start(accounts, "c-1")
        await accounts.at(T0 + 100 * SECOND)
        assert await accounts.renew("acme", "c-1", connection=7) is Renewed.RENEWED
        await accounts.at(T0 + 200 * SECOND)
        server.flush()

        async def is_settled() -> bool:
            return (
                not (await accounts.pool.read("acme")).calls_in_progress
                and len([item for item in await accounts.recorded() if isinstance(item, CallRecord)]) > 0
            )

        await wait_until(is_settled, 30)
        assert (await record_of(accounts, "c-1")).billed_seconds == 100
