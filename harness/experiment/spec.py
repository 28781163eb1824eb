"""An experiment as frozen data, and the facts by which its runs are matched."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from harness.core.fingerprint import flatten
from harness.experiment.rows import check_own, check_search, laid_over
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
    SearchSettings,
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
    search: SearchSettings | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Experiment:
        labels = [method.label for method in self.methods]
        for name, values in (("method labels", labels), ("seeds", list(self.seeds))):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other, got {values}")
        return self

    @model_validator(mode="after")
    def _holds_no_key(self) -> Experiment:
        own = {f"method {row.label!r}": row.options for row in self.methods}
        for name, value in flatten(self.model_dump(mode="json") | own).items():
            if name.rpartition(".")[2] == "api_key" and value not in (None, "", "none"):
                raise ValueError(
                    f"{name}: a spec is written down with every run, and its options with every table; leave the key "
                    "out and set OPENAI_API_KEY"
                )
        return self

    @model_validator(mode="after")
    def _rows_may_differ(self) -> Experiment:
        for row in self.methods:
            check_own(self, row)
        if self.search is not None:
            check_search(self, self.search)
        return self

    def for_row(self, row: MethodSettings) -> Experiment:
        """The experiment as one row runs it: with the settings of its own laid over the shared ones."""
        own = {"optimiser": row.optimiser, "loss": row.loss, "sampling": row.sampling}
        changed = {section: laid_over(getattr(self, section), table) for section, table in own.items() if table}
        return self.model_copy(update=changed) if changed else self

    def matched_facts(self, **observed: Any) -> dict[str, Any]:
        """Everything two runs of one table must share, flat: the spec without methods, seeds and names, and what was
        `observed` (task list hash, environment version, what starts are made from, code revision)."""
        spec = self.model_dump(mode="json", exclude={"name", "title", "seeds", "methods", "search"})
        spec["budget"].pop("checkpoint_every")
        spec["evaluation"].pop("start_tasks")
        spec["environment"] = {key: spec["environment"][key] for key in ("id", "options", "train_split", "eval_split")}
        # What a teacher reads belongs to the method; the warm start it was shown in is part of what starts are made
        # from.
        spec.pop("context")
        if self.search is not None:
            # What was searched differs from row to row; that all rows were searched alike is what they share.
            spec["search"] = self.search.model_dump(mode="json")
            for key in self.search.space:
                spec["optimiser"].pop(key)
        return flatten(spec) | observed
