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

from harness.core.errors import EnvironmentFailure, HarnessError, UnknownNameError, UserError
from harness.core.plugs import check_options, load
from harness.experiment.settings import EnvironmentSettings

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

        An error with a true attribute `fatal` is raised here instead: whoever raises it knows that trying again is of no use, and that going on
        would spoil what is measured.
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
