"""Which rows of a table know a variance together, and what they know.

The data of one endpoint (success sampled, success greedy, area under the learning curve) is y[row, seed, task]. Every
row of a seed begins at that seed's start and every row answers every task, hence the model

    y[r, s, t] = mu[r] + a[s] + b[t] + (ab)[s, t] + c[r, s] + d[r, t] + e[r, s, t]

in which only c, d and e do not cancel in a difference of two rows. c is the chance of training: another start, another
machine, another order of sums leads a method elsewhere. Its variance is what few seeds know least about, S - 1 degrees
of freedom a row; over K rows together there are (K - 1)(S - 1). With the mean squares of the interactions,

    E[MS_RS] = var_e + T var_c      E[MS_RT] = var_e + S var_d      E[MS_RST] = var_e

Rows differ in how much chance leads them. Three kinds keep out of the pool: collapsed ones, those that answer nearly as
another does, and those far more variable over seeds than the rest. And a row that is merely suspect of that stays in
the pool, which it can only widen, but is itself judged by its own variance over seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from harness.core.errors import UserError

EVIDENT = 0.0005
"""Level of the F test by which a row is more variable over seeds than the others together, and leaves their pool: so
low that what is left out at random does not make the pool too small."""
SUSPECT = 0.07
"""Level of the same test above which a row's own variance over seeds is its pool's; below it is its own."""
ALIKE = 1 / 6
"""Share of what is usual between two rows, below which they are alike."""
COLLAPSED = 0.5
"""A row with less than this share of the median row's success has collapsed."""


@dataclass(frozen=True)
class Spread:
    """Mean squares of the interactions of rows with seeds, with tasks, and with both."""

    seed: float
    task: float
    rest: float
    rows: int
    seeds: int
    tasks: int
    prior: float = math.inf
    """Degrees of freedom that the rows' common MS_RT is worth beside the T - 1 of one difference (`prior_df`)."""

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
        task = 2 * self.task, float((self.rows - 1) * (self.tasks - 1))
        return self.variance(self.seeds, task)

    def variance(
        self, seeds: int, task: tuple[float, float], own: tuple[float | None, float | None] = (None, None)
    ) -> tuple[float, float]:
        """Variance of a difference of two rows' means over so many seeds, and its degrees of freedom (Satterthwaite).

            (MS_RS[ours] + MS_RS[theirs] - 2 MS_RST + MS_T) / (S T)

        task: MS_T of the difference with its degrees of freedom. own: MS_RS of either row, None for the pool's. What
        seeds add may be negative, or the sum would be too large where they add nothing; it takes half of MS_T at most.
        Degrees of freedom are NaN where nothing varies.
        """
        df = float((self.rows - 1) * (self.seeds - 1))
        shared = own.count(None)
        terms = [(shared * self.seed, df), (-2 * self.rest, df * (self.tasks - 1)), task]
        terms += [(square, self.seeds - 1.0) for square in own if square is not None]
        total = sum(square for square, _ in terms)
        if total < task[0] / 2:
            total, terms = task[0] / 2, [(task[0] / 2, task[1])]
        below = sum(square**2 / of_square for square, of_square in terms)
        return total / (seeds * self.tasks), total**2 / below if below else math.nan

    def task_square(self, y: Float[np.ndarray, "seed task"]) -> tuple[float, float]:
        """MS_T of a difference of two rows and its degrees of freedom: its own, drawn towards the pool's 2 MS_RT as
        far as the rows' MS_RT are alike (moderated variances: Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1))."""
        seeds, tasks = y.shape
        own, df = seeds * float(np.var(y.mean(axis=0), ddof=1)), tasks - 1.0
        shared = 2 * (self.rest + seeds * (self.task - self.rest) / self.seeds)
        weight = 1.0 if math.isinf(self.prior) else self.prior / (self.prior + df)
        square = weight * shared + (1 - weight) * own
        return (square, min(self.prior + df, (self.rows - 1) * df)) if square > 0 else (own, df)


@dataclass(frozen=True)
class Pool:
    """What the rows of a table know together."""

    kept: Bool[np.ndarray, " row"]
    """The rows that are pooled."""
    spread: Spread | None
    """Their mean squares; None where fewer than two rows, seeds or tasks are left."""
    own: tuple[float | None, ...]
    """Per row its own MS_RS, where that is greater than the pool's beyond what chance does often; None where the
    pool's holds for it. A row that is neither pooled nor has one of its own is judged by nothing but itself."""

    def joins(self, row: int) -> bool:
        """Whether a row's variance is known from the pool, but for its own over seeds."""
        return self.spread is not None and bool(self.kept[row] or self.own[row] is not None)


