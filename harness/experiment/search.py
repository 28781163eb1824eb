"""A declared search as trials: what is tried of every row, the experiment that tries it, and the rows it adds.

trials_of(experiment) -> trials        tuning_experiment(experiment) -> an experiment with a row for every trial
with_tuned(experiment, chosen)         the experiment with a row "X, tuned" beside every row "X"
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.seeds import SeedTree
from harness.experiment.rows import searched_rows, space_of, with_settings
from harness.experiment.settings import MethodSettings
from harness.experiment.spec import Experiment

POINTS = 6
"""Points of a trial's learning curve where the experiment asks for none."""


@dataclass(frozen=True)
class Trial:
    """One choice of settings for one row."""

    method: str
    """The row's label."""
    number: int
    settings: dict[str, Any]
    """Flat: `{"optimiser.lr": 1e-4, "options.beta": 0.2}`."""
    row: MethodSettings
    """The row that runs it."""


def trials_of(experiment: Experiment) -> list[Trial]:
    """The trials of every searched row: as many for each, drawn without replacement; none without a [search]."""
    search = experiment.search
    if search is None:
        return []
    trials = []
    for row in searched_rows(experiment):
        space = space_of(search, row)
        grid = list(itertools.product(*space.values()))
        drawn = SeedTree(0)["search", row.label].rng().permutation(len(grid))[: search.trials]
        for number, place in enumerate(sorted(drawn.tolist()), start=1):
            settings = dict(zip(space, grid[place], strict=True))
            label = f"{row.label}, trial {number}"
            tried = with_settings(row, settings).model_copy(update={"label": label, "exploratory": True, "knob": None})
            trials.append(Trial(row.label, number, settings, tried))
    return trials


def tuning_experiment(experiment: Experiment) -> Experiment:
    """The experiment that runs the trials: tuning seeds, tuning split, a row for every trial."""
    search = experiment.search
    if search is None:
        raise UserError(f"experiment {experiment.name!r} declares no [search]")
    steps, judged = search.steps or experiment.budget.steps, experiment.evaluation
    every = judged.every or max(1, steps // POINTS)
    changed = {
        "name": f"{experiment.name}-search",
        "seeds": search.seeds,
        "search": None,
        "environment": experiment.environment.model_copy(update={"eval_split": search.split}),
        "budget": experiment.budget.model_copy(update={"steps": steps}),
        "evaluation": judged.model_copy(
            update={
                "tasks": judged.curve_tasks,
                "every": every if search.rule == "area" else 0,
                "curve_split": search.split,
                "extra": (),
                "start_tasks": 0,
            }
        ),
        "methods": tuple(trial.row for trial in trials_of(experiment)),
    }
    return experiment.model_copy(update=changed)


def with_tuned(experiment: Experiment, chosen: Mapping[str, Mapping[str, Any]]) -> Experiment:
    """The experiment with a row "X, tuned" beside every row "X" that settings were chosen for. chosen: flat settings
    by label."""
    rows: list[MethodSettings] = []
    for row in experiment.methods:
        rows.append(row)
        if row.label in chosen:
            tuned = with_settings(row, chosen[row.label])
            rows.append(tuned.model_copy(update={"label": f"{row.label}, tuned", "knob": None}))
    return experiment.model_copy(update={"methods": tuple(rows)})


def search_facts(experiment: Experiment) -> str:
    """Fingerprint of all that a search was declared to be: recorded trials of another one choose nothing here."""
    declared = tuning_experiment(experiment).model_dump(mode="json", exclude={"name", "title"})
    return fingerprint([declared, experiment.search.model_dump(mode="json") if experiment.search else None])[:16]
