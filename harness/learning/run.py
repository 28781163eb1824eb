"""Everything one run works with, made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError, UserError
from harness.core.fingerprint import fingerprint, slug
from harness.core.seeds import SeedTree
from harness.experiment import Experiment, MethodSettings
from harness.learning.state import Spent
from harness.protocols.backend import Backend, BackendSettings, SamplingParams, Start, deciding, make_backend
from harness.protocols.context import ContextSource, make_context
from harness.protocols.method import AnyMethod, make_method
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import Panel, tasks_of
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts

Progress = Callable[[str, int, int], None]
"""What is going on, how much of it is done, and out of how much."""

Identity = Mapping[str, Any]
"""Which run a file belongs to: experiment, method and seed by name, and a digest of what else decides its result."""


def identity(experiment: Experiment, method: MethodSettings, seed: int, decided_by: str = "") -> Identity:
    """The identity of a run. decided_by: a digest of what is known beside the spec: start, code, tasks."""
    decided = experiment.model_copy(update={"backend": deciding(experiment.backend)})
    decides = [method.plug, method.options, method.own, decided.matched_facts(), decided_by]
    return {
        "experiment": slug(experiment.name),
        "method": slug(method.label),
        "seed": seed,
        "decided_by": fingerprint(decides)[:16],
    }


def named(known: Any) -> str:
    """An identity as words."""
    if not isinstance(known, Mapping):
        return "which it does not say"
    return ", ".join(f"{key} {known[key]}" for key in ("experiment", "method", "seed", "decided_by") if key in known)


class Stopped(HarnessError):
    """A run ended before its time because it was asked to; the next call goes on with it."""


@dataclass
class Run:
    """One method under one seed, from the shared start to its last checkpoint, in a folder of its own."""

    experiment: Experiment
    settings: MethodSettings
    seed: int
    start: Start
    folder: Path
    judged: Panel
    """What the run is judged on at its end."""
    progress: Progress = lambda what, done, total: None
    spent: Spent = field(default_factory=Spent)
    decided_by: str = ""
    """A digest of what decides the run beside its spec (`harness.runs.plan.Job.decided_by`)."""
    stopping: Callable[[], bool] = lambda: False
    """Whether the run is to stop after the step that is going on."""

    @cached_property
    def identity(self) -> Identity:
        """Which run this is; its records and checkpoints carry it."""
        return identity(self.experiment, self.settings, self.seed, self.decided_by)

    @cached_property
    def seeds(self) -> SeedTree:
        """The root of everything random about this run."""
        return SeedTree(self.seed)

    @cached_property
    def method(self) -> AnyMethod:
        """The method under test."""
        return make_method(self.settings.plug, self.settings.options)

    @cached_property
    def context(self) -> ContextSource | None:
        """The experiment's source, for a method that brings no context of its own."""
        named = self.experiment.context
        return make_context(named.plug, named.options) if named else None

    @cached_property
    def pool(self) -> EnvironmentPool:
        """The environments."""
        return EnvironmentPool(self.experiment.environment)

    @cached_property
    def rollouts(self) -> Rollouts:
        """What plays episodes."""
        return Rollouts(self.pool)

    @cached_property
    def backend(self) -> Backend:
        """What holds and trains the policy."""
        e = self.experiment
        updates = e.budget.steps * e.optimiser.updates * e.optimiser.minibatches
        seed = self.seeds["backend"].integer()
        settings = BackendSettings(e.optimiser, updates, e.sampling.temperature, e.model.dtype, e.model.device, seed)
        return make_backend(e.backend, self.start, settings)

    @cached_property
    def policy(self) -> TokenPolicy:
        """The policy that is trained, as the rollout engine plays it."""
        sampling = self.experiment.sampling
        params = SamplingParams(sampling.max_new_tokens, sampling.temperature, sampling.top_p)
        return TokenPolicy(self.backend, params, sampling.history)

    @cached_property
    def train_tasks(self) -> list[str]:
        """Tasks that may be trained on. UserError where the split may not."""
        environment, split = self.pool.environment, self.experiment.environment.train_split
        tasks = tasks_of(environment, split)
        if not environment.trainable(split):
            raise UserError(f"split {split!r} of {self.experiment.environment.id} may not be trained on")
        return tasks

    def close(self) -> None:
        """Close the backend, where one was made. The pool is a context of its own."""
        if "backend" in vars(self):
            self.backend.close()
