"""The processes that verifiers run in, and whose fault it is when one gives no verdict.

A verifier that spends its processor time, or crashes on what it reads, does so because of the answer: no reward. A
worker that is killed, stopped or starved, or that cannot start, says nothing about the answer: it is asked again in a
fresh worker, and then `GraderFailure` is raised. Workers start when first needed, serve one caller at a time, and end
with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

START_TIMEOUT = 120.0
"""Seconds a worker may take to import its libraries (two on an idle machine)."""

PATIENCE = (2.0, 12.0)
"""Seconds on the clock per second of processor time allowed, for the first worker and for the second."""

ITS_OWN_FAULT = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})
"""Signals a verifier dies of that crashes on what it reads."""

LIBRARIES = {"math": "math_verify", "generated": "reasoning_gym"}


class Verdict(NamedTuple):
    """score is in 0..1; note is "" or says why there is none: timeout, refused, crashed, raised ..."""

    score: float
    note: str = ""


class GraderFailure(RuntimeError):
    """No worker gave a verdict, and the answer is not to blame."""


class WorkerLost(Exception):
    """A worker ended, or was ended, without a verdict, and the answer is not to blame."""


class Worker:
    """One process of `grader_worker`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("grader_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, job: tuple[Any, ...], cpu_s: float, wall_s: float) -> Verdict:
        """The verdict on a job that may take cpu_s of the worker's processor time and wall_s on the clock.

        When the clock runs out, a worker that has spent half its processor time is busy with the answer; one that has
        not is stopped or starved.

        Raises WorkerLost where there is none and the answer is not to blame. After that, and after a timeout or a
        crash, the worker is dead.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        before, busy = self._spent_s(), threading.Event()

        def expire() -> None:
            if self._spent_s() - before >= cpu_s / 2:
                busy.set()
            self.process.kill()

        timer = threading.Timer(wall_s, expire)
        timer.daemon = True
        timer.start()
        try:
            pickle.dump((cpu_s, job), self.process.stdin)
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            return Verdict(**json.loads(line))
        code = self.close()
        if code == -signal.SIGPROF or busy.is_set():
            return Verdict(0.0, "timeout")
        if -code in ITS_OWN_FAULT:
            return Verdict(0.0, "crashed")
        raise WorkerLost(f"the process ended with {code}" if code != -signal.SIGKILL else "the process was killed")

    def _spent_s(self) -> float:
        """The processor time of the process so far, in seconds; 0 where the system does not say."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return 0.0

    def close(self) -> int:
        """End the process and return its exit code; an end that is under way keeps its own."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # a half-written job
                if pipe is not None:
                    pipe.close()
        return code


class Pool:
    """Idle workers, per process: a forked child must not write into its parent's pipes."""

    def __init__(self) -> None:
        self._idle: dict[int, list[Worker]] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, job: tuple[Any, ...], cpu_s: float) -> Verdict:
        """The verdict on a job, asked twice where a worker is lost; the second time in a fresh one.

        Raises GraderFailure where the second is lost too.
        """
        lost: list[str] = []
        for patience in PATIENCE:
            try:
                worker = self._worker(job[0], fresh=bool(lost))
                verdict = worker.ask(job, cpu_s, cpu_s * patience)
            except (WorkerLost, OSError) as error:
                lost.append(str(error))
                continue
            if worker.process.returncode is None:
                with self._lock:
                    self._idle.setdefault(os.getpid(), []).append(worker)
            return verdict
        raise GraderFailure(f"the verifiers' process gave no verdict, twice: {'; '.join(lost)}")

    def _worker(self, kind: str, fresh: bool) -> Worker:
        """An idle worker, or a new one that has loaded what the kind of job needs."""
        with self._lock:
            idle = self._idle.setdefault(os.getpid(), [])
            if idle and not fresh:
                return idle.pop()
        worker = Worker()
        loaded = worker.ask(("import", LIBRARIES[kind]), START_TIMEOUT, START_TIMEOUT)
        if loaded.note:
            worker.close()
            raise WorkerLost(f"it did not start: {loaded.note}")
        return worker

    def workers(self) -> list[int]:
        """The process ids of this process's idle workers."""
        with self._lock:
            return [worker.process.pid for worker in self._idle.get(os.getpid(), [])]

    def close(self) -> None:
        """End the workers this process has started; a later question starts new ones."""
        with self._lock:
            idle = self._idle.pop(os.getpid(), [])
        for worker in idle:
            worker.close()


POOL = Pool()
