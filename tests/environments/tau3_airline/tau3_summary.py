"""A second count of what a set of airline episodes shows: pass^k, success by kind, the floor, tool use, errors by
kind."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from environments.tau3_airline.env import Tau3AirlineEnv
from environments.tau3_airline.metrics import ERRORS
from environments.tau3_airline.tasks import KINDS, Kind


@dataclass(frozen=True)
class Played:
    """One finished episode. A NaN reward marks a failure of the infrastructure, which says nothing about the agent."""

    task_id: str
    reward: float
    metrics: Mapping[str, float]
    """`info["metrics"]` at the end."""


@dataclass(frozen=True)
class KindSummary:
    """Tasks of one kind: how many were played, the share solved (mean over tasks), and the share that hello alone
    solves.
    """

    tasks: int
    success: float
    floor: float


@dataclass(frozen=True)
class Summary:
    """All shares are between 0 and 1. `protocol` is the heading these numbers must carry."""

    protocol: str
    tasks: int
    episodes: int
    failures: int
    """Episodes lost to the infrastructure; they count nowhere else."""
    average_reward: float
    pass_hat: Mapping[int, float]
    """k to pass^k, for k up to the smallest number of episodes of a task."""
    floor: float
    kinds: Mapping[Kind, KindSummary]
    zero_tool_successes: int
    """Successful episodes without a single tool call."""
    mean_tool_calls: float
    errors: Mapping[str, float]
    """The agent's own errors by kind, a mean per episode."""


def pass_hat_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """pass^k of tau-bench (Yao et al. 2024, arXiv 2406.12045): mean over tasks of C(c, k) / C(n, k).

    counts: (n episodes, c successes) per task. The chance that k episodes drawn without replacement all succeed.
    ValueError without tasks, for c outside 0..n, and for k outside 1..min n.
    """
    if not counts or any(not 0 <= c <= n for n, c in counts):
        raise ValueError(f"pass^k needs tasks with 0 <= successes <= episodes, got {counts}")
    least = min(n for n, _ in counts)
    if not 1 <= k <= least:
        raise ValueError(f"pass^k needs 1 <= k <= {least}, the smallest number of episodes of a task; got k = {k}")
    return math.fsum(math.comb(c, k) / math.comb(n, k) for n, c in counts) / len(counts)


def summarise(env: Tau3AirlineEnv, episodes: Iterable[Played]) -> Summary:
    """The table's numbers. `env` tells the tasks' kinds and floors. ValueError when no episode has a reward."""
    episodes = list(episodes)
    valid = [episode for episode in episodes if not math.isnan(episode.reward)]
    if not valid:
        raise ValueError(f"no episode to summarise: {len(episodes)} given, all lost to the infrastructure")
    rewards: dict[str, list[float]] = defaultdict(list)
    for episode in valid:
        rewards[episode.task_id].append(episode.reward)
    counts = {task_id: (len(given), sum(reward == 1.0 for reward in given)) for task_id, given in rewards.items()}
    kinds: dict[Kind, KindSummary] = {}
    for kind in KINDS:
        members = [task_id for task_id in counts if env.kind(task_id) == kind]
        if members:
            success = pass_hat_k([counts[task_id] for task_id in members], 1)
            kinds[kind] = KindSummary(len(members), success, _mean(env.floor(task_id) for task_id in members))
    return Summary(
        protocol=env.protocol,
        tasks=len(counts),
        episodes=len(valid),
        failures=len(episodes) - len(valid),
        average_reward=_mean(episode.reward for episode in valid),
        pass_hat={k: pass_hat_k(list(counts.values()), k) for k in range(1, min(n for n, _ in counts.values()) + 1)},
        floor=_mean(env.floor(task_id) for task_id in counts),
        kinds=kinds,
        zero_tool_successes=sum(episode.reward == 1.0 and not episode.metrics["tool_calls"] for episode in valid),
        mean_tool_calls=_mean(episode.metrics["tool_calls"] for episode in valid),
        errors={kind: _mean(episode.metrics[f"error_{kind}"] for episode in valid) for kind in ERRORS},
    )


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)
