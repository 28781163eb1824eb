"""What the airline environment reports of episodes: success by kind beside the floor, tool use, the agent's errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from environments.tau3_airline.tasks import KINDS, Kind

ERRORS = ("malformed", "unknown_tool", "arguments", "tool")
"""Kinds of the agent's own errors, each counted as the metric `error_<kind>`."""

Played = Mapping[str, Any]
"""A finished episode: `task_id`, `reward` and `metrics`."""


def summarise(
    episodes: Sequence[Played], kind_of: Callable[[str], Kind], floor_of: Callable[[str], float]
) -> dict[str, Any]:
    """Plain data under the words a reader sees; {} without episodes.

    Success of a kind is the mean over its tasks of the share of a task's episodes that score 1. kind_of, floor_of: a
    task's kind, and what doing nothing scores on it.
    """
    if not episodes:
        return {}
    solved: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        solved[episode["task_id"]].append(episode["reward"] == 1.0)
    by_kind: dict[Kind, list[str]] = {kind: [] for kind in KINDS}
    for task_id in solved:
        by_kind[kind_of(task_id)].append(task_id)
    return {
        "what the reference does": {
            kind: {
                "tasks": len(task_ids),
                "success": _mean(_mean(solved[task_id]) for task_id in task_ids),
                "doing nothing": _mean(floor_of(task_id) for task_id in task_ids),
            }
            for kind, task_ids in by_kind.items()
            if task_ids
        },
        "successes without a tool call": sum(e["reward"] == 1.0 and not e["metrics"]["tool_calls"] for e in episodes),
        "tool calls per episode": _mean(e["metrics"]["tool_calls"] for e in episodes),
        "agent's errors per episode": {kind: _mean(e["metrics"][f"error_{kind}"] for e in episodes) for kind in ERRORS},
    }


def user_tokens(episodes: Sequence[Played]) -> dict[str, int]:
    """Tokens that the user's model read and wrote in these episodes, replies from a cache included."""
    names = {"prompt": "user_prompt_tokens", "completion": "user_completion_tokens"}
    return {part: int(sum(e["metrics"][name] for e in episodes)) for part, name in names.items()}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)
