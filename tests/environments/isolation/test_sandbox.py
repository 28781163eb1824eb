"""The sandbox: what a worker is refused, what goes on working, and the filter read step by step."""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Iterator

import pytest
from remote_pool import LONG, pool

from environments.isolation.pool import Limits, RemoteError, Worker, WorkerPool
from environments.isolation.processes import processes
from environments.isolation.sandbox import program

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="seccomp is Linux's")


@pytest.fixture(scope="module")
def home() -> Iterator[WorkerPool]:
    with pool(limits=Limits(open_files=40)) as made:
        yield made


@pytest.fixture
def worker(home: WorkerPool) -> Iterator[Worker]:
    made = home.spawn()
    if made.sandbox != "seccomp":
        pytest.skip(made.sandbox)
    yield made
    made.close()


def fails(worker: Worker, code: str) -> str:
    """The type of what code raises."""
    with pytest.raises(RemoteError) as caught:
        worker.call("run", LONG, code=code)
    assert caught.value.kind == "raised"
    return caught.value.remote_type


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.fork()",
        "import os; os.forkpty()",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['true'])",
        "import subprocess; subprocess.run('true', shell=True)",
        "import multiprocessing; multiprocessing.get_context('fork').Process(target=print).start()",
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.socketpair(type=socket.SOCK_DGRAM)",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(1, 0)",
        "import os; os.killpg(0, 9)",
        "import os, signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
        "import os; os.chroot('.')",
        "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
    ],
)
def test_what_is_refused(worker: Worker, code: str) -> None:
    assert fails(worker, code) == "PermissionError"
    assert worker.call("count", LONG) == 1


def test_limits_cannot_be_raised_again(worker: Worker) -> None:
    """Not even by root, who could otherwise."""
    code = "import resource as r; r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))"
    assert fails(worker, code) in ("PermissionError", "ValueError")
    assert worker.call("run", LONG, code="import resource as r; result = r.getrlimit(r.RLIMIT_CORE)") == [0, 0]


def test_open_files_are_counted(worker: Worker) -> None:
    assert fails(worker, "held = [open('/dev/null') for _ in range(60)]") == "OSError"


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (
            "import concurrent.futures as c\nwith c.ThreadPoolExecutor(4) as pool:\n"
            "    result = list(pool.map(abs, [-1, 2, -3]))",
            [1, 2, 3],
        ),
        (
            "import asyncio\nasync def wait():\n    await asyncio.sleep(0.01)\n"
            "    return await asyncio.to_thread(abs, -5)\nresult = asyncio.run(wait())",
            5,
        ),
        ("import sqlite3; result = sqlite3.connect(':memory:').execute('select 1 + 1').fetchone()", [2]),
        (
            "import sqlite3; d = sqlite3.connect('x.db'); d.execute('create table t(a)'); d.commit(); result = "
            "d.total_changes",
            0,
        ),
        (
            "import signal\nheard = []\nsignal.signal(signal.SIGALRM, lambda *_: heard.append(1))\n"
            "signal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile not heard: pass\nresult = heard",
            [1],
        ),
        (
            "import signal\nheard = []\nsignal.signal(signal.SIGUSR1, lambda *_: heard.append(1))\n"
            "signal.raise_signal(signal.SIGUSR1)\nresult = heard",
            [1],
        ),
        ("import os, pathlib; pathlib.Path('a').write_text('b'); result = [pathlib.Path('a').read_text(), "
         "os.listdir()]", ["b", ["a"]]),
        ("import tempfile\nwith tempfile.TemporaryFile() as file:\n    result = file.write(b'x')", 1),
        ("import secrets, uuid; result = len(secrets.token_bytes(4)) + len(str(uuid.uuid4()))", 40),
        ("import random, numbers, decimal; result = str(decimal.Decimal(1) / 3)[:4]", "0.33"),
    ],
)  # fmt: skip
def test_what_goes_on_working(worker: Worker, code: str, result: object) -> None:
    assert worker.call("run", LONG, code=code) == result


