"""Differences of a table's rows to one of them: variance pooled over rows, all comparisons judged together.

The data of one endpoint (success sampled, success greedy, area under the learning curve) is y[row, seed, task]. Every
row of a seed begins at that seed's start and every row answers every task, hence the model

    y[r, s, t] = mu[r] + a[s] + b[t] + (ab)[s, t] + c[r, s] + d[r, t] + e[r, s, t]

in which only c, d and e do not cancel in a difference of two rows. c is the chance of training: another start, another
machine, another order of sums leads a method elsewhere. Its variance is what few seeds know least about, S - 1 degrees
of freedom a row; over K rows together there are (K - 1)(S - 1). With the mean squares of the interactions,

    E[MS_RS] = var_e + T var_c      E[MS_RT] = var_e + S var_d      E[MS_RST] = var_e

    Var(mean difference) = 2 (MS_RS - MS_RST) / (S T)  +  MS_T(difference) / (S T)

The first term is pooled, and 0 where negative; the second, which has T - 1 degrees of freedom of its own, is the
difference's own (`statistics.mean_squares`). Degrees of freedom of the sum: Satterthwaite 1946.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from scipy import special, stats

from harness.core.errors import UserError
from harness.tables.statistics import Estimate, floored, paired_difference

LEVEL = 0.05
"""Error of a whole table: the chance that any of its comparisons says "different" where there is no difference."""
LEAST_SEEDS = 3
"""Common seeds below which nothing is tested: the spread of two numbers is no evidence."""
EVIDENT = 0.005
"""Level of the F test by which a row is more variable over seeds than the others together."""
ALIKE = 1 / 6
"""Share of what is usual between two rows, below which they are alike."""
COLLAPSED = 0.5
"""A row with less than this share of the median row's success has collapsed."""
DRAWS = 8192
"""Points of the joint distribution, of a Sobol sequence."""


# ---------------------------------------------------------------- what is pooled


@dataclass(frozen=True)
class Spread:
    """Mean squares of the interactions of rows with seeds, with tasks, and with both."""

    seed: float
    task: float
    rest: float
    rows: int
    seeds: int
    tasks: int

    @property
    def by_seed(self) -> float:
        """Variance of one row's effect of one seed: var_c, 0 where its estimate is negative."""
        return max(self.seed - self.rest, 0.0) / self.tasks

    @property
    def by_task(self) -> float:
        """Variance of one row's effect of one task: var_d, 0 where its estimate is negative."""
        return max(self.task - self.rest, 0.0) / self.seeds

    def of_difference(self) -> tuple[float, float]:
        """Variance of a difference of two such rows, and its degrees of freedom."""
        terms = [(2 * self.task, float((self.rows - 1) * (self.tasks - 1))), *self.seed_terms()]
        return _satterthwaite([(square / (self.seeds * self.tasks), df) for square, df in terms])

    def seed_terms(self) -> list[tuple[float, float]]:
        """(mean square with its factor, degrees of freedom) of what seeds add to a difference, times S T."""
        if self.seed <= self.rest:
            return []
        df = float((self.rows - 1) * (self.seeds - 1))
        return [(2 * self.seed, df), (-2 * self.rest, df * (self.tasks - 1))]


def spread(y: Float[np.ndarray, "row seed task"]) -> Spread:
    """The interactions of two or more rows over two or more seeds and tasks. UserError for fewer."""
    rows, seeds, tasks = y.shape
    if min(rows, seeds, tasks) < 2:
        raise UserError(f"interactions need two rows, seeds and tasks or more, got a table of {y.shape}")
    by_seed, by_task, rest = _interactions(y)
    df = (rows - 1) * (seeds - 1)
    return Spread(
        tasks * float(np.sum(by_seed**2)) / df,
        seeds * float(np.sum(by_task**2)) / ((rows - 1) * (tasks - 1)),
        float(np.sum(rest**2)) / (df * (tasks - 1)),
        *(rows, seeds, tasks),
    )


