"""Differences of a table's rows to one of them: variance pooled over rows, all comparisons judged together.

In the model of `harness.tables.pooling` a difference of two rows' means over S seeds and T tasks has the variance

    Var(mean difference) = (MS_RS[ours] + MS_RS[theirs] - 2 MS_RST) / (S T)  +  MS_T(difference) / (S T)

What seeds add is the pool's, but for rows that are suspect of more; what tasks add, which has T - 1 degrees of freedom
of its own, is the difference's own as far as rows differ in it. Degrees of freedom of the sum: Satterthwaite 1946.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from harness.tables.pooling import Spread, interactions
from harness.tables.statistics import Estimate, floored, paired_difference

LEVEL = 0.05
"""Error of a whole table: the chance that any of its comparisons says "different" where there is no difference."""
LEAST_SEEDS = 3
"""Common seeds below which nothing is tested: the spread of two numbers is no evidence."""
DRAWS = 8192
"""Points of the joint distribution, of a Sobol sequence."""
GRID = 400
"""Points of the tail of a t distribution to a unit of log(1 + t)."""
OWN = tuple[float | None, float | None]
"""MS_RS of either row of a difference, None for the pool's."""


def difference(
    ours: Float[np.ndarray, "seed task"],
    theirs: Float[np.ndarray, "seed task"],
    pool: Spread | None,
    own: OWN = (None, None),
) -> Estimate:
    """ours - theirs with its plain 95 % interval.

    pool: None for a row that keeps to itself; then it is `statistics.paired_difference`. own: MS_RS of either row.
    """
    if pool is None or min(ours.shape) < 2:
        return paired_difference(ours, theirs)
    y = np.ascontiguousarray(ours - theirs)
    seeds, tasks = y.shape
    variance, df = pool.variance(seeds, pool.task_square(y), own)
    if not variance > 1e-24:
        return paired_difference(ours, theirs)
    bare = Estimate(float(y.mean()), math.nan, math.nan, math.sqrt(variance), df, seeds, tasks)
    return at_level(bare, LEVEL)


def at_level(estimate: Estimate, level: float) -> Estimate:
    """A difference with the interval of two-sided error `level`, floored as all intervals of differences are."""
    if math.isnan(estimate.error):
        return estimate
    half = -float(special.stdtrit(estimate.df, level / 2)) * estimate.error
    return floored(estimate, estimate.mean - half, estimate.mean + half)


# ---------------------------------------------------------------- all comparisons together


@dataclass(frozen=True)
class Comparison:
    """One row against the baseline row at one endpoint."""

    row: str
    endpoint: str
    estimate: Estimate
    pooled: bool
    """Whether its variance is known from the pool that the other comparisons at this endpoint share, with nothing of
    the row's own in what seeds add."""


@dataclass(frozen=True)
class Family:
    """The joint distribution of all comparisons of a table where no row differs: per draw, the least p-value."""

    two_sided: Float[np.ndarray, " draw"]
    one_sided: Float[np.ndarray, " draw"]
    size: int

    def level(self, error: float = LEVEL) -> float:
        """Two-sided level of each comparison at which all of them together err with this chance."""
        return _quantile(self.two_sided, error)

    def one_sided_level(self, error: float = LEVEL) -> float:
        """One-sided level likewise."""
        return _quantile(self.one_sided, error)

    def adjusted(self, p: float) -> float:
        """p-value of one comparison, adjusted: the chance that any of them has one as small."""
        if not self.two_sided.size:
            return p
        share = float(np.searchsorted(self.two_sided, p, side="right")) / self.two_sided.size
        return float(np.clip(share, p, min(1.0, self.size * p)))


def _quantile(least: np.ndarray, error: float) -> float:
    return float(least[math.ceil(error * least.size)]) if least.size else error


