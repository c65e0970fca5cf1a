"""Tying a child process to the life of its parent.

Called by a process about itself, or run as a program that ties itself and then becomes another one:
`python die_with_parent.py PARENT_PID PROGRAM ARGUMENT…`. The tie survives the `exec`, and so the parent
runs no code between `fork` and `exec`, which would be unsafe with threads. Only Linux has it; elsewhere
nothing happens.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int, by: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when the thread that started it ends.

    `parent_pid` is the parent as it knows itself: if it is gone before the tie holds, this process ends here.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(by), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


def _become(parent_pid: str, program: str, *arguments: str) -> None:
    die_with_parent(int(parent_pid))
    os.execv(program, [program, *arguments])  # noqa: S606 - a list and no shell, by design


if __name__ == "__main__":
    _become(*sys.argv[1:])
