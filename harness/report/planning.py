"""What an experiment will find, before it is run: its endpoints with their minimum detectable effects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.experiment import Experiment
from harness.protocols.method import make_method
from harness.report.grids import endpoint_name
from harness.tables.endpoints import AREA
from harness.tables.grid import NOTHING, Grid
from harness.tables.planning import ASSUMED, Parts, least_tasks, planning_effect, seeds_needed
from harness.tables.table import Table

CORRELATION = 0.5
"""Of one row's means at two endpoints, where no record tells."""

GUESS = (
    "Assumed: no variance is recorded beside the spec, so the seed sd is a guess; trained rows have shown up to twice "
    "as much, and a pilot of 3 seeds tells."
)
"""What a plan says of variances that nobody has measured."""


@dataclass(frozen=True)
class Planned:
    """One endpoint of a planned experiment."""

    endpoint: str
    tasks: int
    samples: int
    parts: Parts
    source: str
    """Where its variances are from, in words."""
    effect: float
    """Minimum detectable effect with the spec's seeds."""
    seeds: Mapping[float, int | None]
    """Seeds needed, by effect."""


def planned(
    experiment: Experiment, recorded: Table | None, effects: Sequence[float], seeds: int | None = None
) -> list[Planned]:
    """Every endpoint of the experiment. recorded: an earlier table of it, for its variances; effects: those for which
    the seeds needed are asked; seeds: their number, where it is not the spec's."""
    wanted = experiment.evaluation
    rows, tested = _rows(experiment)
    endpoints = (AREA,) * (wanted.every > 0) + ("sampled", "greedy")
    correlation = recorded.judged.correlation if recorded and recorded.judged.correlation else CORRELATION
    size: dict[str, Any] = {
        "rows": rows,
        "comparisons": tested,
        "endpoints": len(endpoints),
        "correlation": correlation,
    }
    found = []
    # A trapezoid over n + 1 points has the noise of about n samples.
    samples_of = {AREA: experiment.budget.steps // max(wanted.every, 1), "sampled": wanted.samples, "greedy": 1}
    for endpoint in endpoints:
        parts, source = _parts(endpoint, recorded)
        tasks = wanted.curve_tasks if endpoint == AREA else _units(wanted.tasks, recorded)
        samples = max(samples_of[endpoint], 1)
        found.append(
            Planned(
                *(endpoint, tasks, samples, parts, source),
                planning_effect(parts, seeds or len(experiment.seeds), tasks, samples, **size),
                {effect: seeds_needed(effect, parts, tasks, samples, **size) for effect in effects},
            )
        )
    return found


def _rows(experiment: Experiment) -> tuple[int, int]:
    """Learned rows, whose variance will be pooled, and the comparisons that will be tested."""
    controls = [make_method(m.plug, m.options).describe().control is not None for m in experiment.methods]
    tested = sum(not m.exploratory and not control for m, control in zip(experiment.methods, controls, strict=True))
    return max(len(experiment.methods), 2), max(tested - 1, 1)


def _units(tasks: int, recorded: Table | None) -> int:
    """Independent units in so many tasks: scenarios, where the recorded table takes these."""
    pool = recorded.judged.pools.get("sampled") if recorded is not None else None
    return tasks if recorded is None or pool is None else max(tasks * pool.tasks // recorded.tasks, 2)


def _parts(endpoint: str, recorded: Table | None) -> tuple[Parts, str]:
    pools = recorded.judged.pools if recorded is not None else {}
    for known in (endpoint, "sampled"):
        if recorded is None or known not in pools:
            continue
        pool, samples = pools[known], recorded.samples.get(known, 1)
        whole = known == AREA or pool.tasks == recorded.tasks  # of scenarios, samples' share is not told apart
        sample = recorded.sample_variance.get(known, 0.0) if whole else 0.0
        where = f"{pool.rows} rows, {pool.seeds} seeds"
        instead = "" if known == endpoint else f", {known}"
        return Parts.of([pool], sample, samples), where + instead
    return ASSUMED, "assumed"


def planning_grid(experiment: Experiment, found: Sequence[Planned], seeds: int | None = None) -> Grid:
    """One line an endpoint."""
    effects = list(found[0].seeds)
    header = (
        *("Endpoint", "Variances from", "Seed sd", "Task sd", "Tasks", "Samples", "MDE"),
        *(f"Seeds for {effect:g}" for effect in effects),
    )
    rows = tuple(
        (
            *(endpoint_name(each.endpoint), each.source),
            *(f"{math.sqrt(each.parts.by_seed):.3f}", f"{math.sqrt(each.parts.by_task):.3f}"),
            *(str(each.tasks), str(each.samples), NOTHING if math.isnan(each.effect) else f"{each.effect:.3f}"),
            *(_seeds(each.seeds[effect]) for effect in effects),
        )
        for each in found
    )
    tested = _rows(experiment)[1]
    margin = experiment.evaluation.margin
    notes = (
        f"MDE: the true difference found with 80 % power by {seeds or len(experiment.seeds)} seeds, at the level "
        f"adjusted for {tested} comparisons at {len(found)} endpoints.",
        "Seed sd, task sd: standard deviations of what a seed, and a task, does to one row more than to the others.",
        *((GUESS,) if any(each.parts is ASSUMED for each in found) else ()),
        f"Equivalence within {margin:g} needs at least {least_tasks(margin)} tasks, whatever the seeds.",
    )
    return Grid("What this experiment will find", header, rows, notes, left=2)


def _seeds(needed: int | None) -> str:
    return "more tasks" if needed is None else str(needed)
