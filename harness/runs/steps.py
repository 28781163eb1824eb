"""What runs logged of their steps, in short: every diagnostic of every method over its seeds, a row a step.

Logs stay in their runs' folders; this is what a results folder keeps of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core import records
from harness.core.fingerprint import slug
from harness.experiment import Experiment, fingerprint
from harness.runs.plan import Job

Row = dict[str, Any]
MOST_STEPS = 120
"""Steps that are kept of a longer run, evenly spaced, the first and the last among them."""
DIGITS = 5
"""Significant digits that are kept."""


def logs_of_jobs(jobs: Iterable[Job]) -> list[tuple[str, list[Row]]]:
    """(label, rows of the log) of every finished run of a method."""
    found = [(job.method.label, _log(job.folder)) for job in jobs if job.role == "method" and job.done]
    return [(label, rows) for label, rows in found if rows]


def logs_of_beginnings(jobs: Iterable[Job], seed: int, steps: int) -> list[Row]:
    """The first steps of one seed of every method as they were logged, for a later repetition to be held against."""
    return [
        {"method": job.method.label, "seed": seed} | row
        for job in jobs
        if job.role == "method" and job.seed == seed and job.done
        for row in _log(job.folder)
        if row["step"] < steps
    ]


def logs_of_folder(experiment: Experiment, matched: Mapping[str, Any], runs: Path) -> list[tuple[str, list[Row]]]:
    """The same from the runs kept under `runs`, where those of these matched facts are still there."""
    base = runs / slug(experiment.name) / fingerprint(matched)[:12]
    folders = [
        (method.label, folder)
        for method in experiment.methods
        for seed in experiment.seeds
        for folder in sorted(base.glob(f"{slug(method.label)}-????????-seed{seed}"))
    ]
    found = [(label, _log(folder)) for label, folder in folders if (folder / "done.json").is_file()]
    return [(label, rows) for label, rows in found if rows]


def step_summary(logs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[Row]:
    """A row for every method and step: `mean`, `low` and `high` over the seeds of every number that was logged.

    A step counts only the seeds that logged the number there. Methods keep the order of their first log.
    """
    by_method: dict[str, list[dict[int, Mapping[str, Any]]]] = {}
    for method, rows in logs:
        by_method.setdefault(method, []).append({row["step"]: row for row in rows})
    return [
        {"method": method, "step": step} | _over_seeds([run[step] for run in of_seeds if step in run])
        for method, of_seeds in by_method.items()
        for step in _kept(sorted({step for run in of_seeds for step in run}))
    ]


def _log(folder: Path) -> list[Row]:
    file = folder / "steps.jsonl"
    return list({row["step"]: row for row in records.read(file).rows}.values()) if file.is_file() else []


def _kept(steps: Sequence[int]) -> list[int]:
    if len(steps) <= MOST_STEPS:
        return list(steps)
    places = np.linspace(0, len(steps) - 1, MOST_STEPS).round().astype(int)
    return [steps[place] for place in places]


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> Row:
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(key, []).append(float(value))
    ways: dict[str, Callable[[list[float]], float]] = {"mean": statistics.fmean, "low": min, "high": max}
    return {"seeds": len(rows)} | {
        name: {key: float(f"{way(of):.{DIGITS}g}") for key, of in sorted(values.items())} for name, way in ways.items()
    }
