"""What this gateway was answered, kept until it is safe, and told again after an engine has lost it (R26).

An engine can lose what it has answered: in a failover, with an older copy of its data, emptied. A settlement
is kept until SQL has it; an admission, and that a call was answered, while the call goes on, as far as this
gateway knows. All are told again when a shard has a new epoch (`gateway.pool.shards`). Telling twice is
telling once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import structlog
from redis.exceptions import RedisError

from gateway import metrics
from gateway.domain.answers import Admitted, Answer, Noted, Resumed, Settled
from gateway.domain.asks import Answered, Ask, Resume, Retell, Start
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.errors import CallgateError, DatabaseUnavailable, EngineUnavailable
from gateway.domain.policy import Policy
from gateway.pool.packed import NO_VALUE, admission_of_ended, unpack_end, unpack_record
from gateway.pool.unreadable import PoolUnreadable

log = structlog.get_logger(__name__)

MOST_SETTLED: Final = 200_000
"""Settlements kept at most; SQL that is away for long leaves the oldest to the engine alone."""
MOST_IN_PROGRESS: Final = 100_000
"""Calls in progress kept at most, among them those that ended at another gateway: nobody told this one."""
RELEASED_AT_ONCE: Final = 1_000
TOLD_AT_ONCE: Final = 500
"""Of so many call ids of an account SQL is asked at once, and the engine is told."""
ACCOUNTS_TOLD_AT_ONCE: Final = 16

CLOCKS_APART_MS: Final = 1_000
"""How far this gateway's reckoning of the billing clock may be behind it."""

_NOT_ASKED: Final = (EngineUnavailable, DatabaseUnavailable)

# Made here, so that both are told from the beginning: nothing is known to have increased that was not there.
_SETTLEMENTS_DROPPED: Final = metrics.ANSWERS_DROPPED.labels(kind="settlement")
_CALLS_DROPPED: Final = metrics.ANSWERS_DROPPED.labels(kind="call")

T = TypeVar("T")

Key = tuple[str, str]
"""Account and call id."""

SettledKey = tuple[str, str, int]
"""Account, call id, and when the call was admitted (ms): after a loss an id may be another call's (R9)."""

FindKnown = Callable[[str, Sequence[tuple[str, int]]], Awaitable[Sequence[CallRecord | CallInProgress]]]
"""Asks SQL which of an account's calls (id, admission) have ended, or came back since.

Raises DatabaseUnavailable.
"""

Together = Callable[[Sequence[Coroutine[Any, Any, None]]], Awaitable[None]]
"""Carries some work out, all of it, begun in that order. Raises what some of it has raised."""