def family(
    comparisons: Sequence[Comparison], between: dict[tuple[str, str], float] | None = None, draws: int = DRAWS
) -> Family:
    """The family of these comparisons (max-t: Dunnett 1955; Westfall & Young 1993, Resampling-Based Multiple Testing).

    Two pooled comparisons with one baseline are correlated by 1/2, or by 1 for the same row, times the correlation
    `between` their endpoints (0 where it does not say). A comparison with a variance of its own is taken as independent
    of all others, which can only widen. Draws are a fixed sequence: the same table gives the same numbers.
    """
    count = len(comparisons)
    if count < 2:
        return Family(np.empty(0), np.empty(0), count)
    endpoints = [comparison.endpoint for comparison in comparisons]
    correlation = np.eye(count)
    for i, one in enumerate(comparisons):
        for j, other in enumerate(comparisons[:i]):
            if one.pooled and other.pooled:
                first, second = sorted((one.endpoint, other.endpoint))
                shared = 1.0 if first == second else (between or {}).get((first, second), 0.0)
                correlation[i, j] = correlation[j, i] = shared * (1.0 if one.row == other.row else 0.5)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    root /= np.linalg.norm(root, axis=1, keepdims=True)  # where the correlations contradict each other
    normal = _normals(draws, count) @ root.T
    groups: dict[object, list[int]] = {}
    for place, comparison in enumerate(comparisons):
        groups.setdefault(endpoints[place] if comparison.pooled else place, []).append(place)
    two, one_side = np.zeros(draws), np.zeros(draws)
    for number, places in enumerate(groups.values(), start=count):
        df = _df([comparisons[place].estimate for place in places])
        scale = _scales(draws, count, number, df)
        of_group = normal[:, places]
        two = np.minimum(two, math.log(2) + _log_tail(df, np.abs(of_group).max(axis=1) / scale))
        one_side = np.minimum(one_side, _log_tail(df, of_group.max(axis=1) / scale))
    return Family(np.exp(np.sort(two)), np.exp(np.sort(one_side)), count)


def _df(estimates: Sequence[Estimate]) -> float:
    """Their median, to 5 %: the level hardly depends on it, as long as draws and p-values are of the same."""
    known = [estimate.df if estimate.df > 0 else max(estimate.tasks - 1, 1) for estimate in estimates]
    return float(1.05 ** round(math.log(np.median(known)) / math.log(1.05)))


@lru_cache(maxsize=8)
def _points(draws: int, dimensions: int) -> np.ndarray:
    return np.asarray(stats.qmc.Sobol(dimensions, scramble=True, rng=19_55).random(draws))


@lru_cache(maxsize=8)
def _normals(draws: int, count: int) -> np.ndarray:
    return np.asarray(special.ndtri(_points(draws, 2 * count)[:, :count]))


def _log_tail(df: float, t: np.ndarray) -> np.ndarray:
    """log P(T > t), and log 1/2 for t below 0."""
    logs, steps = _tail_grid(df)
    places = np.minimum(GRID * np.log1p(np.maximum(t, 0.0)), len(steps) - 1.0)
    below = places.astype(np.intp)
    return np.asarray(logs[below] + (places - below) * steps[below])


@lru_cache(maxsize=256)
def _tail_grid(df: float) -> tuple[np.ndarray, np.ndarray]:
    """log P(T > t) at log(1 + t) = 0, 1 / GRID, ... 10, and the steps between: a line there to 1e-4."""
    t = np.expm1(np.arange(10 * GRID + 1) / GRID)
    logs = np.log(np.maximum(special.stdtr(df, -t), 1e-300))
    return logs[:-1], np.diff(logs)


@lru_cache(maxsize=256)
def _scales(draws: int, count: int, number: int, df: float) -> np.ndarray:
    """Square roots of chi-squares over their degrees of freedom."""
    return np.asarray(np.sqrt(special.chdtri(df, _points(draws, 2 * count)[:, number]) / df))


def endpoint_correlation(
    one: Float[np.ndarray, "row seed task"], other: Float[np.ndarray, "row seed other_task"], same_tasks: bool
) -> float:
    """Correlation of the means of one row at two endpoints, pooled over the rows, between 0 and 1.

    Seeds are common to both; the tasks' part is there only where both are of the same tasks.
    """
    rows, seeds, tasks = one.shape
    if min(rows, seeds, tasks, other.shape[2]) < 2:
        return 0.0
    pairs = ((one, one, True), (other, other, True), (one, other, same_tasks))
    first, second, both = (_covariance(ours, theirs, same) for ours, theirs, same in pairs)
    if first <= 0 or second <= 0:
        return 0.0
    return float(np.clip(both / math.sqrt(first * second), 0.0, 1.0))


