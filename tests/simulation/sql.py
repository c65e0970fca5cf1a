"""SQL in a history with losses: what gateway.records keeps of one account, in a dict.

The rules are those of gateway/records/ingest.py and reading.py, for one shard; what the database itself can
do wrong is for other tests. It can be copied, and go back to a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from gateway.domain.calls import CallInProgress, CallRecord, CallReopened, CycleOpened
from gateway.pool.packed import Item
from gateway.pool.record_stream import START

Key = tuple[str, int]
"""Call id, and admission."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the records stream."""

    entry_id: str
    first_number: int
    items: Sequence[Item]


@dataclass
class Sql:
    """The records, and how far they were saved: the last entry, its epoch, the number of the last item."""

    records: dict[Key, tuple[CallRecord, bool]] = field(default_factory=dict)
    """Each with whether its call has come back since."""
    cycles: dict[int, CycleOpened] = field(default_factory=dict)
    entry_id: str = START
    epoch: int = 0
    number: int = 0

    def copy(self) -> Sql:
        """What it has now."""
        return replace(self, records=dict(self.records), cycles=dict(self.cycles))

    def save(self, entries: Iterable[Entry], epoch: int, read_from: str) -> None:
        """Save entries that were read behind that one, under an epoch that is not older than the one here."""
        if epoch > self.epoch and read_from != self.entry_id:
            self.entry_id = START
        self.epoch = epoch
        for entry in entries:
            if order(entry.entry_id) > order(self.entry_id):
                for item in entry.items:
                    self._save(item)
                self.entry_id = entry.entry_id
                self.number = max(self.number, entry.first_number + len(entry.items) - 1)

    def _save(self, item: Item) -> None:
        if isinstance(item, CycleOpened):
            self.cycles[item.cycle_start_ms] = item
            return
        key = item.call_id, item.admitted_at_ms
        known = self.records.get(key)
        if isinstance(item, CallReopened):
            if known is not None and known[0].revision <= item.revision:
                self.records[key] = replace(known[0], revision=item.revision), True
        elif known is None or (item.revision, False) > (known[0].revision, known[1]):
            self.records[key] = item, False

    # What is asked of it

    def find_known(self, calls: Iterable[Key]) -> list[CallRecord | CallInProgress]:
        """Those of these calls that ended at least once."""
        return [_call(*self.records[key]) for key in calls if key in self.records]

    def find_call(self, call_id: str) -> CallRecord | CallInProgress | None:
        """The call of that id that was admitted last."""
        admitted = [key for key in self.records if key[0] == call_id]
        return _call(*self.records[max(admitted)]) if admitted else None

    def reopened(self) -> tuple[CallRecord, ...]:
        """The latest records of calls that have come back since."""
        return tuple([record for record, is_back in self.records.values() if is_back])

    def resettled(self) -> list[CallRecord]:
        """The records that replaced an earlier one, of the two latest cycles."""
        latest = sorted(self.cycles)[-2:]
        return [
            record
            for record, is_back in self.records.values()
            if record.cycle_start_ms in latest and record.revision > 1 and not is_back
        ]

    def settled_seconds(self, cycle_start_ms: int) -> int:
        """What the records of a cycle bill, but for those whose calls came back."""
        return sum(
            record.billed_seconds
            for record, is_back in self.records.values()
            if not is_back and record.cycle_start_ms == cycle_start_ms
        )


def order(entry_id: str) -> tuple[int, int]:
    """The place of an entry among others."""
    milliseconds, sequence = entry_id.split("-")
    return int(milliseconds), int(sequence)


def _call(record: CallRecord, is_back: bool) -> CallRecord | CallInProgress:
    if not is_back:
        return record
    return CallInProgress(
        account=record.account,
        call_id=record.call_id,
        staff=record.staff,
        device=record.device,
        channel=record.channel,
        to=record.to,
        admitted_at_ms=record.admitted_at_ms,
        answered_at_ms=record.answered_at_ms,
        cycle_start_ms=record.cycle_start_ms,
        emergency=record.emergency,
        counts=not record.emergency,
        revision=record.revision,
    )
