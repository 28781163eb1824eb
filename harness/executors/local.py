"""Works in processes of this machine: one process a core, one thread a process, progress from all of them, and a stop
that loses nothing."""

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

from harness.core.errors import HarnessError
from harness.executors import errands
from harness.executors.bars import Bars, bars
from harness.executors.errands import ENVIRONMENT, REPORT_EVERY_S, attempt, spaced
from harness.executors.work import Work
from harness.learning.run import Stopped

_inbox: Any = None


class Local:
    """Processes of this machine (`harness.executors.work.Executor`)."""

    def __init__(self, workers: int) -> None:
        """workers: processes at once."""
        self.workers = workers

    def do(self, works: Sequence[Work], title: str, console: Console) -> list[Any]:
        """See `harness.executors.work.Executor`."""
        if not works:
            return []
        os.environ |= ENVIRONMENT
        context = multiprocessing.get_context("spawn")
        inbox, stop = context.Queue(), context.Event()
        with bars(console, title, works) as shown:
            pool = ProcessPoolExecutor(min(self.workers, len(works)), context, _begin, (inbox, stop))
            try:
                return _drive(pool, works, inbox, shown)
            except KeyboardInterrupt:
                try:
                    if all(work.lasting for work in works):
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


def _drive(pool: ProcessPoolExecutor, works: Sequence[Work], inbox: Any, shown: Bars) -> list[Any]:
    with _ctrl_c_held():
        pending: dict[Future[Any], int] = {pool.submit(_work, work, place): place for place, work in enumerate(works)}
    outcomes: list[Any] = [None] * len(works)
    while pending:
        done, _ = wait(pending, timeout=REPORT_EVERY_S, return_when=FIRST_COMPLETED)
        _read(inbox, shown)
        for future in done:
            place = pending.pop(future)
            error = future.exception()
            outcomes[place] = future.result() if error is None else error
            shown.finish(place, not isinstance(outcomes[place], Exception))
            if isinstance(error, BrokenProcessPool):
                raise HarnessError(
                    "a worker process was killed (out of memory?); call again: every run goes on from its checkpoint"
                ) from None
    return outcomes


def _read(inbox: Any, shown: Bars) -> None:
    while True:
        try:
            shown.show(*inbox.get_nowait())
        except queue.Empty:
            return


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
    global _inbox
    _inbox, errands.stopping = inbox, stop.is_set
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()


def _die_with_parent(parent: int) -> None:
    """A parent that was killed cannot end its workers: they see that it is gone, and go."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _work(work: Work, place: int) -> Any:
    if errands.stopping():
        return Stopped("not begun")
    return attempt(work.do, spaced(lambda *word: _inbox.put((place, *word))))
