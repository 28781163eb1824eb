"""What AppWorld's environments report of episodes: success by difficulty, and what the agent did in the shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COUNTS = {
    "API calls": "api_calls",
    "refused blocks": "refused",
    "malformed blocks": "malformed",
    "blocks out of time": "timeouts",
    "killed": "killed",
}
"""Words of a report, and the metrics whose mean per episode they name."""


def summarise(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Plain data under the words a reader sees; {} without episodes. Each has `task_id`, `success` and `metrics`.

    Success by difficulty is the mean over tasks of the share of a task's episodes that solve it; it is left out where
    no difficulty is known.
    """
    if not episodes:
        return {}
    report: dict[str, Any] = {}
    difficulties = sorted({_difficulty(episode) for episode in episodes})
    if difficulties != [0]:
        report["difficulty"] = {
            str(level): _success([e for e in episodes if _difficulty(e) == level]) for level in difficulties
        }
    report["per episode"] = {
        name: sum(e["metrics"].get(key, 0.0) for e in episodes) / len(episodes) for name, key in COUNTS.items()
    }
    return report


def _difficulty(episode: Mapping[str, Any]) -> int:
    return int(episode["metrics"].get("difficulty", 0))


def _success(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    of_task: dict[str, list[bool]] = {}
    for episode in episodes:
        of_task.setdefault(episode["task_id"], []).append(bool(episode["success"]))
    rates = [sum(successes) / len(successes) for successes in of_task.values()]
    return {"tasks": len(rates), "success": sum(rates) / len(rates)}
