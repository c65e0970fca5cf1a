"""The files of journals: one of this process, and those of others in the data directory.

They have a line for each thing that happened to a call that was let through without the engine. A process
holds a lock on its file for as long as it lives: one that can be locked was left behind.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FOLDER: Final = "emergencies"
LOCK_TRIES: Final = 3


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened to a call; `at_ms` is billing time by its gateway's reckoning.

    `offline` tells a call that was let through unchecked from an emergency.
    """

    what: Literal["start", "answered", "end"]
    account: str
    call_id: str
    at_ms: int
    staff: str = ""
    device: str = ""
    to: str = ""
    channel: str | None = None
    fresh_call_id: str = ""
    offline: bool = False


_decoder: Final = msgspec.json.Decoder(Entry)


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A journal of a process that is gone, and the open file by which this process has locked it."""

    entries: list[Entry]
    path: Path
    file: int


class TornError(OSError):
    """A part was written, and could not be taken back, or may not last: all is to be written anew."""


class JournalFiles:
    """The file of this process's journal, and what others have left or go on writing beside it.

    A disk may hang for seconds, so its methods are called in threads, never in the loop's. Those that change
    files (`append`, `rewrite`, `remove`) run one at a time; those that find something may run beside them.
    """

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / FOLDER
        self.path = self.folder / f"{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        """Where this process's file is, while it has one."""
        self._file: int | None = None

    def append(self, entries: Sequence[Entry]) -> None:
        """Write these down behind what there is, safe from a loss of power.

        Raises OSError if they can't be: then none of them is in the file, unless it is a TornError.
        """
        if self._file is None:
            self.rewrite(entries)
            return
        lines, size = _lines(entries), os.fstat(self._file).st_size
        try:
            _write_all(self._file, lines)
            os.fsync(self._file)
        except BaseException as failure:
            # A line of which a part stands there would swallow the next one.
            try:
                os.ftruncate(self._file, size)
            except OSError as worse:
                raise TornError(worse.errno, str(failure)) from failure
            raise

    def rewrite(self, entries: Sequence[Entry]) -> None:
        """Leave only these, safe from a loss of power; none, no file.

        Nobody ever finds the file unlocked, so that nobody takes it for one that was left behind. Raises
        OSError if they can't be written: then the file is as it was, unless it is a TornError.
        """
        if not entries:
            self.path.unlink(missing_ok=True)
            if self._file is not None:
                os.close(self._file)
                self._file = None
            return
        fresh = self.path.with_suffix(".new")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        file = os.open(fresh, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(file, _lines(entries))
            if self._file is not None:
                os.fsync(file)  # before it takes the place of what is safe
            fresh.rename(self.path)
        except BaseException:
            os.close(file)
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise
        earlier, self._file = self._file, file
        try:
            if earlier is not None:
                os.close(earlier)
            else:
                # Only now: where the disk hangs, what stands there outlives at least the process.
                os.fsync(file)
                _sync_folder(self.folder.parent)
            _sync_folder(self.folder)
        except OSError as failure:
            raise TornError(failure.errno, str(failure)) from failure

    def find_elsewhere(self, account: str, call_id: str) -> list[Entry]:
        """Find what others' journals have of a call: its start first, and nothing without that.

        A journal that can't be read is passed over, and logged. Raises OSError if the folder can't be.
        """
        found: dict[str, Entry] = {}
        for path in self._journals_of_others():
            try:
                entries = _entries(path.read_bytes())
            except FileNotFoundError:  # all of it has just been told
                continue
            except OSError as failure:
                log.warning("journal.not_read", path=str(path), error=str(failure))
                continue
            for entry in entries:
                if (entry.account, entry.call_id) == (account, call_id):
                    found.setdefault(entry.what, entry)
        if "start" not in found:
            return []  # what is left after its start was told is of no use
        return [found[what] for what in ("start", "answered", "end") if what in found]

    def find_left_behind(self) -> list[LeftBehind]:
        """Find journals of processes that are gone, which are not locked any more, and lock them.

        One that can't be locked or read is passed over, and logged. Raises OSError if the folder can't be.
        """
        found = []
        for path in self._journals_of_others():
            try:
                file = _lock(path)
            except OSError as failure:
                log.warning("journal.not_read", path=str(path), error=str(failure))
                continue
            if file is None:
                continue
            try:
                found.append(LeftBehind(_entries(path.read_bytes()), path, file))
            except OSError as failure:
                os.close(file)
                log.warning("journal.not_read", path=str(path), error=str(failure))
        return found

    def remove(self, left_behind: LeftBehind) -> None:
        """Remove a journal that was left behind, and what its process may have left half made.

        Raises OSError if it can't be: it stays locked then.
        """
        left_behind.path.with_suffix(".new").unlink(missing_ok=True)
        left_behind.path.unlink(missing_ok=True)
        os.close(left_behind.file)

    def _journals_of_others(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.jsonl") if path != self.path)


def _lines(entries: Iterable[Entry]) -> bytes:
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def _entries(content: bytes) -> list[Entry]:
    """All whole lines: of the last one the process may have written only a part, and answered nobody."""
    entries = []
    for line in content.split(b"\n")[:-1]:
        try:
            entries.append(_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as failure:
            # Without the others' records, and without a gateway, nobody would be better off.
            log.error("journal.unreadable", error=str(failure))
    return entries


def _write_all(file: int, content: bytes) -> None:
    """Write all of it. Raises OSError, also where there was space for a part."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def _lock(path: Path) -> int | None:
    """Open a journal that was left behind and lock it; None if it was not, or is gone. Raises OSError."""
    # Its process may put another in its place just between: that one is locked, if it still lives.
    for _ in range(LOCK_TRIES):
        file = None
        try:
            file = os.open(path, os.O_RDONLY)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), path.stat()):
                locked, file = file, None
                return locked
        except (BlockingIOError, FileNotFoundError):
            return None
        finally:
            if file is not None:
                os.close(file)
    return None


def _sync_folder(path: Path) -> None:
    """Have the names in a folder outlive a loss of power. Raises OSError."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
