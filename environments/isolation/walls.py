"""The wall around the files: what a worker that runs untrusted code cannot open, change or reach, whatever runs in it.

Where the kernel has Landlock (Linux 5.13), only the named paths can be read and none can be written; a filter of system
calls refuses what Landlock leaves open (modes, owners, times and attributes of files, shared memory, handles), and
capabilities are given up. Where there is seccomp alone, nothing can be opened any more: what such a worker needs it has
read before. It holds for root as for an ordinary user.

Standard library only: `environments.isolation.worker` loads this in an interpreter that has nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""Landlock's system calls: the same numbers everywhere."""
_VERSION, _BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights over files each version of Landlock knows; later ones know as many as the last."""
_NO_NETWORK_FROM, _SCOPED_FROM = 4, 6
_CAPABILITIES_3 = 0x20080522

_SEALED = {
    "x86_64": {
        **{"chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "fchmodat": 268, "fchownat": 260},
        **{"utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280, "truncate": 76, "mknod": 133},
        **{"setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198},
        **{"fremovexattr": 199, "mknodat": 259, "name_to_handle_at": 303, "open_by_handle_at": 304},
        **{"shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220},
        **{"msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241, "syslog": 103},
        **{"sethostname": 170, "setdomainname": 171, "acct": 163, "quotactl": 179, "ioperm": 173, "iopl": 172},
        **{"adjtimex": 159, "clock_adjtime": 305, "fanotify_init": 300, "kcmp": 312, "setpriority": 141},
        **{"inotify_init": 253, "inotify_init1": 294, "sched_setscheduler": 144, "sched_setattr": 314},
        **{"timer_create": 222},
    },
    "aarch64": {
        **{"fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "truncate": 45, "mknodat": 33},
        **{"setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16},
        **{"name_to_handle_at": 264, "open_by_handle_at": 265, "shmget": 194, "shmctl": 195, "shmat": 196},
        **{"semget": 190, "semctl": 191, "semtimedop": 192, "semop": 193, "msgget": 186, "msgctl": 187},
        **{"msgrcv": 188, "msgsnd": 189, "mq_open": 180, "mq_unlink": 181, "syslog": 116, "sethostname": 161},
        **{"setdomainname": 162, "acct": 89, "quotactl": 60, "adjtimex": 171, "clock_adjtime": 266},
        **{"fanotify_init": 262, "kcmp": 272, "setpriority": 140, "inotify_init1": 26, "sched_setscheduler": 119},
        **{"sched_setattr": 274, "timer_create": 107},
    },
}
"""System calls that change or reach what is not the worker's own, and that Landlock does not look at.

A timer could kill the worker so that it seems killed from outside.
"""
_OPENING = {
    "x86_64": {
        **{"open": 2, "creat": 85, "openat": 257, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "unlink": 87},
        **{"unlinkat": 263, "rename": 82, "renameat": 264, "renameat2": 316, "link": 86, "linkat": 265},
        **{"symlink": 88, "symlinkat": 266, "readlink": 89, "readlinkat": 267, "uselib": 134},
    },
    "aarch64": {
        **{"openat": 56, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38},
        **{"renameat2": 276, "readlinkat": 78},
    },
}
"""System calls that open or make files: refused where there is no Landlock."""
_EVERYWHERE = {"openat2": 437, "quotactl_fd": 443, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466}
_CAPSET = {"x86_64": 126, "aarch64": 91}


def landlock() -> int:
    """The version of Landlock this kernel has; 0 where it has none."""
    if not sys.platform.startswith("linux") or struct.calcsize("P") != 8:
        return 0
    return max(0, _call(_CREATE, None, 0, _VERSION))


def standing() -> str:
    """The wall that can be built here, in words; it begins with "none" where none can."""
    machine = os.uname().machine
    if not sys.platform.startswith("linux") or machine not in _SEALED:
        return f"none: neither Landlock nor seccomp is known for {sys.platform} on {machine}"
    if not os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):
        return "none: this kernel has no seccomp filters"
    return f"Landlock {landlock()} and seccomp" if landlock() else "seccomp"


class Wall:
    """A wall that a process prepares and its forks enter. readable: files and folders that stay readable."""

    def __init__(self, readable: Iterable[str]) -> None:
        self._rules = -1
        self._version = landlock()
        if self._version:
            self._rules = _ruleset(self._version, readable)

    def enter(self) -> str:
        """Shut this process in, for good: what stands now, as `standing` says it. Call it while it has one thread.

        The filter of system calls alone is entered by the caller, with the numbers of `refused`.
        """
        if self._rules < 0:
            return "seccomp"
        _give_up_capabilities()
        if _call(_RESTRICT, self._rules, 0):
            raise OSError(ctypes.get_errno(), "Landlock refused to restrict this process")
        os.close(self._rules)
        self._rules = -1
        return f"Landlock {self._version} and seccomp"

    def refused(self, machine: str) -> list[int]:
        """Numbers of the system calls that the worker's filter has to refuse."""
        numbers = {**_SEALED[machine], **_EVERYWHERE, **({} if self._rules >= 0 else _OPENING[machine])}
        return sorted(set(numbers.values()))


def _ruleset(version: int, readable: Iterable[str]) -> int:
    """A file descriptor of Landlock's rules: everything is handled, so refused, but reading of these paths."""
    files = (1 << _RIGHTS.get(version, max(_RIGHTS.values()))) - 1
    network = 3 if version >= _NO_NETWORK_FROM else 0
    scoped = 3 if version >= _SCOPED_FROM else 0
    attributes = struct.pack("QQQ", files, network, scoped)
    size = 24 if version >= _SCOPED_FROM else 16 if version >= _NO_NETWORK_FROM else 8
    rules = _call(_CREATE, ctypes.create_string_buffer(attributes, 24), size, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused to make its rules")
    for path in readable:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # it is not there, so it cannot be read either
            continue
        try:
            rights = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
            rule = struct.pack("=Qi", rights, place)
            if _call(_ADD, rules, _BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0):
                raise OSError(ctypes.get_errno(), f"Landlock refused a rule for {path!r}")
        finally:
            os.close(place)
    return rules


def _give_up_capabilities() -> None:
    """Root without them is an ordinary user that owns root's files, and those the wall hides."""
    number = _CAPSET.get(os.uname().machine)
    if number is not None:
        header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITIES_3, 0), 8)
        _call(number, header, ctypes.create_string_buffer(24))


def _call(number: int, *arguments: object) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(entry) if isinstance(entry, int) else entry for entry in arguments]
    return int(library.syscall(ctypes.c_long(number), *given))
