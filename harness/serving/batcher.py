"""One thread owns the model; requests that wait together are computed as one batch."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.core.errors import HarnessError
from harness.protocols.backend import Backend, Completion, Prompt, SamplingParams

LINGER_S = 0.1
"""Longest wait in seconds for company before a batch is computed."""


@dataclass(eq=False)
class _Job:
    prompts: Sequence[Prompt]
    params: SamplingParams
    done: Future[list[Completion]] = field(default_factory=Future)
    drawn: list[Completion] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Prompts whose completion is still to be computed; none once nobody waits for them."""
        return 0 if self.done.done() else len(self.prompts) - len(self.drawn)


@dataclass(eq=False)
class _Load:
    path: Path
    version: str
    done: Future[str] = field(default_factory=Future)


def _rows(jobs: Sequence[_Job]) -> int:
    return sum(job.left for job in jobs)


class Batcher:
    """Computes completions in batches of at most `most`, first come first served.

    Jobs of the same sampling parameters share a batch, and a job with more prompts than fit takes several. What is
    sampled does not depend on the batch: every prompt has a random stream of its own. A job that is cancelled leaves
    at the next batch; the batch under way is computed to its end, as a backend's `sample` cannot be interrupted.
    Other weights are loaded between two batches, and every completion says which ones sampled it.
    """

    def __init__(self, backend: Backend, most: int, loaded: Path | None = None) -> None:
        """loaded: the folder whose weights the backend has, to go back to where others cannot be loaded."""
        self._backend, self._most, self._loaded = backend, most, loaded
        self.version = "0"
        """Of the weights that sample from now on."""
        self._numbers = itertools.count(1)
        self._broken = ""
        self._inbox: queue.SimpleQueue[_Job | _Load | None] = queue.SimpleQueue()
        self._accepting, self._lock = True, threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._work, daemon=True, name="model")
        self.batches: list[int] = []
        """Completions in each batch so far."""
        self._thread.start()

    def submit(self, prompts: Sequence[Prompt], params: SamplingParams) -> Future[list[Completion]]:
        """Completions to come, one per prompt. `params.max_new_tokens` is ignored: every prompt carries its own limit.

        Cancelling the future drops what is not computed yet. RuntimeError once the batcher is closed.
        """
        job = _Job(prompts, replace(params, max_new_tokens=0))
        self._put(job)
        return job.done

    def load(self, path: Path, version: str | None = None) -> Future[str]:
        """Other weights for all batches that begin after it; their version (the next number, unless it is given).

        Where the backend cannot load them the future raises, and the weights are those of before; if those cannot be
        loaded either, nothing is sampled any more. RuntimeError once the batcher is closed.
        """
        load = _Load(path, version or str(next(self._numbers)))
        self._put(load)
        return load.done

    def _put(self, asked: _Job | _Load) -> None:
        with self._lock:
            if not self._accepting:
                raise RuntimeError("the server is closing")
            self._inbox.put(asked)

    def ask(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """`submit`, and wait."""
        return self.submit(prompts, params).result()

    def close(self) -> None:
        """Finish what is asked already, then end the thread."""
        with self._lock:
            if self._accepting:
                self._accepting = False
                self._inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        waiting: list[_Job] = []
        company = 1
        while self._gather(waiting, company):
            batch = self._next(waiting)
            self._compute(batch)
            waiting = [job for job in waiting if job.left]
            # Clients answered together ask again together, and those who asked meanwhile are there already.
            returning = sum(count for job, count in batch if not job.left)
            company = returning + _rows(waiting) + self._inbox.qsize()

    def _gather(self, waiting: list[_Job], company: int) -> bool:
        """Take in what has arrived; linger while fewer ask than did a moment ago.

        False when nothing is left and nothing will come.
        """
        until = time.monotonic() + LINGER_S
        while self._open:
            complete = _rows(waiting) >= min(company, self._most)
            left = 0.0 if complete else max(until - time.monotonic(), 0.0)
            try:
                job = self._inbox.get(timeout=left if waiting else None)
            except queue.Empty:
                break
            if job is None:
                self._open = False
            elif isinstance(job, _Load):
                self._change_weights(job)
            else:
                until = until if waiting else time.monotonic() + LINGER_S
                waiting.append(job)
        waiting[:] = [job for job in waiting if job.left]
        return bool(waiting) or self._open

    def _next(self, waiting: Sequence[_Job]) -> list[tuple[_Job, int]]:
        """The job that has waited longest and those that may share its batch, each with the number of prompts taken."""
        batch: list[tuple[_Job, int]] = []
        room = self._most
        for job in waiting:
            count = min(room, job.left)
            if count and job.params == waiting[0].params:
                batch.append((job, count))
                room -= count
        return batch

    def _compute(self, batch: Sequence[tuple[_Job, int]]) -> None:
        prompts = [p for job, count in batch for p in job.prompts[len(job.drawn) : len(job.drawn) + count]]
        if not prompts:
            return
        most = max(prompt.limit or 0 for prompt in prompts)
        self.batches.append(len(prompts))
        try:
            if self._broken:
                raise HarnessError(self._broken)
            drawn = self._backend.sample(prompts, replace(batch[0][0].params, max_new_tokens=most))
            completions = [replace(completion, version=self.version) for completion in drawn]
        except Exception as error:  # out of memory, say: those who asked are answered so, the next batch is tried
            for job, _ in batch:
                with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                    job.done.set_exception(error)
            return
        for job, count in batch:
            job.drawn += completions[:count]
            completions = completions[count:]
            if len(job.drawn) == len(job.prompts):
                with contextlib.suppress(InvalidStateError):
                    job.done.set_result(job.drawn)

    def _change_weights(self, asked: _Load) -> None:
        if not asked.done.set_running_or_notify_cancel():
            return
        try:
            self._backend.load(asked.path)
        except Exception as error:
            self._go_back()
            asked.done.set_exception(error)
            return
        self._loaded, self.version, self._broken = asked.path, asked.version, ""
        asked.done.set_result(asked.version)

    def _go_back(self) -> None:
        """A backend that has read half of a folder may hold weights of both."""
        try:
            if self._loaded is None:
                raise HarnessError("it is not known where its weights came from")
            self._backend.load(self._loaded)
        except Exception as error:
            self._broken = f"the weights are lost after a load that failed, and so did going back ({error})"
