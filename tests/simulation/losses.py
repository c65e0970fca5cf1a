"""Histories in which an engine loses what it answered, or SQL forgets: no call is lost, none doubled.

Nothing is compared with the model here, which loses nothing. What gateways do about a loss is the product's
own code: `Shards`, `Accounts` and `KeptAnswers`, over the real scripts. SQL is `tests.simulation.sql`. The
devices' books, what they were told, the records and the pool must agree in the end.

One fault at a time: gateways do not crash here, and each loss is over before the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

from gateway.domain.answers import Admitted, Answer, NotDue, Resumed, Settled, settled_before
from gateway.domain.asks import AccountConfig, Answered, Ask, End, Reap, Resume, Retell, Start
from gateway.domain.calls import CallInProgress, CallRecord, call_meant
from gateway.domain.cycles import Cycle, cycle_at, index_at
from gateway.domain.errors import CallgateError, CallIdUsed, CallUnknown, EngineUnavailable
from gateway.domain.leases import Renewed
from gateway.domain.policy import Policy
from gateway.pool.accounts import Accounts
from gateway.pool.codes import UNDECIDED, Code
from gateway.pool.engine import Engine
from gateway.pool.kept_answers import KeptAnswers
from gateway.pool.keys import KeySpace
from gateway.pool.operations import Operation, section_arguments
from gateway.pool.packed import is_in_progress, unpack_call_in_progress, unpack_items, unpack_policy
from gateway.pool.record_stream import START
from gateway.pool.scripts import script
from gateway.pool.shards import Shards, ShardState, States
from gateway.records.ingest import Progress
from gateway.records.reading import StreamReader
from tests.simulation.engine import (
    ACCOUNT,
    ALL,
    CALLS,
    DECIDING,
    GRACE_MS,
    KEYS,
    LEASE_MS,
    LEASES,
    META,
    RECORDS,
    RENEWED,
    SimulatedEngine,
    check,
)
from tests.simulation.history import (
    BILLING_DATE,
    PLAN,
    STAFF,
    Book,
    Connection,
    Device,
    History,
)
from tests.simulation.scripts import SCRIPTS
from tests.simulation.sql import Entry, Sql
from tests.support.pool_model import HOUR, MINUTE, SECOND

T = TypeVar("T")

ATTEMPTS: Final = 4
"""How often a gateway supplies what a script missed, before it gives up on an ask."""
BETWEEN_MS: Final = 2 * (LEASE_MS + GRACE_MS)
"""So long after a loss there is no other."""
RECORD_MS: Final = (1 * SECOND, 4 * SECOND, 12 * SECOND)
"""After so long records are saved again."""
LOSSES: Final = ("last writes", "emptied", "restarted", "SQL")
"""An engine goes back to a copy of some seconds before, is emptied, or is only another process; SQL goes
back to a copy."""
FAR_BACK: Final = ("older", "first")
"""An engine goes back to a copy of up to half a minute before, or to its beginnings."""


def finish(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that never has to wait: all that it asks is answered at once."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    raise AssertionError("it waits for something")


async def one_after_another(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """What a gateway carries out at once, where nothing ever has to wait."""
    failures = []
    for each in work:
        try:
            await each
        except CallgateError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


class Client:
    """An engine's client, as `Shards` and `Accounts` use it."""

    def __init__(self, history: LossyHistory) -> None:
        self._history = history
        self._names = {script(name).sha: name for name in SCRIPTS}

    async def execute_command(self, command: str, sha: str, count: int, *given: Any) -> Any:
        """EVALSHA."""
        assert command == "EVALSHA"
        if sha == script("server_time").sha:
            return self._history.now_ms
        keys = ",".join(str(KEYS.index(key) + 1) for key in given[:count])
        return self._history.run_step(self._names[sha], keys, given[count:])

    async def hsetnx(self, *_: object) -> None:
        """The number of shards is kept."""

    async def hget(self, *_: object) -> str:
        """It is one."""
        return "1"


