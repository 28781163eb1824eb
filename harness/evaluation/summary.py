"""What came out of an evaluation as plain numbers, with the floor and the environment's own summary beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.core.troubles import TROUBLES
from harness.core.types import Ending, Episode
from harness.protocols.environment import TextEnvironment
from harness.rollout.panel import success_rate
from harness.tables import statistics as stats
from harness.tables.metrics import metric

COUNTS = ("model_calls", "prompt_tokens", "completion_tokens", "cost_usd", *TROUBLES)
"""Metrics that are summed over episodes: what a policy used of a model endpoint, and what was wrong with
completions."""
Placed = tuple[int, Episode]
"""An episode and its place in the file it stands in."""


def summarise(environment: TextEnvironment, placed: Sequence[Placed]) -> dict[str, Any]:
    """Plain data: the environment's heading, a row per task, the numbers over all tasks, and what the environment
    itself says of these episodes.

    Episodes lost to the infrastructure are counted, and are in no mean.
    """
    of_task: dict[str, list[Placed]] = {}
    for place, episode in placed:
        of_task.setdefault(episode.task_id, []).append((place, episode))
    finished = [episode for _, episode in placed if episode.ending is not Ending.ERROR]
    endings = [str(episode.ending.value) for _, episode in placed]
    declared = [environment.floor(task) for task in of_task]
    floors = [None if floor is None else float(floor) for floor in declared]
    return {
        "heading": environment.protocol,
        "tasks": [
            _task_row(task, played, floor) for (task, played), floor in zip(of_task.items(), floors, strict=True)
        ],
        "success": success_rate([[episode for _, episode in played] for played in of_task.values()]),
        "doing_nothing": None if None in floors else float(np.mean(np.array(floors, dtype=np.float64))),
        "pass_hat": _pass_hat(of_task.values()),
        "metrics": _declared_metrics(environment, of_task),
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


def _declared_metrics(environment: TextEnvironment, of_task: Mapping[str, Sequence[Placed]]) -> dict[str, float]:
    """The further success metrics the environment is judged by, over the tasks of which some episode finished."""
    rows = pd.DataFrame(
        [
            _evaluation_row(environment, task, [e for _, e in played if e.ending is not Ending.ERROR])
            for task, played in of_task.items()
        ],
        columns=["method", "seed", "task_id", "unit", "samples", "success", "scenario", "answers"],
    )
    rows = rows[rows.samples > 0]
    found: dict[str, float] = {}
    for wanted in map(metric, environment.success_metrics):
        part = _whole_scenarios(rows) if wanted.scenarios else rows
        if wanted.success is not None:
            found[wanted.success] = float(rows.success.mean())
        if len(part) and part.samples.min() >= wanted.k:
            found[wanted.name] = float(wanted.outcomes(part).mean())
    return found


def _evaluation_row(environment: TextEnvironment, task: str, finished: Sequence[Episode]) -> dict[str, Any]:
    return {
        "method": "evaluation",
        "seed": 0,
        "task_id": task,
        "unit": task,
        "samples": len(finished),
        "success": float(np.mean([episode.success for episode in finished])) if finished else math.nan,
        "scenario": environment.scenario_of(task),
        "answers": [(episode.answer, episode.success) for episode in finished],
    }


def _whole_scenarios(rows: pd.DataFrame) -> pd.DataFrame:
    """The tasks of scenarios that were played with as many variants as any: a scenario of which some are missing says
    nothing about the whole."""
    variants = rows.groupby("scenario").task_id.transform("count")
    whole: pd.DataFrame = rows[(variants == variants.max()) & (variants > 1)]
    return whole


def _pass_hat(of_task: Iterable[Sequence[Placed]]) -> dict[str, float]:
    """pass^k for every k up to the fewest finished episodes of a task, where that is more than one."""
    finished = [[episode.success for _, episode in played if not math.isnan(episode.reward)] for played in of_task]
    n, c = np.array([len(s) for s in finished]), np.array([sum(s) for s in finished])
    most = int(n.min())
    return {str(k): float(stats.pass_hat_k(n, c, k).mean()) for k in range(1, most + 1)} if most > 1 else {}


def _task_row(task: str, played: Sequence[Placed], floor: float | None) -> dict[str, Any]:
    finished = [episode for _, episode in played if not math.isnan(episode.reward)]

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    truncated = sum(int(episode.metrics.get("truncated", 0)) for episode in finished)
    return {
        "task": task,
        "succeeded": sum(episode.success for episode in finished),
        "finished": len(finished),
        "reward": mean([episode.reward for episode in finished]),
        "doing_nothing": floor,
        "turns": mean(
            [e.metrics.get("turns", float(sum(m["role"] == "assistant" for m in e.messages))) for e in finished]
        ),
        "endings": ", ".join(sorted({str(episode.ending.value) for _, episode in played})),
        "episodes": [place for place, _ in played],
    } | ({"truncated": truncated} if truncated else {})
