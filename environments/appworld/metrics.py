"""What a set of AppWorld episodes says: TGC, SGC, the same by difficulty, and how the agent fared with the shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VARIANTS = 3
"""Tasks of a scenario."""
DOINGS = {
    "API calls": "api_calls",
    "refused blocks": "refused",
    "malformed blocks": "malformed",
    "blocks out of time": "timeouts",
    "killed": "killed",
}


def summarise(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Plain data under the words a reader sees. Each episode has `task_id`, `success` and `metrics`.

    TGC (task goal completion) is the share of tasks solved, SGC (scenario goal completion) that of scenarios of which every variant is solved, in
    per cent; with several episodes of a task, their expectation for one attempt. SGC counts only scenarios that were played whole.
    """
    if not episodes:
        return {}
    said: dict[str, Any] = _scores(episodes)
    difficulties = sorted({int(e["metrics"].get("difficulty", 0)) for e in episodes})
    if difficulties != [0]:
        said["difficulty"] = {
            str(level): _scores([e for e in episodes if int(e["metrics"].get("difficulty", 0)) == level])
            for level in difficulties
        }
    said["per episode"] = {
        name: sum(e["metrics"].get(key, 0.0) for e in episodes) / len(episodes) for name, key in DOINGS.items()
    }
    return said


def _scores(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
