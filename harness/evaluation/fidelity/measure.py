"""Credit fidelity: what methods say of sampled tokens, measured against what these tokens were truly worth.

    groups of siblings -> evidence -> every method's credit (credit)
                       -> re-rolls -> every token's truth (truth)     -> agreement (metrics) -> table and plot (report)

The policy is fixed: nothing is trained. Groups are drawn, evidence is gathered and credit is assigned as in a run's
first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import HarnessError, UserError
from harness.core.seeds import SeedTree
from harness.core.sources import revision
from harness.core.types import Ending, RolloutGroup
from harness.evaluation.fidelity.crediting import assigned
from harness.evaluation.fidelity.truth import SETS, Truth, World, estimate, truth_of
from harness.experiment import Experiment
from harness.learning.policy_hash import checkpoint_hash
from harness.protocols.backend import BackendSettings, SamplingParams, Start, make_backend
from harness.rollout.conversation import Prefix, Request
from harness.rollout.environments import EnvironmentPool, environment_module
from harness.rollout.panel import tasks_of
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts

Progress = Callable[[str, int, int], None]
Row = dict[str, Any]
DIGITS = 6
"""Decimals of recorded credits and truths."""


@dataclass(frozen=True)
class Measurement:
    """What was measured: facts of the whole, one row a method, one row an episode. Plain data, recorded as it is."""

    facts: dict[str, Any]
    methods: list[Row]
    episodes: list[Row]


def measure(
    experiment: Experiment,
    start: Start,
    tasks: int,
    rolls: int,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Measurement:
    """The credit of the experiment's methods on `tasks` groups of one policy (the start, or `checkpoint`), beside the
    truth by `rolls` re-rolls a set.

    Raises UserError for an experiment without methods, a split that may not be trained on, too few tasks, or an
    environment that does not replay.
    """
    check_methods(experiment)
    if rolls < 1 or tasks < 1:
        raise UserError(f"fidelity needs at least one task and one re-roll, got {tasks} and {rolls}")
    sampling, seeds = experiment.sampling, SeedTree(seed)
    policy = policy_of(experiment, start, checkpoint)
    backend = policy.backend
    with EnvironmentPool(experiment.environment) as pool:
        rollouts = Rollouts(pool)
        worlds = sample_worlds(experiment, pool, rollouts, policy, tasks, seeds)
        methods, credits = assign(experiment, [world.group for world in worlds], rollouts, policy, seeds)
        values = estimate(worlds, rollouts, policy, rolls, seeds, progress)
    episodes = [
        _episode_row(
            world.group,
            index,
            truth_of(n, world.group, index, values),
            {k: rows[n][index] for k, rows in credits.items()},
            backend,
        )
        for n, world in enumerate(worlds)
        for index in range(len(world.group.episodes))
    ]
    facts: dict[str, Any] = {
        "environment": experiment.environment.id,
        "version": pool.environment.version,
        "split": experiment.environment.train_split,
        "policy": "start" if checkpoint is None else "checkpoint",
        "weights": start.checkpoint_hash if checkpoint is None else checkpoint_hash(checkpoint),
        "group_size": sampling.group_size,
        "tasks": len(worlds),
        "prefixes": len(values.successes),
        "rolls": rolls,
        "sets": len(SETS),
        "seed": seed,
        "success": float(np.mean([episode["success"] for episode in episodes])),
        "sources": [__name__, experiment.backend.module, environment_module(pool)],
    }
    facts["code"] = revision(*facts["sources"])[:16]
    return Measurement(facts, methods, episodes)


def check_methods(experiment: Experiment) -> None:
    """UserError for an experiment without methods."""
    if not experiment.methods:
        raise UserError(f"experiment {experiment.name!r} names no methods to measure")


def policy_of(experiment: Experiment, start: Start, checkpoint: Path | None) -> TokenPolicy:
    """The start, or a checkpoint, sampling as the experiment does."""
    sampling = experiment.sampling
    settings = BackendSettings(
        experiment.optimiser, 1, sampling.temperature, experiment.model.dtype, experiment.model.device
    )
    backend = make_backend(experiment.backend, start, settings)
    if checkpoint is not None:
        backend.load(checkpoint)
    params = SamplingParams(sampling.max_new_tokens, sampling.temperature, sampling.top_p)
    return TokenPolicy(backend, params, sampling.history)


def sample_worlds(
    experiment: Experiment,
    pool: EnvironmentPool,
    rollouts: Rollouts,
    policy: TokenPolicy,
    tasks: int,
    seeds: SeedTree,
) -> list[World]:
    """Groups of siblings on the first tasks of the seed's order, as a run's first step draws them, but every group in
    one world. A group with a failed episode is left out."""
    environment, split, size = pool.environment, experiment.environment.train_split, experiment.sampling.group_size
    known = tasks_of(environment, split)
    if not environment.trainable(split):
        raise UserError(f"split {split!r} of {experiment.environment.id} may not be trained on")
    if tasks > len(known):
        raise UserError(f"{tasks} tasks were asked for, split {split!r} has {len(known)}")
    order = seeds["task-order", 0].rng().permutation(len(known))[:tasks].tolist()
    place = seeds["rollout", 0]
    requests = [
        Request(known[task], place[n, i], prefix=Prefix((), place[n]))
        for n, task in enumerate(order)
        for i in range(size)
    ]
    episodes = rollouts.play(requests, policy)
    worlds = []
    for n, task in enumerate(order):
        siblings = tuple(episodes[n * size : (n + 1) * size])
        if not any(episode.ending is Ending.ERROR for episode in siblings):
            gold = None if environment.terse else environment.gold(known[task])
            group = RolloutGroup(
                known[task], siblings, None if gold is None else tuple(gold), environment.answer(known[task])
            )
            worlds.append(World(group, place[n]))
    if not worlds:
        raise HarnessError(f"no group was played without a failure: {rollouts.failures}")
    return worlds


def assign(
    experiment: Experiment, groups: Sequence[RolloutGroup], rollouts: Rollouts, policy: TokenPolicy, seeds: SeedTree
) -> tuple[list[Row], dict[str, list[list[np.ndarray]]]]:
    """What each method is, and its credit by name, group and episode: the direction of its whole loss and, where it
    has one, its own stream. HarnessError where the re-rolls of a method that asks for values fail."""
    methods: list[Row] = []
    credits: dict[str, list[list[np.ndarray]]] = {}
    for found in assigned(experiment, groups, rollouts, policy, seeds):
        settings = found.settings
        facts: Row = {
            "plug": settings.plug,
            "code": revision(settings.plug.partition(":")[0])[:16],
            "options": settings.options,
            "context": found.context,
            "teacher_share": found.teacher_share,
        }
        methods.append({"name": settings.label, "kind": "whole loss"} | facts)
        credits[settings.label] = _by_group(found.directions, groups)
        if found.own is not None:
            name = f"{settings.label}, own stream"
            methods.append({"name": name, "kind": "own stream"} | facts)
            credits[name] = _by_group(found.own, groups)
    return methods, credits


def _by_group(flat: Sequence[np.ndarray], groups: Sequence[RolloutGroup]) -> list[list[np.ndarray]]:
    rest = iter(flat)
    return [[next(rest) for _ in group.episodes] for group in groups]


def _episode_row(group: RolloutGroup, index: int, truth: Truth, credits: dict[str, np.ndarray], backend: Any) -> Row:
    episode = group.episodes[index]
    sampled = episode.sequence.tokens[episode.sequence.mask].tolist()
    return {
        "task_id": group.task_id,
        "sibling": index,
        "prompt": str(episode.messages[0]["content"]),
        "success": bool(episode.success),
        "tokens": [backend.renderer.decode([token]) or "⏎" for token in sampled],
        "truth": _rounded(truth.value),
        "error": _rounded(truth.error),
        "again": _rounded(truth.again),
        "credit": {name: _rounded(values) for name, values in credits.items()},
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
