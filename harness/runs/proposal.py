"""A spec made from an environment and methods alone: what the environment's own solutions measure decides window, token
limit, warm start and panel, and every choice comes with its reason.

    made = propose(EnvironmentSettings(id="my_env:Cafe-v0"), rows, cache=Path(".cache"))
    made.experiment, made.reasons

The same environment and rows give the same spec. It is a beginning: written down, it is yours to change.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.catalogue import catalogue
from harness.core.errors import UserError
from harness.core.fingerprint import slug
from harness.core.types import ContextRequest, Ending, RolloutGroup
from harness.experiment import EnvironmentSettings, Experiment, MethodSettings, parse_experiment
from harness.learning.demonstrations import SHARED, Demonstrator, Replays, as_sampled
from harness.learning.warm_start import start_of
from harness.protocols.backend import BackendSettings, SamplingParams, Start, make_backend
from harness.protocols.context import make_context
from harness.protocols.environment import TextEnvironment
from harness.protocols.method import make_method
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import tasks_of
from harness.rollout.policies import TokenPolicy

Progress = Callable[[str, int, int], None]
MEASURED = 64
"""Tasks whose solutions are measured."""
LONG, WIDEST = 16384, 4096
"""Tokens that a solution may have while it is measured, and the widest window that is proposed."""
VOCABULARY = 512
WARM_STEPS = (100, 300, 900)
"""Lengths of a warm start that are tried, shortest first."""
LEAST = 0.15
"""Sampled success at which a start is good enough to learn from: about two groups of eight in three are then mixed."""
HABIT, CONTEXT = 0.6, 0.4
"""Shares of demonstrations by the habitual mistake, and after a privileged context."""
PANEL, EPISODES = 100, 400
"""Most tasks that policies are judged on, and about how many sampled episodes."""


@dataclass(frozen=True)
class Proposal:
    """A spec, and why it says what it says."""

    experiment: Experiment
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Lengths:
    """What the environment's own solutions measure, in tokens of the policy that will learn."""

    opening: int
    """The longest first prompt, a privileged context in front of it."""
    action: int
    """The longest action, its end included."""
    turn: int
    """The longest turn: an action and what answers it."""
    turns: int
    """The most actions of a solution."""
    episode: int
    """The longest episode."""


def propose(
    environment: EnvironmentSettings,
    rows: Sequence[MethodSettings],
    cache: Path,
    model: str = "tiny",
    context: str = "",
    progress: Progress = lambda what, done, total: None,
) -> Proposal:
    """The spec of a comparison of these rows. context: plug of the source that teachers read; empty to choose one.

    UserError where the environment lacks what a spec needs: a split to train on and another to judge on, and gold
    actions where the policy begins from nothing.
    """
    with EnvironmentPool(environment) as pool:
        train, judged, panel = _splits(pool.environment, environment)
        environment = environment.model_copy(update={"train_split": train, "eval_split": judged})
        replays = Replays(environment, pool, cache)
        tasks = tasks_of(pool.environment, train)
        has_gold = all(pool.environment.gold(task) is not None for task in tasks[:MEASURED])
        if model == "tiny" and not has_gold:
            raise UserError(
                f"{environment.id} ships no gold actions, from which the tiny policy would learn its first steps: "
                "write gold(task_id), or name a model that can act already with --model"
            )
        data = _draft(environment, rows, model, panel)
        reasons = [
            f"trained on {train!r} ({len(tasks)} tasks), judged on {judged!r} "
            f"({data['evaluation']['tasks']} of {panel} tasks, {data['evaluation']['samples']} samples each)"
        ]
        if has_gold:
            reasons += _context(data, rows, replays, tasks, context)
            reasons += _lengths(data, replays, cache)
        else:
            reasons.append(
                f"no gold actions to measure: {data['sampling']['max_new_tokens']} tokens a turn are a guess"
            )
    if model == "tiny":
        reasons += _warm_start(data, cache, progress)
    return Proposal(parse_experiment(data), tuple(reasons))