def _covariance(one: np.ndarray, other: np.ndarray, same_tasks: bool) -> float:
    """Of the means of one row at two endpoints: (MP_RS + MP_RT - MP_RST) / (S T), mean products for mean squares."""
    (seed, task, rest), (seed_, task_, rest_) = interactions(one), interactions(other)
    rows, seeds, tasks = one.shape
    found = float(np.sum(seed * seed_)) / ((rows - 1) * (seeds - 1) * seeds)
    if same_tasks:
        by_task = float(np.sum(task * task_)) / ((rows - 1) * (tasks - 1) * tasks)
        left = float(np.sum(rest * rest_)) / ((rows - 1) * (seeds - 1) * (tasks - 1) * seeds * tasks)
        found += max(by_task - left, 0.0)
    return float(found)


# ---------------------------------------------------------------- words


def verdict(estimate: Estimate, p_adjusted: float, one_sided_level: float, margin: float) -> str:
    """What a comparison shows: "different", "no difference larger than `margin`", "undecided", or where both of the
    first hold "different, by less than `margin`".

    Equivalence by two one-sided tests (Schuirmann 1987), each at the level at which those of the whole table err
    together with 5 %: the interval of twice that level lies within the margin. The interval's floor holds here too:
    fewer than about 3 / margin tasks cannot show that a rare kind of task makes no difference.
    """
    inner = at_level(estimate, 2 * one_sided_level)
    small = -margin < inner.low and inner.high < margin
    if p_adjusted <= LEVEL:
        return f"different, by less than {margin:g}" if small else "different"
    return f"no difference larger than {margin:g}" if small else "undecided"


# ---------------------------------------------------------------- credit share


def covariance(
    ours: Float[np.ndarray, "seed task"],
    theirs: Float[np.ndarray, "seed task"],
    pool: Spread | None,
    own: float | None = None,
) -> float:
    """Covariance of the means of two differences to one baseline row, each of this shape.

    The pool's seeds: half of a difference's seed variance, which is the baseline's, or the baseline's own MS_RS;
    without a pool the two-way mean products, (MP_S + MP_T - MP_E) / (S T).
    """
    seeds, tasks = ours.shape
    a, b = ours - ours.mean(), theirs - theirs.mean()
    by_task = float(a.mean(axis=0) @ b.mean(axis=0)) / ((tasks - 1) * tasks)
    if pool is not None:
        square = pool.seed if own is None else own
        return float(max(square - pool.rest, 0.0) / (pool.tasks * seeds) + by_task)
    by_seed = float(a.mean(axis=1) @ b.mean(axis=1)) / ((seeds - 1) * seeds)
    left = [d - d.mean(axis=1, keepdims=True) - d.mean(axis=0, keepdims=True) for d in (a, b)]
    rest = float(np.sum(left[0] * left[1])) / ((seeds - 1) * (tasks - 1) * seeds * tasks)
    return float(by_seed + by_task - rest)


def ratio_interval(above: Estimate, below: Estimate, both: float) -> Estimate | None:
    """above / below with its 95 % interval (Fieller 1954): all r with

        (above - r below)^2 <= t^2 (var_above - 2 r both + r^2 var_below)

    both: the covariance of the two means. None where the interval has no bounds: `below` may be 0.
    """
    df = min(above.df, below.df)
    if math.isnan(df) or math.isnan(below.error) or math.isnan(above.error):
        return None
    t2 = float(stats.t.isf(LEVEL / 2, df)) ** 2
    a = below.mean**2 - t2 * below.error**2
    b = above.mean * below.mean - t2 * both
    c = above.mean**2 - t2 * above.error**2
    if a <= 0 or b * b < a * c:
        return None
    root = math.sqrt(b * b - a * c)
    share = above.mean / below.mean
    error = math.sqrt(max(above.error**2 - 2 * share * both + share**2 * below.error**2, 0.0)) / abs(below.mean)
    return Estimate(share, (b - root) / a, (b + root) / a, error, df, above.seeds, above.tasks)
