"""Processes from outside: their CPU time, what they wrote, how they ended, and how to end one with all its descendants.

Standard library only: `environments.isolation.worker` loads this in an interpreter that has nothing of ours. Where
there is no /proc (macOS), descendants are not known.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from typing import NamedTuple

_ROUNDS = 1_000
"""Times a tree of processes is looked up while it still grows: those stopped cannot fork, so it does not grow for
long."""

_TAIL = 2_000
"""Characters of a process's output that an error quotes."""


class Ids(NamedTuple):
    """The ids of a process's parent, group and session."""

    parent: int
    group: int
    session: int


class Output:
    """A file without a name that takes a process's output. Its writers append, so it can be emptied any time."""

    def __init__(self) -> None:
        path = os.path.join(tempfile.gettempdir(), f"output-{os.urandom(16).hex()}")
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        os.unlink(path)

    def fileno(self) -> int:
        """The file's descriptor; -1 once closed."""
        return self._descriptor

    def empty(self) -> None:
        """Drop what was written so far."""
        if os.fstat(self._descriptor).st_size:
            os.ftruncate(self._descriptor, 0)

    def tail(self) -> str:
        """The last of what was written, as the end of an error's message; "" where nothing was, or once closed."""
        if self._descriptor < 0:
            return ""
        size = os.fstat(self._descriptor).st_size
        last = os.pread(self._descriptor, 4 * _TAIL, max(0, size - 4 * _TAIL))
        text = last.decode(errors="replace").strip()[-_TAIL:]
        return f"; its last output:\n{text}" if text else ""

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def processes() -> dict[int, Ids]:
    """All processes by id, zombies among them; empty where there is no /proc."""
    found: dict[int, Ids] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            fields = _stat(int(name)) if name.isdecimal() else None
            if fields:
                found[int(name)] = Ids(*map(int, fields[1:4]))
    return found


def children(pid: int) -> set[int]:
    """The ids of a process's children."""
    return {child for child, ids in processes().items() if ids.parent == pid}


def started(pid: int) -> int | None:
    """When a process started, in the kernel's ticks: with its id, its identity. None where it is gone, or without
    /proc.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU a process has used so far, all its threads together; 0.0 where that cannot be known."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # Linux makes a process's CPU clock out of its id
    except (OSError, OverflowError):
        return 0.0


def waited_seconds(pid: int) -> float:
    """Seconds that a process's main thread has waited for a processor so far; 0.0 where that cannot be known."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def is_held(pid: int, seconds: float) -> bool:
    """Whether the machine keeps a process from running: it is stopped, waits for a disk, or has waited for a processor
    for at least so many seconds of its life. False where that cannot be known.
    """
    fields = _stat(pid)
    return bool(fields and fields[0] in ("T", "t", "D")) or waited_seconds(pid) >= seconds


def kill_tree(pid: int, since: int | None = None) -> None:
    """Kill a process with its descendants and all members of its group and session, those orphaned included.

    All are stopped before any is killed, so that none forks meanwhile. With `since`, the start of the process meant,
    nothing is done when the id belongs to another by now. The caller, or whoever is the parent, reaps.
    """
    if since is not None and started(pid) not in (None, since):
        return
    members: set[int] = set()
    for _ in range(_ROUNDS):
        fresh = _members(pid) - members
        if not fresh:
            break
        for member in fresh:
            _signal(member, signal.SIGSTOP)
        members |= fresh
    for member in members:
        _signal(member, signal.SIGKILL)


def ending(status: int | None) -> str:
    """How a process ended, in words, from its exit code (negative: the signal that killed it, as in `subprocess`)."""
    if status is None:
        return "how it ended is not known"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _members(pid: int) -> set[int]:
    known = processes()
    if not known:
        return {pid}
    members = {member for member, ids in known.items() if pid in (member, ids.session, ids.group)}
    while grown := {member for member, ids in known.items() if ids.parent in members} - members:
        members |= grown
    return members - {os.getpid()}


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the third on; the second, a name, may hold blanks and brackets."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return None


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
