"""What a process gives up before it runs untrusted code: memory, file sizes, and by seccomp processes and network.

Standard library only: `environments.isolation.worker` loads this in an interpreter that has nothing of ours. The filter
refuses system calls by EPERM, so that Python raises PermissionError; threads, asyncio (which needs a pair of connected
sockets) and SQLite go on working. Files are `environments.isolation.walls`'.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
from collections.abc import Collection, Mapping
from typing import Any

from environments.isolation.walls import Wall

# Numbers of system calls, by architecture: the kernel's audit token, then names.
_ARCHITECTURES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {"clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322}
        | {"socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "accept4": 288}
        | {"kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297}
        | {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "setrlimit": 160, "prlimit64": 302}
        | {"mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308}
        | {"reboot": 169, "swapon": 167, "swapoff": 168, "init_module": 175, "finit_module": 313, "delete_module": 176}
        | {"kexec_load": 246, "kexec_file_load": 320, "add_key": 248, "request_key": 249, "keyctl": 250}
        | {"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "settimeofday": 164, "clock_settime": 227}
        | {"fcntl": 72},
    ),
    "aarch64": (
        0xC00000B7,
        {"clone": 220, "execve": 221, "execveat": 281}
        | {"socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "accept4": 242}
        | {"kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240}
        | {"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "setrlimit": 164, "prlimit64": 261}
        | {"mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268}
        | {"reboot": 142, "swapon": 224, "swapoff": 225, "init_module": 105, "finit_module": 273, "delete_module": 106}
        | {"kexec_load": 104, "kexec_file_load": 294, "add_key": 217, "request_key": 218, "keyctl": 219}
        | {"bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "settimeofday": 170, "clock_settime": 112}
        | {"fcntl": 25},
    ),
}
# Since 2019 the numbers are the same everywhere. io_uring would open sockets past the filter.
_COMMON = {"pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430}
_COMMON |= {"pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "mount_setattr": 442}
_NETWORK = {"socket", "connect", "accept", "bind", "listen", "accept4"}
_BY_ARGUMENT = {"clone", "clone3", "kill", "tgkill", "prlimit64", "socketpair", "fcntl"}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in the kernel's struct seccomp_data; an argument has 8 bytes
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE, _UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_CLONE_THREAD, _SOCK_STREAM, _SOCK_TYPE = 0x10000, 1, 0xF
_X32 = 0x40000000
_F_SETSIG = 10
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2

Instruction = tuple[int, int, int, int]
"""code, instructions to skip when the test holds, when it does not, operand"""


def confine(limits: Mapping[str, Any], wall: Wall | None = None) -> tuple[str, str]:
    """Put this process and its threads under the limits, for good.

    Returns "seccomp", or "none: " and why there is no filter; and the wall around the files, or "none: " and why there
    is none. `limits`: memory_mb and file_mb in MiB, open_files, sandbox and network (see
    `environments.isolation.pool.Limits`). Memory counts from the address space that is in use now. Call it while the
    process has one thread: a filter covers the thread that installs it and those it starts later.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, limits["file_mb"] << 20)
    _lower(resource.RLIMIT_NOFILE, limits["open_files"])
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + (limits["memory_mb"] << 20))
    if not limits["sandbox"]:
        return "none: it was not asked for", "none: it was not asked for"
    machine = os.uname().machine
    if not sys.platform.startswith("linux") or struct.calcsize("P") != 8 or machine not in _ARCHITECTURES:
        none = f"none: no filter is known for {sys.platform} on {machine}"
        return none, none
    if not prctl(_PR_SET_NO_NEW_PRIVS, 1, 0):
        none = f"none: the kernel refused it ({os.strerror(ctypes.get_errno())})"
        return none, none
    sealed = wall.refused(machine) if wall else ()
    stands = wall.enter() if wall else "none: it was not asked for"
    filtered = _filter(machine, limits["network"], sealed)
    return filtered, stands if filtered == "seccomp" else filtered


def _lower(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (value, value))


def _filter(machine: str, network: bool, sealed: Collection[int]) -> str:
    code = b"".join(struct.pack("HBBI", *step) for step in program(machine, os.getpid(), network, sealed))
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    made = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if not prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(made)):
        return f"none: the kernel refused it ({os.strerror(ctypes.get_errno())})"
    return "seccomp"


def prctl(option: int, *values: int) -> bool:
    """Whether the kernel accepted an operation on this process; False also where there is no prctl."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    given = [*values, 0, 0, 0, 0][:4]
    return call is not None and call(ctypes.c_int(option), *map(ctypes.c_ulong, given)) == 0


def program(machine: str, pid: int, network: bool, sealed: Collection[int] = ()) -> list[Instruction]:
    """The filter in the kernel's BPF: of all system calls some are refused, a few depending on their arguments.

    Signals go to the process itself only (`pid`), limits may be read but not raised, a new process can be but a thread,
    and a pair of sockets only one of streams (others can send anywhere). sealed: numbers of further calls that are
    refused; a process so sealed cannot kill or stop itself either, which would look like a kill from outside.
    """
    token, numbers = _ARCHITECTURES[machine]
    numbers = numbers | _COMMON
    refused = numbers.keys() - _BY_ARGUMENT - (_NETWORK if network else set())
    steps: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, token),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":  # the same calls under other numbers
        steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]
    for name in sorted(refused):
        steps += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _REFUSE)]
    for number in sorted(set(sealed)):
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    if sealed:
        killing, setting = (signal.SIGKILL, signal.SIGSTOP), (_F_SETSIG, _F_SETSIG)
        for name, argument, values in (("kill", 1, killing), ("tgkill", 2, killing), ("fcntl", 1, setting)):
            steps += _unless(numbers[name], argument, values)
    steps += [(_EQUAL, 0, 1, numbers["clone3"]), (_RETURN, 0, 0, _UNKNOWN)]  # the C library then falls back to clone
    own = [(_EQUAL, 0, 1, pid)]
    steps += _when(numbers["kill"], 0, own) + _when(numbers["tgkill"], 0, own)
    steps += _when(numbers["clone"], 0, [(_ANY_BIT, 0, 1, _CLONE_THREAD)])
    new_limit = _ARGUMENTS + 8 * 2
    steps += _when(numbers["prlimit64"], 2, [(_EQUAL, 0, 3, 0), (_LOAD, 0, 0, new_limit + 4), (_EQUAL, 0, 1, 0)])
    if not network:
        steps += _when(numbers["socketpair"], 1, [(_AND, 0, 0, _SOCK_TYPE), (_EQUAL, 0, 1, _SOCK_STREAM)])
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _unless(number: int, argument: int, values: tuple[int, int]) -> list[Instruction]:
    """A call that is refused where its argument has one of two values, and looked at further where not."""
    return [
        (_EQUAL, 0, 5, number),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
        (_EQUAL, 1, 0, values[0]),
        (_EQUAL, 0, 1, values[1]),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER),
    ]


def _when(number: int, argument: int, test: list[Instruction]) -> list[Instruction]:
    """A call that is allowed when a test of its argument's lower half holds.

    A test that fails skips the next instruction, which is the one that allows.
    """
    body = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), *test, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return [(_EQUAL, 0, len(body), number), *body]
