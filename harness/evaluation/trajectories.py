"""Trajectories to look at: groups of siblings of one policy, with what every method of an experiment says of each
sampled token.

Groups are drawn and credited as in a run's first step, as `harness.evaluation.fidelity` does; nothing is trained. With
re-rolls, each token's truth stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import UserError
from harness.core.seeds import SeedTree
from harness.core.types import Credit, Episode, Evidence, TokenSequence
from harness.evaluation.fidelity.crediting import Assigned, assigned
from harness.evaluation.fidelity.measure import DIGITS, Progress, check_methods, policy_of, sample_worlds
from harness.evaluation.fidelity.truth import Truth, World, estimate, truth_of
from harness.experiment import Experiment
from harness.learning.policy_hash import checkpoint_hash
from harness.protocols.backend import Start
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts

Row = dict[str, Any]


@dataclass(frozen=True)
class Trajectories:
    """What was played. Plain data, recorded as it is."""

    facts: Row
    methods: list[Row]
    episodes: list[Row]


def play(
    experiment: Experiment,
    start: Start,
    tasks: int,
    rolls: int = 0,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Trajectories:
    """`tasks` groups of one policy (the start, or `checkpoint`) with the credit of the experiment's methods; with
    `rolls`, the truth by so many re-rolls of every prefix in each of its sets.

    Raises UserError for an experiment without methods, a split that may not be trained on, too few tasks, or, where
    re-rolls are asked for, an environment that does not replay.
    """
    check_methods(experiment)
    if tasks < 1:
        raise UserError(f"at least one task is needed, got {tasks}")
    seeds = SeedTree(seed)
    policy = policy_of(experiment, start, checkpoint)
    with EnvironmentPool(experiment.environment) as pool:
        rollouts = Rollouts(pool)
        worlds = sample_worlds(experiment, pool, rollouts, policy, tasks, seeds)
        found = list(assigned(experiment, [world.group for world in worlds], rollouts, policy, seeds))
        truths = _truths(worlds, rollouts, policy, rolls, seeds, progress) if rolls else None
        version = pool.environment.version
    places = [(n, i) for n, world in enumerate(worlds) for i in range(len(world.group.episodes))]
    rows = [
        _row(worlds, n, i, [(of, flat) for of in found], policy, truths[flat] if truths else None)
        for flat, (n, i) in enumerate(places)
    ]
    facts = {
        "environment": experiment.environment.id,
        "version": version,
        "split": experiment.environment.train_split,
        "policy": "start" if checkpoint is None else "checkpoint",
        "weights": start.checkpoint_hash if checkpoint is None else checkpoint_hash(checkpoint),
        "group_size": experiment.sampling.group_size,
        "seed": seed,
    }
    methods = [
        {"name": of.settings.label, "plug": of.settings.plug, "options": of.settings.options, "context": of.context}
        for of in found
    ]
    return Trajectories(facts | ({"rolls": rolls} if rolls else {}), methods, rows)


def _truths(
    worlds: Sequence[World], rollouts: Rollouts, policy: TokenPolicy, rolls: int, seeds: SeedTree, progress: Progress
) -> list[Truth]:
    values = estimate(worlds, rollouts, policy, rolls, seeds, progress)
    return [
        truth_of(n, world.group, index, values)
        for n, world in enumerate(worlds)
        for index in range(len(world.group.episodes))
    ]


def _row(
    worlds: Sequence[World],
    place: int,
    sibling: int,
    found: Sequence[tuple[Assigned, int]],
    policy: TokenPolicy,
    truth: Truth | None,
) -> Row:
    episode = worlds[place].group.episodes[sibling]
    sequence, mask = episode.sequence, episode.sequence.mask
    before, after = replies_of(episode)
    row: Row = {
        "group": place,
        "task_id": episode.task_id,
        "sibling": sibling,
        "success": bool(episode.success),
        "reward": float(episode.reward),
        "ending": episode.ending.value,
        "before": before,
        "after": after,
        "tokens": [policy.backend.renderer.decode([token]) or "⏎" for token in sequence.tokens[mask].tolist()],
        "turns": sequence.turns[mask].tolist(),
        "logprobs": _rounded(sequence.logprobs[mask]),
        "credit": {of.settings.label: _rounded(of.directions[flat]) for of, flat in found},
        "gap": {of.settings.label: gap for of, flat in found if (gap := _gap(episode, of.evidence[flat])) is not None},
        "weight": {of.settings.label: weights_of(of.credits[flat], mask) for of, flat in found},
    }
    if sequence.starts:
        row["forgot"] = forgotten(sequence)
    if truth is not None:
        row |= {"truth": _rounded(truth.value), "error": _rounded(truth.error)}
    return row


def forgotten(sequence: TokenSequence) -> list[list[int]]:
    """[turn, n] for every piece but the first: from this turn on the policy read nothing of turns 0 to n - 1 but the
    first prompt."""
    return [[int(p.turns[p.mask][0]), int(p.turns[p.turns > 0].min())] for p in sequence.pieces[1:] if p.mask.any()]


def replies_of(episode: Episode) -> tuple[list[list[list[str]]], list[list[str]]]:
    """What was shown before each of the policy's messages, and after the last: [role, text] of every other message."""
    before: list[list[list[str]]] = []
    waiting: list[list[str]] = []
    for message in episode.messages:
        if message["role"] == "assistant":
            before.append(waiting)
            waiting = []
        else:
            waiting.append([str(message["role"]), str(message["content"])])
    return before, waiting


def weights_of(credit: Credit, mask: np.ndarray) -> dict[str, list[float]]:
    """The weight of every stream of a credit on the sampled tokens: advantages and further streams are their own."""
    return {
        name: _rounded(np.asarray(getattr(stream, "weights", stream), dtype=np.float64)[mask])
        for name, stream in credit.streams()
    }


def _gap(episode: Episode, evidence: Evidence) -> list[float] | None:
    """log-probability of every sampled token under the teacher less that under the policy, nats."""
    if evidence.teacher is None:
        return None
    mask = episode.sequence.mask
    return _rounded(evidence.teacher.logprobs[mask] - episode.sequence.logprobs[mask])


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
