"""R26: what a gateway tells again after an engine has lost it, beside what SQL knows of the same calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway import metrics
from gateway.domain.answers import Admitted, Resumed
from gateway.domain.asks import Ask, Resume, Retell, Start
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool import kept_answers
from gateway.pool.kept_answers import KeptAnswers
from gateway.pool.packed import pack_record
from gateway.pool.unreadable import PoolUnreadable
from tests.support.pool_model import ANA, HOUR, SECOND, T0, TO, a_pool, admit, resume, settled_in_absence

GONE_MS = T0 + 100 * SECOND
TOLD_MS = T0 + HOUR


def came_back() -> tuple[CallRecord, CallInProgress]:
    """A call's record as it was settled in its absence, and the call as it goes on since."""
    pool = a_pool()
    admit(pool, "c", T0)
    settled_in_absence(pool, "c", GONE_MS)
    (record,) = pool.records
    return record, resume(pool, "c", GONE_MS + SECOND).call


async def bring_up(_: str) -> int:
    """It is there."""
    return 0


async def nothing(_: Ask) -> None:
    """It is told."""


async def told_again(kept: KeptAnswers) -> list[Ask]:
    """What is told after all was lost."""
    kept.lost([0])
    return await tell(kept)


async def tell(kept: KeptAnswers) -> list[Ask]:
    """What is told of what was lost."""
    told: list[Ask] = []

    async def ask(ask: Ask) -> None:
        told.append(ask)

    await kept.tell(bring_up, ask, Policy())
    assert not kept.has_to_tell
    return told


def kept_beside(known: Sequence[CallRecord | CallInProgress]) -> KeptAnswers:
    async def find_known(_: str, calls: Sequence[tuple[str, int]]) -> Sequence[CallRecord | CallInProgress]:
        return [each for each in known if (each.call_id, each.admitted_at_ms) in calls]

    return KeptAnswers(lambda _: 0, lambda: TOLD_MS, find_known)


async def test_an_admission_is_told_with_the_revision_of_a_record_that_was_taken_back_elsewhere() -> None:
    """Else its next record would be of the same revision, and SQL would keep the older one for ever (R15)."""
    _, call = came_back()
    kept = kept_beside([call])
    kept.admitted(Start("acme", *ANA, "c", TO), Admitted("c", T0, 600, replayed=False, emergency=False))
    (told,) = await told_again(kept)
    assert isinstance(told, Resume)
    assert isinstance(told.found, CallInProgress)
    assert (told.found.revision, told.vouched) == (1, False)


async def test_a_settlement_that_was_taken_back_elsewhere_is_not_told_again() -> None:
    record, call = came_back()
    kept = kept_beside([call])
    kept.settled("acme", "c", pack_record(record))
    assert await told_again(kept) == []


async def test_a_settlement_is_told_again_saved_or_not() -> None:
    record, _ = came_back()
    for known, expected in (
        ([], Retell(record, False)),
        ([record], Retell(record, True, record.billed_seconds)),
    ):
        kept = kept_beside(known)
        kept.settled("acme", "c", pack_record(record))
        assert await told_again(kept) == [expected]


async def test_a_settlement_that_cannot_be_read_is_let_go_of_and_keeps_no_other_from_being_told() -> None:
    """The engine settled what was left of a damaged call."""
    record, _ = came_back()
    other = replace(record, call_id="d")
    kept = kept_beside([])
    for each, packed in ((record, pack_record(record)[:95]), (other, pack_record(other))):
        kept.settled("acme", each.call_id, packed)
    assert await told_again(kept) == [Retell(other, False)]
    assert len(kept) == 1


async def test_a_first_end_is_told_again_though_its_words_came_again_after_it_was_lost() -> None:
    """R17."""
    record, _ = came_back()
    first = replace(record, ended_by="hangup")
    repeated = replace(
        first, ended_at_ms=first.ended_at_ms + SECOND, settled_at_ms=first.settled_at_ms + SECOND
    )
    kept = kept_beside([])
    for each in (first, repeated):
        kept.settled("acme", "c", pack_record(each))
    assert await told_again(kept) == [Retell(first, False)]
    kept.settled("acme", "c", pack_record(again := replace(repeated, revision=2)))
    assert await told_again(kept) == [Retell(again, False)]


