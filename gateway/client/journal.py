"""The journal in which a phone keeps its calls, so that they outlive the program (`keep_in`).

A file of JSON lines, the last line of a call being what holds of it. What must not be forgotten is on the
disk before it is sent. Instants are times of day, for nothing else means anything to the next run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from gateway.client.elapsed import Clock
from gateway.client.errors import JournalInUse, JournalOfAnother

log: Final = logging.getLogger("gateway.client")

_WAIT_SECONDS: Final = 1.0
"""A disk that takes longer holds nothing up any more: that a gateway hears of it is worth more."""
_CLOSE_SECONDS: Final = 5.0
_MOST_LINES: Final = 500
"""More than that, and those that no longer hold are dropped."""


class Whose(Struct, frozen=True, tag_field="is", tag="phone"):
    """The device whose journal this is."""

    account: str
    staff: str
    device: str


class KeptCall(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="is", tag="call"):
    """A call that no gateway has settled; `key` tells it from others of this journal.

    `at_ms` is when this was written. `admitted_at_ms` is billing time, the other instants are times of day.
    `doubtful_since_ms` is when it was last known up, if that is not known any more.
    """

    key: int
    at_ms: int = 0
    call_id: str
    to: str
    channel: str | None = None
    emergency: bool = False
    started_at_ms: int
    admitted_at_ms: int | None = None
    receipt: str | None = None
    answered_at_ms: int | None = None
    ended_at_ms: int | None = None
    doubtful_since_ms: int | None = None


class Over(Struct, frozen=True, tag_field="is", tag="over"):
    """A call of which nothing needs to be kept any more."""

    key: int


class Alive(Struct, frozen=True, tag_field="is", tag="alive"):
    """The program ran, and had calls in progress."""

    at_ms: int


_Line: TypeAlias = Whose | KeptCall | Over | Alive
_decoder: Final = msgspec.json.Decoder(_Line)
_encoder: Final = msgspec.json.Encoder()


class Journal:
    """An open journal, which nobody else can open meanwhile. Lines are written in order, beside the loop."""

    def __init__(self, path: Path, clock: Clock, lock: int, lines: Iterable[_Line]) -> None:
        self.path = path
        self.whose: Whose | None = None
        self.alive_at_ms: int | None = None
        """When the program last ran with calls in progress, before it was opened."""
        self._clock = clock
        self._lock = lock
        self._calls: dict[int, KeptCall] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="callgate-journal")
        self._file: int | None = None
        self._written = 0
        self._closed = False
        # Also at first: the last line may be a torn one.
        self._failed = True
        for line in lines:
            self._hold(line)
            if isinstance(line, KeptCall | Alive):
                self.alive_at_ms = max(line.at_ms, self.alive_at_ms or 0)
        self._next_key = max(self._calls, default=0) + 1

    @property
    def calls(self) -> tuple[KeptCall, ...]:
        """What is kept, the oldest first."""
        return tuple(self._calls.values())

    def new_key(self) -> int:
        """Return a key for a call that comes in."""
        self._next_key += 1
        return self._next_key - 1

    def belongs_to(self, whose: Whose) -> None:
        """Note whose it is. Raises JournalOfAnother if it is another device's."""
        if self.whose is None:
            self._put(whose, sync=False)
        elif self.whose != whose:
            raise JournalOfAnother(
                f"{self.path} is kept for {self.whose.staff}/{self.whose.device} of {self.whose.account}."
            )

    def keep(self, call: KeptCall, *, sync: bool) -> asyncio.Future[None]:
        """Keep what is known of a call. The result comes when it is written, or can't be waited for.

        If `sync`, it is on the disk then, and outlives more than the program.
        """
        return self._put(msgspec.structs.replace(call, at_ms=self._clock.wall_ms()), sync=sync)

    def over(self, key: int) -> None:
        """Forget a call."""
        if key in self._calls:
            self._put(Over(key), sync=False)

    def alive(self) -> None:
        """Note that the program runs. It need not reach the disk: what it survives is the program's end."""
        self._put(Alive(self._clock.wall_ms()), sync=False)

    def mend(self) -> None:
        """Write again what could not be written, if anything."""
        if self._failed:
            self._rewrite()

    async def close(self) -> None:
        """Write what is left to be written, and let others have it; wait for that, but not for ever."""
        self._rewrite()
        self._closed = True
        released = asyncio.get_running_loop().run_in_executor(self._thread, self._release)
        self._thread.shutdown(wait=False)
        await asyncio.wait([released], timeout=_CLOSE_SECONDS)

    # On the loop

    def _hold(self, line: _Line) -> None:
        match line:
            case Whose():
                self.whose = line
            case KeptCall():
                self._calls[line.key] = line
            case Over():
                self._calls.pop(line.key, None)
            case Alive():
                pass

    def _put(self, line: _Line, *, sync: bool) -> asyncio.Future[None]:
        if self._closed:
            written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            written.set_result(None)
            return written
        self._hold(line)
        self._written += 1
        if self._failed or self._written > _MOST_LINES + 2 * len(self._calls):
            return self._rewrite(sync=sync)
        text = _encoder.encode(line) + b"\n"
        return self._beside(
            asyncio.get_running_loop().run_in_executor(self._thread, self._append, text, sync)
        )

    def _rewrite(self, *, sync: bool = True) -> asyncio.Future[None]:
        self._failed = False
        self._written = 0
        text = self._whole()
        loop = asyncio.get_running_loop()
        return self._beside(loop.run_in_executor(self._thread, self._replace, text, sync))

    def _beside(self, writing: asyncio.Future[None]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        def written(writing: asyncio.Future[None]) -> None:
            late.cancel()
            failure = None if writing.cancelled() else writing.exception()
            if failure is not None:
                log.warning("%s could not be written: %s", self.path, failure)
                self._failed = True
            settle()

        late = loop.call_later(_WAIT_SECONDS, settle)
        writing.add_done_callback(written)
        return done

    def _whole(self) -> bytes:
        lines: list[_Line] = [] if self.whose is None else [self.whose]
        lines.extend(self._calls.values())
        if any(call.ended_at_ms is None for call in self._calls.values()):
            lines.append(Alive(self._clock.wall_ms()))
        return b"".join(_encoder.encode(line) + b"\n" for line in lines)

    # In the thread

    def _append(self, text: bytes, sync: bool) -> None:
        if self._file is None:
            self._file = _open(self.path, os.O_APPEND)
        _write(self._file, text)
        if sync:
            os.fsync(self._file)

    def _replace(self, text: bytes, sync: bool) -> None:
        """Put a new file in place of the old: there is always a whole one."""
        fresh = self.path.with_name(self.path.name + ".new")
        file = _open(fresh, os.O_TRUNC)
        try:
            _write(file, text)
            if sync:
                os.fsync(file)
        finally:
            os.close(file)
        fresh.replace(self.path)
        if sync:
            _sync_folder(self.path.parent)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)
        os.close(self._lock)


