"""An experiment as frozen data, and the facts by which its runs are matched."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from harness.core.fingerprint import flatten
from harness.experiment.settings import (
    BudgetSettings,
    EnvironmentSettings,
    EvaluationSettings,
    LossSettings,
    MethodSettings,
    ModelSettings,
    OptimiserSettings,
    PlugSettings,
    SamplingSettings,
    Settings,
    WarmStartSettings,
)


class Experiment(Settings):
    """Everything that decides what a table says."""

    name: str
    title: str = ""
    seeds: tuple[int, ...] = Field(min_length=1)
    environment: EnvironmentSettings
    model: ModelSettings = ModelSettings()
    warm_start: WarmStartSettings | None = None
    context: PlugSettings | None = None
    """Source of privileged contexts for methods that bring none of their own."""
    sampling: SamplingSettings
    optimiser: OptimiserSettings
    loss: LossSettings = LossSettings()
    budget: BudgetSettings
    evaluation: EvaluationSettings
    backend: PlugSettings = PlugSettings(plug="harness.backends.torch:TorchBackend")
    methods: tuple[MethodSettings, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Experiment:
        labels = [method.label for method in self.methods]
        for name, values in (("method labels", labels), ("seeds", list(self.seeds))):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other, got {values}")
        return self

    def matched_facts(self, **observed: Any) -> dict[str, Any]:
        """Everything two runs of one table must share, flat: the spec without methods, seeds and names, and what was
        `observed` (task list hash, environment version, what starts are made from, code revision)."""
        spec = self.model_dump(mode="json", exclude={"name", "title", "seeds", "methods"})
        spec["budget"].pop("checkpoint_every")
        spec["evaluation"].pop("start_tasks")
        spec["environment"] = {key: spec["environment"][key] for key in ("id", "options", "train_split", "eval_split")}
        # What a teacher reads belongs to the method; the warm start it was shown in is part of what starts are made
        # from.
        spec.pop("context")
        return flatten(spec) | observed
