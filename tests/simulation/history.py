"""One history: devices, gateways and a network that loses, delays, repeats and reorders, drawn from a seed.

Whatever reaches the engine is asked of the model, and the history goes on with what that answers; the engine
must then have answered the same, step by step. Devices keep their own books, and so does the history of what
was said to whom; both are compared with the records at the end.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import accumulate, count, pairwise
from random import Random
from typing import Final

from gateway.domain.answers import Admitted, Answer, NotDue, Refused, Resumed, Settled
from gateway.domain.asks import AccountConfig, Answered, Ask, End, Reap, Resume, Retell, Start
from gateway.domain.calls import CallRecord, CallReopened
from gateway.domain.cycles import index_at
from gateway.domain.errors import CallgateError
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.domain.pool import PoolModel
from gateway.pool.packed import Item, PackedPool
from tests.simulation.engine import ACCOUNT, GRACE_MS, LATE_MS, LEASE_MS, Steps, check
from tests.support.pool_model import CYCLE_END, HOUR, MINUTE, SECOND, TO, a_plan

BILLING_DATE: Final = date(2026, 11, 15)
PLAN: Final = a_plan(30, max_concurrent_calls=6)
STAFF: Final = frozenset({"ana"})
BEAT_MS: Final = 4 * SECOND
RENEW_MS: Final = 5 * SECOND
DELAYS_MS: Final = (0, 1, 20, 300, 2_000, 9_000, 40_000)
DELAYED: Final = tuple(accumulate((10, 40, 25, 15, 6, 3, 1)))
DISCONNECTED_MS: Final = (500, 10_000, 29_000, 31_000, 50_000, 100_000, HOUR)


@dataclass
class Book:
    """What a device knows of a call of its own."""

    call_id: str
    to: str
    is_up: bool = False
    admitted_at_ms: int | None = None
    hung_up_at_ms: int | None = None
    settled: Settled | None = None
    is_refused: bool = False


@dataclass
class Connection:
    """A device's connection to a gateway."""

    number: int
    gateway: int
    heard_at_ms: int
    calls: set[str] = field(default_factory=set)


@dataclass
class Device:
    """A softphone with its books. A dead one never comes back."""

    name: str
    connection: Connection | None = None
    is_dead: bool = False
    calls: dict[str, Book] = field(default_factory=dict)


