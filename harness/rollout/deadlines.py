"""Calls with deadlines: whoever asks gets the own answers, also while another thread asks."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.core.errors import EnvironmentFailure

Call = Callable[[], Any]
Answers = queue.SimpleQueue[tuple[int, Any, BaseException | None]]
"""(place of the call, its value, what it raised)."""


@dataclass(eq=False)
class _Worker:
    """A thread that answers calls one after another, each to who asked it."""

    inbox: queue.SimpleQueue[tuple[int, Call, Answers] | None] = field(default_factory=queue.SimpleQueue)


class Deadlines:
    """Runs calls on a few threads, each call within `seconds`. Any thread may ask, also while another waits."""

    def __init__(self, seconds: float, threads: int = 1) -> None:
        self.seconds = seconds
        self._workers = [self._start() for _ in range(threads)]

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The calls' results in order; in place of a result an EnvironmentFailure where a call raised or took too long.

        An error with a true attribute `fatal` is raised here instead: whoever raises it knows that trying again is of
        no use, and that going on would spoil what is measured.
        """
        asked = _Asked(list(enumerate(calls))[::-1])
        for worker in self._workers:
            asked.feed(worker)
        while asked.busy:
            try:
                place, value, error = asked.answers.get(timeout=min(self.seconds / 4, 1.0))
            except queue.Empty:
                self._abandon_late(asked)
                continue
            if place not in asked.busy:
                continue  # an abandoned call came back after all
            worker, _ = asked.busy.pop(place)
            if getattr(error, "fatal", False):
                assert error is not None
                raise error
            asked.results[place] = (
                value if error is None else EnvironmentFailure("raised", f"{type(error).__name__}: {error}")
            )
            asked.feed(worker)
        return [asked.results[place] for place in range(len(calls))]

    def _abandon_late(self, asked: _Asked) -> None:
        now = time.monotonic()
        for place, (worker, since) in list(asked.busy.items()):
            if now - since > self.seconds:
                del asked.busy[place]
                asked.results[place] = EnvironmentFailure("deadline", f"no answer within {self.seconds:g} s")
                worker.inbox.put(None)
                fresh = self._start()
                self._workers = [fresh if other is worker else other for other in self._workers]
                asked.feed(fresh)

    def _start(self) -> _Worker:
        worker = _Worker()
        threading.Thread(target=_serve, args=(worker,), daemon=True, name="environment").start()
        return worker

    def close(self) -> None:
        """End the threads that are not stuck."""
        for worker in self._workers:
            worker.inbox.put(None)


@dataclass
class _Asked:
    """The calls of one `run`: waiting (next one last), busy (worker, and since when), answered."""

    waiting: list[tuple[int, Call]]
    busy: dict[int, tuple[_Worker, float]] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    answers: Answers = field(default_factory=queue.SimpleQueue)

    def feed(self, worker: _Worker) -> None:
        if self.waiting:
            place, call = self.waiting.pop()
            self.busy[place] = worker, time.monotonic()
            worker.inbox.put((place, call, self.answers))


def _serve(worker: _Worker) -> None:
    while (task := worker.inbox.get()) is not None:
        place, call, answers = task
        try:
            answer: tuple[Any, BaseException | None] = call(), None
        except BaseException as error:  # whatever an environment throws, SystemExit too, is its failure and not ours
            answer = None, error
        answers.put((place, *answer))
