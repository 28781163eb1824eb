"""The policy every method of a table starts from: supervised on demonstrations, deliberately imperfect, made once and
cached by content.

A share of the demonstrations follows the environment's habitual mistake, so that greedy success has room to grow;
another share is conditioned on the privileged contexts that teachers will read, because a policy that has never seen
a context cannot be a teacher.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.records import line_of, write_json
from harness.core.seeds import SeedTree
from harness.core.sources import revision
from harness.core.types import ContextRequest, Credit, Ending, Episode, RolloutGroup, TokenSequence
from harness.experiment import Experiment, LossSettings, OptimiserSettings, PlugSettings, WarmStartSettings
from harness.learning.policy_hash import checkpoint_hash
from harness.losses import pack
from harness.protocols.backend import Backend, BackendSettings, SamplingParams, Start, make_backend
from harness.protocols.context import make_context
from harness.rollout.conversation import Request
from harness.rollout.environments import EnvironmentPool, environment_module
from harness.rollout.panel import panel, play_panel, success_rate, tasks_of
from harness.rollout.policies import MessagePolicy, TokenPolicy
from harness.rollout.rollouts import Rollouts

Progress = Callable[[str, int, int], None]
SEEDS = SeedTree(0)["warm-start"]
MEASURED = "measured.json"
AT_ONCE = 8
"""Demonstrations played side by side: nothing is gained by more, and an environment that keeps few live worlds would
replay them."""
MARGIN = 0.10
"""Success a context must add on the starting policy; below it the teacher is noise."""


def start_of(experiment: Experiment, cache: Path, progress: Progress | None = None) -> Start:
    """The starting policy of an experiment; made when it is not in the cache."""
    from harness.backends.torch.models import base_directory

    base = base_directory(experiment.model, cache)
    settings = experiment.warm_start
    if settings is None:
        if base is None:
            raise UserError("model 'tiny' has no weights of its own: the experiment needs a [warm_start] section")
        return Start(base, checkpoint_hash(base), {})
    with EnvironmentPool(experiment.environment) as pool:
        key = fingerprint(
            {
                "environment": [experiment.environment.id, experiment.environment.options, pool.environment.version],
                "model": experiment.model.model_dump(exclude={"device"}),
                "warm_start": settings.model_dump(),
                "backend": experiment.backend.model_dump(),
                "micro_tokens": experiment.optimiser.micro_tokens,
                "sampling": experiment.sampling.model_dump(include={"temperature", "max_new_tokens"}),
                "code": revision(
                    "harness.learning.warm_start",
                    experiment.backend.module,
                    environment_module(pool),
                    *(named.module for named in settings.contexts),
                ),
            }
        )
        directory = cache / "warm-starts" / key[:16]
        if not (directory / MEASURED).is_file():
            _make(experiment, settings, pool, base, directory, progress)
    return Start(directory, checkpoint_hash(directory), json.loads((directory / MEASURED).read_text()))


def _make(
    experiment: Experiment,
    settings: WarmStartSettings,
    pool: EnvironmentPool,
    base: Path | None,
    directory: Path,
    progress: Progress | None,
) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        demonstrator = _Demonstrator(experiment, settings, pool)
        if base is None:
            from harness.backends.torch.models import create_tiny

            create_tiny(scratch, demonstrator.texts(), experiment.model.tiny, SEEDS["weights"].integer())
        optimiser = OptimiserSettings(
            lr=settings.lr,
            schedule="cosine",
            warmup_steps=min(20, settings.steps // 4),
            micro_tokens=experiment.optimiser.micro_tokens,
        )
        backend = make_backend(
            experiment.backend,
            Start(base or scratch),
            BackendSettings(optimiser, settings.steps, 1.0, experiment.model.dtype, experiment.model.device),
        )
        _fit(backend, demonstrator.sequences(backend), settings, progress)
        backend.save(scratch)
        # Training begins with an optimiser of its own.
        (scratch / "trainer_state.pt").unlink(missing_ok=True)
        write_json(scratch / MEASURED, _measure(experiment, settings, pool, backend, demonstrator, progress))
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(scratch, directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Demonstrator:
    """Demonstrations of the train split: which tasks, by which actions, conditioned on which context."""

    def __init__(self, experiment: Experiment, settings: WarmStartSettings, pool: EnvironmentPool) -> None:
        self.experiment, self.settings, self.pool = experiment, settings, pool
        self.rollouts = Rollouts(pool)
        self.sources = [make_context(named.plug, named.options) for named in settings.contexts]
        if settings.context_share and not self.sources:
            raise UserError("warm_start.context_share is set, but warm_start.contexts names no source")
        split = experiment.environment.train_split
        tasks = tasks_of(pool.environment, split)
        order = SEEDS["tasks"].rng().permutation(len(tasks))
        self.tasks = [tasks[place] for place in order[: settings.demonstrations].tolist()]

    def texts(self) -> list[str]:
        """Every message of every gold demonstration and what teachers read of them, for a tokenizer to be trained
        on."""
        texts = [str(m["content"]) for episode in self._replay(self._gold(self.tasks)) for m in episode.messages]
        contexts = [request.content for row in self.contexts(self.tasks) for request in row if request is not None]
        return texts + [text for text in contexts if isinstance(text, str)]

    def sequences(self, backend: Backend) -> list[TokenSequence]:
        """The demonstrations as the policy would have sampled them."""
        rng = SEEDS["demonstrations"].rng()
        gold = self._gold(self.tasks)
        habit = {task: self.pool.environment.habit(task) for task in self.tasks}
        conditioned = rng.random(len(self.tasks)) < self.settings.context_share
        careless = rng.random(len(self.tasks)) < self.settings.habit_share
        requests = []
        contexts = self.contexts(self.tasks)
        for place, task in enumerate(self.tasks):
            context = contexts[place][int(rng.integers(len(self.sources)))] if conditioned[place] else None
            by_habit = careless[place] and context is None
            script = tuple((habit[task] if by_habit else None) or gold[task])
            requests.append(Request(task, SEEDS["demonstration", task], context=context, script=script))
        policy = TokenPolicy(backend, SamplingParams(self.experiment.sampling.max_new_tokens))
        episodes = self.rollouts.play(requests, policy)
        failed = sum(e.ending is Ending.ERROR for e in episodes)
        kept = [e.sequence for e in episodes if e.ending not in (Ending.ERROR, Ending.TOKEN_LIMIT)]
        if len(kept) < len(episodes) / 2:
            raise UserError(
                f"only {len(kept)} of {len(episodes)} demonstrations can be learned from: "
                f"{failed} failed in the environment, "
                f"{len(episodes) - len(kept) - failed} do not fit the model's window of {backend.window} tokens"
            )
        return kept

    def contexts(self, tasks: Sequence[str]) -> list[list[ContextRequest | None]]:
        """What each source would give for each task, from a group in which one sibling did it right and one by
        habit."""
        if not self.sources:
            return [[] for _ in tasks]
        gold = self._gold(tasks)
        habit = {task: tuple(self.pool.environment.habit(task) or gold[task]) for task in tasks}
        right, careless = self._replay(gold), self._replay(habit)
        out: list[list[ContextRequest | None]] = []
        for task, good, bad in zip(tasks, right, careless, strict=True):
            environment = self.pool.environment
            solution = None if environment.terse else gold[task]
            group = RolloutGroup(task, (bad, good), solution, environment.answer(task))
            out.append([source(group, 0, SEEDS["context", task, n].rng()) for n, source in enumerate(self.sources)])
        return out

    def _gold(self, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
        gold: dict[str, tuple[str, ...]] = {}
        for task in tasks:
            actions = self.pool.environment.gold(task)
            if actions is None:
                raise UserError(f"task {task!r} of {self.experiment.environment.id} has no gold actions to demonstrate")
            gold[task] = tuple(actions)
        return gold

    def _replay(self, scripts: dict[str, tuple[str, ...]]) -> list[Episode]:
        requests = [Request(task, SEEDS["demonstration", task], script=script) for task, script in scripts.items()]
        return self.rollouts.play(requests, MessagePolicy(), at_once=AT_ONCE)


def _key(named: PlugSettings) -> str:
    return f"{named.plug}{line_of(named.options)}" if named.options else named.plug


def _fit(backend: Any, sequences: list[TokenSequence], settings: WarmStartSettings, progress: Progress | None) -> None:
    """Supervised steps: the likelihood term of the one loss with weight 1 on every demonstrated token."""
    rng = SEEDS["batches"].rng()
    queue: list[int] = []
    for step in range(settings.steps):
        while len(queue) < settings.batch:
            queue.extend(rng.permutation(len(sequences)).tolist())
        part, queue = queue[: settings.batch], queue[settings.batch :]
        chosen = [sequences[place] for place in part]
        backend.update(pack(chosen, [Credit(likelihood=s.mask.astype(np.float64)) for s in chosen]), LossSettings())
        if progress is not None:
            progress("warm start", step + 1, settings.steps)


def _measure(
    experiment: Experiment,
    settings: WarmStartSettings,
    pool: EnvironmentPool,
    backend: Any,
    demonstrator: _Demonstrator,
    progress: Progress | None,
) -> dict[str, Any]:
    """Success of the starting policy on dev tasks, without a context and with each."""
    split = "dev" if "dev" in pool.environment.splits else experiment.environment.train_split
    tasks = panel(pool.environment, split, settings.measure)
    sampling = experiment.sampling
    policy = TokenPolicy(backend, SamplingParams(sampling.max_new_tokens, sampling.temperature, sampling.top_p))
    stages = 2 + len(demonstrator.sources)

    def rate(stage: int, decoding: str, samples: int, contexts: list[ContextRequest | None] | None = None) -> float:
        episodes = play_panel(
            demonstrator.rollouts, policy, tasks, SEEDS["measure", stage], decoding, samples, contexts
        )
        if progress is not None:
            progress("measuring the start", stage + 1, stages)
        return success_rate(episodes)

    measured: dict[str, Any] = {
        "split": split,
        "tasks": len(tasks),
        "sampled": rate(0, "sampled", 4),
        "greedy": rate(1, "greedy", 1),
        "contexts": {},
    }
    offered = demonstrator.contexts(tasks)
    for number, (named, source) in enumerate(zip(settings.contexts, demonstrator.sources, strict=True)):
        with_context = rate(2 + number, "sampled", 4, [row[number] for row in offered])
        measured["contexts"][_key(named)] = {
            "name": source.name,
            "sampled": with_context,
            "adds": with_context - measured["sampled"],
            "teacher_adds_nothing": with_context - measured["sampled"] < MARGIN,
        }
    return measured
