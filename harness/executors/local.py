"""Many runs at once, and the starts they begin from: one process a core, one thread a process, progress from all of
them, and a stop that loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.core.errors import HarnessError, UnknownNameError, UserError
from harness.core.words import shown
from harness.experiment import Experiment
from harness.learning.run import Stopped
from harness.learning.warm_start import for_every_seed, start_of, start_seeds, starts_at_hand
from harness.protocols.backend import Start
from harness.runs.job import run_job
from harness.runs.plan import Job

Message = tuple[str, str, int, int]
Report = Callable[[str, int, int], None]
_inbox: Any = None
_stop: Any = None
"""In a worker: set once it is to stop where it can go on later."""
REPORT_EVERY_S = 0.2


@dataclass(frozen=True)
class Work:
    """Something to be done in a process of its own: plain data, so that it can be sent there."""

    name: str
    do: Callable[[Report], Any]


def run_all(jobs: Sequence[Job], workers: int, console: Console) -> list[tuple[Job, str]]:
    """Do all jobs that are not done; returns those that failed and why.

    Ctrl-C lets every run finish its step and save; once more ends the workers at once. Every run can be continued.
    """
    open_jobs = [job for job in jobs if not job.done]
    works = [Work(job.name, partial(_run, job)) for job in open_jobs]
    done = _do_all(works, "all runs", workers, console, lasting=True)
    outcomes = zip(open_jobs, done, strict=True)
    return [(job, f"{type(o).__name__}: {o}") for job, o in outcomes if isinstance(o, Exception)]


def make_starts(experiment: Experiment, cache: Path, workers: int, console: Console) -> dict[int, Start]:
    """The start of every seed; those that are not in the cache are made at once, and Ctrl-C leaves the finished ones.
    The first error of one that could not be made is raised."""
    seeds = start_seeds(experiment)
    made = starts_at_hand(experiment, cache, seeds)
    missing = [seed for seed in seeds if seed not in made]
    works = [Work(f"start, seed {seed}", partial(_start, experiment, cache, seed)) for seed in missing]
    for seed, outcome in zip(missing, _do_all(works, "all starts", workers, console), strict=True):
        if isinstance(outcome, Exception):
            raise outcome
        made[seed] = outcome
    return for_every_seed(experiment, made)


def _run(job: Job, report: Report) -> None:
    run_job(job, report, _stop.is_set)


def _start(experiment: Experiment, cache: Path, seed: int, report: Report) -> Start:
    return start_of(experiment, cache, report, seed)


def _do_all(works: Sequence[Work], title: str, workers: int, console: Console, lasting: bool = False) -> list[Any]:
    """What each work gives, or the error it raised, in order. lasting: what a work has done so far can be kept, so that
    the first Ctrl-C waits for it."""
    if not works:
        return []
    # Two threads beside a busy neighbour fall to a quarter of one alone.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    context = multiprocessing.get_context("spawn")
    inbox, stop = context.Queue(), context.Event()
    with _display(console) as display:
        bars = _Bars(display, console, title, len(works))
        pool = ProcessPoolExecutor(min(workers, len(works)), context, _begin, (inbox, stop))
        try:
            return _drive(pool, works, inbox, bars)
        except KeyboardInterrupt:
            try:
                if lasting:
                    _wind_down(pool, stop, console)
            finally:
                for process in list((pool._processes or {}).values()):
                    process.kill()  # any moment is as good as another: that is what checkpoints are for
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _wind_down(pool: ProcessPoolExecutor, stop: Any, console: Console) -> None:
    """Let the works that are going on come to a place from which they go on later."""
    console.print("stopping: every run finishes its step and saves; Ctrl-C once more stops at once", highlight=False)
    stop.set()
    pool.shutdown(wait=True, cancel_futures=True)


def _drive(pool: ProcessPoolExecutor, works: Sequence[Work], inbox: Any, bars: _Bars) -> list[Any]:
    with _ctrl_c_held():
        pending: dict[Future[Any], int] = {pool.submit(_work, work): place for place, work in enumerate(works)}
    outcomes: list[Any] = [None] * len(works)
    while pending:
        done, _ = wait(pending, timeout=REPORT_EVERY_S, return_when=FIRST_COMPLETED)
        bars.read(inbox)
        for future in done:
            place = pending.pop(future)
            error = future.exception()
            bars.finish(works[place].name, error is None)
            if isinstance(error, BrokenProcessPool):
                raise HarnessError(
                    "a worker process was killed (out of memory?); call again: every run goes on from its checkpoint"
                ) from None
            outcomes[place] = future.result() if error is None else error
    return outcomes


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: processes started meanwhile never receive it, not even while they are still
    importing."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(inbox: Any, stop: Any) -> None:
    """A worker leaves Ctrl-C to its parent."""
    global _inbox, _stop
    _inbox, _stop = inbox, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()


def _die_with_parent(parent: int) -> None:
    """A parent that was killed cannot end its workers: they see that it is gone, and go."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _work(work: Work) -> Any:
    if _stop.is_set():
        raise Stopped("not begun")
    last = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_EVERY_S or done == total:
            last = now
            _inbox.put((work.name, what, done, total))

    try:
        return work.do(report)
    except UnknownNameError as error:
        raise UserError(str(error)) from None  # its own arguments do not travel between processes


class _Bars:
    """One bar for all works, one for each that is going on."""

    def __init__(self, display: Progress, console: Console, title: str, jobs: int) -> None:
        self.display, self.console = display, console
        self.total = display.add_task(title, total=jobs)
        self.bars: dict[str, TaskID] = {}
        self.began = time.monotonic()
        self.done, self.jobs = 0, jobs

    def read(self, inbox: Any) -> None:
        while True:
            try:
                name, what, done, total = inbox.get_nowait()
            except queue.Empty:
                return
            if name not in self.bars:
                self.bars[name] = self.display.add_task(shown(name), total=total)
            self.display.update(self.bars[name], description=shown(f"{name}: {what}"), completed=done, total=total)

    def finish(self, name: str, well: bool) -> None:
        self.done += 1
        self.display.advance(self.total)
        if name in self.bars:
            self.display.remove_task(self.bars.pop(name))
        elapsed = time.monotonic() - self.began
        outcome = "done" if well else "[red]failed[/red]"
        count = f"({self.done} of {self.jobs}, {elapsed:,.0f} s)"
        self.console.print(f"  {outcome}: {shown(name)}  {count}", highlight=False)


def _display(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
