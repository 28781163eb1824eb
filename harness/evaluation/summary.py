"""What came out of an evaluation: plain numbers, with the environment's own summary and the floor beside them, and their print."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from harness.core.types import Ending, Episode
from harness.protocols.environment import TextEnvironment
from harness.rollout.panel import success_rate
from harness.tables import statistics as stats

COUNTS = ("model_calls", "prompt_tokens", "completion_tokens", "cost_usd")
"""Metrics that are summed over episodes: what a policy behind an endpoint used."""
Placed = tuple[int, Episode]
"""An episode and its place in the file it stands in."""


def summarise(environment: TextEnvironment, placed: Sequence[Placed]) -> dict[str, Any]:
    """Plain data: the environment's heading, a row per task, the numbers over all tasks, and what the environment itself says of these episodes.

    Episodes lost to the infrastructure are counted, and are in no mean.
    """
    of_task: dict[str, list[Placed]] = {}
    for place, episode in placed:
        of_task.setdefault(episode.task_id, []).append((place, episode))
    finished = [episode for _, episode in placed if episode.ending is not Ending.ERROR]
    endings = [str(episode.ending.value) for _, episode in placed]
    floor = _floor_of(environment, of_task)
    return {
        "heading": environment.protocol,
        "tasks": [_task_row(task, played, floor) for task, played in of_task.items()],
        "success": success_rate([[episode for _, episode in played] for played in of_task.values()]),
        "doing_nothing": float(np.mean([floor(task) for task in of_task])) if floor is not None else None,
        "pass_hat": _pass_hat(of_task.values()),
        "episodes": len(finished),
        "lost": len(placed) - len(finished),
        "endings": {ending: endings.count(ending) for ending in sorted(set(endings))},
        "used": {
            name: sum(e.metrics.get(name, 0.0) for _, e in placed)
            for name in COUNTS
            if any(name in e.metrics for _, e in placed)
        },
        "environment": environment.summary([_plain(episode) for episode in finished]),
    }


def _plain(episode: Episode) -> dict[str, Any]:
    return {
        "task_id": episode.task_id,
        "reward": episode.reward,
        "success": episode.success,
        "metrics": dict(episode.metrics),
    }


def _floor_of(environment: TextEnvironment, tasks: Iterable[str]) -> Callable[[str], float] | None:
    """What doing nothing scores on a task, where the environment knows it for all of them."""
    floors = {task: environment.floor(task) for task in tasks}
    known = {task: float(floor) for task, floor in floors.items() if floor is not None}
    return known.__getitem__ if len(known) == len(floors) else None


def _pass_hat(of_task: Iterable[Sequence[Placed]]) -> dict[str, float]:
    """pass^k for every k up to the fewest finished episodes of a task, where that is more than one."""
    finished = [[episode.success for _, episode in played if not math.isnan(episode.reward)] for played in of_task]
    n, c = np.array([len(s) for s in finished]), np.array([sum(s) for s in finished])
    most = int(n.min())
    return {str(k): float(stats.pass_hat_k(n, c, k).mean()) for k in range(1, most + 1)} if most > 1 else {}


def _task_row(task: str, played: Sequence[Placed], floor: Callable[[str], float] | None) -> dict[str, Any]:
    finished = [episode for _, episode in played if not math.isnan(episode.reward)]

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    return {
        "task": task,
        "succeeded": sum(episode.success for episode in finished),
        "finished": len(finished),
        "reward": mean([episode.reward for episode in finished]),
        "doing_nothing": floor(task) if floor is not None else None,
        "turns": mean(
            [e.metrics.get("turns", float(sum(m["role"] == "assistant" for m in e.messages))) for e in finished]
        ),
        "endings": ", ".join(sorted({str(episode.ending.value) for _, episode in played})),
        "episodes": [place for place, _ in played],
    }


def tell(name: str, summary: Mapping[str, Any], console: Console) -> None:
    """The summary, for a reader; `name` heads it where the environment names no protocol."""
    grid = Grid("task", "success", "reward", "doing nothing", "turns", "ending", "episode")
    for row in summary["tasks"]:
        grid.add_row(
            row["task"], f"{row['succeeded']}/{row['finished']}", *(_number(row[name]) for name in ("reward", "doing_nothing", "turns")),
            row["endings"], ", ".join(map(str, row["episodes"])),
        )  # fmt: skip
    console.print(grid)
    console.rule(f"{summary['heading'] or name}   {summary['policy']}")
    idle = "" if summary["doing_nothing"] is None else f"   doing nothing {summary['doing_nothing']:.3f}"
    console.print(
        f"success {summary['success']:.3f}{idle}   {len(summary['tasks'])} tasks, {summary['episodes']} episodes",
        highlight=False,
        soft_wrap=True,
    )
    if summary["pass_hat"]:
        console.print(
            "   ".join(f"pass^{k} {value:.3f}" for k, value in summary["pass_hat"].items()),
            highlight=False,
            soft_wrap=True,
        )
    _tell_plain(summary["environment"], console)
    tell_counts("used by these episodes", summary["used"], console)


def tell_counts(title: str, counts: Mapping[str, float], console: Console) -> None:
    """Counts on one line; nothing where there are none."""
    if counts:
        console.print(
            f"{title}: " + ", ".join(f"{name.replace('_', ' ')} {value:,.10g}" for name, value in counts.items()),
            highlight=False,
            soft_wrap=True,
        )


def _tell_plain(said: Mapping[str, Any], console: Console) -> None:
    """An environment's own summary: numbers and text as lines, a mapping of mappings as a grid."""
    for name, value in said.items():
        if not isinstance(value, Mapping):
            console.print(f"{name} {_number(value)}", highlight=False, soft_wrap=True)
        elif value and all(isinstance(entry, Mapping) for entry in value.values()):
            columns = list(dict.fromkeys(column for entry in value.values() for column in entry))
            grid = Grid(name, *columns)
            for row, entry in value.items():
                grid.add_row(str(row), *(_number(entry.get(column)) for column in columns))
            console.print(grid)
        else:
            console.print(
                f"{name}: " + "   ".join(f"{key} {_number(entry)}" for key, entry in value.items()),
                highlight=False,
                soft_wrap=True,
            )


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
