"""Pools of the live engine and of the plain model, of which the same is asked, at the same instants."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from datetime import date
from typing import Any, TypeVar

from gateway.domain.answers import Admitted, Answer, Noted, PoolView, Resumed, Settled
from gateway.domain.asks import AccountStatus, Ask, Asker, End, Reap, Resume, Retell, Start
from gateway.domain.calls import OVERTAKEN_MS, CallRecord, CallReopened, CallState, CycleOpened
from gateway.domain.errors import (
    CallgateError,
    CallIdConflict,
    CallIdUsed,
    CallUnknown,
    ChannelLimit,
    SeatLimit,
)
from gateway.domain.leases import Renewed
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from gateway.domain.pool import PoolModel
from tests.support.engines import EngineServer
from tests.support.pools import LiveAccounts, everything_in, live_accounts
from tests.support.real_time import GRACE_MS, LEASE_MS, be_steady_for, pass_real_time

T = TypeVar("T")

STAFF = frozenset({"ana", "bob"})
CHANNELS = frozenset({"main"})


class SideBySide:
    """Accounts of one shard, each as a live pool and as a model. Whatever is done here is done to both.

    Raises AssertionError as soon as they differ.
    """

    def __init__(self, server: EngineServer, now_ms: int) -> None:
        self.now_ms = now_ms
        # Real time as the models know it; the engine has its own, and both pass by the same steps.
        self.real_ms = now_ms
        self.steady_since_ms = now_ms - LEASE_MS - GRACE_MS
        self.models: dict[str, PoolModel] = {}
        self._server = server
        self.policy = Policy()
        # In the order in which SQL must be told, for each account.
        self._items: defaultdict[str, list[CallRecord | CallReopened | CycleOpened]] = defaultdict(list)
        self._listed: defaultdict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
        # How often each account's pool has changed; and that, with its version, when somebody last looked.
        self._states: dict[str, object] = {}
        self._changes: Counter[str] = Counter()
        self._seen: dict[str, tuple[int, int]] = {}
        # What the sweeper took from the engine; the model never forgets what SQL knows.
        self._forgotten: set[tuple[str, str]] = set()
        # Ended calls that the engine lost, though they are to be remembered; they are told it with each ask.
        self.lost: set[tuple[str, str]] = set()
        self._vouched = 0
        self._ended_again_ms: dict[tuple[str, str], int] = {}
        self._overtaken = 0
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        server.flush()
        self.live: LiveAccounts = self._run(
            self._stack.enter_async_context(
                live_accounts(
                    server.url,
                    self.policy,
                    shards=1,
                    lease_ms=LEASE_MS,
                    grace_ms=GRACE_MS,
                )
            )
        )
        self._run(self.live.at(now_ms))

    def close(self) -> None:
        """Leave the engine."""
        self._run(self._stack.aclose())
        self._runner.close()

    def _run(self, doing: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(doing)

    # Accounts

    def make(self, account: str, billing_date: date, time_zone: str, plan: Plan | None) -> None:
        """Make an account."""
        self._run(
            self.live.make(
                account,
                billing_date=billing_date,
                time_zone=time_zone,
                plan=plan,
                staff=STAFF,
                channels=CHANNELS,
            )
        )
        self.models[account] = PoolModel(
            account,
            billing_date=billing_date,
            time_zone=time_zone,
            policy=self.policy,
            now_ms=self.now_ms,
            plan=plan,
            staff=STAFF,
            channels=CHANNELS,
            lease_ms=LEASE_MS,
            grace_ms=GRACE_MS,
        )
        # The clock stands: what was alive at any real instant is alive as of now.
        self.models[account].billing_at = lambda _real_ms: self.now_ms
        self.look(account)

    def change_plan(self, account: str, plan: Plan) -> None:
        """R21-R23."""
        expected: list[str] = []
        answers: list[str] = []
        try:
            expected.append(self.models[account].change_plan(plan, self.now_ms))
        except (SeatLimit, ChannelLimit) as refused:
            expected.append(refused.message)
        try:
            answers.append(self._run(self.live.change_plan(account, plan)))
        except (SeatLimit, ChannelLimit) as refused:
            answers.append(refused.message)
        assert answers == expected
        self._note(account)

    def withdraw_pending(self, account: str) -> None:
        """R23."""
        self.models[account].withdraw_pending(self.now_ms)
        self._run(self.live.withdraw_pending(account))
        self._note(account)

    def set_status(self, account: str, status: AccountStatus) -> None:
        """R8, R11."""
        self.models[account].set_status(status, self.now_ms)
        self._run(self.live.change(account, status=status))
        self._note(account)

    def set_members(self, account: str, staff: frozenset[str], channels: frozenset[str]) -> None:
        """R25."""
        self.models[account].set_members(staff, channels, self.now_ms)
        self._run(self.live.change(account, staff=staff, channels=channels))
        self._note(account)

    def set_time_zone(self, account: str, time_zone: str) -> None:
        """R18."""
        # By which zone a cycle ended that nobody saw to in time is then known no more.
        self.look(account)
        self.models[account].set_time_zone(time_zone, self.now_ms)
        self._run(self.live.change(account, time_zone=time_zone))
        self._note(account)

    def set_policy(self, policy: Policy) -> None:
        """Calls in progress included."""
        for account in self.models:
            # By which policy a threshold was passed that nobody saw to in time is then known no more.
            self.look(account)
        for account, model in self.models.items():
            model.set_policy(policy, self.now_ms)
            self._note(account)
        self._run(self.live.pool.set_policy(policy))
        if policy != self.policy:
            self._seen.clear()
        self.policy = policy

    def lose_pool(self, account: str) -> None:
        """The pool goes missing and is made again from what SQL knows; its calls in progress go on."""
        self.look(account)
        shard = self.live.keys.shard_of(account)
        self._server.client.delete(self.live.keys.of_account(account, shard)[0])
        del self._seen[account]
        self._items[account].append(self.models[account].cycles[-1])
        self.look(account)

    def lose_ended_call(self, account: str, call_id: str) -> None:
        """The engine loses what it knew of a call that ended; from then on SQL is asked (R17, R28)."""
        if call_id in self.models[account]._ended:
            (calls,) = self.live.keys.named(self.live.keys.shard_of(account), "calls")
            self._server.client.hdel(calls, f"{account}/{call_id}")
            self.lost.add((account, call_id))
            # SQL does not know who had it last.
            self.models[account]._leases.pop(call_id, None)

    # Time

    def pass_real_time(self, ms: int) -> None:
        """Let real time pass, which leases run on, and billing time not."""
        self.real_ms += ms
        pass_real_time(self._server, self.live.keys, ms)

    def be_away(self) -> None:
        """R14: the engine has just come back, so that nobody could renew anything."""
        self.steady_since_ms = self.real_ms

    def wait_until(self, now_ms: int, *, at_once: bool) -> None:
        """Let time pass; `at_once` as if no gateway had been there to see to what fell due."""
        self.now_ms = now_ms
        self._run(self.live.at_once(now_ms) if at_once else self.live.at(now_ms))

    def sweep(self) -> None:
        """R9, R17: what is not remembered any more leaves the engine, and nothing else does."""
        for account in self.models:
            self.look(account)
        self._run(self.live.forget_old_calls())
        fields = self._server.client.hkeys(self.live.keys.named(0, "calls")[0])
        names = [field.decode().split("/") for field in fields if isinstance(field, bytes)]
        kept = {(account, call_id) for account, call_id, *admitted in names if not admitted}
        for account, call_id, *admitted in names:
            assert not admitted or (call_id, int(admitted[0])) in self.models[account]._earlier
        for account, model in self.models.items():
            for call_id in {record.call_id for record in model.records}:
                if model.state(call_id, self.now_ms) is CallState.UNKNOWN:
                    self._forgotten.add((account, call_id))
        remembered = {
            (account, call_id)
            for account, model in self.models.items()
            for call_id in (*model._calls, *model._ended, *model._overtaken_at_ms)
            if model.state(call_id, self.now_ms) is not CallState.UNKNOWN
        }
        remembered -= self.lost
        remembered |= {each for each in self._ended_again_ms if self._was_ended_again(*each)}
        assert kept == remembered, kept ^ remembered

    # Asks

    def ask(self, asks: Iterable[Ask], *, look_first: bool) -> None:
        """Ask all at once, so that one script call carries them out, and compare each answer.

        With `look_first` what comes due merely because time passed has happened by then, so that what is
        refused must change nothing at all (R10).
        """
        if look_first:
            self._run(self.live.at(self.now_ms))
            for account in self.models:
                self.look(account)
        be_steady_for(self._server, self.live.keys, self.real_ms - self.steady_since_ms)
        before, things = self._progress(), everything_in(self._server) if look_first else None
        asked: list[Ask] = []
        expected: list[Answer | CallgateError] = []
        forgotten: list[bool] = []
        for each_ask in asks:
            ask = self._with_what_was_found(each_ask)
            if not self._is_comparable(ask):
                continue
            asked.append(ask)
            forgotten.append(self._is_forgotten(ask.account, ask.call_id))
            expected.append(self._ask_model(ask))
            self._note(ask.account)
        answers = self._run(self.live.ask_all(asked))
        for each in zip(asked, forgotten, answers, expected, strict=True):
            assert self._is_same(*each), f"asked, forgotten, the engine, the model: {each}"
        if things is not None and self._progress() == before:
            now = everything_in(self._server)
            assert now == things, {
                key: (things.get(key), now.get(key))
                for key in things.keys() | now.keys()
                if things.get(key) != now.get(key)
            }

    def _ask_model(self, ask: Ask) -> Answer | CallgateError:
        model = self.models[ask.account]
        try:
            if isinstance(ask, Start):
                answer: Answer = model.start(ask, self.now_ms, self.real_ms)
                self._vouched += isinstance(answer, Admitted) and answer.replayed
                for call_id in (ask.call_id, ask.fresh_call_id):
                    if model.state(call_id, self.now_ms) is CallState.IN_PROGRESS:
                        self._forgotten.discard((ask.account, call_id))
                return answer
            if isinstance(ask, End):
                if (ask.account, ask.call_id) in self._forgotten and ask.found is None:
                    self._ended_again_ms[ask.account, ask.call_id] = self.now_ms
                    self._overtaken += 1
                answer = model.end(ask, self.now_ms)
                if not answer.replayed:
                    self.lost.discard((ask.account, ask.call_id))
                return answer
            if isinstance(ask, Resume):
                answer = model.resume(ask, self.now_ms, self.real_ms)
                self._vouched += 1
                self.lost.discard((ask.account, ask.call_id))
                self._forgotten.discard((ask.account, ask.call_id))
                return answer
            if isinstance(ask, Reap):
                return model.reap(ask, self.now_ms, self.real_ms, self.steady_since_ms)
            if isinstance(ask, Retell):
                return model.retell(ask, self.now_ms)
            return model.answered(ask, self.now_ms)
        except CallgateError as error:
            if isinstance(ask, End) and model.state(ask.call_id, self.now_ms) is CallState.OVERTAKEN:
                self._overtaken += 1
            return error

    def _is_same(
        self,
        ask: Ask,
        is_forgotten: bool,
        answer: Answer | CallgateError,
        expected: Answer | CallgateError,
    ) -> bool:
        if isinstance(ask, Resume) and is_forgotten and isinstance(answer, CallIdUsed):
            # It was ended again since, which the engine can't tell from an end that overtook its start.
            return isinstance(expected, CallUnknown | CallIdUsed | CallIdConflict)
        if isinstance(answer, CallUnknown) and is_forgotten:
            if isinstance(ask, End) and isinstance(expected, Settled):
                # R17: from SQL if Redis has forgotten it. What remains may have changed since, by later asks.
                answer = replace(
                    self._run(self.live.settled_before(ask)), remaining_seconds=expected.remaining_seconds
                )
            elif isinstance(expected, Noted | CallIdUsed | CallIdConflict):
                return True
        if isinstance(answer, CallgateError) or isinstance(expected, CallgateError):
            return type(answer) is type(expected)
        if isinstance(expected, Resumed):
            # Whether it counts is for whoever reads the pool.
            expected = replace(expected, call=replace(expected.call, counts=not expected.call.emergency))
        return answer == expected

    def _is_comparable(self, ask: Ask) -> bool:
        """Leave out starts whose id was ended again after it was forgotten, and what a lost id needs SQL for.

        The engine can't tell that end from one that overtook its start, and refuses the start for 60 s (R17).
        """
        if isinstance(ask, Retell):
            model = self.models[ask.account]
            earlier = model._earlier.get((ask.call_id, ask.record.admitted_at_ms))
            if earlier is not None and self.now_ms - earlier.settled_at_ms > model._memory_ms:
                return False  # it may have been swept
            return not self._is_forgotten(ask.account, ask.call_id)
        return not isinstance(ask, Start) or not any(
            self._was_ended_again(ask.account, call_id)
            or (ask.account, call_id) in self.lost
            or (ask.admitted_at_ms is not None and (ask.account, call_id) in self._forgotten)
            for call_id in (ask.call_id, ask.fresh_call_id)
        )

    def _is_forgotten(self, account: str, call_id: str) -> bool:
        """Whether the engine may not know a call any more that the model knows to have ended."""
        model = self.models[account]
        return (account, call_id) in self._forgotten | self.lost or (
            call_id in model._ended and model.state(call_id, self.now_ms) is CallState.UNKNOWN
        )

    def _with_what_was_found(self, ask: Ask) -> Ask:
        """R17, R28: what SQL has of a call that the engine lost."""
        if isinstance(ask, End | Resume) and (ask.account, ask.call_id) in self.lost:
            return replace(ask, found=self.models[ask.account]._ended[ask.call_id])
        return ask

    # Leases

    def renew(
        self, account: str, call_id: str, connection: int, device: Asker | None = None, *, lost: bool = False
    ) -> None:
        """R12, R13."""
        model = self.models[account]
        expected = model.renew(
            call_id, self.now_ms, connection=connection, lost=lost, device=device, real_ms=self.real_ms
        )
        is_forgotten = self._is_forgotten(account, call_id)
        renewed = self._run(
            self.live.renew(account, call_id, connection=connection, lost=lost, device=device)
        )
        if is_forgotten:
            # It may still be there, until it is swept.
            assert renewed is not Renewed.RENEWED
        elif expected is Renewed.ENDED:
            # Whether one that was settled in its absence may still come back, the engine tells when it does.
            is_absent = model._ended[call_id].ended_by != "hangup"
            assert renewed is Renewed.ENDED or (is_absent and renewed is Renewed.ABSENT)
        else:
            assert renewed == expected, (account, call_id, connection, renewed, expected)
        self._note(account)

    def _was_ended_again(self, account: str, call_id: str) -> bool:
        if (account, call_id) not in self._forgotten:
            return False
        return self.now_ms - self._ended_again_ms.get((account, call_id), -OVERTAKEN_MS) <= OVERTAKEN_MS

    # Looking

    def look(self, account: str) -> PoolView:
        """Read a pool on both sides. Its version has grown if, and only if, something changed meanwhile."""
        view = self._run(self.live.pool.read(account))
        model = self.models[account]
        expected = replace(model.read(self.now_ms, clock_speed=0), version=view.version)
        assert view == expected, [
            (field.name, getattr(view, field.name), getattr(expected, field.name))
            for field in fields(PoolView)
            if getattr(view, field.name) != getattr(expected, field.name)
        ]
        self._note(account)
        if account in self._seen:
            version, changes = self._seen[account]
            assert view.version >= version
            assert (view.version > version) == (self._changes[account] > changes)
        self._seen[account] = view.version, self._changes[account]
        return view

    def look_closely(self, account: str, devices: Iterable[Asker]) -> None:
        """Look up every call by its id and by its device, and the oldest."""
        model = self.models[account]
        self.look(account)
        for call_id in (*model._calls, *model._ended, *model._overtaken_at_ms):
            found = self._run(self.live.pool.find_call(account, call_id))
            call = found.call if found else None
            expected = model._calls.get(call_id) or model._ended.get(call_id)
            if (account, call_id) in self._forgotten | self.lost:
                expected = None
            if isinstance(call, CallRecord) and isinstance(expected, CallRecord):
                # The policy that it was billed under is kept by SQL alone.
                call = replace(call, policy=expected.policy)
            assert call == expected
        for staff, device in devices:
            calls = self._run(self.live.pool.calls_of_device(account, staff, device))
            assert {call.call_id for call in calls} == {
                call.call_id for call in model._calls.values() if (call.staff, call.device) == (staff, device)
            }
        oldest_ms = self._run(self.live.pool.oldest_calls([account]))[account]
        admitted_ms = min((call.admitted_at_ms for call in model._calls.values()), default=None)
        assert (oldest_ms is None) == (admitted_ms is None)
        if oldest_ms is not None and admitted_ms is not None:
            # Possibly its answer's instant, but never one of another cycle (R27).
            assert admitted_ms <= oldest_ms
            assert not any(admitted_ms < cycle.cycle_start_ms <= oldest_ms for cycle in model.cycles)
        in_progress = sum(len(each._calls) for each in self.models.values())
        assert self._run(self.live.pool.count_calls()) == in_progress

    def compare_records(self) -> None:
        """SQL was told of every record and every cycle, once, in order."""
        for account in self.models:
            self.look(account)
        told = self._run(self.live.recorded())
        for account in self.models:
            assert [item for item in told if item.account == account] == self._items[account]
        entries = self._run(self.live.pool.records.read({}, 1_000_000))
        number = 1
        for entry in entries:
            assert entry.first_number == number
            number += len(entry.items)

    def _note(self, account: str) -> None:
        model = self.models[account]
        state = self._state_of(account)
        if state != self._states.get(account):
            self._states[account] = state
            self._changes[account] += 1
        cycles, records, reopened = self._listed[account]
        # An operation turns cycles before it does anything, and makes one item at most.
        self._items[account] += [
            *model.cycles[cycles:],
            *model.records[records:],
            *model.reopened[reopened:],
        ]
        self._listed[account] = len(model.cycles), len(model.records), len(model.reopened)

    def _progress(self) -> object:
        return self._changes.copy(), self._overtaken, self._vouched

    def _state_of(self, account: str) -> object:
        """All of a pool that changes by something happening, and not merely because time passes."""
        model = self.models[account]
        view = model.read(self.now_ms)
        return (
            (view.plan, view.pending_plan, view.status, model.time_zone, model.staff, model.channels),
            (len(model.cycles), len(model.records), len(model.reopened)),
            view.thresholds,
            dict(model._calls),
            dict(model._ended),
            dict(model._earlier),
        )
