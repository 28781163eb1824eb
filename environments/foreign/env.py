"""What every environment of another library has in common: a worker that plays it, splits by content, gold by name."""

from __future__ import annotations

import functools
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments.foreign.install import NotInstalledError, interpreter
from environments.isolation.pool import Limits, RemoteError, Worker, WorkerPool
from environments.text import Message, Reply, TextEnv, over

BUCKETS = {"train": range(7), "dev": range(7, 8), "test": range(8, 10)}
"""Tenths of all contents, by their digests: a task stays in its split however many others there are."""
BOOT_S = 180.0
"""Seconds for the import of the library and what the environment loads."""
PASSED_ON = ("HOME", "NLTK_DATA", "HF_HOME", "HF_HUB_OFFLINE", "SSL_CERT_FILE")
"""Environment variables that say where data is; keys of endpoints stay here."""
Gold = Callable[[Mapping[str, Any]], Sequence[str]]


@dataclass(frozen=True)
class Library:
    """A library and how it is played. network: whether its worker opens sockets and starts programs."""

    name: str
    package: str
    engine: str
    network: bool = False

    def pool(self, python: str | None, options: Mapping[str, Any], memory_mb: int) -> WorkerPool:
        """The workers of this process that play one environment of the library.

        python: see `install.interpreter`. ValueError where there is no such file.
        """
        return _pool(
            self, interpreter(self.package, python), json.dumps(options, sort_keys=True), memory_mb, os.getcwd()
        )


@functools.lru_cache(maxsize=32)
def _pool(library: Library, python: Path, options: str, memory_mb: int, folder: str) -> WorkerPool:
    environ = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return WorkerPool(
        python,
        library.engine,
        json.loads(options),
        boot_s=BOOT_S,
        limits=Limits(memory_mb=memory_mb, sandbox=not library.network),
        environ=environ | {"PYTHONPATH": folder, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        label=f"{library.name}'s worker",
    )


@functools.lru_cache(maxsize=4096)
def asked(library: Library, pool: WorkerPool, verb: str, **arguments: Any) -> Any:
    """What a worker answers to a question about the environment itself, asked once in this process.

    NotInstalledError where the library is not there; RuntimeError where the environment cannot be made.
    """
    try:
        worker = pool.take()
        try:
            return worker.call(verb, BOOT_S, **arguments)
        finally:
            pool.give(worker)
    except RemoteError as error:
        if error.remote_message.startswith(f"No module named '{library.package}'"):
            raise NotInstalledError(
                f"{library.name} is not installed: harness setup {library.package} puts it into an interpreter of its "
                f"own; or pip install {library.package} into one that you name, python='/path/to/bin/python'"
            ) from error
        raise RuntimeError(f"{library.name}: {error.remote_message or error}") from error


def by_content(name: str, tasks: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """The tasks of each split. ValueError where there are too few for a split to train on and one to judge on."""
    splits: dict[str, list[str]] = {split: [] for split in BUCKETS}
    for task in tasks:
        tenth = int(task["content"], 16) % 10
        splits[next(split for split, bucket in BUCKETS.items() if tenth in bucket)].append(task["id"])
    if not splits["train"] or not splits["test"]:
        raise ValueError(
            f"{name} has {len(tasks)} different tasks among those that were looked at, none of them "
            f"in {'train' if not splits['train'] else 'test'}: splits are made by content, so it needs more "
            "(raise the number that is looked at, or choose an environment whose tasks differ)"
        )
    return splits


def named(place: str, what: str) -> Any:
    """The object "module:name". ValueError, saying what it should be, where there is none."""
    module, _, name = place.partition(":")
    try:
        if not name:
            raise ValueError("the form is module:name")
        return getattr(importlib.import_module(module), name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"{what} {place!r} is not there: {error}") from None


class ForeignEnv(TextEnv):
    """An environment of another library: every episode is played by a worker in the library's interpreter.

    What fails there is a failure of the environment (`info["failure"]`), never a reward of 0.
    """

    idle_reward = None

    def __init__(
        self,
        library: Library,
        pool: WorkerPool,
        tasks: Mapping[str, Sequence[str]],
        *,
        max_turns: int,
        version: str,
        success_at: float,
        gold: str | None,
        deadline_s: float,
    ) -> None:
        """success_at: the least reward that is a success. gold: "module:function", which is given what is known of a
        task and returns the actions that solve it; deadline_s: seconds for a turn."""
        self._library, self._pool = library, pool
        self._success_at, self._deadline_s = success_at, deadline_s
        self._gold: Gold | None = None if gold is None else named(gold, "the function that writes gold actions,")
        self._worker: Worker | None = None
        super().__init__(tasks, max_turns=max_turns, version=version)

    def scenario_of(self, task_id: str) -> str:
        """Every task is its own."""
        return task_id

    def gold(self, task_id: str) -> list[str] | None:
        """What the function given as `gold` makes of what is known of the task; None without one."""
        self.split_of(task_id)
        return None if self._gold is None else list(self._gold(self.known(task_id)))

    def known(self, task_id: str) -> Mapping[str, Any]:
        """Everything that the library holds of a task, its solution among it where there is one."""
        self.split_of(task_id)
        found: Mapping[str, Any] = asked(self._library, self._pool, "known", task=task_id)
        return found

    # The episode

    def open(self, task_id: str) -> Reply:
        """Begin the task in a worker of its own."""
        self._give_back()
        self._worker = self._pool.take()
        return self._opened(self._began(task_id))

    def _began(self, task_id: str) -> dict[str, Any]:
        """The worker's first answer."""
        return self._call("begin", task=task_id)

    def _opened(self, answer: dict[str, Any]) -> Reply:
        """The first messages, from the worker's answer."""
        raise NotImplementedError

    def _call(self, verb: str, **arguments: Any) -> dict[str, Any]:
        assert self._worker is not None
        answer: dict[str, Any] = self._worker.call(verb, self._deadline_s, **arguments)
        return answer

    def _verdict(self, reward: float, metrics: Mapping[str, float], content: str = "") -> Reply:
        """The reply that ends the task."""
        self._give_back()
        return over(reward >= self._success_at, content, reward=reward, metrics=metrics)

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """One turn of the agent; a failure of the worker ends the episode with `info["failure"]`."""
        try:
            return super().step(action)
        except RemoteError as error:
            if self._worker is not None:
                self._worker.kill()
                self._worker = None
            info = {"task_id": self.task_id, "success": False, "metrics": {"turns": float(self.turn)}}
            info["failure"] = {"kind": error.kind, "message": str(error)}
            return (), 0.0, False, True, info

    def _give_back(self) -> None:
        if self._worker is not None:
            self._pool.give(self._worker)
            self._worker = None

    def close(self) -> None:
        """Give the worker back; it ends with this process."""
        self._give_back()
