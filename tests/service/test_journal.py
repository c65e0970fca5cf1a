"""The journal of calls let through without the engine: what a disk that fails makes of it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from gateway.domain.answers import Admitted, Answer, Noted
from gateway.domain.asks import Ask, End, Resume, Start
from gateway.domain.errors import EngineUnavailable
from gateway.service import journal as journal_module
from gateway.service.journal import Journal
from gateway.service.journal_files import FOLDER
from tests.support.waiting import wait_until

NOW_MS = 1_795_392_000_000
DEVICE = ("ana", "desk")


class Engine:
    """An engine that can be away. `told` is all that it was asked."""

    def __init__(self) -> None:
        self.is_away = True
        self.away: set[str] = set()
        """Accounts whose shard is away though the engine is not."""
        self.asked: list[str] = []
        """The calls, also those of which it could not be told."""
        self.under_way = 0
        self.most_under_way = 0
        self.told: list[Ask] = []

    async def ask(self, ask: Ask) -> Answer:
        """Answer that it is known, if it is there."""
        self.asked.append(ask.call_id)
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if self.is_away or ask.account in self.away:
            raise EngineUnavailable
        self.told.append(ask)
        return Noted(ask.call_id)


class Disk:
    """Has space for so many bytes more, any number if None; syncs nothing unless it `goes_on`.

    Nor does it show what there is in the folder unless it `shows`.
    """

    def __init__(self) -> None:
        self.left: int | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.shows = threading.Event()
        self.shows.set()
        self.failing: Callable[[], Exception | None] = lambda: None
        self.synced: list[str] = []
        """What outlives a loss of power under its name, in this order: a folder is what makes it so."""
        self._write = os.write
        self._sync = os.fsync
        self._look = os.scandir

    def write(self, file: int, content: bytes) -> int:
        """Write what there is space for."""
        failure = self.failing()
        if failure is not None:
            raise failure
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
        path = Path(f"/proc/self/fd/{file}").readlink()
        self.synced += sorted(each.name for each in path.iterdir()) if path.is_dir() else [path.name]

    def look(self, path: Any = ".") -> Any:
        """Look into a folder, once it shows."""
        if Path(path).name == FOLDER:
            self.shows.wait()
        return self._look(path)


@pytest.fixture
def engine() -> Engine:
    """An engine that is away."""
    return Engine()


@pytest.fixture
async def disk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Disk]:
    """A disk with space. It goes on before the loop waits for its threads."""
    disk = Disk()
    monkeypatch.setattr(os, "write", disk.write)
    monkeypatch.setattr(os, "fsync", disk.sync)
    monkeypatch.setattr(os, "scandir", disk.look)
    yield disk
    disk.goes_on.set()
    disk.shows.set()


@pytest.fixture
def make_journal(tmp_path: Path, engine: Engine) -> Callable[[], Journal]:
    """A factory for journals of one data directory, as one process after the other has them."""

    async def cycle_start_ms(account: str, at_ms: int) -> int:
        return 0

    return lambda: Journal(tmp_path, engine.ask, lambda: NOW_MS, cycle_start_ms)


async def admit(journal: Journal, call_id: str, seconds: float = 10, account: str = "acme") -> Admitted:
    """Have an emergency call admitted, within so long."""
    ask = Start(account, *DEVICE, call_id, "112", emergency=True, fresh_call_id=f"fresh-{call_id}")
    return await journal.admit_emergency(ask, monotonic() + seconds)


def ordinary(call_id: str) -> Start:
    """Any other call."""
    return Start("acme", *DEVICE, call_id, "+14155550100")


def gone(journal: Journal) -> None:
    """Let go of its files as a process does that dies."""
    if journal._files._file is not None:
        os.close(journal._files._file)
    for left_behind in journal._adopted:
        os.close(left_behind.file)


def open_files() -> list[Path]:
    """What this process has open."""
    return [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


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
    assert [each.name for each in (tmp_path / FOLDER).iterdir()] == [last._files.path.name]
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
    assert not journal._files.path.exists()


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


async def running_before_a_disk_that_hangs(
    journal: Journal, engine: Engine, disk: Disk
) -> asyncio.Task[NoReturn]:
    """A journal at work that waits for the disk, with the emergency `a`, while the engine is away."""
    disk.goes_on.clear()
    await admit(journal, "a", 0.05)
    running = asyncio.create_task(journal.run())
    await wait_until(lambda: len(engine.asked) > 1)
    return running


async def test_the_engine_is_told_of_others_while_the_disk_still_hangs(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came back after the journal had begun to wait for the disk. What was told goes when that goes on."""
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 0.05)
    journal = make_journal()
    running = await running_before_a_disk_that_hangs(journal, engine, disk)
    engine.is_away = False
    await wait_until(lambda: [ask.call_id for ask in engine.told] == ["a"], 5)
    await admit(journal, "b", 0.05)
    await wait_until(lambda: [ask.call_id for ask in engine.told] == ["a", "b"], 5)
    assert not disk.goes_on.is_set()
    disk.goes_on.set()
    await wait_until(lambda: not list(journal._files.folder.iterdir()))
    running.cancel()
    await asyncio.wait({running})
    assert [ask.call_id for ask in engine.told] == ["a", "b"]