class Stream:
    """The records stream, as the recorder reads it."""

    def __init__(self, history: LossyHistory) -> None:
        self._history = history

    async def states(self) -> States:
        """The shard's, if it is there."""
        (found,) = self._history.run_step("clock_read", META, ())
        return States({0: ShardState(*found[4:7])} if found else {}, frozenset())

    async def last_up_to(self, positions: Mapping[int, str]) -> Mapping[int, Entry]:
        """The last entry that is not behind that position."""
        entries = self._history.entries("-", positions[0])
        return {0: entries[-1]} if entries else {}

    async def read(self, positions: Mapping[int, str], limit: int, *_: object) -> Sequence[Entry]:
        """Entries behind that position."""
        return self._history.entries(f"({positions[0]}", "+")[:limit]


class Gateway:
    """What a gateway knows of the engine, and what it was answered."""

    def __init__(self, history: LossyHistory) -> None:
        self._history = history
        engine, keys = Engine(cast(Any, Client(history)), spans_shards=True), KeySpace(1)
        self.shards = Shards(engine, keys, Policy(), simulate=False, saved_numbers=history.saved_numbers)
        self.accounts = Accounts(
            engine,
            keys,
            self.shards,
            history.load,
            history.ended_calls,
            unvouched_ms=LEASE_MS + GRACE_MS,
        )
        self.kept = KeptAnswers(keys.shard_of, lambda: history.now_ms, history.find_known, one_after_another)
        self.shards.on_new_epoch(self.kept.lost)

    def ask_pool(self, ask: Ask) -> Answer | CallgateError:
        """As the batcher does."""
        for _ in range(ATTEMPTS):
            operation = Operation(ask, lambda _: None, 0.0)
            if isinstance(ask, End):
                operation.tell_answered(self.kept.answered_at_ms(ACCOUNT, ask.call_id))
            arguments = (*DECIDING, *section_arguments({ACCOUNT: [operation]}))
            try:
                reply = self._history.run_step("calls_decide", ALL, arguments)
                if reply[0] in UNDECIDED:
                    finish(self.accounts.supply(ACCOUNT, reply[0]))
                    continue
            except CallgateError as error:
                return error
            answer = operation.deliver(reply, 0)
            if operation.width > 1 or operation.letter == "A":
                self.kept.note(ask, answer, reply[1] if operation.width > 1 else None)
            run, epoch, seq = reply[operation.width :]
            self.shards.saw(0, run, epoch, seq)
            return answer
        return EngineUnavailable()

    def ask(self, ask: Ask) -> Answer | CallgateError:
        """As the service does: what the pool does not know may be in SQL, in a receipt, or kept (R28)."""
        if isinstance(ask, Resume):
            answer = self.ask_pool(replace(ask, found=None))
            is_lost = isinstance(answer, CallIdUsed) and ask.found is not None
            if not (is_lost or isinstance(answer, CallUnknown)):
                return answer
            found = call_meant(self._history.sql.find_call(ask.call_id), ask.found)
            return CallUnknown() if found is None else self.ask_pool(replace(ask, found=found))
        answer = self.ask_pool(ask)
        if isinstance(ask, End) and isinstance(answer, CallUnknown):
            return self._end_unknown(ask)
        return answer

    def _end_unknown(self, ask: End) -> Answer | CallgateError:
        kept = self.kept.call_in_progress(ACCOUNT, ask.call_id)
        found = call_meant(self._history.sql.find_call(ask.call_id), kept)
        if found is None:
            return CallUnknown()
        if isinstance(found, CallInProgress):
            told = self.ask_pool(
                Resume(ACCOUNT, ask.call_id, ask.device, ask.connection, found, vouched=False)
            )
            return told if isinstance(told, CallgateError) else self.ask_pool(ask)
        if found.ended_by == "hangup":
            return settled_before(found, 0)
        return self.ask_pool(replace(ask, found=found))

    def beat(self) -> None:
        """Say that it is there, tell again what was lost, let go of what is safe."""
        finish(self.shards.beat(LEASE_MS))
        if self.kept.has_to_tell:
            finish(self.kept.tell(self.bring_up, self._tell, Policy()))
        if len(self.kept):
            self._release()

    def _release(self) -> None:
        saved_before_ms = finish(self._history.saved_here_before_ms())
        finish(self.shards.beat(LEASE_MS))
        if not self.kept.has_to_tell:
            finish(self.kept.release(saved_before_ms))

    async def bring_up(self, account: str) -> int:
        """Have the account's pool made, if it is not there; answers the epoch before that."""
        epoch = await self.shards.epoch(0)
        for _ in range(ATTEMPTS):
            ((code, *_),) = self._history.run_step("pools_read", ALL, ("1", "0", "0", "1", account))
            if code not in UNDECIDED:
                return epoch
            await self.accounts.supply(account, code)
        raise EngineUnavailable

    async def _tell(self, ask: Ask) -> None:
        answer = self.ask_pool(ask)
        if isinstance(answer, CallgateError):
            raise answer


