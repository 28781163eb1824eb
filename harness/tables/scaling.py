"""Steps to a fixed success: how fast a method learns, comparable between tasks of different length.

    points of learning curves -> steps_to(steps, values, wanted) of every seed -> Speed, its mean with an interval

A seed that never gets there is counted with the whole budget (a restricted mean, as in survival analysis: Royston &
Parmar 2013, BMC Medical Research Methodology 13:152) and said to have been cut off: a mean over the seeds that got
there alone would praise a method that got there once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from harness.core.errors import MissingDataError

Number = float | int


@dataclass(frozen=True)
class Speed:
    """Optimiser steps that one method needed at one place of the axis."""

    method: str
    place: float
    """What the tasks were varied by (their horizon, say)."""
    steps: float
    """Mean over seeds, the budget taken for those that did not get there."""
    low: float
    high: float
    """95 % t interval of the mean, within 0 and the budget; the mean itself for one seed."""
    seeds: int
    reached: int
    """Seeds that got there."""
    budget: float


def steps_to(steps: Sequence[Number], values: Sequence[Number], wanted: Number) -> Number:
    """Step at which a curve first reaches `wanted`, on straight lines between its points; infinity where it never
    does."""
    before: tuple[Number, Number] | None = None
    for step, value in sorted(zip(steps, values, strict=True)):
        if value >= wanted:
            if before is None:
                return step
            share = (wanted - before[1]) / (value - before[1])
            return before[0] + share * (step - before[0])
        before = (step, value)
    return math.inf


def speeds(points: Iterable[Mapping[str, Any]], place: Number, wanted: Number, value: str = "sampled") -> list[Speed]:
    """The speed of every method, in the order of their first point.

    points: records with `method`, `seed`, `step` and the value. MissingDataError where there is none.
    """
    curves: dict[str, dict[int, dict[Number, Number]]] = {}
    for point in points:
        if point.get(value) is not None:
            curves.setdefault(point["method"], {}).setdefault(point["seed"], {})[point["step"]] = point[value]
    if not curves:
        raise MissingDataError(f"no point of a learning curve with {value!r}: nothing to measure speed by")
    return [_speed(method, place, list(seeds.values()), wanted) for method, seeds in curves.items()]


def _speed(method: str, place: Number, curves: Sequence[Mapping[Number, Number]], wanted: Number) -> Speed:
    budget = min(max(curve) for curve in curves)
    needed = [steps_to(list(curve), list(curve.values()), wanted) for curve in curves]
    reached = sum(steps <= budget for steps in needed)
    restricted = np.minimum(needed, budget)
    mean, half = float(restricted.mean()), 0.0
    if len(needed) > 1:
        half = float(stats.t.ppf(0.975, len(needed) - 1) * restricted.std(ddof=1) / math.sqrt(len(needed)))
    low, high = max(mean - half, 0.0), min(mean + half, float(budget))
    return Speed(method, float(place), mean, low, high, len(needed), reached, float(budget))