def open_journal(path: Path, clock: Clock) -> Journal:
    """Open a journal, or make one. Raises JournalInUse, and OSError if it can't be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _open(path.with_name(path.name + ".lock"), 0)
    try:
        if not _locked(lock):
            raise JournalInUse(f"{path} is in use by another phone.")
        return Journal(path, clock, lock, _read(path))
    except BaseException:
        os.close(lock)
        raise


def _read(path: Path) -> list[_Line]:
    try:
        texts = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    lines: list[_Line] = []
    for number, text in enumerate(texts, 1):
        if not text:
            continue
        try:
            lines.append(_decoder.decode(text))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # The last one was being written when the power went, and was not acted on.
            if number < len(texts):
                log.warning("%s:%d is passed over: %s", path, number, error)
    return lines


def _open(path: Path, how: int) -> int:
    # Whom somebody called is nobody else's business.
    return os.open(path, os.O_RDWR | os.O_CREAT | how | getattr(os, "O_CLOEXEC", 0), 0o600)


def _write(file: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(file, rest) :]


if sys.platform == "win32":
    import msvcrt

    def _locked(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _sync_folder(path: Path) -> None:
        """A folder can't be synced there."""

else:
    import fcntl

    def _locked(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _sync_folder(path: Path) -> None:
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
