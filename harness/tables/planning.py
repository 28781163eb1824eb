"""What an experiment will be able to find, before it is run: from variances that are known or assumed.

A detectable effect that is computed from one comparison's own spread changes with that spread from table to table, by a
factor of three at three seeds. Here it comes from variances over many rows, or stated beforehand, alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize, special

from harness.core.errors import UserError
from harness.tables.comparisons import LEVEL, Comparison, family
from harness.tables.pooling import SUSPECT, Spread
from harness.tables.statistics import Estimate

POWER = 0.8
MOST_SEEDS = 200


@dataclass(frozen=True)
class Parts:
    """Variances of success by what they come from, for one row (see `harness.tables.comparisons`)."""

    by_seed: float
    """var_c: the chance of training."""
    by_task: float
    """var_d: tasks that suit one row more than another."""
    rest: float
    """var_e without the samples' share."""
    sample: float = 0.0
    """Of a single sample, of one task under one seed; var_e = rest + sample / samples."""

    @staticmethod
    def of(spreads: Sequence[Spread], sample: float = 0.0, samples: int = 1) -> Parts:
        """The means over tables that were made alike.

        sample: known variance of a single sample; samples: of every cell of those tables. UserError without a table.
        """
        if not spreads:
            raise UserError("no table with two rows, seeds and tasks to take variances from")
        seed, task, rest = (float(np.mean([getattr(s, name) for s in spreads])) for name in ("seed", "task", "rest"))
        first = spreads[0]
        return Parts(
            max(seed - rest, 0.0) / first.tasks,
            max(task - rest, 0.0) / first.seeds,
            max(rest - sample / samples, 0.0),
            sample,
        )

    def spread(self, seeds: int, tasks: int, samples: int, rows: int) -> Spread:
        """Expected mean squares of a table of this size."""
        left = self.rest + self.sample / samples
        return Spread(left + tasks * self.by_seed, left + seeds * self.by_task, left, rows, seeds, tasks)


ASSUMED = Parts(by_seed=0.02**2, by_task=0.05**2, rest=0.0, sample=0.12)
"""Where nothing is recorded: training moves a row by 0.02 from seed to seed, tasks by 0.05, and tasks are neither all
easy nor all hard (the mean of p (1 - p) over tasks). A round guess, not fitted to records: the ten seeds of
results/laptop/bifurcation show 0.037 to 0.049 from seed to seed."""


def least_tasks(margin: float) -> int:
    """The fewest tasks that can show a difference to be within the margin (`statistics.floored`)."""
    return math.ceil(math.log(LEVEL) / math.log(1 - margin))


def planning_effect(
    parts: Parts,
    seeds: int,
    tasks: int,
    samples: int = 1,
    rows: int = 2,
    comparisons: int | None = None,
    endpoints: int = 1,
    correlation: float = 0.5,
) -> float:
    """The true difference that a planned table finds with 80 % power, at the level adjusted for all its comparisons.

    rows: those whose variance over seeds is pooled. comparisons: rows that are compared (default: rows - 1). endpoints:
    how often each is judged; correlation: of one row's means at two of them. NaN below two seeds.
    """
    if seeds < 2 or tasks < 2:
        return math.nan
    table = parts.spread(seeds, tasks, samples, rows)
    df = table.of_difference()[1]
    if math.isnan(df):
        return 0.0
    return detectable(table, adjusted_level(comparisons or rows - 1, endpoints, round(df, 1), round(correlation, 2)))


def detectable(table: Spread, level: float) -> float:
    """The true difference of two rows that a table with these mean squares finds with 80 % power at this level.

    Where both rows are judged by the pool it is (t_{level} + t_{power}) times the standard error (Bloom 1995,
    Evaluation Review 19(5)). But chance makes one of them suspect in 2 SUSPECT - SUSPECT^2 of the cases, and its own
    greater variance then finds less; so the others must find more. Zero where nothing varies.
    """
    variance, df = table.of_difference()
    if not variance > 0:
        return 0.0
    error, reach = math.sqrt(variance), -float(special.stdtrit(df, level / 2))
    seldom = 2 * SUSPECT - SUSPECT**2 if table.rows > 2 else 0.0
    reaches = _suspects_reaches(table, level) if seldom else []

    def missing(effect: float) -> float:
        usual = float(special.stdtr(df, effect / error - reach))
        odd = float(np.mean([special.ndtr((effect - own) / error) for own in reaches])) if seldom else 0.0
        return (1 - seldom) * usual + seldom * odd - POWER

    return float(optimize.brentq(missing, 0.0, 100 * reach * error, xtol=1e-9))


def _suspects_reaches(table: Spread, level: float, count: int = 16) -> list[float]:
    """Differences just found where one row is suspect, at as many evenly spaced quantiles of its mean square."""
    df, beside = table.seeds - 1.0, (table.rows - 2) * (table.seeds - 1.0)
    task = 2 * table.task, (table.rows - 1) * (table.tasks - 1.0)
    found = []
    for quantile in (np.arange(count) + 0.5) / count:
        square = float(special.fdtri(df, beside, 1 - SUSPECT * quantile)) * table.seed
        variance, own_df = table.variance(table.seeds, task, (square, None))
        found.append(-float(special.stdtrit(own_df, level / 2)) * math.sqrt(variance))
    return found


@lru_cache(maxsize=512)
def adjusted_level(comparisons: int, endpoints: int, df: float, correlation: float) -> float:
    """Two-sided level of each of so many comparisons with one row, at which a table errs with 5 %."""
    estimate = Estimate(0.0, -1.0, 1.0, 1.0, df, 2, 2)
    found = [Comparison(str(row), str(at), estimate, True) for at in range(endpoints) for row in range(comparisons)]
    pairs = {(str(one), str(two)): correlation for two in range(endpoints) for one in range(two)}
    return family(found, pairs).level(LEVEL)


def seeds_needed(effect: float, parts: Parts, tasks: int, samples: int = 1, **size: Any) -> int | None:
    """The fewest seeds, 3 or more, with which a table finds this effect; None where 200 do not: more tasks are needed.

    size: rows, comparisons, endpoints and correlation of `planning_effect`.
    """
    enough = (
        seeds for seeds in range(3, MOST_SEEDS + 1) if planning_effect(parts, seeds, tasks, samples, **size) <= effect
    )
    return next(enough, None)