def _splits(environment: TextEnvironment, settings: EnvironmentSettings) -> tuple[str, str, int]:
    """The split to train on, the one to judge on, and how many tasks that one has."""
    trainable = [split for split in environment.splits if environment.trainable(split)]
    if not trainable:
        raise UserError(f"{settings.id} has no split that may be trained on (splits: {', '.join(environment.splits)})")
    train = settings.train_split if settings.train_split in trainable else trainable[0]
    others = [split for split in environment.splits if split != train]
    if not others:
        raise UserError(
            f"{settings.id} has the split {train!r} alone: policies are judged on tasks that none was trained on"
        )
    judged = settings.eval_split if settings.eval_split in others else others[-1]
    return train, judged, len(tasks_of(environment, judged))


def _draft(environment: EnvironmentSettings, rows: Sequence[MethodSettings], model: str, panel: int) -> dict[str, Any]:
    """A spec as plain data, before anything is measured."""
    tasks = min(panel, PANEL)
    data: dict[str, Any] = {
        "name": slug(environment.id.rpartition(":")[2]),
        "title": f"{environment.id.rpartition(':')[2]}: a spec made from the environment",
        "seeds": [0, 1, 2],
        "environment": environment.model_dump(mode="json"),
        "model": {"name": model},
        "sampling": {"group_size": 8, "prompts_per_step": 16, "max_new_tokens": 128},
        "optimiser": {"lr": 3e-4 if model == "tiny" else 1e-5},
        "budget": {"steps": 40},
        "evaluation": {
            "tasks": tasks,
            "samples": max(2, min(8, EPISODES // tasks)),
            "every": 10,
            "curve_tasks": tasks,
        },
        "methods": [row.model_dump(mode="json", exclude_none=True) for row in rows],
    }
    if model == "tiny":
        data["model"] |= {"device": "cpu", "tiny": {"vocabulary": VOCABULARY, "window": LONG}}
        data["warm_start"] = {"steps": WARM_STEPS[0], "lr": 1.5e-3}
    return data


def _context(
    data: dict[str, Any], rows: Sequence[MethodSettings], replays: Replays, tasks: Sequence[str], wanted: str
) -> list[str]:
    """Choose what teachers read, and the contexts that a warm start shows: those that have something to say."""
    if not any(make_method(row.plug, row.options).needs.teacher != "none" for row in rows):
        return []
    groups = replays.groups(tasks[:8])
    failed = [RolloutGroup(g.task_id, (g.episodes[0],) * 2, g.solution, g.answer) for g in groups]
    offered = dict.fromkeys([*([wanted] if wanted else []), *catalogue("contexts").values()])
    speaking = [plug for plug in offered if _speaks(plug, groups)]
    if not speaking:
        raise UserError(
            f"no context source has anything to say in {data['environment']['id']}, and a row has a teacher"
        )
    always = [plug for plug in speaking if _speaks(plug, failed)]
    data["context"] = wanted or (always or speaking)[0]
    why = "as asked" if wanted else "it has something to say even where no sibling succeeds"
    if "warm_start" in data:
        data["warm_start"] |= {"context_share": CONTEXT, "contexts": speaking}
    return [f"teachers without a context of their own read {data['context']} ({why})"]


def _speaks(plug: str, groups: Sequence[RolloutGroup]) -> bool:
    source = make_context(plug, {})
    rng = np.random.default_rng(0)
    return all(source(group, 0, rng) is not None for group in groups)


def _lengths(data: dict[str, Any], replays: Replays, cache: Path) -> list[str]:
    """Measure, and set token limit, window and the share of habitual mistakes."""
    environment = replays.pool.environment
    tasks = tasks_of(environment, data["environment"]["train_split"])
    tasks = tasks[:: max(len(tasks) // MEASURED, 1)][:MEASURED]
    gold = replays.gold(tasks)
    habit = replays.habit(gold)
    found = _measured(parse_experiment(data), replays, gold, habit, cache)
    limit = found.action + max(2, found.action // 4)
    data["sampling"]["max_new_tokens"] = limit
    reasons = [
        f"{limit} new tokens a turn: the longest action of a solution has {found.action}, its end included",
    ]
    if data["model"]["name"] != "tiny":
        return reasons
    turns = environment.max_turns or 2 * found.turns
    needed = found.opening + turns * (found.turn - found.action + limit)
    window = min(-(-max(needed, found.episode + limit) // 32) * 32, max(WIDEST, -(-(found.episode + limit) // 32) * 32))
    data["model"]["tiny"]["window"] = window
    careless = sum(habit[task] != gold[task] for task in tasks)
    if careless:
        data["warm_start"]["habit_share"] = HABIT
    return [
        *reasons,
        f"a window of {window} tokens: a first prompt of {found.opening} with what a teacher reads, {turns} turns of "
        f"{found.turn - found.action + limit}; the longest solution takes {found.episode} in {found.turns} turns",
        f"{HABIT:.0%} of the demonstrations follow its habitual mistake"
        if careless
        else "it names no habitual mistake: the start is imperfect by being short alone",
    ]


def _measured(
    draft: Experiment,
    replays: Replays,
    gold: Mapping[str, tuple[str, ...]],
    habit: Mapping[str, tuple[str, ...]],
    cache: Path,
) -> Lengths:
    """The lengths of these scripts, played and rendered as the policy would have sampled them."""
    from harness.backends.torch.models import base_directory, create_tiny

    contexts: dict[str, list[ContextRequest | None]] = {task: [None] for task in gold}
    with tempfile.TemporaryDirectory() as scratch:
        directory = base_directory(draft.model, cache) or Path(scratch)
        if draft.warm_start is not None:
            demonstrator = Demonstrator.of(draft, draft.warm_start, replays, SHARED)
            small = {"width": 8, "layers": 1, "heads": 1, "kv_heads": 1, "mlp": 8}
            create_tiny(directory, demonstrator.texts(), draft.model.tiny.model_copy(update=small), 0)
            wanted = [(task, source) for task in gold for source in range(len(demonstrator.sources))]
            for (task, _), request in zip(wanted, demonstrator.contexts(wanted, SHARED), strict=True):
                contexts[task] += [request] if request is not None else []
        backend = make_backend(draft.backend, Start(directory), BackendSettings(device="cpu"))
        with contextlib.closing(backend):
            policy = TokenPolicy(backend, SamplingParams(LONG))
            sequences = [
                as_sampled(task, context, scripts[task], episode, policy, replays.pool.environment.tools)
                for scripts in (gold, habit)
                for task, episode in replays.play(scripts).items()
                if episode.ending is not Ending.ERROR
                for context in contexts[task]
            ]
    whole = [sequence for sequence in sequences if sequence is not None and sequence.mask.any()]
    if not whole:
        raise UserError(f"no solution of {draft.environment.id} could be played, or all exceed {LONG} tokens")
    sampled = [np.bincount(s.turns[s.mask]) for s in whole]
    first = [int(s.mask.argmax()) for s in whole]
    turns = [np.bincount(s.turns[begin:]) for s, begin in zip(whole, first, strict=True)]
    return Lengths(
        opening=max(first),
        action=max(int(counts.max()) for counts in sampled),
        turn=max(int(counts.max()) for counts in turns),
        turns=max(map(len, sampled)),
        episode=max(map(len, whole)),
    )


def _warm_start(data: dict[str, Any], cache: Path, progress: Progress) -> list[str]:
    """The shortest warm start from which there is something to learn, by the start of the first seed: it is in the
    cache then, and no time is lost."""
    found: dict[int, float] = {}
    for steps in WARM_STEPS:
        data["warm_start"]["steps"] = steps
        experiment = parse_experiment(data)
        # None where every episode was lost to the environment.
        found[steps] = start_of(experiment, cache, progress, experiment.seeds[0]).measured["sampled"] or 0.0
        if found[steps] >= LEAST:
            break
    tried = ", ".join(f"{success:.2f} after {steps}" for steps, success in found.items())
    reached = found[data["warm_start"]["steps"]]
    verdict = "" if reached >= LEAST else ": it hardly ever succeeds, so expect little to be learned"
    if reached > 1 - LEAST:
        verdict = ": little is left to be learned"
    return [f"a warm start of {data['warm_start']['steps']} steps (sampled success {tried}){verdict}"]