def test_memory_is_returned_and_counted_from_birth(worker: Worker) -> None:
    """A balloon bursts by MemoryError, again and again, in one process."""
    for _ in range(2):
        assert fails(worker, "held = [bytes(1 << 28) for _ in range(8)]") == "MemoryError"
    assert worker.call("run", LONG, code="result = len(bytes(1 << 28))") == 1 << 28


def test_the_network_can_be_left_open() -> None:
    with pool(limits=Limits(network=True)) as home:
        worker = home.spawn()
        code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); result = s.getsockname()[0]"
        assert worker.call("run", LONG, code=code) == "127.0.0.1"
        if worker.sandbox == "seccomp":
            assert fails(worker, "import os; os.fork()") == "PermissionError"


def test_without_the_sandbox_new_processes_are_possible() -> None:
    with pool(limits=Limits(sandbox=False)) as home:
        worker = home.spawn()
        assert worker.sandbox == "none: it was not asked for"
        code = "import subprocess, sys; result = subprocess.run([sys.executable, '-c', 'exit(5)']).returncode"
        assert worker.call("run", LONG, code=code) == 5
        child = worker.call("run", LONG, code="import subprocess; result = subprocess.Popen(['sleep', '600']).pid")
        assert child in processes()
        worker.kill()
        assert child not in processes()


# ---------------------------------------------------------------- the filter

ALLOWED, REFUSED, KILLED = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
TOKENS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(machine: str, number: int, *arguments: int, token: int | None = None, network: bool = False) -> int:
    """What the kernel would say to a system call of process 4242, by a plain reading of its BPF."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, TOKENS[machine] if token is None else token, 0, *padded)
    steps = program(machine, 4242, network)
    held, at = 0, 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("<I", data, operand)[0]
        elif code == 0x54:
            held &= operand
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: held == operand, 0x35: held >= operand, 0x45: bool(held & operand)}[code]
            at += yes if holds else no


@pytest.mark.parametrize(
    ("machine", "read", "execve", "clone", "socketpair", "connect", "kill", "tgkill"),
    [("x86_64", 0, 59, 56, 53, 42, 62, 234), ("aarch64", 63, 221, 220, 199, 203, 129, 131)],
)
def test_the_filter_on_both_architectures(
    machine: str, read: int, execve: int, clone: int, socketpair: int, connect: int, kill: int, tgkill: int
) -> None:
    """The kernel's numbers, from its tables."""
    assert verdict(machine, read) == ALLOWED
    assert verdict(machine, execve) == REFUSED
    assert verdict(machine, clone, 0x3D0F00) == ALLOWED  # as the C library makes threads
    assert verdict(machine, clone, 17) == REFUSED  # as it forks: SIGCHLD
    assert verdict(machine, 435) == 0x00050000 | errno.ENOSYS
    assert verdict(machine, connect) == REFUSED
    assert verdict(machine, connect, network=True) == ALLOWED
    assert verdict(machine, socketpair, 1, 1 | 0o2000000 | 0o4000) == ALLOWED
    assert verdict(machine, socketpair, 1, 2) == REFUSED
    for number in (kill, tgkill):
        assert verdict(machine, number, 4242, 9) == ALLOWED
        assert verdict(machine, number, 4243, 9) == REFUSED
        assert verdict(machine, number, 2**32 - 4242, 9) == REFUSED
    limit = {"x86_64": 302, "aarch64": 261}[machine]
    assert verdict(machine, limit, 0, 9, 0, 1) == ALLOWED
    assert verdict(machine, limit, 0, 9, 0x7F0000000000, 0) == REFUSED
    assert verdict(machine, limit, 0, 9, 0x1000, 0) == REFUSED
    assert verdict(machine, limit, 0, 9, 1 << 32, 0) == REFUSED
    assert verdict(machine, 425) == REFUSED  # io_uring_setup
    assert verdict(machine, read, token=0x40000003) == KILLED  # 32-bit calls have other numbers


def test_the_filter_knows_no_second_set_of_numbers() -> None:
    assert verdict("x86_64", 0x40000000 | 59) == REFUSED
    assert verdict("x86_64", 0x40000000) == REFUSED
    assert verdict("x86_64", 57) == verdict("x86_64", 58) == REFUSED