async def all_at_once(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Carry all of it out at once."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


@dataclass(frozen=True, slots=True)
class _Telling:
    """How an account's answers are told: by what SQL said in that epoch, after so many losses."""

    ask: Callable[[Ask], Awaitable[object]]
    policy: Policy
    epoch: int
    losses: int


@dataclass(slots=True)
class _Going:
    """A call in progress: how it was admitted, or resumed."""

    call: CallInProgress | tuple[Start, Admitted]
    alive_at_ms: int = 0
    """When it was last heard of, as the engine was told, or would have been; 0 if when it was admitted."""

    @property
    def admitted_at_ms(self) -> int:
        """When it was admitted."""
        call = self.call if isinstance(self.call, CallInProgress) else self.call[1]
        return call.admitted_at_ms

    def answered_at_ms(self, noted_ms: int | None) -> int | None:
        """When it was answered, this gateway having noted of its id that it was then."""
        told_ms = self.call.answered_at_ms if isinstance(self.call, CallInProgress) else None
        if told_ms is not None or noted_ms is None:
            return told_ms
        if noted_ms + CLOCKS_APART_MS < self.admitted_at_ms:
            return None  # that was an earlier call of the id (R9)
        return max(self.admitted_at_ms, noted_ms)

    def known(self, noted_ms: int | None) -> CallInProgress:
        """The call as this gateway knows it, which noted of its id that it was answered then."""
        answered_at_ms = self.answered_at_ms(noted_ms)
        if isinstance(self.call, CallInProgress):
            return replace(self.call, answered_at_ms=answered_at_ms)
        ask, admitted = self.call
        return CallInProgress(
            account=ask.account,
            call_id=admitted.call_id,
            staff=ask.staff,
            device=ask.device,
            channel=ask.channel,
            to=ask.to,
            admitted_at_ms=admitted.admitted_at_ms,
            answered_at_ms=answered_at_ms,
            cycle_start_ms=admitted.cycle_start_ms,
            emergency=admitted.emergency,
            counts=not admitted.emergency,
        )


class KeptAnswers:
    """The answers of one gateway."""

    def __init__(
        self,
        shard_of: Callable[[str], int],
        now_ms: Callable[[], int],
        find_known: FindKnown | None,
        together: Together = all_at_once,
    ) -> None:
        self._shard_of = shard_of
        self._now_ms = now_ms
        self._find_known = find_known
        self._together = together
        self._going: OrderedDict[Key, _Going] = OrderedDict()
        # When calls were answered, also those that other gateways admitted.
        self._answered: OrderedDict[Key, int] = OrderedDict()
        self._settled: OrderedDict[SettledKey, bytes] = OrderedDict()
        # What was told again is in the stream behind all that was settled before this (by the billing clock).
        self._told_ms: dict[SettledKey, int] = {}
        # Oldest first, each with the number of the latest loss that it is to be told after.
        self._to_tell: dict[Key | SettledKey, int] = {}
        self._losses = 0
        # Accounts of which not all could be told, each with the round in which it was last tried.
        self._tried_in: dict[str, int] = {}
        self._rounds = 0

    def __len__(self) -> int:
        return len(self._settled)

    # What the engine answered

    def note(self, ask: Ask, answer: Answer | CallgateError, value: object) -> None:
        """Keep what is to be kept of an answer; `value` stands first in it behind its code."""
        if isinstance(answer, Admitted):
            assert isinstance(ask, Start)
            self.admitted(ask, answer)
        elif isinstance(answer, Settled):
            assert isinstance(value, bytes)
            if answer.replayed:
                self.settled_before(ask.account, ask.call_id, value)
            else:
                self.settled(ask.account, ask.call_id, value)
        elif isinstance(answer, Resumed):
            assert isinstance(ask, Resume)
            self.resumed(ask, answer)
        elif isinstance(answer, Noted) and isinstance(ask, Answered):
            self.answered(ask.account, ask.call_id, self._now_ms() - ask.answered_ago_ms)

    def admitted(self, ask: Start, answer: Admitted) -> None:
        """Keep an admission."""
        key = (ask.account, answer.call_id)
        known = self._going.get(key)
        if known is not None and known.admitted_at_ms == answer.admitted_at_ms:
            return  # it was asked again (R9), and more is known of it since
        if not answer.replayed:
            self._answered.pop(key, None)
        self._keep(key, _Going((ask, answer)))

    def resumed(self, ask: Resume, answer: Resumed) -> None:
        """Keep what is known of a call that goes on."""
        key = (ask.account, ask.call_id)
        known = self._going.get(key)
        alive_at_ms = self._now_ms() if ask.vouched else known.alive_at_ms if known is not None else 0
        self._keep(key, _Going(answer.call, alive_at_ms))

    def alive(self, account: str, call_id: str, at_ms: int) -> None:
        """Keep when a call was last known alive, as the engine has just been told, if it has the call."""
        going = self._going.get((account, call_id))
        if going is not None and at_ms > going.alive_at_ms:
            going.alive_at_ms = at_ms

    def answered(self, account: str, call_id: str, at_ms: int) -> None:
        """Keep when a call was answered: the first answer stands (R3)."""
        self._answered.setdefault((account, call_id), at_ms)
        if len(self._answered) > MOST_IN_PROGRESS:
            self._answered.popitem(last=False)

    def answered_at_ms(self, account: str, call_id: str) -> int | None:
        """When a call was answered, as far as this gateway noted it."""
        key = (account, call_id)
        going, at_ms = self._going.get(key), self._answered.get(key)
        return at_ms if going is None else going.answered_at_ms(at_ms)

    def settled(self, account: str, call_id: str, value: bytes) -> None:
        """Keep a settlement: the ended call's value."""
        key = (account, call_id, admission_of_ended(value))
        self._let_go_of_going((account, call_id))
        if (account, call_id) in self._to_tell:
            # It may have been answered by the engine that has lost the call.
            self._to_tell[key] = self._to_tell.pop((account, call_id))
        known = self._settled.get(key)
        if known is not None and _is_first_end(known, value):
            # The engine has lost it, and a network repeated the end: it is told again all the same (R17).
            return
        self._settled[key] = value
        self._settled.move_to_end(key)
        if len(self._settled) > MOST_SETTLED:
            self._let_go(next(iter(self._settled)))
            _SETTLEMENTS_DROPPED.inc()
        metrics.ANSWERS_KEPT.set(len(self._settled))

    def settled_before(self, account: str, call_id: str, value: bytes) -> None:
        """Keep a settlement that was there already: this gateway may never have been told of it.

        The answer to a batch that was carried out can be lost, and the batch is then put again.
        """
        end = unpack_end(value)
        going = self._going.get((account, call_id))
        known = self._settled.get((account, call_id, admission_of_ended(value)))
        if going is not None and end.settled_at_ms <= going.admitted_at_ms:
            return  # an earlier call of that id, in an engine that has lost the later one (R9)
        if known is not None and unpack_end(known).settled_at_ms >= end.settled_at_ms:
            return
        self.settled(account, call_id, value)

    def call_in_progress(self, account: str, call_id: str) -> CallInProgress | None:
        """What is known of a call that was in progress when it was last heard of."""
        key = (account, call_id)
        going = self._going.get(key)
        return None if going is None else going.known(self._answered.get(key))

    # What is safe, and what was lost

    async def release(self, saved_before_ms: int, away: Set[int] = frozenset()) -> None:
        """Let go of settlements made before an instant, as SQL has them all.

        But for shards that are away, and for what is to be told again. When SQL was away for long that is
        many at once: others have their turn now and then.
        """
        oldest = next(iter(self._settled), None)
        if oldest is None or not (away or self._is_saved(oldest, saved_before_ms)):
            # Not worth a copy of all: SQL may lag behind for long, and this is asked every 2 s.
            return
        for looked_at, (key, value) in enumerate(list(self._settled.items())):
            if looked_at % RELEASED_AT_ONCE == RELEASED_AT_ONCE - 1:
                await asyncio.sleep(0)
            if self._shard_of(key[0]) in away or self._settled.get(key) is not value or key in self._to_tell:
                continue
            if not self._is_saved(key, saved_before_ms):
                break
            self._let_go(key)
        metrics.ANSWERS_KEPT.set(len(self._settled))

    def lost(self, shards: Iterable[int]) -> None:
        """These shards have lost something: all that was answered of them is to be told again."""
        of = set(shards)
        self._losses += 1
        for kept in (self._settled, self._going, self._answered):
            self._to_tell |= dict.fromkeys((k for k in kept if self._shard_of(k[0]) in of), self._losses)

    @property
    def has_to_tell(self) -> bool:
        """Whether something is still to be told again."""
        return bool(self._to_tell)

    def has_to_tell_but_of(self, away: Set[int], unreadable: Container[str]) -> bool:
        """The same, of other shards than these, and of accounts that can be told of."""
        return any(
            self._shard_of(account) not in away and account not in unreadable for account, *_ in self._to_tell
        )

    async def tell(
        self,
        bring_up: Callable[[str], Awaitable[int]],
        ask: Callable[[Ask], Awaitable[object]],
        policy: Policy,
        away: Set[int] = frozenset(),
    ) -> None:
        """Tell again what was lost; what can't be told now, or is of shards that are away, stays to be told.

        `bring_up` has an account's pool made anew: only then does SQL tell what it has in its sum already. It
        answers the epoch that the shard had before that: what SQL says holds in no later one. While engine or
        database is away not all are tried. What fails comes last in the next round: it may be one shard's.
        """
        by_account: dict[str, list[Key | SettledKey]] = {}
        for key in self._to_tell:
            if self._shard_of(key[0]) not in away:
                by_account.setdefault(key[0], []).append(key)

        self._rounds += 1
        self._tried_in = {name: tried for name, tried in self._tried_in.items() if name in by_account}
        failed: dict[str, Exception] = {}

        async def tell(account: str) -> None:
            keys, losses = by_account[account], self._losses
            # What is to be told of one id is told together: which of it depends on the rest.
            by_id: dict[str, list[Key | SettledKey]] = {}
            for key in keys:
                by_id.setdefault(key[1], []).append(key)
            try:
                telling = _Telling(ask, policy, await bring_up(account), losses)
                for some in _slices(list(by_id.values()), TOLD_AT_ONCE):
                    await self._tell_some(account, [key for of_one in some for key in of_one], telling)
            except (CallgateError, RedisError, OSError, *NO_VALUE) as failure:
                failed[account] = failure
                self._tried_in[account] = self._rounds
            else:
                self._tried_in.pop(account, None)
                log.info("answers.told_again", account=account, answers=len(keys))

        in_turn = sorted(by_account, key=lambda account: self._tried_in.get(account, 0))
        for accounts in _slices(in_turn, ACCOUNTS_TOLD_AT_ONCE):
            await self._together([tell(account) for account in accounts])
            if all(account in failed and _is_away(failed[account]) for account in accounts):
                break
        if failed:
            self._log_not_told(failed, away)
        metrics.ANSWERS_KEPT.set(len(self._settled))

    def _log_not_told(self, failed: Mapping[str, Exception], away: Set[int]) -> None:
        left = [key[0] for key in self._to_tell if self._shard_of(key[0]) not in away]
        account, failure = next(iter(failed.items()))
        log.warning(
            "answers.not_told_yet",
            accounts=len(set(left)),
            answers=len(left),
            account=account,
            code=failure.code if isinstance(failure, CallgateError) else EngineUnavailable.code,
        )

    async def _tell_some(self, account: str, keys: Sequence[Key | SettledKey], telling: _Telling) -> None:
        settled = {key: self._settled[key] for key in keys if len(key) == 3 and key in self._settled}
        records = []
        for told, value in settled.items():
            try:
                records.append(unpack_record(account, told[1], value, telling.policy))
            except NO_VALUE as failure:
                self._let_go_of_none(told, failure)
        calls, answered = [], []
        for key in keys:
            call = self.call_in_progress(*key) if len(key) == 2 else None
            if call is not None and (*key, call.admitted_at_ms) not in settled:
                calls.append(call)
            elif call is None and len(key) == 2 and key in self._answered:
                answered.append(key)
            elif key not in settled:
                self._to_tell.pop(key, None)
        named = [(each.call_id, each.admitted_at_ms) for each in records]
        named += [(each.call_id, each.admitted_at_ms) for each in calls]
        found = await self._find_known(account, named) if self._find_known is not None else ()
        known = {(each.call_id, each.admitted_at_ms): each for each in found}

        async def tell(of_one_id: Sequence[CallRecord | CallInProgress]) -> None:
            for each in of_one_id:
                of_it = known.get((each.call_id, each.admitted_at_ms))
                if isinstance(each, CallRecord):
                    await self._tell_settled(each, of_it, telling)
                else:
                    await self._tell_going(each, of_it, telling)

        # In the order of admission: what an older copy has in progress ends before its id is another call's.
        by_id: dict[str, list[CallRecord | CallInProgress]] = {}
        records.sort(key=lambda record: record.admitted_at_ms)
        told_of: list[CallRecord | CallInProgress] = [*records, *calls]
        for each in told_of:
            by_id.setdefault(each.call_id, []).append(each)
        # They go to the engine together. What keeps one from being told keeps no other.
        await self._together(
            [
                *(tell(each) for each in by_id.values()),
                *(self._tell_answered(each, telling) for each in answered),
            ]
        )

    async def _tell_settled(
        self, record: CallRecord, found: CallRecord | CallInProgress | None, telling: _Telling
    ) -> None:
        """Tell a settlement again, beside what SQL was found to have of the call in that epoch."""
        key = (record.account, record.call_id, record.admitted_at_ms)
        is_as_new = found is not None and found.revision >= record.revision
        is_told = False
        try:
            if isinstance(found, CallRecord):
                if is_as_new:
                    await telling.ask(Retell(found, True, found.billed_seconds, telling.epoch))
                if found.revision <= record.revision and _end_of(found) != _end_of(record):
                    await telling.ask(Retell(record, False, found.billed_seconds, telling.epoch))
                    is_told = True
            elif not is_as_new:
                await telling.ask(Retell(record, False, 0, telling.epoch))
                is_told = True
        except NO_VALUE as failure:
            self._let_go_of_none(key, failure)
            return
        if is_told or not is_as_new:
            self._was_told(key, telling.losses)
            if key in self._settled:
                self._told_ms[key] = self._now_ms() + CLOCKS_APART_MS
        elif self._to_tell.get(key, 0) <= telling.losses:
            # SQL has it; or it was taken back since, by whoever has the call now (R15).
            self._let_go(key)

    async def _tell_going(
        self, call: CallInProgress, found: CallRecord | CallInProgress | None, telling: _Telling
    ) -> None:
        if not isinstance(found, CallRecord):
            # Whether it goes on is for its device to say, which vouches for it if it is still there. It may
            # have been settled and have come back where this gateway did not hear of it: its next record
            # must be of a higher revision than that one.
            revision = max(call.revision, found.revision if found is not None else 0)
            going = self._going.get((call.account, call.call_id))
            told = Resume(
                *(call.account, call.call_id, None, 0, replace(call, revision=revision)),
                vouched=False,
                epoch=telling.epoch,
                alive_at_ms=going.alive_at_ms if going is not None else 0,
            )
            await self._tell_of_going(told, telling)
        self._was_told((call.account, call.call_id), telling.losses)

    def _was_told(self, key: Key | SettledKey, losses: int) -> None:
        # Unless it was lost again, after so many losses.
        if self._to_tell.get(key, 0) <= losses:
            self._to_tell.pop(key, None)

    async def _tell_answered(self, key: Key, telling: _Telling) -> None:
        """Tell the answer of a call that another gateway admitted, and tells."""
        at_ms = self.answered_at_ms(*key)
        if at_ms is not None:
            ago_ms = max(0, self._now_ms() - at_ms)
            await self._tell_of_going(Answered(*key, answered_ago_ms=ago_ms), telling)
        self._was_told(key, telling.losses)

    async def _tell_of_going(self, told: Resume | Answered, telling: _Telling) -> None:
        try:
            await telling.ask(told)
        except _NOT_ASKED:
            raise
        except CallgateError:
            self._let_go_of_going((told.account, told.call_id))  # it ended, or the id is another call's

    def _is_saved(self, key: SettledKey, saved_before_ms: int) -> bool:
        return max(unpack_end(self._settled[key]).settled_at_ms, self._told_ms.get(key, 0)) < saved_before_ms

    def _let_go(self, key: SettledKey) -> None:
        self._settled.pop(key, None)
        self._told_ms.pop(key, None)
        self._to_tell.pop(key, None)

    def _let_go_of_going(self, key: Key) -> None:
        self._going.pop(key, None)
        self._answered.pop(key, None)

    def _let_go_of_none(self, key: SettledKey, failure: Exception) -> None:
        # It would be the same each time; what the engine told SQL of it is among the dead letters.
        log.error("answer.unreadable", account=key[0], call_id=key[1], because=str(failure)[:200])
        self._let_go(key)

    def _keep(self, key: Key, going: _Going) -> None:
        self._going[key] = going
        self._going.move_to_end(key)
        if len(self._going) > MOST_IN_PROGRESS:
            oldest, _ = self._going.popitem(last=False)
            self._to_tell.pop(oldest, None)
            _CALLS_DROPPED.inc()


def _slices(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _is_away(failure: Exception) -> bool:
    """Whether it is the engine, or the database, that could not be asked, and not one account."""
    return isinstance(failure, (*_NOT_ASKED, RedisError, OSError)) and not isinstance(failure, PoolUnreadable)


def _is_first_end(known: bytes, value: bytes) -> bool:
    """R17: whether the known one is an end by the client, and the other of no later revision, nor earlier."""
    first, end = unpack_end(known), unpack_end(value)
    is_first = end.ended_by != "hangup" or first.ended_at_ms <= end.ended_at_ms
    return first.ended_by == "hangup" and is_first and end.revision <= first.revision


def _end_of(record: CallRecord) -> tuple[str, int]:
    return record.ended_by, record.ended_at_ms