def _interactions(y: Float[np.ndarray, "row seed task"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effects of row and seed, of row and task, and what is left."""
    y = np.ascontiguousarray(y)  # one memory layout: one order of summation, the same last bit
    shared = y - y.mean(axis=0)
    centred = shared - shared.mean(axis=(1, 2), keepdims=True)
    by_seed, by_task = centred.mean(axis=2), centred.mean(axis=1)
    return by_seed, by_task, centred - by_seed[:, :, None] - by_task[:, None, :]


def collapsed_rows(y: Float[np.ndarray, "row seed task"]) -> Bool[np.ndarray, " row"]:
    """Rows with less than half of the median row's success: what they did no longer follows tasks and seeds as the
    others do, and their variance is another."""
    means = y.mean(axis=(1, 2))
    return np.asarray(means < COLLAPSED * np.median(means))


def alike_rows(y: Float[np.ndarray, "row seed task"]) -> dict[int, int]:
    """Rows that answer nearly as an earlier one does, and that one: they began alike and stayed so, and their
    difference says nothing of how far training leads two rows apart.

    Of every two rows the mean square that is left of their difference (MS_E), over the sum of p (1 - p) of their rates:
    alike are two with less than a sixth of its 90 % quantile over all pairs. Collapsed rows are left out.
    """
    rows, seeds, tasks = y.shape
    rates = y.mean(axis=(1, 2))
    spreads = rates * (1 - rates)
    there = np.flatnonzero(~collapsed_rows(y))
    if min(seeds, tasks) < 2:
        return {}
    rest = _interactions(y)[2].reshape(rows, -1)  # the rest of a difference is the difference of the rests
    products = rest @ rest.T / ((seeds - 1) * (tasks - 1))
    left = {
        (one, other): (products[one, one] + products[other, other] - 2 * products[one, other])
        / (spreads[one] + spreads[other])
        for place, other in enumerate(there)
        for one in there[:place]
        if spreads[one] + spreads[other] > 0
    }
    if len(left) < 3:
        return {}
    bound = ALIKE * float(np.quantile(list(left.values()), 0.9))
    found: dict[int, int] = {}
    for (one, other), value in left.items():
        if value < bound and one not in found and other not in found:
            found[int(other)] = int(one)
    return found


def pooled_rows(y: Float[np.ndarray, "row seed task"]) -> Bool[np.ndarray, " row"]:
    """Rows whose variance over seeds is taken together: not collapsed, not alike an earlier one, and not evidently more
    variable.

    Of the rows left, the one whose mean square against the mean of the others is the greatest multiple of theirs is
    taken out, and again, up to a third of them; those up to the last that an F test with S - 1 and (K - 2)(S - 1)
    degrees of freedom finds greater, at the level EVIDENT, stay out (as Rosner 1983: two that hide each other are
    found).
    """
    kept = ~collapsed_rows(y)
    seeds, tasks = y.shape[1:]
    if min(seeds, tasks) < 2:
        return kept
    kept[list(alike_rows(y))] = False
    of_seeds = y.mean(axis=2)
    left, taken, evident = list(np.flatnonzero(kept)), [], 0
    for _ in range(len(left) // 3):
        ratios = _variance_ratios(of_seeds[left])
        worst = int(np.argmax(ratios))
        chance = special.fdtrc(seeds - 1, (len(left) - 2) * (seeds - 1), ratios[worst])
        taken.append(left.pop(worst))
        if chance < EVIDENT:
            evident = len(taken)
    kept[taken[:evident]] = False
    return kept


def _variance_ratios(of_seeds: Float[np.ndarray, "row seed"]) -> Float[np.ndarray, " row"]:
    """Variance of every row's difference to the mean of the others, over what theirs lets expect.

    With z, centred over rows and over seeds, the first is K / (K - 1) sum z[r]^2 / (S - 1), and taking the row out
    takes K / (K - 1) sum z[r]^2 from the sum of squares.
    """
    count, seeds = of_seeds.shape
    z = of_seeds - of_seeds.mean(axis=0)
    squares = np.sum((z - z.mean(axis=1, keepdims=True)) ** 2, axis=1) * count / (count - 1)
    total = squares.sum() * (count - 1) / count
    ours, theirs = squares / (seeds - 1), (total - squares) / ((count - 2) * (seeds - 1))
    found = np.full(count, np.inf)
    np.divide(ours, theirs, out=found, where=theirs > 1e-24)
    return np.where(ours > 1e-24, found, 1.0)


def pool_of(y: Float[np.ndarray, "row seed task"]) -> tuple[Bool[np.ndarray, " row"], Spread | None]:
    """The rows that are pooled and their spread; None where fewer than two rows, seeds or tasks are left."""
    kept = pooled_rows(y)
    enough = min(int(kept.sum()), *y.shape[1:]) >= 2
    return kept, spread(y[kept]) if enough else None


def _satterthwaite(terms: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Sum of mean squares and its degrees of freedom; NaN where nothing varies."""
    total = sum(value for value, _ in terms)
    below = sum(value**2 / df for value, df in terms)
    return total, total**2 / below if below else math.nan


def difference(
    ours: Float[np.ndarray, "seed task"], theirs: Float[np.ndarray, "seed task"], pool: Spread | None
) -> Estimate:
    """ours - theirs with its plain 95 % interval; the seeds' part of its variance from the pool, the tasks' its own.

    pool: None for a row that keeps to itself; then it is `statistics.paired_difference`.
    """
    if pool is None or ours.shape[1] < 2:
        return paired_difference(ours, theirs)
    y = np.ascontiguousarray(ours - theirs)
    seeds, tasks = y.shape
    scale = pool.tasks * seeds  # the pool's seed terms are of means over its own number of tasks
    terms = [(float(np.var(y.mean(axis=0), ddof=1)) / tasks, tasks - 1.0)]  # MS_T / (S T)
    terms += [(square / scale, df) for square, df in pool.seed_terms()]
    variance, df = _satterthwaite(terms)
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
    """Whether its variance over seeds is the pool's."""


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
    points = _points(draws, 2 * count)
    normal = _normals(draws, count) @ root.T
    groups: dict[object, list[int]] = {}
    for place, comparison in enumerate(comparisons):
        groups.setdefault(endpoints[place] if comparison.pooled else place, []).append(place)
    two, one_side = np.ones(draws), np.ones(draws)
    for number, places in enumerate(groups.values(), start=count):
        df = float(np.median([_df(comparisons[place].estimate) for place in places]))
        scale = np.sqrt(special.chdtri(df, points[:, number]) / df)
        of_group = normal[:, places]
        two = np.minimum(two, 2 * special.stdtr(df, -np.abs(of_group).max(axis=1) / scale))
        one_side = np.minimum(one_side, special.stdtr(df, -of_group.max(axis=1) / scale))
    return Family(np.sort(two), np.sort(one_side), count)


def _df(estimate: Estimate) -> float:
    return estimate.df if estimate.df > 0 else float(max(estimate.tasks - 1, 1))


@lru_cache(maxsize=8)
def _points(draws: int, dimensions: int) -> np.ndarray:
    return np.asarray(stats.qmc.Sobol(dimensions, scramble=True, rng=19_55).random(draws))


@lru_cache(maxsize=8)
def _normals(draws: int, count: int) -> np.ndarray:
    return np.asarray(special.ndtri(_points(draws, 2 * count)[:, :count]))


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
    (seed, task, rest), (seed_, task_, rest_) = _interactions(one), _interactions(other)
    rows, seeds, tasks = one.shape
    found = float(np.sum(seed * seed_)) / ((rows - 1) * (seeds - 1) * seeds)
    if same_tasks:
        by_task = float(np.sum(task * task_)) / ((rows - 1) * (tasks - 1) * tasks)
        left = float(np.sum(rest * rest_)) / ((rows - 1) * (seeds - 1) * (tasks - 1) * seeds * tasks)
        found += max(by_task - left, 0.0)
    return float(found)


# ---------------------------------------------------------------- words


def verdict(estimate: Estimate, p_adjusted: float, one_sided_level: float, margin: float) -> str:
    """What a comparison shows: "different", "no difference larger than `margin`", or "undecided".

    Equivalence by two one-sided tests (Schuirmann 1987), each at the level at which those of the whole table err
    together with 5 %: the interval of twice that level lies within the margin. The interval's floor holds here too:
    fewer than about 3 / margin tasks cannot show that a rare kind of task makes no difference.
    """
    if p_adjusted <= LEVEL:
        return "different"
    inner = at_level(estimate, 2 * one_sided_level)
    return f"no difference larger than {margin:g}" if -margin < inner.low and inner.high < margin else "undecided"


# ---------------------------------------------------------------- credit share


def covariance(
    ours: Float[np.ndarray, "seed task"], theirs: Float[np.ndarray, "seed task"], pool: Spread | None
) -> float:
    """Covariance of the means of two differences to one baseline row, each of this shape.

    The pool's seeds: half of a difference's seed variance, which is the baseline's; without a pool the two-way mean
    products, (MP_S + MP_T - MP_E) / (S T).
    """
    seeds, tasks = ours.shape
    a, b = ours - ours.mean(), theirs - theirs.mean()
    by_task = float(a.mean(axis=0) @ b.mean(axis=0)) / ((tasks - 1) * tasks)
    if pool is not None:
        return float(pool.by_seed / seeds + by_task)
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
