"""TGC and SGC counted a second time, the slow way: an oracle for what the harness and AppWorld's own command report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VARIANTS = 3
"""Tasks of a scenario."""


def goal_completion(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """TGC (share of tasks solved) and SGC (share of scenarios of which every variant is solved), in per cent.

    Each episode has `task_id` and `success`. With several episodes of a task, their expectation for one attempt. SGC
    counts only scenarios that were played whole, and is None without any.
    """
    of_task: dict[str, list[bool]] = {}
    for episode in episodes:
        of_task.setdefault(episode["task_id"], []).append(bool(episode["success"]))
    rates = {task: sum(successes) / len(successes) for task, successes in of_task.items()}
    of_scenario: dict[str, list[float]] = {}
    for task, rate in rates.items():
        of_scenario.setdefault(task.rpartition("_")[0], []).append(rate)
    whole = [variants for variants in of_scenario.values() if len(variants) == VARIANTS]
    scores: dict[str, Any] = {"TGC": 100 * sum(rates.values()) / len(rates)}
    scores["SGC"] = 100 * sum(a * b * c for a, b, c in whole) / len(whole) if whole else None
    return scores | {"tasks": len(rates), "scenarios": len(whole)}


def by_difficulty(episodes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same for the tasks of each difficulty."""
    levels = sorted({int(e["metrics"]["difficulty"]) for e in episodes})
    return {
        str(level): goal_completion([e for e in episodes if int(e["metrics"]["difficulty"]) == level])
        for level in levels
    }
