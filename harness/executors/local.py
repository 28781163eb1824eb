"""Many runs at once: one process a core, one thread a process, progress from all of them, and a stop that loses
nothing."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
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

from harness.core.errors import HarnessError
from harness.runs.job import run_job
from harness.runs.plan import Job

Message = tuple[str, str, int, int]
_inbox: Any = None
REPORT_EVERY_S = 0.2


def run_all(jobs: Sequence[Job], workers: int, console: Console) -> list[tuple[Job, str]]:
    """Do all jobs that are not done; returns those that failed and why. Ctrl-C ends the workers: every run can be
    continued."""
    open_jobs = [job for job in jobs if not job.done]
    if not open_jobs:
        return []
    # Two threads beside a busy neighbour fall to a quarter of one alone.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    context = multiprocessing.get_context("spawn")
    inbox = context.Queue()
    with _display(console) as display:
        bars = _Bars(display, console, len(open_jobs))
        pool = ProcessPoolExecutor(min(workers, len(open_jobs)), context, _begin, (inbox,))
        try:
            return _drive(pool, open_jobs, inbox, bars)
        except KeyboardInterrupt:
            for process in list((pool._processes or {}).values()):
                process.kill()  # any moment is as good as another: that is what checkpoints are for
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _drive(pool: ProcessPoolExecutor, jobs: Sequence[Job], inbox: Any, bars: _Bars) -> list[tuple[Job, str]]:
    with _ctrl_c_held():
        pending: dict[Future[None], Job] = {pool.submit(_work, job): job for job in jobs}
    failed: list[tuple[Job, str]] = []
    while pending:
        done, _ = wait(pending, timeout=REPORT_EVERY_S, return_when=FIRST_COMPLETED)
        bars.read(inbox)
        for future in done:
            job = pending.pop(future)
            error = future.exception()
            bars.finish(job.name, error is None)
            if isinstance(error, BrokenProcessPool):
                raise HarnessError(
                    "a worker process was killed (out of memory?); call again: every run goes on from its checkpoint"
                ) from None
            if error is not None:
                failed.append((job, f"{type(error).__name__}: {error}"))
    return failed


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: processes started meanwhile never receive it, not even while they are still
    importing."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(inbox: Any) -> None:
    """A worker leaves Ctrl-C to its parent."""
    global _inbox
    _inbox = inbox
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()


def _die_with_parent(parent: int) -> None:
    """A parent that was killed cannot end its workers: they see that it is gone, and go."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _work(job: Job) -> None:
    last = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_EVERY_S or done == total:
            last = now
            _inbox.put((job.name, what, done, total))

    run_job(job, report)


class _Bars:
    """One bar for all runs, one for each that is going on."""

    def __init__(self, display: Progress, console: Console, jobs: int) -> None:
        self.display, self.console = display, console
        self.total = display.add_task("all runs", total=jobs)
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
                self.bars[name] = self.display.add_task(name, total=total)
            self.display.update(self.bars[name], description=f"{name}: {what}", completed=done, total=total)

    def finish(self, name: str, well: bool) -> None:
        self.done += 1
        self.display.advance(self.total)
        if name in self.bars:
            self.display.remove_task(self.bars.pop(name))
        elapsed = time.monotonic() - self.began
        outcome = "done" if well else "[red]failed[/red]"
        self.console.print(f"  {outcome}: {name}  ({self.done} of {self.jobs}, {elapsed:,.0f} s)", highlight=False)


def _display(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
