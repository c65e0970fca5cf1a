"""The journal of calls let through without the engine: what a disk that fails makes of it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from gateway.domain.answers import Admitted, Answer, Noted
from gateway.domain.asks import Ask, End, Resume, Start
from gateway.domain.errors import EngineUnavailable
from gateway.service.journal import FOLDER, Journal
from tests.support.waiting import wait_until

NOW_MS = 1_795_392_000_000
DEVICE = ("ana", "desk")


class Engine:
    """An engine that can be away. `told` is all that it was asked."""

    def __init__(self) -> None:
        self.is_away = True
        self.told: list[Ask] = []

    async def ask(self, ask: Ask) -> Answer:
        """Answer that it is known, if it is there."""
        if self.is_away:
            raise EngineUnavailable
        self.told.append(ask)
        return Noted(ask.call_id)


class Disk:
    """Has space for so many bytes more, any number if None; syncs nothing unless it `goes_on`."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()
        self._write = os.write
        self._sync = os.fsync

    def write(self, file: int, content: bytes) -> int:
        """Write what there is space for."""
        if self.left is None:
            return self._write(file, content)
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(file, content[: self.left])
        self.left -= written
        return written

    def sync(self, file: int) -> None:
        """Sync, once it goes on."""
        self.goes_on.wait()
        self._sync(file)


