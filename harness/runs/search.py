"""The trials of a search as runs, and what they scored: a row for every trial and tuning seed, whatever became of
it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from harness.core import records
from harness.core.errors import UserError
from harness.core.sums import require_whole
from harness.experiment import Experiment
from harness.experiment.search import trials_of, tuning_experiment
from harness.learning.judging import DONE
from harness.protocols.backend import Start
from harness.runs.plan import Job, plan

Row = dict[str, Any]


def trial_jobs(experiment: Experiment, starts: Mapping[int, Start], root: Path) -> list[Job]:
    """The runs of a search. starts: of its tuning seeds."""
    return [job for job in plan(tuning_experiment(experiment), starts, root) if job.role == "method"]


def trial_rows(experiment: Experiment, jobs: Sequence[Job]) -> list[Row]:
    """The record of a search: every trial under every tuning seed, its settings and its score."""
    search = experiment.search
    if search is None:
        raise UserError(f"experiment {experiment.name!r} declares no [search]")
    by_label = {trial.row.label: trial for trial in trials_of(experiment)}
    rows = []
    for job in jobs:
        trial = by_label[job.method.label]
        score = score_of(job.folder, search.rule) if job.done else math.nan
        row = {"method": trial.method, "trial": trial.number, "plug": trial.row.plug, "settings": trial.settings}
        rows.append(row | {"seed": job.seed, "score": None if math.isnan(score) else score})
    return rows


def score_of(folder: Path, rule: str) -> float:
    """What a finished trial scored, by the rule; NaN where nothing was measured.

    area: the mean height of the learning curve (trapezoids over its steps, divided by their range); final: the mean
    success of the rows. Both sampled.
    """
    remedy = f"remove {folder} and search again to repeat this trial"
    require_whole(folder, remedy, [DONE, "rows.jsonl", "curve.jsonl"])
    if rule == "final":
        rows = records.read(folder / "rows.jsonl").strict()
        rates = [row["success"] for row in rows if row["decoding"] == "sampled"]
        known = [rate for rate in rates if rate is not None]
        return float(np.mean(known)) if known else math.nan
    points = {row["step"]: row["sampled"] for row in records.read(folder / "curve.jsonl").strict()}
    steps: list[int] = sorted(points)
    heights = [math.nan if points[step] is None else float(points[step]) for step in steps]
    if len(steps) < 2:
        return heights[0] if heights else math.nan
    area = math.fsum((b - a) * (low + high) / 2 for (a, low), (b, high) in pairwise(zip(steps, heights, strict=True)))
    return area / (steps[-1] - steps[0])