async def test_a_settlement_that_was_there_already_is_told_again() -> None:
    record, _ = came_back()
    kept = kept_beside([])
    kept.admitted(Start("acme", *ANA, "c", TO), Admitted("c", T0, 600, replayed=False, emergency=False))
    kept.settled_before("acme", "c", pack_record(record))
    assert await told_again(kept) == [Retell(record, False)]


async def test_a_settlement_of_an_earlier_call_of_that_id_takes_the_place_of_none() -> None:
    """R9: it is all that an engine knows which has lost the later one."""
    earlier, _ = came_back()
    later_ms = earlier.settled_at_ms + SECOND
    kept = kept_beside([])
    ask = Start("acme", *ANA, "c", TO)
    kept.admitted(ask, Admitted("c", later_ms, 600, replayed=False, emergency=False))
    kept.settled_before("acme", "c", pack_record(earlier))
    (told,) = await told_again(kept)
    assert isinstance(told, Resume)
    later = replace(earlier, admitted_at_ms=later_ms, settled_at_ms=later_ms + SECOND)
    kept.settled("acme", "c", pack_record(later))
    kept.settled_before("acme", "c", pack_record(earlier))
    assert Retell(later, False) in await told_again(kept)


async def test_settlements_of_two_calls_of_one_id_are_both_told_again() -> None:
    """R9: the engine has lost the first, and admitted its id again."""
    record, _ = came_back()
    kept = kept_beside([])
    later = replace(record, admitted_at_ms=record.settled_at_ms, settled_at_ms=TOLD_MS)
    for each in (record, later):
        kept.settled("acme", "c", pack_record(each))
    assert len(kept) == 2
    told = await told_again(kept)
    assert len(told) == 2
    assert Retell(record, False) in told
    assert Retell(later, False) in told


async def test_a_call_is_told_again_beside_the_settlement_of_an_earlier_one_of_its_id() -> None:
    record, _ = came_back()
    kept = kept_beside([])
    kept.settled("acme", "c", pack_record(record))
    admitted = Admitted("c", record.settled_at_ms, 600, replayed=False, emergency=False)
    kept.admitted(Start("acme", *ANA, "c", TO), admitted)
    settlement, going = await told_again(kept)
    assert settlement == Retell(record, False)
    assert isinstance(going, Resume)
    assert going.found is not None
    assert going.found.admitted_at_ms == record.settled_at_ms


async def test_a_later_settlement_that_sql_has_is_told_in_its_place() -> None:
    record, _ = came_back()
    kept = kept_beside([later := replace(record, revision=2, billed_seconds=99)])
    kept.settled("acme", "c", pack_record(record))
    assert await told_again(kept) == [Retell(later, True, 99)]


async def test_what_was_told_again_is_kept_until_that_is_saved_too() -> None:
    """It lies in the stream behind what was settled since, however long ago it was settled itself."""
    record, _ = came_back()
    kept = kept_beside([])
    kept.settled("acme", "c", pack_record(record))
    await told_again(kept)
    await kept.release(TOLD_MS)
    assert len(kept) == 1
    await kept.release(TOLD_MS + HOUR)
    assert len(kept) == 0


async def test_a_client_says_more_than_its_absence() -> None:
    record, _ = came_back()
    kept = kept_beside([])
    for each in (record, said := replace(record, ended_by="hangup")):
        kept.settled("acme", "c", pack_record(each))
    assert await told_again(kept) == [Retell(said, False)]


async def test_settlements_of_shards_that_are_away_stay_when_others_are_let_go() -> None:
    """R26: of what those hold nobody knows whether it is saved."""
    record, _ = came_back()
    kept = KeptAnswers(lambda account: int(account[-1]), lambda: TOLD_MS, None)
    for account in ("a-1", "a-2", "a-3"):
        kept.settled(account, "c", pack_record(record))
    kept.settled("a-2", "later", pack_record(replace(record, settled_at_ms=TOLD_MS)))
    kept.settled("a-3", "late", pack_record(record))
    await kept.release(TOLD_MS, away={1})
    assert len(kept) == 3, "that of a-1, and whatever was settled behind what is not saved"
    await kept.release(TOLD_MS)
    assert len(kept) == 2


