"""`harness` commands in processes of their own, without the seconds that importing torch costs each of them and each of
their workers: all are forked from one process that has imported everything and done nothing.

A command's workers are forked too, where `harness` by itself would start a new interpreter for each; everything else is
the command's own.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import ROOT

CAP_DAC_OVERRIDE = 1
WANTED = (
    "harness.backends.torch", "harness.cli.report", "harness.executors.work", "harness.report.folder",
    "harness.runs.plan", "matplotlib.pyplot", "transformers.models.llama.modeling_llama",
)  # fmt: skip
"""What commands and workers import."""


class Commands:
    """Starts commands; one process serves them all."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def start(self, folder: Path, words: Sequence[str], largest_file: int = 0, pen: bool = True) -> Command:
        """`harness WORDS` in a folder, leader of a process group.

        largest_file: bytes that a file may have. pen: whether root may write where it may not, which an ordinary user
        never may.
        """
        asked = {"folder": str(folder), "words": list(words), "largest_file": largest_file, "pen": pen}
        return Command(self, folder, int(self.ask("start", asked)))

    def ask(self, verb: str, about: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([verb, about]) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


class Command:
    """A command that goes on, or has ended."""

    def __init__(self, commands: Commands, folder: Path, pid: int) -> None:
        self.pid, self._commands, self._folder = pid, commands, folder
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code (negative: a signal) once it has ended."""
        if self._code is None:
            self._code = self._commands.ask("poll", self.pid)
        return self._code

    def ended(self) -> tuple[int, str, str]:
        """Exit code, output and errors, once it has ended."""
        if self._code is None:
            self._code = self._commands.ask("wait", self.pid)
        assert self._code is not None
        return self._code, (self._folder / "out.txt").read_text(), (self._folder / "err.txt").read_text()


@contextmanager
def commands() -> Iterator[Commands]:
    """The process that forks; those it has forked and that are still there end with it."""
    words = [sys.executable, str(Path(__file__).resolve())]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "COLUMNS": "200"}
    with subprocess.Popen(words, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        yield Commands(server)
        assert server.stdin is not None
        server.stdin.close()


# ---------------------------------------------------------------- the process that forks


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for module in WANTED:
        importlib.import_module(module)
    from harness.cli import entry

    living: set[int] = set()
    for line in sys.stdin:
        verb, about = json.loads(line)
        if verb == "start":
            pid = os.fork()
            if not pid:
                _become(about)
                entry.main()
            living.add(pid)
            answer: Any = pid
        else:
            found, status = os.waitpid(about, os.WNOHANG if verb == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if found else None
            living -= {found}
        print(json.dumps(answer), flush=True)
    for pid in living:
        os.killpg(pid, signal.SIGKILL)


def _become(about: dict[str, Any]) -> None:
    """A fresh command, as far as it can tell."""
    os.setsid()
    os.chdir(about["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if not about["pen"] and os.geteuid() == 0:
        _drop(CAP_DAC_OVERRIDE)
    if about["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (about["largest_file"], about["largest_file"]))
    sys.argv = ["harness", *about["words"]]
    forking = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: forking  # type: ignore[assignment,misc]


def _drop(capability: int) -> None:
    """Give up a capability for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for place in range(3):  # effective, permitted, inheritable of the first 32
        data[place] &= ~(1 << capability)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    main()