def spread(y: Float[np.ndarray, "row seed task"]) -> Spread:
    """The interactions of two or more rows over two or more seeds and tasks. UserError for fewer."""
    rows, seeds, tasks = y.shape
    if min(rows, seeds, tasks) < 2:
        raise UserError(f"interactions need two rows, seeds and tasks or more, got a table of {y.shape}")
    by_seed, by_task, rest = interactions(y)
    df = (rows - 1) * (seeds - 1)
    of_rows = seeds * np.sum(by_task**2, axis=1)
    return Spread(
        tasks * float(np.sum(by_seed**2)) / df,
        float(np.sum(of_rows)) / ((rows - 1) * (tasks - 1)),
        float(np.sum(rest**2)) / (df * (tasks - 1)),
        *(rows, seeds, tasks),
        prior_df(of_rows, tasks - 1.0),
    )


def interactions(y: Float[np.ndarray, "row seed task"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effects of row and seed, of row and task, and what is left."""
    y = np.ascontiguousarray(y)  # one memory layout: one order of summation, the same last bit
    shared = y - y.mean(axis=0)
    centred = shared - shared.mean(axis=(1, 2), keepdims=True)
    by_seed, by_task = centred.mean(axis=2), centred.mean(axis=1)
    return by_seed, by_task, centred - by_seed[:, :, None] - by_task[:, None, :]


def prior_df(squares: Float[np.ndarray, " row"], df: float) -> float:
    """Degrees of freedom that variances of one kind are worth for each of them.

    Smyth 2004, section 6.2: the logarithms of sample variances vary by trigamma(df / 2), if all have one true variance;
    what they vary by beyond that is trigamma(prior / 2). Of few rows that variance is itself chance: it counts as far
    as it is certain at 90 %. Infinite where the rows vary by no more; 0 where one does not vary and others do.
    """
    if not np.all(squares > 0):
        return 0.0 if np.any(squares > 0) else math.inf
    rows = len(squares) - 1.0
    certain = rows / float(special.chdtri(rows, 0.1))
    beyond = certain * float(np.var(np.log(squares), ddof=1)) - float(special.polygamma(1, df / 2))
    if beyond <= 0:
        return math.inf
    half = 0.5 + 1 / beyond  # Newton's steps on 1 / trigamma, which is convex: Smyth's appendix
    for _ in range(20):
        value = float(special.polygamma(1, half))
        half += value * (1 - value / beyond) / float(special.polygamma(2, half))
    return 2 * half


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
    rest = interactions(y)[2].reshape(rows, -1)  # the rest of a difference is the difference of the rests
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
        chances = _chances(of_seeds[left])
        worst = int(np.argmin(chances))
        taken.append(left.pop(worst))
        if chances[worst] < EVIDENT:
            evident = len(taken)
    kept[taken[:evident]] = False
    return kept


def _chances(of_seeds: Float[np.ndarray, "row seed"]) -> Float[np.ndarray, " row"]:
    """Of every row, the chance of a variance over seeds as great, beside the others', if it were as theirs (F test)."""
    count, seeds = of_seeds.shape
    if count < 3 or seeds < 2:
        return np.ones(count)
    ratios = _variance_ratios(of_seeds)
    return np.asarray(special.fdtrc(seeds - 1, (count - 2) * (seeds - 1), ratios))


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


def pool_of(y: Float[np.ndarray, "row seed task"]) -> Pool:
    """The rows that are pooled, their spread, and the rows that have a variance over seeds of their own."""
    kept = pooled_rows(y)
    none: tuple[float | None, ...] = (None,) * len(y)
    if min(int(kept.sum()), *y.shape[1:]) < 2:
        return Pool(kept, None, none)
    found = spread(y[kept])
    collapsed, alike = collapsed_rows(y), alike_rows(y)
    of_seeds = y.mean(axis=2)
    own = [None if collapsed[row] or row in alike else _own_square(of_seeds, row, kept, found) for row in range(len(y))]
    return Pool(kept, found, tuple(own))


def _own_square(
    of_seeds: Float[np.ndarray, "row seed"], row: int, kept: Bool[np.ndarray, " row"], pool: Spread
) -> float | None:
    """MS_RS of one row, from its difference to the mean of the pooled others, where it is suspiciously great or the row
    is not pooled: the variance of that difference, times T, less the others' share MS_RS / K."""
    others = np.flatnonzero(kept)
    others = others[others != row]
    if kept[row]:
        together = np.concatenate([[row], others])
        if _chances(of_seeds[together])[0] >= SUSPECT:
            return None
    apart = of_seeds[row] - of_seeds[others].mean(axis=0)
    square = pool.tasks * float(np.var(apart, ddof=1)) - pool.seed / len(others)
    return max(square, pool.seed)
