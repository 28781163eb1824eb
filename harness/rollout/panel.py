"""A policy on a split under a seed: episodes, and one row per task and decoding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.errors import UnknownNameError, UserError
from harness.core.seeds import SeedTree
from harness.core.troubles import with_zeros
from harness.core.types import ContextRequest, Episode
from harness.protocols.environment import TextEnvironment
from harness.rollout.conversation import Request
from harness.rollout.policies import ActingPolicy
from harness.rollout.rollouts import Rollouts

Row = dict[str, Any]
Progress = Callable[[int, int], None]
CHUNK = 512
"""Episodes played between two reports of progress."""


@dataclass(frozen=True)
class Panel:
    """What the policies of an experiment are judged on, and what their rows must hold."""

    tasks: tuple[str, ...]
    scenarios: bool = False
    """Rows name the scenario of their task."""
    answers: bool = False
    """Rows hold the final answer and the success of every sample."""


def panel(environment: TextEnvironment, split: str, tasks: int, whole_scenarios: bool = False) -> list[str]:
    """The tasks everybody is judged on: the same for all seeds and methods, spread over the split.

    whole_scenarios: draw scenarios with all their variants, as scenario goal completion needs, as many as `tasks`
    allows.
    """
    known = tasks_of(environment, split)
    if not known:
        raise UserError(f"split {split!r} has no tasks")
    rng = SeedTree(0)["panel", split].rng()
    if not whole_scenarios:
        return [known[place] for place in sorted(rng.permutation(len(known))[:tasks].tolist())]
    groups = _scenarios(environment, known)
    variants = len(groups[0])
    if tasks < variants:
        raise UserError(f"a panel with whole scenarios has at least {variants} tasks, got {tasks}")
    chosen = sorted(rng.permutation(len(groups))[: tasks // variants].tolist())
    return [task for number in chosen for task in groups[number]]


def _scenarios(environment: TextEnvironment, tasks: Sequence[str]) -> list[list[str]]:
    """The tasks by scenario. UserError where scenarios have different numbers of variants: a rate over them would
    weigh them differently."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        groups.setdefault(environment.scenario_of(task), []).append(task)
    variants = max(len(group) for group in groups.values())
    uneven = [scenario for scenario, group in groups.items() if len(group) != variants]
    if uneven or variants == 1:
        scenario = uneven[0] if uneven else next(iter(groups))
        raise UserError(
            f"scenario goal completion needs as many variants of every scenario, and more than one; "
            f"{scenario!r} has {len(groups[scenario])} of {variants}"
        )
    return list(groups.values())


def tasks_in_order(tasks: Sequence[str], seeds: SeedTree, first: int, amount: int) -> list[str]:
    """A run's tasks from the `first`-th on, in its own order: every epoch is a fresh permutation, the same for every
    method under one seed."""
    chosen = []
    for place in range(first, first + amount):
        epoch, offset = divmod(place, len(tasks))
        order = seeds["task-order", epoch].rng().permutation(len(tasks))
        chosen.append(tasks[int(order[offset])])
    return chosen


def tasks_of(environment: TextEnvironment, split: str) -> list[str]:
    """The tasks of a split; a split the environment does not have is the caller's mistake."""
    try:
        # An environment may know names of unions, which are no splits of their own.
        return list(environment.tasks(split))
    except ValueError:
        raise UnknownNameError("split", split, environment.splits) from None


def play_panel(
    rollouts: Rollouts,
    policy: ActingPolicy,
    tasks: Sequence[str],
    seeds: SeedTree,
    decoding: str,
    samples: int,
    contexts: Sequence[ContextRequest | None] | None = None,
    progress: Progress | None = None,
) -> list[list[Episode]]:
    """`samples` episodes of every task, in the tasks' order."""
    requests = [
        Request(
            task,
            seeds[decoding, task, number],
            greedy=decoding == "greedy",
            context=contexts[place] if contexts is not None else None,
        )
        for place, task in enumerate(tasks)
        for number in range(samples)
    ]
    episodes: list[Episode] = []
    for start in range(0, len(requests), CHUNK):
        episodes.extend(rollouts.play(requests[start : start + CHUNK], policy))
        if progress is not None:
            progress(len(episodes), len(requests))
    return [episodes[start : start + samples] for start in range(0, len(episodes), samples)]


def panel_rows(
    episodes: Sequence[Sequence[Episode]], decoding: str, split: str, judged: Panel, environment: TextEnvironment
) -> list[Row]:
    """One row per task of a panel: means over its finished episodes, and what the experiment's success metrics need
    beside them. Episodes lost to the infrastructure are counted, and in no mean."""
    rows: list[Row] = []
    for of_task in episodes:
        finished = [episode for episode in of_task if not math.isnan(episode.reward)]
        measured = with_zeros(episode.metrics for episode in finished)
        keys = sorted({key for metrics in measured for key in metrics})
        task_id = of_task[0].task_id
        row: Row = {
            "split": split,
            "decoding": decoding,
            "task_id": task_id,
            "samples": len(finished),
            "failed": len(of_task) - len(finished),
            "success": _mean([float(episode.success) for episode in finished]),
            "reward": _mean([episode.reward for episode in finished]),
            "metrics": {key: _mean([metrics[key] for metrics in measured if key in metrics]) for key in keys},
        }
        if judged.scenarios:
            row["scenario"] = environment.scenario_of(task_id)
        if judged.answers:
            row["answers"] = [[episode.answer, episode.success] for episode in finished]
        rows.append(row)
    return rows


def success_rate(episodes: Sequence[Sequence[Episode]]) -> float:
    """Mean over tasks of the mean success of their finished episodes (NaN when none finished)."""
    means = [_mean([float(e.success) for e in of_task if not math.isnan(e.reward)]) for of_task in episodes]
    known = [mean for mean in means if mean is not None]
    return float(np.mean(known)) if known else math.nan


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