class History:
    """A few minutes of an account. `run` plays it, and leaves `steps` for the engine to follow.

    Both, playing and following, raise InconsistentError for what must not be.
    """

    began_before_end_ms: tuple[int, ...] = (3 * MINUTE, 90 * SECOND, 9 * HOUR)
    """How long before the end of a cycle they begin: some reach into another one."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_ms = CYCLE_END - self.random.choice(self.began_before_end_ms)
        self.steps = Steps(self.now_ms)
        self.model = PoolModel(
            ACCOUNT,
            billing_date=BILLING_DATE,
            time_zone="UTC",
            policy=Policy(),
            now_ms=self.now_ms,
            plan=PLAN,
            staff=STAFF,
            lease_ms=LEASE_MS,
            grace_ms=GRACE_MS,
            late_resume_ms=LATE_MS,
        )
        config = AccountConfig(ACCOUNT, 1, "active", BILLING_DATE, "UTC", PLAN, staff=STAFF)
        index = index_at(BILLING_DATE, "UTC", self.now_ms)
        self.steps.begin(config, index - 1, index + 4)
        self.devices = [Device(f"d-{number}") for number in range(3)]
        self.happened: defaultdict[str, int] = defaultdict(int)
        self._numbers = count(1)
        self._ids = count(1)
        self._order = count()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._owner: dict[str, int] = {}
        self._alive_ms: dict[str, int] = {}
        self._not_reaped_before: dict[str, int] = {}
        self._admitted: set[tuple[str, int]] = set()
        self._retold: list[CallRecord] = []
        self._under_way = 0
        self._beat_ms = 0
        self._steady_ms = self.now_ms
        self._version = 0
        self._is_calm = False

    def run(self) -> None:
        """Play it, let the faults stop, and compare all books."""
        until_ms = self.now_ms + self.random.choice([2, 4, 7]) * MINUTE
        self._later(0, self._beat)
        for device in self.devices:
            self._later(self.random.randint(0, 5000), partial(self._act, device))
        for gateway in range(2):
            self._later(self.random.randint(0, RENEW_MS), partial(self._renew, gateway))
        self._play(until_ms)
        self._settle_everything()
        self._compare_books()

    # Time

    def _later(self, ms: int, doing: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_ms + ms, next(self._order), doing))

    def _play(self, until_ms: int) -> None:
        while self._events and self._events[0][0] <= until_ms:
            self.now_ms, _, doing = heapq.heappop(self._events)
            self.steps.now_ms = self.now_ms
            doing()

    def _send(self, deliver: Callable[[], None]) -> None:
        """Over the network to the engine: perhaps late, twice, out of order, or never."""

        def arrive() -> None:
            self._under_way -= 1
            deliver()

        if self._is_calm:
            self._under_way += 1
            self._later(1, arrive)
            return
        for _ in range(self.random.choices((0, 1, 2), cum_weights=(8, 88, 100))[0]):
            delay_ms = self.random.choices(DELAYS_MS, cum_weights=DELAYED)[0]
            self._under_way += 1
            self._later(delay_ms, arrive)

    def _goes_on(self) -> bool:
        """Whether gateways have anything to do: else they need not be played until the end."""
        return not self._is_calm or bool(self._under_way or self.model._calls)

    # Gateways

    def _beat(self) -> None:
        # Now and then no gateway is there for a while, or the engine is not.
        if self._is_calm or self.random.random() > 0.02:
            self._tell_beat()
            if self._goes_on():
                self._later(BEAT_MS, self._beat)
        else:
            self.happened["no gateway"] += 1
            self._later(self.random.choice([6, 20, 60]) * SECOND, self._beat)
            return
        for call_id in self._due():
            self._ask(Reap(ACCOUNT, call_id))

    def _tell_beat(self) -> None:
        """R14: gateways are heard of without a gap if nothing longer than a third of a lease was between."""
        since_ms = self.now_ms - self._beat_ms
        if since_ms >= LEASE_MS / 12:
            if since_ms > LEASE_MS / 3:
                self._steady_ms = self.now_ms
            self._beat_ms = self.now_ms
        self.steps.beat()

    def _steady_since_ms(self) -> int:
        return self._steady_ms if self.now_ms - self._beat_ms <= LEASE_MS / 3 else self.now_ms

    def _due(self) -> list[str]:
        """The calls that may be reaped. Beats are so far apart that each of them is looked at every time."""
        due = sorted(
            call_id
            for call_id, lease in self.model._leases.items()
            if call_id in self.model._calls and lease.reap_at_ms <= self.now_ms
        )
        self.steps.due(
            lambda found: check(sorted(found) == due, "calls that nobody vouches for", sorted(found), due)
        )
        return due

    def _connections(self, gateway: int) -> list[tuple[Device, Connection]]:
        return [
            (device, device.connection)
            for device in self.devices
            if device.connection is not None and device.connection.gateway == gateway
        ]

    def _renew(self, gateway: int) -> None:
        for device, connection in self._connections(gateway):
            if device.is_dead:
                # It answers no ping: the gateway closes the connection.
                self._lose_connection(device)
                continue
            connection.heard_at_ms = self.now_ms - self.random.choice([0, 0, 500])
            for call_id in sorted(connection.calls):
                self._vouch(call_id, connection)
        if self._goes_on():
            self._later(RENEW_MS - self.random.randint(0, 1000), lambda: self._renew(gateway))
        if not self._is_calm and self.random.random() < 0.03:
            self._crash(gateway)

    def _crash(self, gateway: int) -> None:
        """It is gone between any two steps: what it had sent may still arrive, no connection is told lost."""
        self.happened["gateway crashed"] += 1
        for device, _ in self._connections(gateway):
            device.connection = None

    def _vouch(self, call_id: str, connection: Connection, *, lost: bool = False) -> None:
        sent_ms, heard_ms = self.now_ms, connection.heard_at_ms

        def deliver() -> None:
            # A gateway reckons how long ago that was when it sends; a late message says it of then.
            self._deliver_renewal(call_id, connection, sent_ms - heard_ms, lost=lost)

        self._send(deliver)

    def _deliver_renewal(self, call_id: str, connection: Connection, ago_ms: int, *, lost: bool) -> None:
        number = connection.number
        lease = self.model._leases.get(call_id)
        is_overtaken = lease is not None and lease.lost and lease.owner == number and not lost
        renewed = self.model.renew(
            call_id, self.now_ms, connection=number, heard_ago_ms=ago_ms, lost=lost, real_ms=self.now_ms
        )

        def same(answer: Renewed) -> None:
            check(answer is renewed, "a renewal", call_id, number, answer, renewed)

        self.steps.renew(call_id, number, ago_ms, lost, same)
        self.happened[f"renewal {renewed.value}"] += 1
        if renewed is Renewed.RENEWED:
            self._hear(call_id, number, "a renewal", ago_ms, lost, lease)
            if not is_overtaken:
                self._alive_ms[call_id] = max(self._alive_ms.get(call_id, 0), self.now_ms - ago_ms)
                self._not_reaped_before[call_id] = self.now_ms + GRACE_MS + (0 if lost else LEASE_MS)
        else:
            connection.calls.discard(call_id)

    def _hear(self, call_id: str, number: int, *said: object) -> None:
        """Words of a call were taken: never those of a connection that another took it over from."""
        is_newest = number == 0 or number >= self._owner.get(call_id, 0)
        check(is_newest, "an older owner is heard", call_id, number, *said)
        self._owner[call_id] = max(number, self._owner.get(call_id, 0))

    # Asks

    def _ask(self, ask: Ask, gateway: int = 0) -> Answer | CallgateError:
        """Ask engine and model by a gateway, and enter the answer into the history's books."""
        before = self.model._ended.get(ask.call_id)
        expected = self._ask_model(ask)
        if not isinstance(expected, CallgateError):
            self._note(ask, expected, before)
        settled_seconds = self.model.settled_seconds

        def answered(answer: Answer | CallgateError) -> None:
            same = type(answer) is type(expected) if isinstance(answer, CallgateError) else answer == expected
            check(same, "the engine and the model", ask, answer, expected)

        def looked_at(pool: PackedPool) -> None:
            check(pool.version >= self._version, "a version went back", pool.version)
            check(pool.settled_seconds == settled_seconds, "settled", pool.settled_seconds, settled_seconds)
            self._version = pool.version

        self.steps.ask(ask, answered)
        if not isinstance(expected, CallgateError | NotDue):
            self.steps.pool(looked_at)
        return expected

    def _ask_model(self, ask: Ask) -> Answer | CallgateError:
        try:
            match ask:
                case Start():
                    return self.model.start(ask, self.now_ms)
                case Answered():
                    return self.model.answered(ask, self.now_ms)
                case End():
                    return self.model.end(ask, self.now_ms)
                case Resume():
                    resumed = self.model.resume(ask, self.now_ms)
                    # Of a call that goes on nobody is told whether it counts.
                    return replace(resumed, call=replace(resumed.call, counts=not resumed.call.emergency))
                case Reap():
                    return self.model.reap(ask, self.now_ms, None, self._steady_since_ms())
                case Retell():
                    return self.model.retell(ask, self.now_ms)
        except CallgateError as error:
            return error

    def _note(self, ask: Ask, answer: Answer, before: CallRecord | None) -> None:
        call_id = answer.call_id
        if isinstance(ask, Reap) and isinstance(answer, Settled):
            self.happened[answer.ended_by] += 1
            early = self.now_ms < self._not_reaped_before[call_id]
            check(not early, "reaped while somebody may still come", call_id)
            alive_ms = self._alive_ms[call_id]
            check(answer.ended_at_ms >= alive_ms, "settled as of before it was last heard", call_id, alive_ms)
            return
        if isinstance(ask, Start) and ask.emergency and ask.connection < self._owner.get(call_id, 0):
            return  # R30: admitted whoever asks, who vouches for nothing by that
        is_said_before = isinstance(answer, Settled) and answer.replayed
        if isinstance(ask, End | Start | Resume) and not (is_said_before or isinstance(answer, Refused)):
            self._hear(call_id, ask.connection, ask, answer)
        if isinstance(answer, Admitted | Resumed):
            admitted_ms = answer.call.admitted_at_ms if isinstance(answer, Resumed) else answer.admitted_at_ms
            self._admitted.add((call_id, admitted_ms))
            self._alive_ms[call_id] = self.now_ms
            self._not_reaped_before[call_id] = self.now_ms + LEASE_MS + GRACE_MS
            self.happened["late return"] += isinstance(answer, Resumed) and answer.late
            self.happened["replayed"] += isinstance(answer, Admitted) and answer.replayed
        if isinstance(answer, Settled):
            self.happened["ended again"] += answer.replayed
            self.happened["late return and end in one"] += before is not None and not answer.replayed

    def _say(self, device: Device, make: Callable[[int], Ask], heard: Callable[[Answer], None]) -> None:
        """A device says something over its connection; the answer may get lost."""
        connection = device.connection
        if connection is None:
            return
        sent_ms, number = self.now_ms, connection.number
        connection.heard_at_ms = sent_ms
        ask = make(number)
        call_id = ask.call_id

        def deliver() -> None:
            answer = self._ask(self._with_free_id(ask), connection.gateway)
            if isinstance(answer, Settled):
                connection.calls.discard(call_id)
            # An answer is lost with its gateway or connection: then nobody vouches for the call.
            if self._is_calm or self.random.random() > 0.06:
                if isinstance(answer, Admitted | Resumed):
                    connection.calls.add(answer.call_id)
                self._hear_answer(device, call_id, answer, heard)

        self._send(deliver)

    def _with_free_id(self, ask: Ask) -> Ask:
        """A gateway that hears an emergency's start anew gives it another fresh id."""
        if isinstance(ask, Start) and self._has_ended(ask.fresh_call_id):
            return replace(ask, fresh_call_id=f"{ask.fresh_call_id}{next(self._ids)}")
        return ask

    def _has_ended(self, call_id: str) -> bool:
        return call_id in self.model._ended

    def _hear_answer(
        self,
        device: Device,
        call_id: str,
        answer: Answer | CallgateError,
        heard: Callable[[Answer], None],
    ) -> None:
        if device.is_dead:
            return
        if isinstance(answer, CallgateError):
            self.happened[answer.code] += 1
        else:
            heard(answer)

    # Devices

    def _act(self, device: Device) -> None:
        if device.is_dead or self._is_calm:
            return
        if device.connection is None:
            self._connect(device)
        else:
            dice = self.random.random()
            if dice < 0.30:
                self._place_call(device)
            elif dice < 0.55:
                self._hang_up(device)
            elif dice < 0.65:
                self._report_answer(device)
            elif dice < 0.75:
                self._lose_connection(device)
            elif dice < 0.77:
                self.happened["device died"] += 1
                device.is_dead = True
            elif dice < 0.85 and self.model.records:
                self._send(self._tell_again)
            else:
                self._repeat_what_was_not_answered(device)
        if not device.is_dead:
            away_ms = self.random.choice(DISCONNECTED_MS[:6]) if device.connection is None else 4_000
            self._later(self.random.randint(0, away_ms), lambda: self._act(device))
        if self.random.random() < 0.3:
            self._send(lambda: self._ask_stale_reap(device))

    def _ask_stale_reap(self, device: Device) -> None:
        """A gateway that looked some time ago."""
        if device.calls:
            self._ask(Reap(ACCOUNT, self.random.choice(list(device.calls))))

    def _tell_again(self) -> None:
        record = self.random.choice(self.model.records)
        self._ask(Retell(record, saved=self.random.random() < 0.5))

    def _connect(self, device: Device) -> None:
        device.connection = Connection(self._next_number(), self.random.randrange(2), self.now_ms)
        for book in device.calls.values():
            if book.is_up:
                self._resume(device, book)
        self._repeat_what_was_not_answered(device)

    def _next_number(self) -> int:
        return next(self._numbers)

    def _lose_connection(self, device: Device) -> None:
        connection, device.connection = device.connection, None
        assert connection is not None
        if self.random.random() < 0.7:
            for call_id in sorted(connection.calls):
                self._vouch(call_id, connection, lost=True)

    def _place_call(self, device: Device) -> None:
        to = "112" if self.random.random() < 0.1 else TO
        book = device.calls[f"c-{next(self._ids)}"] = Book("", to)
        book.call_id = next(reversed(device.calls))
        self._start(device, book)

    def _start(self, device: Device, book: Book) -> None:
        def make(number: int) -> Ask:
            is_emergency = book.to == "112"
            return Start(
                *(ACCOUNT, "ana", device.name, book.call_id, book.to),
                emergency=is_emergency,
                fresh_call_id=f"{book.call_id}-f" if is_emergency else "",
                connection=number,
            )

        def heard(answer: Answer) -> None:
            if isinstance(answer, Admitted):
                admitted = (
                    book if answer.call_id == book.call_id else self._go_by(device, book, answer.call_id)
                )
                if admitted.admitted_at_ms is None and admitted.hung_up_at_ms is None:
                    admitted.is_up = True
                admitted.admitted_at_ms = answer.admitted_at_ms
            elif book.admitted_at_ms is None:
                book.is_refused = True

        self._say(device, make, heard)

    def _go_by(self, device: Device, book: Book, call_id: str) -> Book:
        """R30: an emergency was admitted under another id, by which its device speaks of it from now on."""
        if call_id not in device.calls:
            device.calls[call_id] = Book(call_id, book.to, hung_up_at_ms=book.hung_up_at_ms)
            book.is_up, book.is_refused = False, True
            if book.hung_up_at_ms is not None:
                self._end(device, device.calls[call_id])
        return device.calls[call_id]

    def _resume(self, device: Device, book: Book) -> None:
        self._say(
            device,
            lambda number: Resume(ACCOUNT, book.call_id, ("ana", device.name), number),
            lambda _: None,
        )

    def _report_answer(self, device: Device) -> None:
        for book in [book for book in device.calls.values() if book.is_up][:1]:
            self._say(
                device,
                lambda number, book=book: Answered(  # type: ignore[misc]
                    ACCOUNT, book.call_id, ("ana", device.name), self.random.choice([0, 700]), number
                ),
                lambda _: None,
            )

    def _hang_up(self, device: Device) -> None:
        for book in [book for book in device.calls.values() if book.is_up][:1]:
            book.is_up, book.hung_up_at_ms = False, self.now_ms
            self._end(device, book)

    def _end(self, device: Device, book: Book) -> None:
        hung_up_at_ms = book.hung_up_at_ms
        assert hung_up_at_ms is not None
        ago_ms = self.now_ms - hung_up_at_ms

        def heard(answer: Answer) -> None:
            assert isinstance(answer, Settled)
            if book.settled is None or answer.revision > book.settled.revision:
                book.settled = answer
            check(
                answer.ended_at_ms >= hung_up_at_ms or answer.ended_by != "hangup",
                "ended before it was hung up",
                answer,
                hung_up_at_ms,
            )

        def make(number: int) -> Ask:
            return End(ACCOUNT, book.call_id, ("ana", device.name), ago_ms, number)

        self._say(device, make, heard)

    def _repeat_what_was_not_answered(self, device: Device) -> None:
        for book in device.calls.values():
            if book.hung_up_at_ms is not None and book.settled is None:
                self._end(device, book)
            elif book.admitted_at_ms is None and not book.is_refused:
                self._start(device, book)

    # The end

    def _settle_everything(self) -> None:
        """Faults stop: what is alive hangs up; what is not is settled in its absence."""
        self._play(self.now_ms + max(DELAYS_MS))
        self._is_calm = True
        for device in self.devices:
            if not device.is_dead:
                for book in device.calls.values():
                    if book.is_up or (book.hung_up_at_ms is None and not book.is_refused):
                        book.is_up, book.hung_up_at_ms = False, self.now_ms
                self._connect(device)
        self._play(self.now_ms + 2 * (LEASE_MS + GRACE_MS) + 3 * MINUTE)

    def _compare_books(self) -> None:
        """Have the books compared once the engine has followed."""
        self.steps.in_progress(lambda *counts: check(counts == (0, 0, 0), "left in progress", counts))
        pools: list[PackedPool] = []
        self.steps.pool(pools.append)
        self.steps.items(lambda items: self._compare(pools[0], items))

    def _compare(self, pool: PackedPool, items: Sequence[Item]) -> None:
        check(pool.calls == pool.emergencies == 0, "left in progress", pool.calls, pool.emergencies)
        by_call: defaultdict[tuple[str, int], list[CallRecord | CallReopened]] = defaultdict(list)
        for item in items:
            if isinstance(item, CallRecord | CallReopened):
                by_call[item.call_id, item.admitted_at_ms].append(item)
        reopened = [each for told in by_call.values() for each in told if isinstance(each, CallReopened)]
        check(len(reopened) == self.happened["late return"], "not every late return was told", reopened)
        check(set(by_call) == self._admitted, "not one record for each call", set(by_call) ^ self._admitted)
        used = 0
        last: dict[str, CallRecord] = {}
        for key, told in by_call.items():
            revisions = [each.revision for each in told if isinstance(each, CallRecord)]
            check(revisions == list(range(1, len(revisions) + 1)), "revisions", key, revisions)
            for before, after in pairwise(told):
                if isinstance(after, CallReopened):
                    check(after.revision == before.revision, "reopened another record", after, before)
            record = told[-1]
            check(isinstance(record, CallRecord), "left reopened", key)
            assert isinstance(record, CallRecord)
            last[record.call_id] = record
            if record.cycle_start_ms == pool.cycle_start_ms:
                used += record.billed_seconds
        check(
            used == pool.settled_seconds, "the records' sum is not what is used", used, pool.settled_seconds
        )
        for device in self.devices:
            for book in device.calls.values():
                settled = book.settled
                if settled is None or book.to == "112":
                    continue
                record = last[book.call_id]
                same = (settled.billed_seconds, settled.revision) == (record.billed_seconds, record.revision)
                # Only what was settled in its absence may be settled anew.
                check(same or settled.ended_by != "hangup", "the device was told otherwise", settled, record)