async def test_what_is_lost_again_while_it_is_told_stays_to_be_told() -> None:
    """R26: what was just told of it, the engine may have lost as well."""
    record, _ = came_back()
    for number in range(2):
        kept = kept_beside([])
        if number == 0:
            kept.settled("acme", "c", pack_record(record))
        else:
            kept.admitted(*an_admission(0))
        kept.lost([0])

        async def lost_again(_: Ask, kept: KeptAnswers = kept) -> None:
            kept.lost([0])

        await kept.tell(bring_up, lost_again, Policy())
        assert kept.has_to_tell
        assert len(await tell(kept)) == 1


async def test_what_is_to_be_told_is_told_together_and_by_account() -> None:
    """One after another it took longer than a lease and grace, of many calls, and then began anew."""
    record, _ = came_back()
    kept = kept_beside([])
    for account in ("acme", "bell"):
        for call_id in ("c-1", "c-2"):
            kept.settled(account, call_id, pack_record(replace(record, call_id=call_id)))
    asked: list[Ask] = []
    are_all_asked = asyncio.Event()

    async def ask(ask: Ask) -> None:
        asked.append(ask)
        if len(asked) == 4:
            are_all_asked.set()
        await are_all_asked.wait()

    kept.lost([0])
    async with asyncio.timeout(10):
        await kept.tell(bring_up, ask, Policy())
    assert not kept.has_to_tell