class LosingHistory(History):
    """A few minutes of an account with losses, followed by the engine step by step.

    What SQL and gateways are is for those derived from it to say.
    """

    # What is wrong in a pool is forgotten with its cycle.
    began_before_end_ms: tuple[int, ...] = (3 * MINUTE, 9 * HOUR, 9 * HOUR, 9 * HOUR)

    def __init__(self, engine: SimulatedEngine, seed: int, losses: Sequence[str] = LOSSES + FAR_BACK) -> None:
        super().__init__(seed)
        self._losses = losses
        self._engine = engine
        self.steps.then, self.steps.sent = [], []
        self.steps.empty()
        self._down_until_ms = 0
        self._lost: set[tuple[str, int]] = set()
        """Calls and connections that were told to be lost: an older copy may know that again."""
        self._lost_at_ms: list[int] = []
        self._ended: set[str] = set()
        self._copies: list[str] = []

    # The engine

    def run_step(self, name: str, keys: str, arguments: Sequence[Any]) -> Any:
        """Have it carry out one thing. Raises EngineUnavailable while it is down."""
        if self.now_ms < self._down_until_ms:
            raise EngineUnavailable
        self.steps.add(name, keys, arguments, lambda _: None)
        return self._engine.carry_out(self.steps)[-1]

    def _copy_engine(self) -> None:
        name = f"copy-{len(self._copies) % 6}" if self._copies else "first"
        self._copies.append(name)
        self.steps.copy(name)

    def _schedule(self) -> None:
        for at_ms in range(0, 7 * MINUTE, 5 * SECOND):
            self._later(at_ms + self.random.randint(0, 5000), self._copy)
        at_ms = 20 * SECOND
        for _ in range(self.random.choice([1, 2, 3])):
            at_ms += self.random.randint(0, 60 * SECOND)
            self._later(at_ms, self._lose)
            at_ms += BETWEEN_MS

    def _copy(self) -> None:
        if not self._is_calm:
            self._copy_engine()
            is_over = not self._lost_at_ms or self.now_ms > self._lost_at_ms[-1] + BETWEEN_MS
            if self.random.random() < 0.2 and is_over:
                self._copy_sql()

    def _lose(self) -> None:
        if self._is_calm or not self._copies:
            return
        what = self.random.choice(self._losses)
        self.happened[f"lost: {what}"] += 1
        self._lost_at_ms.append(self.now_ms)
        if what == "SQL":
            self._lose_sql()
            return
        # What the engine loses and SQL has is nowhere else: SQL must not lose it, too.
        self._forget_sql_copy()
        if what == "emptied":
            self.steps.empty()
        elif what != "restarted":
            back = {"last writes": self._copies[-1], "older": self._copies[-4:][0], "first": "first"}
            self.steps.go_back_to(back[what])
        if what != "emptied" or self.random.random() < 0.5:
            self.steps.run += 1
        self._down_until_ms = self.now_ms + self.random.choice([1, 1500, 4000])

    def _copy_sql(self) -> None:
        raise NotImplementedError

    def _lose_sql(self) -> None:
        raise NotImplementedError

    def _forget_sql_copy(self) -> None:
        raise NotImplementedError

    # What differs from a history without losses

    def run(self) -> None:
        """Play it, let the faults stop, and compare all books."""
        self._schedule()
        super().run()
        self._engine.carry_out(self.steps)

    def _crash(self, gateway: int) -> None:
        """Not here: what only one gateway knows would be lost."""

    def _has_ended(self, call_id: str) -> bool:
        return call_id in self._ended

    def _alive(self, call_id: str, for_ms: int) -> None:
        self._not_reaped_before[call_id] = self.now_ms + for_ms

    def _note_answer(self, ask: Ask, answer: Answer) -> None:
        """Enter into the books what a gateway answered."""
        if isinstance(answer, Settled):
            self._ended.add(answer.call_id)
        if isinstance(ask, Reap) and isinstance(answer, Settled):
            self.happened[answer.ended_by] += 1
            check(
                self.now_ms >= self._not_reaped_before.get(ask.call_id, 0),
                "reaped while somebody may still come",
                ask.call_id,
            )
        elif isinstance(ask, Start | Resume) and isinstance(answer, Admitted | Resumed):
            if isinstance(ask, Start) and ask.connection < self._owner.get(answer.call_id, 0):
                return  # R30: an emergency is admitted whoever asks, who vouches for nothing by that
            self._owner[answer.call_id] = ask.connection
            self._lost.discard((answer.call_id, ask.connection))
            self._alive(answer.call_id, LEASE_MS + GRACE_MS)
            self.happened["late return"] += isinstance(answer, Resumed) and answer.late

    def _note_renewal(self, call_id: str, connection: Connection, renewed: Renewed, *, lost: bool) -> None:
        """Enter what became of a renewal."""
        self.happened[f"renewal {renewed.value}"] += 1
        if renewed is Renewed.RENEWED:
            self._owner[call_id] = connection.number
            if lost:
                self._lost.add((call_id, connection.number))
                self._alive(call_id, GRACE_MS)
            elif (call_id, connection.number) not in self._lost:
                # One that was overtaken by the loss of its connection brings nothing back.
                self._alive(call_id, LEASE_MS + GRACE_MS)
        elif renewed in (Renewed.NEWER_OWNER, Renewed.ENDED):
            connection.calls.discard(call_id)
        elif renewed is not Renewed.UNDECIDED and not lost and call_id in connection.calls:
            self._come_back(call_id, connection)

    def _come_back(self, call_id: str, connection: Connection) -> None:
        raise NotImplementedError

    def _is_anew(self, admitted_at_ms: int, before_ms: int) -> bool:
        """A start that a network repeats after the engine has lost the call is a new one."""
        is_anew = any(before_ms < at_ms <= admitted_at_ms for at_ms in self._lost_at_ms)
        self.happened["admitted anew"] += is_anew
        return is_anew