async def test_what_is_not_told_when_a_process_stops_is_written_though_its_disk_hung(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`save`, as a process that stops does it, waits for what is under way."""
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 0.05)
    journal = make_journal()
    running = await running_before_a_disk_that_hangs(journal, engine, disk)
    running.cancel()
    await asyncio.wait({running})
    await admit(journal, "b", 0.05)
    saving = asyncio.create_task(journal.save())
    await asyncio.sleep(0)
    disk.goes_on.set()
    await saving
    await is_taken_over(journal, make_journal(), "ab")


async def test_a_call_that_can_wait_does_not_wait_for_a_disk_that_hangs(
    make_journal: Callable[[], Journal], disk: Disk
) -> None:
    """What is written of it afterwards is taken out: nobody was told that it was let through."""
    journal = make_journal()
    await journal.admit(ordinary("a"))
    disk.goes_on.clear()
    with pytest.raises(TimeoutError):
        await journal.admit(ordinary("b"), monotonic() + 0.05)
    assert not journal.holds("acme", "b")
    disk.goes_on.set()
    await journal.save()
    assert b'"b"' not in journal._files.path.read_bytes()
    await is_taken_over(journal, make_journal(), "a")


async def test_a_call_that_can_wait_does_not_wait_for_a_folder_that_hangs(
    make_journal: Callable[[], Journal], disk: Disk, tmp_path: Path
) -> None:
    """Asked again afterwards it is let through."""
    (tmp_path / FOLDER).mkdir()
    journal = make_journal()
    disk.shows.clear()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await journal.admit(ordinary("a"), monotonic() + 0.05)
    assert not journal.holds("acme", "a")
    disk.shows.set()
    assert not (await journal.admit(ordinary("a"))).replayed
    gone(journal)


async def test_an_end_that_a_disk_does_not_take_in_time_is_told_all_the_same(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk
) -> None:
    journal = make_journal()
    await admit(journal, "a")
    disk.goes_on.clear()
    with pytest.raises(TimeoutError):
        await journal.note(End("acme", "a", DEVICE), monotonic() + 0.05)
    disk.goes_on.set()
    engine.is_away = False
    await tell(journal, lambda: len(engine.told) == 2)
    assert [type(ask) for ask in engine.told] == [Start, End]


async def test_emergencies_leave_a_thread_free_where_the_folder_hangs(
    make_journal: Callable[[], Journal], disk: Disk, tmp_path: Path
) -> None:
    """There are few, and names of hosts are looked up by them, too: also the engine's, when it comes back."""
    (tmp_path / FOLDER).mkdir()
    journal = make_journal()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(5))
    disk.shows.clear()
    await asyncio.gather(*(admit(journal, f"c-{number}", 0.05) for number in range(10)))
    await asyncio.wait_for(asyncio.to_thread(bool), 5)
    disk.shows.set()
    await wait_until(lambda: not journal._at_work)
    await is_taken_over(journal, make_journal(), "")


async def test_a_line_that_is_no_text_costs_only_its_own_record(
    make_journal: Callable[[], Journal],
) -> None:
    """A damaged disk may leave any bytes."""
    journal = make_journal()
    for call_id in "abc":
        await admit(journal, call_id)
    path = journal._files.path
    path.write_bytes(path.read_bytes().replace(b'"call_id":"b"', b'"call_id":"\xff"'))
    other = make_journal()
    assert await other.recall("acme", "a")
    await other.save()
    gone(other)
    await is_taken_over(journal, make_journal(), "ac")


async def test_a_journal_that_can_not_be_read_keeps_no_call_from_being_let_through(
    make_journal: Callable[[], Journal], tmp_path: Path
) -> None:
    """Somebody else's, left in the folder; here it is a folder, which the superuser can't read either."""
    (tmp_path / FOLDER / "0.jsonl").mkdir(parents=True)
    other = make_journal()
    await admit(other, "b")
    journal = make_journal()
    await journal.admit(ordinary("a"))
    assert await journal.recall("acme", "b")
    gone(other)
    gone(journal)


