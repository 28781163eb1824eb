"""A step's groups: tasks in the run's own order, siblings played, groups with a lost episode dropped and counted."""

from __future__ import annotations

from collections import Counter

import numpy as np

from harness.core.types import Ending, RolloutGroup
from harness.experiment import History
from harness.learning.run import Run
from harness.rollout.conversation import Request
from harness.rollout.panel import tasks_in_order


def sample_groups(run: Run) -> tuple[list[RolloutGroup], dict[str, float]]:
    """The step's groups, and what sampling them was like. A group with a failed episode is dropped whole, and counted.

    With mixed-group sampling, candidate tasks are tried in the run's order until enough groups have unequal rewards
    or the limit is reached; every candidate costs budget.
    """
    sampling = run.experiment.sampling
    wanted, limit = sampling.prompts_per_step, sampling.prompts_per_step * sampling.candidate_limit
    kept: list[RolloutGroup] = []
    seen: list[RolloutGroup] = []
    tried = 0
    while len(kept) < wanted and tried < (limit if sampling.mixed_groups else wanted):
        amount = min(wanted - len(kept), limit - tried)
        tried += amount
        finished = _play_groups(run, _next_tasks(run, amount))
        seen.extend(finished)
        kept.extend(g for g in finished if not sampling.mixed_groups or np.ptp(g.rewards) > 0)
    run.spent.candidates += tried
    return kept, _statistics(seen, kept) | _pieces(seen, sampling.history)


def _next_tasks(run: Run, amount: int) -> list[str]:
    chosen = tasks_in_order(run.train_tasks, run.seeds, run.spent.cursor, amount)
    run.spent.cursor += amount
    return chosen


def _play_groups(run: Run, tasks: list[str]) -> list[RolloutGroup]:
    size = run.experiment.sampling.group_size
    place = run.seeds["rollout", run.spent.step]
    first = run.spent.cursor - len(tasks)
    requests = [Request(t, place[first + n, sibling]) for n, t in enumerate(tasks) for sibling in range(size)]
    failures = sum(run.rollouts.failures.values())
    episodes = run.rollouts.play(requests, run.policy)
    run.spent.failed_episodes += sum(run.rollouts.failures.values()) - failures
    run.spent.rollouts += len(episodes)
    run.spent.generated_tokens += sum(int(e.sequence.mask.sum()) for e in episodes)
    groups = []
    environment = run.pool.environment
    for n, task in enumerate(tasks):
        siblings = tuple(episodes[n * size : (n + 1) * size])
        if any(episode.ending is Ending.ERROR for episode in siblings):
            run.spent.dropped_groups += 1
            continue
        # A terse task gives a teacher its answer, never the working.
        solution = None if environment.terse else environment.gold(task)
        groups.append(
            RolloutGroup(task, siblings, None if solution is None else tuple(solution), environment.answer(task))
        )
    return groups


def _pieces(seen: list[RolloutGroup], history: History) -> dict[str, float]:
    """How many pieces episodes are in, on average, where that may be several."""
    pieces = [len(episode.sequence.pieces) for group in seen for episode in group.episodes]
    return {} if history == "keep" or not pieces else {"pieces": float(np.mean(pieces))}


def _statistics(seen: list[RolloutGroup], kept: list[RolloutGroup]) -> dict[str, float]:
    episodes = [episode for group in seen for episode in group.episodes]
    if not episodes:
        return {"groups": 0.0}
    endings = Counter(episode.ending for episode in episodes)
    facts = {
        "groups": float(len(kept)),
        "reward": float(np.mean([e.reward for e in episodes])),
        "success": float(np.mean([e.success for e in episodes])),
        "mixed_share": float(np.mean([np.ptp(g.rewards) > 0 for g in seen])),
        "sampled_tokens": float(np.mean([e.sequence.mask.sum() for e in episodes])),
        "nats_per_token": -sum(float(e.sequence.logprobs.sum()) for e in episodes)
        / max(sum(int(e.sequence.mask.sum()) for e in episodes), 1),
    }
    return facts | {f"ending/{ending.value}": count / len(episodes) for ending, count in sorted(endings.items())}
