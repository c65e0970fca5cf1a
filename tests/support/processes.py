"""Looking at processes, on Linux."""

from collections.abc import Iterable
from pathlib import Path


def is_running(pid: int) -> bool:
    """Tell whether a process runs. One that ended and that nobody has waited for does not."""
    fields = _fields(pid)
    return fields is not None and fields[0] != "Z"


def none_running(pids: Iterable[int]) -> bool:
    """Tell whether all of these processes have ended."""
    return not any(is_running(pid) for pid in pids)


def descendants(pid: int) -> set[int]:
    """Return the running processes that a process started, and those that they started."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _fields(int(entry.name))
            if fields is not None and fields[0] != "Z" and int(fields[1]) == pid:
                found |= {int(entry.name)} | descendants(int(entry.name))
    return found


def command_line(pid: int) -> list[str]:
    """Return the program and arguments of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _fields(pid: int) -> list[str] | None:
    # /proc/PID/stat after the program's name, which may hold anything: state, parent, …
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
