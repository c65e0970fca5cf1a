"""A disk of its own for what is to run out of space: a tmpfs, which needs root to mount."""

from __future__ import annotations

import errno
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

MEGABYTES = 96
_PIECE = bytes(65536)


class SmallDisk:
    """`path` is on it. `fill` leaves not a byte, `free` gives back what `fill` took."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="cg-disk-"))
        self._filler = self.path / "filler"

    def mount(self) -> None:
        """Mount it; the test is skipped where that is not allowed."""
        size = f"size={MEGABYTES}m"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "cg-disk", self.path],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"a full disk was NOT tested: it takes root to mount one ({done.stderr.strip()})")

    def fill(self) -> None:
        """Take all space that is left."""
        with self._filler.open("ab", buffering=0) as filler:
            piece = _PIECE
            while piece:
                try:
                    filler.write(piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece = piece[: len(piece) // 2]

    def free(self) -> None:
        """Give the space back."""
        self._filler.unlink()

    def discard(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "-l", self.path], capture_output=True, check=False)
        shutil.rmtree(self.path, ignore_errors=True)