@pytest.mark.parametrize("failure", [ValueError("odd"), MemoryError()])
async def test_an_emergency_is_admitted_whatever_becomes_of_its_record(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk, failure: Exception
) -> None:
    journal = make_journal()
    disk.failing = lambda: failure
    assert not (await admit(journal, "a")).replayed
    await journal.tell()
    disk.failing = lambda: None
    engine.is_away = False
    await tell(journal, lambda: len(engine.told) == 1)


async def test_an_emergency_is_admitted_where_no_thread_can_be_begun(
    make_journal: Callable[[], Journal], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to look into the folder, nor to write."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    journal = make_journal()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        assert not (await admit(journal, "a")).replayed
    engine.is_away = False
    await tell(journal, lambda: len(engine.told) == 1)


async def test_a_journal_that_its_owner_writes_anew_is_not_taken_for_left_behind(
    make_journal: Callable[[], Journal], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just between being opened and being locked by another process."""
    owner = make_journal()
    for call_id in "ab":
        await admit(owner, call_id)
    engine.is_away = False
    await owner._tell(("acme", "a"))
    loop = asyncio.get_running_loop()
    lock = fcntl.flock

    def lock_late(file: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        asyncio.run_coroutine_threadsafe(owner.save(), loop).result()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    heir = make_journal()
    await heir.adopt()
    assert not heir.holds("acme", "b")
    gone(heir)
    await is_taken_over(owner, make_journal(), "b")


async def test_a_journal_just_made_is_not_taken_for_left_behind(
    make_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its owner has locked it."""
    owner, heir = make_journal(), make_journal()
    loop = asyncio.get_running_loop()
    lock = fcntl.flock

    def lock_late(file: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        asyncio.run_coroutine_threadsafe(heir.adopt(), loop).result()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    await admit(owner, "a")
    gone(heir)
    await is_taken_over(owner, make_journal(), "a")


async def test_a_file_that_can_not_be_locked_is_not_kept_open(
    make_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    journal = make_journal()
    await admit(journal, "a")
    await admit(journal, "b")
    assert journal._files.folder not in {path.parent for path in open_files()}


async def test_a_journal_outlives_a_loss_of_power_under_its_name(
    make_journal: Callable[[], Journal], engine: Engine, disk: Disk, tmp_path: Path
) -> None:
    """When it is made, and when it is written anew."""
    journal = make_journal()
    await admit(journal, "a")
    assert FOLDER in disk.synced
    assert disk.synced[-1] == journal._files.path.name
    await admit(journal, "b")
    disk.synced.clear()
    engine.is_away = False
    await journal._tell(("acme", "a"))
    await journal.save()
    assert disk.synced == [journal._files.path.with_suffix(".new").name, journal._files.path.name]
    gone(journal)


async def test_emergencies_are_told_first_several_at_once_and_what_failed_last(
    make_journal: Callable[[], Journal], engine: Engine
) -> None:
    """A shard that is away takes 1.8 s to say so."""
    journal = make_journal()
    await journal.admit(ordinary("a"))
    await admit(journal, "away", account="away")
    await admit(journal, "b")
    engine.is_away = False
    engine.away = {"away"}
    await journal.tell()
    assert engine.asked == ["away", "b", "a"]
    assert engine.most_under_way > 1
    engine.asked.clear()
    await admit(journal, "c")
    await journal.tell()
    assert engine.asked == ["c", "away"]
    gone(journal)


async def test_a_round_that_fails_is_logged_once_with_how_many_calls_it_is_about(
    make_journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "AT_ONCE", 2)
    journal = make_journal()
    for call_id in "abc":
        await admit(journal, call_id)
    with capture_logs() as logged:
        await journal.tell()
    assert logged == [
        {
            "event": "journal.not_told_yet",
            "log_level": "warning",
            "calls": 2,
            "waiting": 3,
            "code": "engine_unavailable",
            "account": "acme",
            "call_id": "a",
        }
    ]
    gone(journal)


async def test_a_shard_that_is_away_keeps_no_call_of_others_from_being_told(
    make_journal: Callable[[], Journal], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of its calls there are."""
    monkeypatch.setattr(journal_module, "AT_ONCE", 2)
    journal = make_journal()
    for number in range(5):
        await admit(journal, f"away-{number}", account="away")
    for call_id in "ab":
        await journal.admit(ordinary(call_id))
    engine.is_away = False
    engine.away = {"away"}
    for _ in range(4):
        await journal.tell()
    assert {ask.call_id for ask in engine.told} == {"a", "b"}
    engine.away = set()
    for _ in range(4):
        await journal.tell()
    assert not len(journal)