@pytest.fixture
def engine() -> Engine:
    """An engine that is away."""
    return Engine()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk with space."""
    disk = Disk()
    monkeypatch.setattr(os, "write", disk.write)
    monkeypatch.setattr(os, "fsync", disk.sync)
    return disk


@pytest.fixture
def make_journal(tmp_path: Path, engine: Engine) -> Callable[[], Journal]:
    """A factory for journals of one data directory, as one process after the other has them."""

    async def cycle_start_ms(account: str, at_ms: int) -> int:
        return 0

    return lambda: Journal(tmp_path, engine.ask, lambda: NOW_MS, cycle_start_ms)


async def admit(journal: Journal, call_id: str, seconds: float = 10) -> Admitted:
    """Have an emergency call admitted, within so long."""
    ask = Start("acme", *DEVICE, call_id, "112", emergency=True, fresh_call_id=f"fresh-{call_id}")
    return await journal.admit_emergency(ask, monotonic() + seconds)


def ordinary(call_id: str) -> Start:
    """Any other call."""
    return Start("acme", *DEVICE, call_id, "+14155550100")


def gone(journal: Journal) -> None:
    """Let go of its files as a process does that dies."""
    if journal._file is not None:
        os.close(journal._file)
    for _, file in journal._adopted:
        os.close(file)


async def is_taken_over(journal: Journal, heir: Journal, call_ids: str) -> None:
    """Its process dies, and the next one has all of these calls."""
    gone(journal)
    await heir.adopt()
    assert [heir.holds("acme", call_id) for call_id in call_ids] == [True] * len(call_ids)
    gone(heir)


async def tell(journal: Journal, until: Callable[[], bool]) -> None:
    """Let it tell the engine, until something is so."""
    running = asyncio.create_task(journal.run())
    try:
        await wait_until(until)
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_part_of_a_line_is_taken_back_and_swallows_no_other(
    make_journal: Callable[[], Journal], disk: Disk
) -> None:
    journal = make_journal()
    await admit(journal, "a")
    disk.left = 20
    await admit(journal, "b")
    disk.left = None
    await admit(journal, "c")
    await is_taken_over(journal, make_journal(), "abc")


async def test_a_part_that_can_not_be_taken_back_swallows_no_other_either(
    make_journal: Callable[[], Journal], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal = make_journal()
    await admit(journal, "a")
    disk.left = 20
    with monkeypatch.context() as broken:
        broken.setattr(os, "ftruncate", refuse)
        await admit(journal, "b")
    disk.left = None
    await admit(journal, "c")
    await is_taken_over(journal, make_journal(), "abc")


async def test_what_could_not_be_written_is_told_all_the_same(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk, tmp_path: Path
) -> None:
    """And the file stays as it was, until it can be brought up to what is still to be told."""
    journal = make_journal()
    await admit(journal, "a")
    disk.left = 0
    await admit(journal, "b")
    engine.is_away = False
    await tell(journal, lambda: len(engine.told) == 2)
    assert [ask.call_id for ask in engine.told] == ["a", "b"]
    await tell(journal, lambda: not list((tmp_path / FOLDER).iterdir()))


async def test_a_file_that_can_not_be_brought_up_to_date_stays_whole(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk, tmp_path: Path
) -> None:
    journal = make_journal()
    for call_id in "abc":
        await admit(journal, call_id)
    (path,) = (tmp_path / FOLDER).iterdir()
    before = path.read_bytes()
    engine.is_away = False
    await journal._tell(("acme", "a"))
    disk.left = 30
    with pytest.raises(OSError, match="No space"):
        await journal.save()
    assert [(path, path.read_bytes())] == [(each, before) for each in (tmp_path / FOLDER).iterdir()]
    disk.left = None
    await journal.save()
    assert path.read_bytes() == b"".join(before.splitlines(keepends=True)[1:])
    gone(journal)


async def test_a_journal_that_can_not_be_copied_stays_until_it_can(
    make_journal: Callable[[], Journal], disk: Disk, tmp_path: Path
) -> None:
    """Whoever comes next goes on from it, too."""
    journal = make_journal()
    await admit(journal, "a")
    gone(journal)
    (path,) = (tmp_path / FOLDER).iterdir()
    disk.left = 10
    heir = make_journal()
    await heir.adopt()
    assert heir.holds("acme", "a")
    assert path.exists()
    gone(heir)
    disk.left = None
    last = make_journal()
    await last.adopt()
    assert last.holds("acme", "a")
    assert [each.name for each in (tmp_path / FOLDER).iterdir()] == [last._path.name]
    gone(last)


async def test_a_call_that_can_not_be_kept_is_not_let_through_and_not_told_of(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk
) -> None:
    """`admit`: unlike an emergency, it can wait."""
    journal = make_journal()
    disk.left = 0
    with pytest.raises(OSError, match="No space"):
        await journal.admit(ordinary("a"))
    assert not journal.holds("acme", "a")
    disk.left = None
    await journal.admit(ordinary("b"))
    engine.is_away = False
    await tell(journal, lambda: bool(engine.told) and not journal.holds("acme", "b"))
    assert [(type(ask), ask.call_id) for ask in engine.told] == [(Resume, "b")]


async def test_a_device_that_asks_for_many_at_once_gets_two(make_journal: Callable[[], Journal]) -> None:
    journal = make_journal()
    answers = await asyncio.gather(
        *(journal.admit(ordinary(call_id)) for call_id in "abcd"), return_exceptions=True
    )
    assert [isinstance(answer, EngineUnavailable) for answer in answers] == [False, False, True, True]
    gone(journal)


async def test_an_end_that_could_not_be_written_is_told_all_the_same(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk
) -> None:
    """Asked again, its client is told so once it is written."""
    journal = make_journal()
    await admit(journal, "a")
    disk.left = 0
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            await journal.note(End("acme", "a", DEVICE))
    disk.left = None
    assert (await journal.note(End("acme", "a", DEVICE))).call_id == "a"
    engine.is_away = False
    await tell(journal, lambda: len(engine.told) == 2)
    assert [type(ask) for ask in engine.told] == [Start, End]


async def test_an_emergency_waits_for_a_disk_that_hangs_no_longer_than_it_may(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk
) -> None:
    """Asked again meanwhile it is the same call; the engine is told of it meanwhile, and once."""
    journal = make_journal()
    disk.goes_on.clear()
    try:
        first = await admit(journal, "a", 0.05)
        again = await admit(journal, "a", 0.05)
        assert (first.replayed, again.replayed) == (False, True)
        assert first.admitted_at_ms == again.admitted_at_ms
        engine.is_away = False
        await tell(journal, lambda: not journal.holds("acme", "a"))
    finally:
        disk.goes_on.set()
    await journal.save()
    assert [ask.call_id for ask in engine.told] == ["a"]
    assert not journal._path.exists()


async def test_a_caller_that_is_gone_meanwhile_stops_no_writing(
    make_journal: Callable[[], Journal], disk: Disk
) -> None:
    journal = make_journal()
    disk.goes_on.clear()
    try:
        asked = [asyncio.create_task(admit(journal, call_id)) for call_id in "ab"]
        await wait_until(lambda: len(journal._unwritten) == len(asked))
        for each in asked:
            each.cancel()
        await asyncio.wait(asked)
        assert all(each.cancelled() for each in asked)
    finally:
        disk.goes_on.set()
    await wait_until(lambda: not journal._unwritten)
    gone(journal)
    heir = make_journal()
    await heir.adopt()
    assert [heir.holds("acme", call_id) for call_id in "ab"] == [True, True]
    gone(heir)
