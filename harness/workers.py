"""Environments in flight: a pool of instances, and a deadline on everything that is asked of them.

Calls run on daemon threads. One that outlives its deadline cannot be stopped from outside; its thread and its environment are given up, and the
episode is an infrastructure failure.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from harness.errors import EnvironmentFailure, HarnessError, UnknownNameError, UserError
from harness.experiment import EnvironmentSettings
from harness.plugs import check_options, load

Call = Callable[[], Any]


def make_environment(settings: EnvironmentSettings) -> Any:
    """The environment of an experiment; the nearest right id when there is none of that name."""
    module, colon, name = settings.id.rpartition(":")
    if colon:
        load(module, "environment", name)
    if name not in gymnasium.registry:
        raise UnknownNameError("environment", settings.id, _registered(module))
    spec = gymnasium.registry[name]
    try:
        _check_options(settings, spec)
        return gymnasium.make(settings.id, **settings.options)
    except (gymnasium.error.Error, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: it lacks something
        if isinstance(error, HarnessError):
            raise
        raise UserError(f"environment {settings.id!r}: {error}") from error


def _registered(module: str) -> list[str]:
    """The ids a module has registered, with its name in front; every id where it is not known whose they are."""
    package = module.partition(".")[0]
    home = {
        name: getattr(spec.entry_point, "__module__", spec.entry_point) for name, spec in gymnasium.registry.items()
    }
    own = [name for name, place in home.items() if str(place).partition(":")[0].partition(".")[0] == package]
    return [f"{module}:{name}" for name in own] if own else list(gymnasium.registry)


def _check_options(settings: EnvironmentSettings, spec: Any) -> None:
    entry = spec.entry_point
    maker = entry if callable(entry) else gymnasium.envs.registration.load_env_creator(entry)
    check_options(maker, settings.options, f"option of environment {settings.id}")


@dataclass
class _Worker:
    """A thread that answers calls one after another; `began` is when it took up the present one."""

    inbox: queue.SimpleQueue[tuple[int, Call] | None] = field(default_factory=queue.SimpleQueue)
    began: float | None = None
    current: int = -1
    """Number of the present call, counted over the life of its `Deadlines`."""


class Deadlines:
    """Runs calls on a few threads, each call within `seconds`."""

    def __init__(self, seconds: float, threads: int = 1) -> None:
        self.seconds = seconds
        self._asked = 0
        """Calls ever asked for: their numbers tell a late answer from one that is waited for."""
        self._outbox: queue.SimpleQueue[tuple[_Worker, int, Any, BaseException | None]] = queue.SimpleQueue()
        self._workers = [self._start() for _ in range(threads)]

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The calls' results in order; in place of a result an EnvironmentFailure where a call raised or took too long.

        An error with a true attribute `fatal` is raised here instead: whoever raises it knows that trying again is of no use, and that going on
        would spoil what is measured.
        """
        first = self._asked
        self._asked += len(calls)
        results: dict[int, Any] = {}
        waiting = [(first + place, call) for place, call in enumerate(calls)][::-1]
        busy: set[int] = set()
        for worker in self._workers:
            self._feed(worker, waiting, busy)
        while busy:
            try:
                worker, number, value, error = self._outbox.get(timeout=min(self.seconds / 4, 1.0))
            except queue.Empty:
                self._abandon_late(results, waiting, busy)
                continue
            if worker not in self._workers or number not in busy:
                continue  # an abandoned call came back after all
            busy.discard(number)
            if getattr(error, "fatal", False):
                assert error is not None
                raise error
            results[number] = (
                value if error is None else EnvironmentFailure("raised", f"{type(error).__name__}: {error}")
            )
            self._feed(worker, waiting, busy)
        return [results[first + place] for place in range(len(calls))]

    def _feed(self, worker: _Worker, waiting: list[tuple[int, Call]], busy: set[int]) -> None:
        if waiting:
            number, call = waiting.pop()
            busy.add(number)
            worker.current, worker.began = number, time.monotonic()
            worker.inbox.put((number, call))

    def _abandon_late(self, results: dict[int, Any], waiting: list[tuple[int, Call]], busy: set[int]) -> None:
        now = time.monotonic()
        for place, worker in enumerate(self._workers):
            if worker.current in busy and worker.began is not None and now - worker.began > self.seconds:
                busy.discard(worker.current)
                results[worker.current] = EnvironmentFailure("deadline", f"no answer within {self.seconds:g} s")
                worker.inbox.put(None)
                self._workers[place] = self._start()
                self._feed(self._workers[place], waiting, busy)

    def _start(self) -> _Worker:
        worker = _Worker()
        threading.Thread(target=self._serve, args=(worker,), daemon=True, name="environment").start()
        return worker

    def _serve(self, worker: _Worker) -> None:
        while (task := worker.inbox.get()) is not None:
            number, call = task
            try:
                answer: tuple[Any, BaseException | None] = call(), None
            except (
                BaseException
            ) as error:  # whatever an environment throws, SystemExit too, is its failure and not ours
                answer = None, error
            self._outbox.put((worker, number, *answer))

    def close(self) -> None:
        """End the threads that are not stuck."""
        for worker in self._workers:
            worker.inbox.put(None)


class EnvironmentPool:
    """Instances of one environment, made when first needed and used again; a failed one is closed and never used again."""

    def __init__(self, settings: EnvironmentSettings) -> None:
        self.settings = settings
        self.deadlines = Deadlines(settings.deadline_s, settings.threads)
        self.facts = make_environment(settings).unwrapped
        """An instance that is only asked about tasks, never played."""
        self._idle: list[Any] = []

    def take(self) -> Any:
        return self._idle.pop() if self._idle else self.fresh()

    def fresh(self) -> Any:
        """One that nobody has played in."""
        return make_environment(self.settings)

    def give(self, environment: Any, failed: bool = False) -> None:
        """Put back; a failed one is closed on a thread of its own, since closing may hang too."""
        if failed:
            threading.Thread(target=_close_quietly, args=(environment,), daemon=True).start()
        else:
            self._idle.append(environment)

    def close(self) -> None:
        # Within the deadline, and whatever it raises: closing fails after everything has been said.
        self.deadlines.run([environment.close for environment in (*self._idle, self.facts)])
        self._idle.clear()
        self.deadlines.close()

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close_quietly(environment: Any) -> None:
    try:
        environment.close()
    except BaseException:
        return  # it has failed already, and that is recorded