async def test_what_is_told_of_one_call_is_told_together_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one that came back its settlement is told, and no call that would be taken for one that goes on."""
    monkeypatch.setattr(kept_answers, "TOLD_AT_ONCE", 1)
    record, call = came_back()
    kept = kept_beside([])
    other = replace(record, call_id="d")
    for each in (record, other):
        kept.settled("acme", each.call_id, pack_record(each))
    kept.resumed(Resume("acme", "c", ANA, 1), Resumed(call, late=True))
    assert await told_again(kept) == [Retell(record, False), Retell(other, False)]


async def test_what_could_not_be_told_alone_is_told_again() -> None:
    record, _ = came_back()
    kept = kept_beside([])
    for call_id in ("c-1", "c-2", "c-3"):
        kept.settled("acme", call_id, pack_record(replace(record, call_id=call_id)))

    async def fail_once(ask: Ask) -> None:
        assert isinstance(ask, Retell)
        if ask.record.call_id == "c-2":
            raise EngineUnavailable

    kept.lost([0])
    await kept.tell(bring_up, fail_once, Policy())
    assert await call_ids(tell(kept)) == ["c-2"]


def kept_of(*accounts: str) -> KeptAnswers:
    """Two settlements of each, which were lost."""
    record, _ = came_back()
    kept = kept_beside([])
    for account in accounts:
        for call_id in ("c-1", "c-2"):
            kept.settled(account, call_id, pack_record(replace(record, account=account, call_id=call_id)))
    kept.lost([0])
    return kept


@contextmanager
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MutableMapping[str, Any]]]:
    monkeypatch.setattr(kept_answers, "log", structlog.get_logger("test"))
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.mark.parametrize(
    "failure", [EngineUnavailable(), DatabaseUnavailable(), RedisConnectionError("away")]
)
async def test_while_engine_or_database_is_away_a_round_ends_early_and_is_logged_in_one_line(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(kept_answers, "ACCOUNTS_TOLD_AT_ONCE", 2)
    named = [f"account-{number}" for number in range(7)]
    kept, tried = kept_of(*named), list[str]()

    async def fails(account: str) -> int:
        tried.append(account)
        raise failure

    with logged(monkeypatch) as lines:
        await kept.tell(fails, nothing, Policy())
    assert tried == named[:2]
    code = failure.code if isinstance(failure, DatabaseUnavailable) else "engine_unavailable"
    expected = {"accounts": 7, "answers": 14, "account": named[0], "code": code}
    assert lines == [{"event": "answers.not_told_yet", "log_level": "warning", **expected}]
    for _ in range(3):
        await kept.tell(fails, nothing, Policy())
    # Each in its turn, though all fail: it may have been a shard of the first alone.
    assert tried == [*named, named[0]]
    assert len(await tell(kept)) == 14


async def test_accounts_behind_those_that_cannot_be_told_of_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_answers, "ACCOUNTS_TOLD_AT_ONCE", 2)
    away, damaged, others = ["a-1", "a-2"], ["d-1", "d-2"], ["e-1", "e-2"]
    kept, told = kept_of(*away, *damaged, *others), list[str]()

    async def fails_of_some(account: str) -> int:
        if account in away:
            raise EngineUnavailable
        if account in damaged:
            raise PoolUnreadable
        told.append(account)
        return 0

    await kept.tell(fails_of_some, nothing, Policy())
    assert told == []
    with logged(monkeypatch) as lines:
        await kept.tell(fails_of_some, nothing, Policy())
    assert told == others, "what is damaged is no reason to end a round"
    left = [(each["accounts"], each["answers"]) for each in lines if each["event"] == "answers.not_told_yet"]
    assert left == [(4, 8)]


async def test_what_sql_has_is_let_go_of_when_it_was_told() -> None:
    """Else all of it would be told again after each loss, and more each time."""
    record, _ = came_back()
    another = replace(record, call_id="d")
    kept = kept_beside([record])
    for each in (record, another):
        kept.settled("acme", each.call_id, pack_record(each))
    await told_again(kept)
    assert len(kept) == 1
    assert await told_again(kept) == [Retell(another, False)]


# How many are kept


def a_settlement(number: int) -> tuple[str, str, bytes]:
    record, _ = came_back()
    call_id = f"c-{number}"
    return "acme", call_id, pack_record(replace(record, call_id=call_id, settled_at_ms=GONE_MS + number))


def an_admission(number: int) -> tuple[Start, Admitted]:
    call_id = f"c-{number}"
    return Start("acme", *ANA, call_id, TO), Admitted(call_id, T0, 600, replayed=False, emergency=False)


async def call_ids(told: Awaitable[list[Ask]]) -> list[str]:
    """Of which calls something was told."""
    return sorted(each.record.call_id if isinstance(each, Retell) else each.call_id for each in await told)


def dropped(kind: str) -> float:
    return float(metrics.ANSWERS_DROPPED.labels(kind=kind)._value.get())


async def test_how_many_are_kept_is_told_as_they_come_and_go() -> None:
    """While SQL is away nothing is let go of, and that is when it is of interest."""
    kept = kept_beside([])
    for number in range(3):
        kept.settled(*a_settlement(number))
        assert metrics.ANSWERS_KEPT._value.get() == number + 1
    await kept.release(GONE_MS)
    assert metrics.ANSWERS_KEPT._value.get() == len(kept) == 3
    await kept.release(GONE_MS + 2)
    assert metrics.ANSWERS_KEPT._value.get() == len(kept) == 1


async def test_of_too_many_settlements_the_oldest_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_answers, "MOST_SETTLED", 3)
    before = dropped("settlement"), dropped("call")
    kept = kept_beside([])
    for number in range(5):
        kept.settled(*a_settlement(number))
    assert len(kept) == metrics.ANSWERS_KEPT._value.get() == 3
    assert (dropped("settlement"), dropped("call")) == (before[0] + 2, before[1])
    assert await call_ids(told_again(kept)) == ["c-2", "c-3", "c-4"]


async def test_of_too_many_calls_in_progress_the_oldest_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_answers, "MOST_IN_PROGRESS", 2)
    before = dropped("settlement"), dropped("call")
    kept = kept_beside([])
    for number in range(3):
        kept.admitted(*an_admission(number))
    assert kept.call_in_progress("acme", "c-0") is None
    assert (dropped("settlement"), dropped("call")) == (before[0], before[1] + 1)
    assert await call_ids(told_again(kept)) == ["c-1", "c-2"]


async def test_what_is_dropped_before_it_was_told_again_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else nothing would ever be let go of any more."""
    monkeypatch.setattr(kept_answers, "MOST_IN_PROGRESS", 2)
    kept = kept_beside([])
    for number in range(2):
        kept.admitted(*an_admission(number))
    kept.lost([0])
    kept.admitted(*an_admission(2))
    assert await call_ids(tell(kept)) == ["c-1"]


async def test_a_call_that_came_back_is_told_again_though_its_settlement_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_answers, "MOST_SETTLED", 1)
    kept = kept_beside([])
    kept.settled(*a_settlement(0))
    kept.admitted(*an_admission(0))
    kept.lost([0])
    kept.settled(*a_settlement(1))
    assert await call_ids(tell(kept)) == ["c-0"]
