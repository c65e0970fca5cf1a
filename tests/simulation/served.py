"""Histories of whole gateways: accounts change, and calls are let through without the engine.

Gateways are the product's service (`tests.simulation.service`), SQL is its own, in memory. One kind of
history has engines that lose data and SQL that goes back to a copy; the other has gateways that crash. In
both the engine is away now and then, for all or for one gateway, and answers of it are lost.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import select

from gateway.api.receipts import Receipts
from gateway.domain.answers import Admitted, Answer, NotDue, Refused, Resumed
from gateway.domain.asks import AccountConfig, Ask, Reap, Resume, Retell, Start
from gateway.domain.billing import billed_seconds
from gateway.domain.calls import CallInProgress, CallRecord
from gateway.domain.errors import CallgateError, EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.pool.leases import Vouching
from gateway.pool.packed import PackedPool
from gateway.records.ingest import count_dead_letters
from gateway.records.tables import statements
from tests.simulation.database import Copy, MemoryDatabase
from tests.simulation.engine import ACCOUNT, GRACE_MS, SimulatedEngine, check
from tests.simulation.history import BILLING_DATE, Book, Connection, Device
from tests.simulation.losses import BETWEEN_MS, FAR_BACK, LOSSES, RECORD_MS, LosingHistory
from tests.simulation.service import CrashedError, ServedGateway, SimulatedTime
from tests.support.pool_model import HOUR, MINUTE, SECOND, a_plan

T = TypeVar("T")

PLANS: Final = (
    *(a_plan(10), a_plan(30, max_concurrent_calls=6), a_plan(60, max_concurrent_calls=8)),
    a_plan(0),
)
TIME_ZONES: Final = ("UTC", "America/New_York", "Asia/Tokyo")
AWAY_MS: Final = (300, 1500, 4000, 20_000, 60_000)
LATE_MS: Final = 200
"""A script that waited in an engine that stood still may be carried out so long after its gateway gave up."""
SECRET: Final = "the receipts of a simulation are signed with this"


class ServedHistory(LosingHistory):
    """A few minutes of an account, its administrator and its gateways. Without `losses` gateways crash."""

    began_before_end_ms: tuple[int, ...] = (3 * MINUTE, 90 * SECOND, 9 * HOUR, 9 * HOUR)

    def __init__(
        self,
        engine: SimulatedEngine,
        database: MemoryDatabase,
        loop: asyncio.AbstractEventLoop,
        time: SimulatedTime,
        seed: int,
        losses: Sequence[str] = LOSSES + FAR_BACK,
    ) -> None:
        super().__init__(engine, seed, losses)
        self._database = database
        self._loop = loop
        time.world = self
        self._folder = tempfile.TemporaryDirectory(prefix="cg-history-")
        self._receipts = Receipts([SECRET])
        self._issued = ""
        self._has: dict[str, str] = {}
        """The receipts that devices have, by call."""
        self._told_offline: set[str] = set()
        self._told_ms: defaultdict[str, set[int]] = defaultdict(set)
        """When calls were admitted, by all that was answered."""
        self._told_by_journal: set[tuple[str, int]] = set()
        self._told_by_engine: set[tuple[str, int]] = set()
        self._unheard_ms: set[int] = set()
        """When the engine decided what nobody heard of."""
        self._sql_copy: Copy | None = None
        self._sql_lost_at_ms = 0
        self._is_to_be_rebuilt = False
        self._stands_still = False
        self._told_revision = 0
        """The pool was said to have the account as SQL had it then."""
        self._is_set_up = False
        database.empty()
        # Two workers of one host, or two hosts.
        is_one_host = self.random.random() < 0.5
        self._data_dirs = [Path(self._folder.name, "0" if is_one_host else str(n)) for n in range(2)]
        self._processes = 0
        self.gateways = [self._new_gateway(0), self._new_gateway(1)]
        for gateway in self.gateways:
            self._do(gateway.open())
        self._make_account()
        self._is_set_up = True

    def close(self) -> None:
        """Leave nothing behind."""
        self._forget_sql_copy()
        for gateway in self.gateways:
            gateway.close()
        self._folder.cleanup()

    def _new_gateway(self, place: int) -> ServedGateway:
        self._processes += 1
        return ServedGateway(self, self._database, self._data_dirs[place], f"process-{self._processes}")

    def _make_account(self) -> None:
        gateway = self.gateways[0]
        for plan in PLANS:
            fields = {
                "name": plan.name,
                "minutes": plan.minutes,
                "connected_channels": plan.connected_channels,
                "staff_seats": plan.staff_seats,
                "max_concurrent_calls": plan.max_concurrent_calls,
            }
            self._do(gateway.records.plans.put_plan(plan.plan, fields))  # type: ignore[arg-type]
        self._do(
            gateway.administration.put_account(
                ACCOUNT, {"name": "Acme", "plan": PLANS[1].plan, "billing_date": BILLING_DATE}
            )
        )
        self._do(gateway.administration.put_staff(ACCOUNT, "ana", {}))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    # The engine, and the way to it

    def is_answer_lost(self, name: str) -> bool:
        """Whether nobody hears what the engine answers; it may be away for a while then."""
        if self._is_calm or not self._is_set_up or self.random.random() > 0.004:
            return False
        self.happened[f"answer lost: {name}"] += 1
        self._unheard_ms.add(self.now_ms)
        if self.random.random() < 0.7:
            self._down_until_ms = max(self._down_until_ms, self.now_ms + self.random.choice(AWAY_MS))
        return True

    def may_come_late(self, name: str, keys: str, arguments: Sequence[Any]) -> None:
        """Hear of what was sent to an engine that stands still: it may carry that out when it goes on."""
        wait_ms = self._down_until_ms - self.now_ms
        if self._stands_still and name == "calls_decide" and wait_ms <= LATE_MS:
            self.happened["carried out late"] += 1
            self._later(wait_ms, lambda: self._carry_out_late(name, keys, arguments))

    def _carry_out_late(self, name: str, keys: str, arguments: Sequence[Any]) -> None:
        self._unheard_ms.add(self.now_ms)
        with suppress(EngineUnavailable):
            self.run_step(name, keys, arguments)

    def _schedule(self) -> None:
        if self._losses:
            super()._schedule()
        for at_ms in range(0, 7 * MINUTE, 30 * SECOND):
            self._later(at_ms + self.random.randint(0, 30_000), self._go_away)
        self._later(self.random.randint(0, 20_000), self._administer)
        self._later(RECORD_MS[0], self._record)
        self._later(2000, self._keep_house)
        self._later(20_000, self._tell_some_again)

    def _go_away(self) -> None:
        """The engine can't be reached for a while, or by one gateway, or SQL can't."""
        if self._is_calm:
            return
        until_ms = self.now_ms + self.random.choice(AWAY_MS)
        what = self.random.random()
        if what < 0.4:
            self._down_until_ms = max(self._down_until_ms, until_ms)
            self._stands_still = self.random.random() < 0.5
            self.happened["engine away"] += 1
        elif what < 0.6:
            self.random.choice(self.gateways).cut_until_ms = until_ms
            self.happened["gateway cut off"] += 1
        elif what < 0.8:
            for gateway in self.gateways if self.random.random() < 0.7 else self.gateways[:1]:
                gateway.no_sql_until_ms = until_ms
            self.happened["SQL away"] += 1

    def _lose(self) -> None:
        self._stands_still = False
        super()._lose()

    # SQL

    def _copy_sql(self) -> None:
        if not self._is_to_be_rebuilt:
            self._forget_sql_copy()
            self._sql_copy = self._database.copy()

    def _forget_sql_copy(self) -> None:
        if self._sql_copy is not None:
            self._sql_copy.close()
            self._sql_copy = None

    def _lose_sql(self) -> None:
        if self._sql_copy is None:
            return
        self._database.go_back_to(self._sql_copy)
        self._is_to_be_rebuilt = True
        self._later(5000, self._rebuild)

    def _rebuild(self) -> None:
        """As `callgate rebuild` does, once the database has the records again: the page on restoring it."""
        gateway = self.gateways[0]
        if self._do(gateway.save()):
            try:
                self._do(gateway.pool.renew_epochs())
                self._do(gateway.pool.keep_policy())
                self._do(gateway.pool.read_many([ACCOUNT]))
            except CallgateError:
                self._later(1000, self._rebuild)
                return
            self._told_revision, self._is_to_be_rebuilt = 0, False
            self.happened["rebuilt"] += 1
        else:
            self._later(1000, self._rebuild)

    def _record(self) -> None:
        if self._goes_on():
            self._later(self.random.choice(RECORD_MS), self._record)
        self._do(self.random.choice(self.gateways).save())

    # The administrator

    def _administer(self) -> None:
        if self._is_calm:
            return
        self._later(self.random.choice([3_000, 15_000, 40_000]), self._administer)
        place = self.random.randrange(2)
        gateway = self.gateways[place]
        steps = self.random.randint(1, 25) if self.random.random() < 0.4 else None
        dies = not self._losses and self.random.random() < 0.5
        what, change = self._choose_change(gateway)
        try:
            self._do(gateway.until_it_stops(change, steps, dies=dies))
        except CrashedError:
            self.happened["change broken off"] += 1
            if dies:
                self._crash(place)
        except CallgateError as error:
            self.happened[f"{what}: {error.code}"] += 1
        else:
            self.happened[what] += 1
            if not self._is_to_be_rebuilt:
                self._told_revision = self._revision()

    def _choose_change(self, gateway: ServedGateway) -> tuple[str, Coroutine[Any, Any, Any]]:
        change, dice = gateway.administration, self.random.random()
        if dice < 0.45:
            return "plan", change.change_plan(ACCOUNT, self.random.choice(PLANS[:3] * 3 + PLANS).plan)
        if dice < 0.65:
            status = self.random.choice(["active", "active", "suspended"])
            return status, change.put_account(ACCOUNT, {"status": status})  # type: ignore[typeddict-item]
        if dice < 0.75:
            zone = self.random.choice(TIME_ZONES)
            return "time zone", change.put_account(ACCOUNT, {"time_zone": zone})
        if dice < 0.8:
            return "withdrawal", change.withdraw_pending_plan(ACCOUNT)
        who = self.random.choice(["ana", "bob", "bob"])
        if dice < 0.93:
            return "staff", change.put_staff(ACCOUNT, who, {})
        return "staff removed", change.delete_staff(ACCOUNT, who)

    def _revision(self) -> int:
        config = self._config()
        return config.revision

    def _config(self) -> AccountConfig:
        """What SQL says of the account."""
        # Whoever looks reaches it.
        gateway, now_ms = self.gateways[0], self.now_ms
        before, gateway.no_sql_until_ms = gateway.no_sql_until_ms, 0
        config = self._do(gateway.records.configs.config(ACCOUNT, now_ms))
        gateway.no_sql_until_ms = before
        check(config is not None, "the account is gone")
        assert config is not None
        return config

    # Gateways

    def _crash(self, place: int) -> None:
        """The process is gone, with all that it alone knew; another one begins in its place."""
        if self._losses:
            return
        self.happened["gateway crashed"] += 1
        for device, _ in self._connections(place):
            device.connection = None
        old = self.gateways[place]
        old.close()
        new = self.gateways[place] = self._new_gateway(place)
        new.cut_until_ms, new.no_sql_until_ms = old.cut_until_ms, old.no_sql_until_ms
        self._open_again(new)

    def _open_again(self, gateway: ServedGateway) -> None:
        if gateway not in self.gateways:
            return
        try:
            self._do(gateway.open())
        except (CallgateError, OSError):
            self._later(500, partial(self._open_again, gateway))

    def _beat(self) -> None:
        for gateway in self.gateways:
            self._do(gateway.beat())
        self._look()
        self._reap()
        if self._goes_on():
            self._later(4 * SECOND, self._beat)

    def _reap(self) -> None:
        place = self.random.randrange(2)
        try:
            due, _ = self._do(self.gateways[place].pool._leases.due())
        except OSError:
            return
        except Exception as failure:
            if type(failure).__module__.startswith("redis"):
                return
            raise
        for _, call_id in due:
            self._ask(Reap(ACCOUNT, call_id), place)

    def _keep_house(self) -> None:
        if self._goes_on():
            self._later(2000, self._keep_house)
        for gateway in self.gateways:
            self._do(gateway.keep_house())

    def _look(self) -> None:
        """As a dashboard does."""
        gateway = self.random.choice(self.gateways)
        try:
            self._do(gateway.pool.read(ACCOUNT))
            packed = self._do(gateway.pool.glance([ACCOUNT]))[ACCOUNT]
        except CallgateError:
            return
        assert packed is not None
        check(packed.version >= self._version, "a version went back", packed.version, self._version)
        self._version = packed.version
        if not self._is_to_be_rebuilt:
            revision = packed.revision
            check(revision >= self._told_revision, "a change was lost", revision, self._told_revision)

    def _tell_some_again(self) -> None:
        """Some settlement that SQL has is told once more."""
        if self._is_calm:
            return
        self._later(20_000, self._tell_some_again)
        records = [each for each in self._records() if isinstance(each, CallRecord)]
        if records:
            record = self.random.choice(records)
            self._ask(Retell(record, True, record.billed_seconds), self.random.randrange(2))

    def _records(self) -> list[CallRecord | CallInProgress]:
        gateway = self.gateways[0]
        before, gateway.no_sql_until_ms = gateway.no_sql_until_ms, 0
        found, _ = self._do(gateway.records.calls.list_calls(ACCOUNT, limit=1000))
        gateway.no_sql_until_ms = before
        return found

    def _goes_on(self) -> bool:
        if not self._is_calm or self._under_way or self._is_to_be_rebuilt:
            return True
        if self._lost_at_ms and self.now_ms < self._lost_at_ms[-1] + BETWEEN_MS:
            return True  # not every gateway has noticed yet
        for gateway in self.gateways:
            if gateway.pool._kept.has_to_tell or len(gateway.journal) or len(gateway.calls.kept_ends):
                return True
        try:
            (found,) = self.run_step("clock_read", "1", ())
        except EngineUnavailable:
            return True
        return not found or found[3] > 0

    # What is asked

    def _next_number(self) -> int:
        """A connection gets its number from the engine; without it, it has none as yet."""
        return 0 if self.now_ms < self._down_until_ms else super()._next_number()

    def _connect(self, device: Device) -> None:
        super()._connect(device)
        connection = device.connection
        if connection is not None and connection.number == 0:
            self._later(2000, lambda: self._number_late(connection))

    def _number_late(self, connection: Connection) -> None:
        if all(device.connection is not connection for device in self.devices):
            return
        connection.number = self._next_number()
        if connection.number == 0:
            self._later(2000, lambda: self._number_late(connection))

    def _deliver_renewal(self, call_id: str, connection: Connection, ago_ms: int, *, lost: bool) -> None:
        vouching = Vouching(ACCOUNT, call_id, connection.number, ago_ms, lost=lost)
        try:
            (renewed,) = self._do(self.gateways[connection.gateway].pool.renew([vouching]))
        except EngineUnavailable:
            if lost:
                # It may have been heard all the same.
                self._lost.add((call_id, connection.number))
                until_ms = self._not_reaped_before.get(call_id, 0)
                self._not_reaped_before[call_id] = min(until_ms, self.now_ms + GRACE_MS)
            return
        is_anothers = connection.number == 0 and self._owner.get(call_id, 0) != 0
        if renewed is Renewed.RENEWED and is_anothers:
            return  # who has no number vouches for nothing that another connection has
        self._note_renewal(call_id, connection, renewed, lost=lost)

    def _come_back(self, call_id: str, connection: Connection) -> None:
        """As the keeper does: its device is here, and has it up."""
        gateway = self.gateways[connection.gateway]
        (device,) = [each for each in self.devices if call_id in each.calls]
        found = gateway.pool.known_call(ACCOUNT, call_id)
        ask = Resume(ACCOUNT, call_id, ("ana", device.name), connection.number, found)
        answer = self._ask(ask, connection.gateway, with_receipt=False)
        if isinstance(answer, CallgateError) and answer.code.startswith("call_"):
            connection.calls.discard(call_id)

    def _ask(self, ask: Ask, gateway: int = 0, *, with_receipt: bool = True) -> Answer | CallgateError:
        if isinstance(ask, Resume) and with_receipt and ask.call_id in self._has:
            found = self._receipts.read(self._has[ask.call_id], ACCOUNT, ask.device, ask.call_id)
            ask = Resume(ACCOUNT, ask.call_id, ask.device, ask.connection, found)
        asked = self.gateways[gateway]
        if isinstance(ask, Start):
            # The engine may have heard of it, and nobody of that: then the call has been admitted now.
            self._told_ms[ask.call_id].add(self.now_ms)
        steps = self.random.randint(1, 6) if self._may_crash() else None
        try:
            answer: Answer | CallgateError = self._do(asked.until_it_stops(asked.ask(ask), steps))
        except CrashedError:
            self._crash(gateway)
            return EngineUnavailable()
        if isinstance(answer, CallgateError | NotDue):
            return answer
        if isinstance(answer, Admitted) and isinstance(ask, Start):
            self._issued = self._receipts.issue_admitted(ask, answer)
            self._told_ms[ask.call_id].add(answer.admitted_at_ms)
            self.happened["admitted offline"] += answer.admitted_offline
            by = self._told_by_journal if answer.admitted_offline else self._told_by_engine
            by.add((answer.call_id, answer.admitted_at_ms))
            if answer.admitted_offline or (answer.emergency and answer.remaining_seconds is None):
                self._told_offline.add(answer.call_id)
        elif isinstance(answer, Resumed):
            self._issued = self._receipts.issue(answer.call)
        elif isinstance(answer, Refused):
            self.happened[f"refused: {answer.reason}"] += 1
        if isinstance(answer, Resumed | Admitted):
            is_anothers = ask.connection < self._owner.get(ask.call_id, 0)  # type: ignore[union-attr]
            # Of what a journal has, the engine may know an older lease.
            if is_anothers or answer.call_id in self._told_offline:
                return answer
        self._note_answer(ask, answer)
        return answer

    def _may_crash(self) -> bool:
        return not self._losses and not self._is_calm and self.random.random() < 0.01

    def _hear_answer(self, device: Device, call_id: str, answer: Answer | CallgateError, heard: Any) -> None:
        super()._hear_answer(device, call_id, answer, heard)
        if isinstance(answer, Admitted | Resumed) and not device.is_dead:
            self._has[answer.call_id] = self._issued

    # The end

    def _settle_everything(self) -> None:
        super()._settle_everything()
        self._play(self.now_ms + MINUTE)

    def _compare_books(self) -> None:
        for gateway in self.gateways:
            check(self._do(gateway.save()), "the engine stays behind SQL")
            self._do(gateway.keep_house())
            check(not len(gateway.journal), "the engine was not told", gateway.journal._calls)
            check(not len(gateway.calls.kept_ends), "ends were not delivered")
        check(self._do(self.gateways[0].save()), "the engine stays behind SQL")
        self._look()
        self.steps.in_progress(lambda *counts: check(counts == (0, 0, 0), "left in progress", counts))
        self.steps.pool(self._compare_pool)
        self._engine.carry_out(self.steps)
        self._compare_records()
        by_id: defaultdict[str, list[CallRecord]] = defaultdict(list)
        for record in reversed(self._records()):
            check(isinstance(record, CallRecord), "left reopened", record)
            assert isinstance(record, CallRecord)
            by_id[record.call_id].append(record)
        for device in self.devices:
            for book in device.calls.values():
                self._compare_book(book, by_id)

    def _compare_pool(self, pool: PackedPool) -> None:
        config = self._config()
        plan, pending = config.plan, config.pending_plan
        has = (pool.plan, pool.allocated_seconds, pool.pending_plan, pool.suspended, pool.seats_used)
        ought = (
            plan and plan.plan,
            plan.allocated_seconds if plan else 0,
            pending and pending.plan,
            config.status == "suspended",
            len(config.staff),
        )
        check(has == ought, "the pool is not as SQL says", has, ought)
        check(pool.revision == config.revision, "revisions", pool.revision, config.revision)
        used = config.settled_seconds
        check(used == pool.settled_seconds, "the sum is not what is used", used, pool.settled_seconds)
        running = config.running_cycle
        assert running is not None
        bounds = (pool.cycle_index, pool.cycle_start_ms, pool.cycle_end_ms)
        check(bounds == (running.index, running.start_ms, running.end_ms), "cycles", bounds, running)
        check(pool.thresholds == config.thresholds, "thresholds", pool.thresholds, config.thresholds)
        unapplied = self._do(self.gateways[0].records.accounts.unapplied(10))
        check(not unapplied, "a change was never finished")
        statement = self._statements()[-1]
        stated = (statement.plan, statement.allocated_seconds)
        check(stated == (pool.plan, pool.allocated_seconds), "the statement's plan", stated, has)

    def _statements(self) -> Sequence[Any]:
        async def read(connection: Any) -> Sequence[Any]:
            found = await connection.execute(select(statements).order_by(statements.c.cycle_start_ms))
            return found.all()  # type: ignore[no-any-return]

        return self._do(self._database.run(read))

    def _compare_records(self) -> None:
        check(self._do(self._database.run(count_dead_letters)) == 0, "a record was refused")
        cycles = {each.cycle_start_ms: each.cycle_end_ms for each in self._statements()}
        for (_, end_ms), (start_ms, _) in pairwise(sorted(cycles.items())):
            check(end_ms == start_ms, "cycles do not follow each other", cycles)
        seen: set[tuple[str, int]] = set()
        for record in self._records():
            if isinstance(record, CallRecord):
                at_ms = record.admitted_at_ms
                key = record.call_id, at_ms
                is_told_offline = key in self._told_by_journal - self._told_by_engine
                is_flagged = record.admitted_offline or at_ms in self._unheard_ms
                check(is_flagged or not is_told_offline, "it was let through without the engine", record)
                # An emergency's id may be taken, and it goes by another (R30).
                key = record.call_id.partition("-f")[0], at_ms
                check(key not in seen, "an admission has two records", record)
                seen.add(key)
                is_in_cycle = record.cycle_start_ms <= at_ms < cycles.get(record.cycle_start_ms, 0)
                # One that was told of while SQL was away counts as the running cycle's (R30).
                is_in_cycle = is_in_cycle or (record.emergency and record.cycle_start_ms in cycles)
                check(is_in_cycle, "it belongs to another cycle", record, cycles)
                duration_ms = record.ended_at_ms - at_ms
                billed = 0 if record.emergency else billed_seconds(duration_ms, record.policy)
                same = (record.duration_ms, record.billed_seconds) == (duration_ms, billed)
                check(same, "it bills something else", record, billed)

    def _compare_book(self, book: Book, by_id: Mapping[str, Sequence[CallRecord]]) -> None:
        records = by_id.get(book.call_id, ())
        for first, second in pairwise(records):
            is_another = second.admitted_offline or second.emergency
            is_another = is_another and second.admitted_at_ms >= first.settled_at_ms
            is_another = is_another or self._is_anew(second.admitted_at_ms, first.admitted_at_ms)
            check(is_another, "two records", records)
        if book.admitted_at_ms is None or book.is_refused:
            return
        told = [each for each in records if each.admitted_at_ms == book.admitted_at_ms]
        if not told and book.call_id in self._told_offline:
            # An emergency may go by another id; the engine may have heard of a start that was given up.
            told_ms = self._told_ms[book.call_id.partition("-f")[0]]
            named = [each for call_id, found in by_id.items() for each in found if _names(call_id, book)]
            told = [
                each
                for each in named
                if any(0 <= each.admitted_at_ms - at_ms <= LATE_MS for at_ms in told_ms)
            ]
        is_anew = bool(records) and self._is_anew(records[-1].admitted_at_ms, book.admitted_at_ms)
        check(bool(told) or is_anew, "a call was lost", book, records)
        settled = book.settled
        if settled is None or book.to == "112":
            return
        told = [each for each in records if each.admitted_at_ms == settled.admitted_at_ms]
        if not told and records and self._is_anew(records[-1].admitted_at_ms, settled.admitted_at_ms):
            return  # its id is another call's, and the engine had lost it
        check(len(told) == 1, "a settlement was lost", book, records)
        same = settled.billed_seconds == told[0].billed_seconds and settled.revision <= told[0].revision
        is_mended = settled.revision < told[0].revision and bool(self._losses)
        is_told_right = same or settled.ended_by != "hangup" or is_mended
        check(is_told_right, "the device was told otherwise", book, told)


def _names(call_id: str, book: Book) -> bool:
    return call_id.partition("-f")[0] == book.call_id.partition("-f")[0]