class LossyHistory(LosingHistory):
    """One with what `gateway.records` keeps in a dict, and gateways that only tell again what was lost."""

    def __init__(self, engine: SimulatedEngine, seed: int, losses: Sequence[str] = LOSSES + FAR_BACK) -> None:
        super().__init__(engine, seed, losses)
        self.sql = Sql()
        self._reader = StreamReader(cast(Any, Stream(self)), self._clock_ms, 1_000)
        self._beats = 0
        self._noted: dict[tuple[str, int], tuple[int, int]] = {}
        """When the answers of calls were noted, and by which gateway, of those that it knew."""
        self._ended_by: dict[str, int] = {}
        self._sql_copy: Sql | None = self.sql.copy()
        self.gateways = [Gateway(self), Gateway(self)]
        for gateway in self.gateways:
            finish(gateway.shards.open())
        finish(self.gateways[0].accounts.supply(ACCOUNT, Code.POOL_MISSING))

    def _schedule(self) -> None:
        super()._schedule()
        self._later(RECORD_MS[0], self._record)

    # SQL

    def _copy_sql(self) -> None:
        self._sql_copy = self.sql.copy()

    def _lose_sql(self) -> None:
        if self._sql_copy is not None:
            self.sql = self._sql_copy.copy()

    def _forget_sql_copy(self) -> None:
        self._sql_copy = None

    async def _clock_ms(self) -> int:
        return self.now_ms

    async def saved_here_before_ms(self) -> int:
        """As the recorder says."""
        return await self._reader.saved_before_ms(
            {0: Progress(self.sql.entry_id, self.sql.epoch, self.sql.number)}
        )

    async def saved_numbers(self) -> Mapping[int, int]:
        """The number of the last item that it has."""
        return {0: self.sql.number}

    async def find_known(
        self, _: str, calls: Sequence[tuple[str, int]]
    ) -> Sequence[CallRecord | CallInProgress]:
        """Which of these calls have ended, or came back since."""
        return self.sql.find_known(calls)

    async def ended_calls(self, _: str) -> Sequence[CallRecord]:
        """Which of those in progress have, and which were settled again."""
        fields = self.run_step("HGETALL", CALLS, ())
        calls = [
            unpack_call_in_progress(ACCOUNT, name.decode().partition("/")[2], value, 0)
            for name, value in zip(fields[::2], fields[1::2], strict=True)
            if is_in_progress(value)
        ]
        known = self.sql.find_known([(call.call_id, call.admitted_at_ms) for call in calls])
        return [each for each in known if isinstance(each, CallRecord)] + self.sql.resettled()

    async def load(self, account: str) -> AccountConfig | None:
        """What the pool is made from; what is settled and not saved yet is saved before."""
        if self._drain():
            raise EngineUnavailable
        running = index_at(BILLING_DATE, "UTC", self.now_ms)
        start_ms = max((at_ms for at_ms in self.sql.cycles if at_ms <= self.now_ms), default=None)
        config = AccountConfig(
            account,
            1,
            "active",
            BILLING_DATE,
            "UTC",
            PLAN,
            staff=STAFF,
            reopened=self.sql.reopened(),
        )
        if start_ms is None or self.sql.cycles[start_ms].cycle_index != running:
            return config
        cycle = Cycle(running, start_ms, self.sql.cycles[start_ms].cycle_end_ms)
        return replace(config, running_cycle=cycle, settled_seconds=self.sql.settled_seconds(start_ms))

    def _record(self) -> None:
        if self._goes_on():
            self._later(self.random.choice(RECORD_MS), self._record)
        with suppress(EngineUnavailable):
            self._drain()

    def _drain(self) -> bool:
        """Save what is in the stream; answers whether the engine is older than SQL."""
        (found,) = self.run_step("clock_read", META, ())
        epoch = found[4] if found else 0
        read_from = self.sql.entry_id
        if epoch > self.sql.epoch and read_from != START:
            last = self.entries(read_from, read_from)
            if not last or last[0].first_number + len(last[0].items) - 1 != self.sql.number:
                read_from = START
        entries = self.entries("-" if read_from == START else f"({read_from}", "+")
        if epoch < self.sql.epoch:
            return bool(entries or epoch)
        self.sql.save(entries, epoch, read_from)
        return False

    def entries(self, first: str, last: str) -> list[Entry]:
        """What its stream holds between two ids."""
        entries = []
        for entry_id, fields in self.run_step("XRANGE", RECORDS, (first, last)):
            entry = dict(zip(fields[::2], fields[1::2], strict=True))
            items = list(unpack_items(entry[b"d"], unpack_policy(entry[b"p"])))
            entries.append(Entry(entry_id.decode(), int(entry[b"n"]), items))
        return entries

    # Gateways

    def _goes_on(self) -> bool:
        if not self._is_calm or self._under_way:
            return True
        if self._lost_at_ms and self.now_ms < self._lost_at_ms[-1] + BETWEEN_MS:
            return True  # not every gateway has noticed yet
        with suppress(EngineUnavailable):
            (found,) = self.run_step("clock_read", META, ())
            return not found or found[3] > 0 or any(each.kept.has_to_tell for each in self.gateways)
        return True

    def _tell_again(self) -> None:
        """Some settlement that SQL has is told once more."""
        if self.sql.records:
            record, is_back = self.random.choice(list(self.sql.records.values()))
            if not is_back:
                self._ask(Retell(record, saved=True), self.random.randrange(2))

    def _beat(self) -> None:
        # In turn: how often one is heard of is enough for both.
        self._beats += 1
        with suppress(EngineUnavailable):
            self.gateways[self._beats % 2].beat()
            self._reap()
        if self._goes_on():
            self._later(4 * SECOND, self._beat)

    def _reap(self) -> None:
        _, _, *due = self.run_step("leases_due", f"{META},{CALLS},{LEASES}", (1000,))
        for each in due:
            self._ask(Reap(ACCOUNT, each.decode().partition("/")[2]))

    def _deliver_renewal(self, call_id: str, connection: Connection, ago_ms: int, *, lost: bool) -> None:
        said = (f"{ACCOUNT}/{call_id}", connection.number, "", ago_ms, int(lost))
        try:
            (code,) = self.run_step(
                "calls_renew", f"{META},{CALLS},{LEASES}", (LEASE_MS, GRACE_MS, 0, 1, *said)
            )
        except EngineUnavailable:
            return
        renewed = RENEWED.get(code, Renewed.UNDECIDED)
        if renewed is Renewed.RENEWED:
            self.gateways[connection.gateway].kept.alive(ACCOUNT, call_id, self.now_ms - ago_ms)
        self._note_renewal(call_id, connection, renewed, lost=lost)

    def _come_back(self, call_id: str, connection: Connection) -> None:
        """As the keeper does: its device is here, and has it up."""
        gateway = self.gateways[connection.gateway]
        (device,) = [each for each in self.devices if call_id in each.calls]
        found = gateway.kept.call_in_progress(ACCOUNT, call_id)
        answer = self._ask(
            Resume(ACCOUNT, call_id, ("ana", device.name), connection.number, found), connection.gateway
        )
        if isinstance(answer, CallgateError) and answer.code.startswith("call_"):
            connection.calls.discard(call_id)

    def _ask(self, ask: Ask, gateway: int = 0) -> Answer | CallgateError:
        if isinstance(ask, Resume) and ask.found is None:
            ask = replace(ask, found=self._receipt(ask.call_id))
        answer = self.gateways[gateway].ask(ask)
        if not isinstance(answer, CallgateError | NotDue):
            self._note_answer(ask, answer)
            self._note_who(ask, gateway)
        return answer

    def _note_who(self, ask: Ask, gateway: int) -> None:
        """Enter into the books which gateway an answer, or an end, was told."""
        if isinstance(ask, Answered):
            known = self.gateways[gateway].kept.call_in_progress(ACCOUNT, ask.call_id)
            if known is not None and not self._has_ended(ask.call_id):
                self._noted.setdefault((ask.call_id, known.admitted_at_ms), (self.now_ms, gateway))
        elif isinstance(ask, End):
            self._ended_by[ask.call_id] = gateway

    def _receipt(self, call_id: str) -> CallInProgress | None:
        """What the device was given when it was told of its admission."""
        for device in self.devices:
            book = device.calls.get(call_id)
            if book is not None and book.admitted_at_ms is not None:
                return CallInProgress(
                    account=ACCOUNT,
                    call_id=call_id,
                    staff="ana",
                    device=device.name,
                    channel=None,
                    to=book.to,
                    admitted_at_ms=book.admitted_at_ms,
                    answered_at_ms=None,
                    cycle_start_ms=self._cycle_start_ms(book.admitted_at_ms),
                    emergency=book.to == "112",
                    counts=book.to != "112",
                )
        return None

    def _cycle_start_ms(self, at_ms: int) -> int:
        began = [start_ms for start_ms in self.sql.cycles if start_ms <= at_ms]
        return max(began, default=cycle_at(BILLING_DATE, "UTC", at_ms).start_ms)

    def _compare_books(self) -> None:
        finish(self.gateways[0].bring_up(ACCOUNT))
        check(not self._drain(), "the engine stays behind SQL")
        self.steps.in_progress(lambda *counts: check(counts == (0, 0, 0), "left in progress", counts))
        self.steps.pool(lambda pool: self._compare_sums(pool.cycle_start_ms, pool.settled_seconds))
        by_id: defaultdict[str, list[CallRecord]] = defaultdict(list)
        for (call_id, _), (record, is_back) in sorted(self.sql.records.items()):
            check(not is_back, "left reopened", record)
            by_id[call_id].append(record)
        for device in self.devices:
            self._compare_device(device, by_id)

    def _compare_sums(self, cycle_start_ms: int, settled_seconds: int) -> None:
        used = self.sql.settled_seconds(cycle_start_ms)
        check(used == settled_seconds, "the records' sum is not what is used", used, settled_seconds)

    def _compare_device(self, device: Device, by_id: Mapping[str, Sequence[CallRecord]]) -> None:
        for book in device.calls.values():
            records = by_id.get(book.call_id, ())
            admitted = [record.admitted_at_ms for record in records]
            for record in records:
                self._compare_answer(record)
            check(len(records) < 2 or self._is_anew(admitted[-1], admitted[0]), "two records", records)
            is_told = book.admitted_at_ms is not None and not book.is_refused
            if is_told and book.admitted_at_ms not in admitted:
                is_anew = bool(admitted) and self._is_anew(admitted[-1], book.admitted_at_ms or 0)
                check(is_anew, "a call was lost", book, records, device.name)
            settled = book.settled
            if settled is None or book.to == "112":
                continue
            told = [record for record in records if record.admitted_at_ms == settled.admitted_at_ms]
            check(len(told) == 1, "a settlement was lost", book, records)
            same = settled.billed_seconds == told[0].billed_seconds and settled.revision <= told[0].revision
            is_told_right = same or settled.ended_by != "hangup" or _is_mended(book, settled, told[0])
            check(is_told_right, "the device was told otherwise", book, told)

    def _compare_answer(self, record: CallRecord) -> None:
        """R3: an answer that was noted before the call's end is never lost.

        But where another gateway was told the end, close behind a loss: it knows of no answer.
        """
        noted_at_ms, gateway = self._noted.get((record.call_id, record.admitted_at_ms), (None, 0))
        if noted_at_ms is None or record.ended_at_ms <= noted_at_ms:
            return
        if record.ended_by == "hangup" and self._ended_by.get(record.call_id) != gateway:
            return
        self.happened["answer kept"] += 1
        check(record.answered_at_ms is not None, "an answer was lost", record)


def _is_mended(book: Book, settled: Settled, record: CallRecord) -> bool:
    """Was a first end lost, its words repeated (which may take a while), and the first one told again?

    It is another revision then, and not further from when the device hung up than what that was told.
    """
    at_ms = book.hung_up_at_ms
    return (
        at_ms is not None
        and settled.revision < record.revision
        and abs(record.ended_at_ms - at_ms) <= abs(settled.ended_at_ms - at_ms)
    )
