"""Playing AppWorld episodes in tests: whole programmes, several at once, and a look at the processes behind them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from environments.isolation.processes import children

Given = TypeVar("Given")
Made = TypeVar("Made")


class Played(NamedTuple):
    """An episode: what was answered to each action, and how it ended (nothing where the actions did not end it)."""

    outputs: list[str]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def episode(self) -> dict[str, Any]:
        """As `summary` of an environment reads it."""
        return {key: self.info[key] for key in ("task_id", "success", "metrics")}


def text(output: Sequence[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in output)


def play(env: Any, task_id: str, actions: Iterable[str]) -> Played:
    """An episode; it must end with the last of the actions or not at all."""
    env.reset(options={"task_id": task_id})
    played = Played([], 0.0, False, False, {})
    for action in actions:
        assert (played.terminated, played.truncated) == (False, False), (
            f"{task_id} ended after {len(played.outputs)} actions"
        )
        output, *end = env.step(action)
        played = Played([*played.outputs, text(output)], *end)
    return played


def in_parallel(
    make: Callable[[], Any], threads: int, tasks: Sequence[Given], do: Callable[[Any, Given], Made]
) -> list[Made]:
    """do(env, task) for every task, in order; each thread has an environment of its own, closed at the end."""
    envs: SimpleQueue[Any] = SimpleQueue()
    for _ in range(threads):
        envs.put(make())

    def one(task: Given) -> Made:
        env = envs.get()
        try:
            return do(env, task)
        finally:
            envs.put(env)

    with ThreadPoolExecutor(threads) as pool:
        made = list(pool.map(one, tasks))
    for _ in range(threads):
        envs.get().close()
    return made


class Left(NamedTuple):
    """What a program holds: its descendants, its descriptors, what lies in a folder."""

    processes: set[int]
    descriptors: set[str]
    files: list[Path]

    @classmethod
    def now(cls, folder: Path) -> Left:
        found: set[int] = set()
        fresh = {os.getpid()}
        while fresh:
            fresh = set().union(*map(children, fresh)) - found
            found |= fresh
        descriptors = {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}
        return cls(found, descriptors, sorted(folder.iterdir()))
