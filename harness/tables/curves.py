"""The area under a learning curve as an endpoint: per task, from points that record every task's outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from harness.core.episodes import FAILED, LOST, SOLVED
from harness.core.errors import UserError
from harness.tables.endpoints import Outcome


def area(steps: Sequence[int], outcomes: Sequence[str]) -> Float[np.ndarray, " task"]:
    """Mean success over training of every task: the trapezoid over the steps, divided by their range; 0 to 1.

    outcomes: one string a step, a character a task. A lost point lies on the line between its neighbours (at an end,
    on the nearest); a task lost at every point is NaN. UserError for fewer than two steps, or unequal panels.
    """
    if len(steps) < 2 or len({len(row) for row in outcomes}) != 1 or len(steps) != len(outcomes):
        raise UserError(f"an area needs two points or more, all of the same tasks, got {len(steps)} points")
    known = {SOLVED: 1.0, FAILED: 0.0, LOST: np.nan}
    unknown = {character for row in outcomes for character in row} - set(known)
    if unknown:
        raise UserError(f"a point's tasks are {SOLVED}, {FAILED} or {LOST}, got {sorted(unknown)[0]!r}")
    at = np.asarray(steps, dtype=np.float64)
    values = np.array([[known[character] for character in row] for row in outcomes])
    for task in np.flatnonzero(np.isnan(values).any(axis=0)):
        there = ~np.isnan(values[:, task])
        if there.any():
            values[:, task] = np.interp(at, at[there], values[there, task])
    widths = np.diff(at)[:, None]
    return np.asarray((widths * (values[1:] + values[:-1]) / 2).sum(axis=0) / (at[-1] - at[0]))


def areas(
    points: Iterable[Mapping[str, Any]], wanted: Mapping[str, Sequence[int]], decoding: str
) -> tuple[dict[str, Outcome], str]:
    """Areas [seed, task] of every method; or nothing, and why there is none.

    points: records of learning curves. wanted: the seeds of every method. All runs must have points at the same steps
    on the same tasks, each with the tasks' outcomes: a record without them, as older ones are, knows means alone, and
    an interval over seeds alone would say nothing of other tasks.
    """
    curves: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
    for point in points:
        curves.setdefault((point["method"], point["seed"]), {})[point["step"]] = point
    if not curves:
        return {}, "no learning curve was recorded"
    runs = [(method, seed) for method, seeds in wanted.items() for seed in seeds]
    missing = next((run for run in runs if run not in curves), None)
    if missing is not None:
        return {}, f"{missing[0]}, seed {missing[1]}, has no learning curve"
    if any(decoding not in point.get("tasks", {}) for run in runs for point in curves[run].values()):
        return {}, "the points of the learning curves do not hold the tasks' outcomes"
    kinds = {(tuple(sorted(curves[run])), *sorted({p.get("panel", "") for p in curves[run].values()})) for run in runs}
    if len(kinds) > 1 or len(next(iter(kinds))) > 2 or len(next(iter(kinds))[0]) < 2:
        return {}, "the learning curves have not the same steps and tasks, or a single step"
    found = {}
    for method, seeds in wanted.items():
        rows = []
        for seed in seeds:
            curve = curves[method, seed]
            steps = sorted(curve)
            rows.append(area(steps, [curve[step]["tasks"][decoding] for step in steps]))
        found[method] = Outcome(tuple(seeds), np.array(rows))
    lost = np.isnan(np.concatenate([outcome.y for outcome in found.values()])).any(axis=0)
    if lost.all():
        return {}, "every task of the learning curves was lost in some run"
    return {method: Outcome(outcome.seeds, outcome.y[:, ~lost]) for method, outcome in found.items()}, ""
