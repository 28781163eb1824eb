"""Scores of answers, which none can hang, crash or take over: verifiers run in a process that is killed when time is
up.

math-verify takes its deadlines from SIGALRM, which only a main thread may set, and several verifiers of reasoning-gym
evaluate the agent's text. So only answers that are plain words and numbers are scored here; all others go to
`grader_worker`. Workers start when first needed, serve one caller at a time, and end with this process.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from environments.reasoning.answers import is_wording, same_text
from environments.reasoning.grader_worker import EVALUATED, FORMULAS

TIMEOUT = 5.0
"""Seconds an answer may take."""

MAX_FORMULA = 1_000
"""Characters of an answer that math-verify reads."""

START_TIMEOUT = 120.0
"""Seconds a worker may take to import its libraries (two on an idle machine)."""

ANY_ANSWER = frozenset({"game_of_life_halting"})
"""Generators whose verifier takes any text for right (bool("False") is True): their answers are compared with the
reference."""

_WORD = r"""(?:[A-Za-z]{1,40}|-?\d{1,6}(?:\.\d{1,6})?)"""
_PLAIN = re.compile(rf"""[\["' ]*{_WORD}(?:["', ]{{1,4}}{_WORD}){{0,60}}[\]"' ]*""")
"""Words and numbers of bounded size, bare or as a list: no verifier outside the guarded ones does more than read
these."""


class Verdict(NamedTuple):
    """score is in 0..1; note is "" or says why there is none: timeout, refused, crashed, raised ..."""

    score: float
    note: str = ""


class _Worker:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("grader_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, job: tuple[Any, ...], seconds: float) -> Verdict:
        """The verdict on a job; after a timeout or a crash the worker is dead."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.process.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            pickle.dump(job, self.process.stdin)
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if not line:
            self.close()
            return Verdict(0.0, "timeout" if expired.is_set() else "crashed")
        return Verdict(**json.loads(line))

    def close(self) -> None:
        self.process.kill()
        try:
            self.process.communicate()
        except BrokenPipeError:  # a half-written job
            self.process.wait()


class _Pool:
    """Idle workers, per process: a forked child must not write into its parent's pipes."""

    def __init__(self) -> None:
        self._idle: dict[int, list[_Worker]] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, job: tuple[Any, ...], seconds: float) -> Verdict:
        with self._lock:
            idle = self._idle.setdefault(os.getpid(), [])
            worker = idle.pop() if idle else None
        if worker is None:
            worker = _Worker()
            loaded = worker.ask(
                ("import", {"math": "math_verify", "generated": "reasoning_gym"}[job[0]]), START_TIMEOUT
            )
            if loaded.note:
                worker.close()
                raise RuntimeError(f"the verifiers' process did not start: {loaded.note}")
        verdict = worker.ask(job, seconds)
        if worker.process.returncode is None:
            with self._lock:
                idle.append(worker)
        return verdict

    def close(self) -> None:
        """End the workers this process has started; a later question starts new ones."""
        with self._lock:
            idle = self._idle.pop(os.getpid(), [])
        for worker in idle:
            worker.close()


POOL = _Pool()


def score_generated(
    dataset: Any, name: str, settings: str, entry: dict[str, Any], answer: str, timeout: float = TIMEOUT
) -> Verdict:
    """The verdict of a reasoning-gym dataset's own verifier. `settings` is the JSON its worker-side twin is made from.

    The empty answer scores 0 (some verifiers grant it 0.01), the reference 1. Raises RuntimeError where no worker
    starts.
    """
    reference = entry["answer"]
    if not answer:
        return Verdict(0.0)
    if isinstance(reference, str) and answer.strip() == reference.strip():
        return Verdict(1.0)
    if name in ANY_ANSWER:
        return Verdict(float(same_text(answer, reference)))
    if name in EVALUATED or name in FORMULAS or _PLAIN.fullmatch(answer) is None:
        return POOL.ask(("generated", name, settings, entry, answer), timeout)
    try:
        return Verdict(float(dataset.score_answer(answer, entry)))
    except Exception as error:  # verifiers raise all kinds of things at answers they cannot read
        return Verdict(0.0, f"raised {type(error).__name__}")


def score_math(reference: str, answer: str, timeout: float = TIMEOUT) -> Verdict:
    """1 where an answer equals the reference as text or, by math-verify, as mathematics; else 0."""
    if not answer:
        return Verdict(0.0)
    if same_text(answer, reference):
        return Verdict(1.0)
    if is_wording(reference) or len(answer) > MAX_FORMULA:
        return Verdict(0.0)
    return POOL.ask(("math", reference, answer), timeout)
