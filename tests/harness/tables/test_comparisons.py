"""Comparisons: hand numbers, looped second implementations, which rows are pooled, the joint level by quadrature,
Fieller's interval by search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from harness.core.errors import UserError
from harness.tables import comparisons as judging
from harness.tables import pooling
from harness.tables.comparisons import Comparison
from harness.tables.pooling import Spread
from harness.tables.statistics import Estimate, mean_squares, paired_difference

CUBES = npst.arrays(
    np.float64,
    st.tuples(st.integers(2, 4), st.integers(2, 4), st.integers(2, 5)),
    elements=st.integers(0, 8).map(lambda eighths: eighths / 8),
)


def estimate(mean: float, error: float, df: float = 14.0, seeds: int = 3, tasks: int = 300) -> Estimate:
    half = scipy.stats.t.ppf(0.975, df) * error
    return Estimate(mean, mean - half, mean + half, error, df, seeds, tasks)


def cube(rows: int, seeds: int, tasks: int, chaos: float = 0.03, seed: int = 0) -> np.ndarray:
    """Success rates of four samples whose rows differ by the chance of training alone."""
    rng = np.random.default_rng(seed)
    rate = 0.55 + 0.25 * rng.uniform(-1, 1, tasks) + chaos * rng.standard_normal((rows, seeds, 1))
    return rng.binomial(4, np.clip(rate, 0, 1)) / 4


# ---------------------------------------------------------------- mean squares


def test_hand_numbers() -> None:
    """Two rows, two seeds, two tasks: y[0] = [[1, 1], [0, 1]], y[1] = 0. Half the differences d = y[0] - y[1] are what
    the rows' effects come to: with two rows every interaction is +-1/2 of the difference's effect, so each mean square
    is 2 (1/2)^2 = 1/2 of the difference's own.

    d = [[1, 1], [0, 1]]: seed means 1, 1/2; task means 1/2, 1; mean 3/4.
    MS_S = 2 (1/16 + 1/16) = 1/4, MS_T = 2 (1/16 + 1/16) = 1/4, residuals +-1/4, MS_E = 4/16 = 1/4.
    """
    y = np.zeros((2, 2, 2))
    y[0] = [[1, 1], [0, 1]]
    found = pooling.spread(y)
    assert (found.seed, found.task, found.rest) == pytest.approx((1 / 8, 1 / 8, 1 / 8))
    assert (found.by_seed, found.by_task) == (0, 0)
    # (2/8 - 2/8 + 2/8) / 4 = 1/16; each of the three has (2 - 1)(2 - 1) degrees of freedom, their sum a third of one
    assert found.of_difference() == pytest.approx((1 / 16, 1 / 3))


def looped(y: np.ndarray) -> tuple[float, float, float]:
    rows, seeds, tasks = y.shape
    mean = y.mean()
    squares = [0.0, 0.0, 0.0]
    for r in range(rows):
        for s in range(seeds):
            squares[0] += tasks * (y[r, s].mean() - y[r].mean() - y[:, s].mean() + mean) ** 2
        for t in range(tasks):
            squares[1] += seeds * (y[r, :, t].mean() - y[r].mean() - y[:, :, t].mean() + mean) ** 2
        for s in range(seeds):
            for t in range(tasks):
                left = y[r, s, t] - y[r, s].mean() - y[r, :, t].mean() - y[:, s, t].mean()
                left += y[r].mean() + y[:, s].mean() + y[:, :, t].mean() - mean
                squares[2] += left**2
    df = (rows - 1) * (seeds - 1), (rows - 1) * (tasks - 1), (rows - 1) * (seeds - 1) * (tasks - 1)
    return squares[0] / df[0], squares[1] / df[1], squares[2] / df[2]


@given(y=CUBES)
def test_a_looped_second_implementation_agrees(y: np.ndarray) -> None:
    found = pooling.spread(y)
    assert (found.seed, found.task, found.rest) == pytest.approx(looped(y), rel=1e-9, abs=1e-12)


@given(y=CUBES, shift=st.floats(-1, 1))
def test_what_rows_share_cancels(y: np.ndarray, shift: float) -> None:
    """A seed's start, a task's difficulty, a start that suits a task, a row's mean."""
    rng = np.random.default_rng(0)
    moved = y + rng.random((1, *y.shape[1:])) + shift * rng.random((len(y), 1, 1))
    ours, theirs = pooling.spread(y), pooling.spread(moved)
    assert (ours.seed, ours.task, ours.rest) == pytest.approx((theirs.seed, theirs.task, theirs.rest), abs=1e-9)


def test_two_rows_alone_are_their_difference() -> None:
    """MS of the interaction of two rows is half of the difference's; the pool then adds nothing to what the difference
    itself knows: the variance is that of `paired_difference`, and so are its degrees of freedom."""
    y = cube(2, 4, 60, chaos=0.1)
    pool = pooling.spread(y)
    assert (2 * pool.seed, 2 * pool.task, 2 * pool.rest) == pytest.approx(mean_squares(y[1] - y[0]))
    own, pooled = paired_difference(y[1], y[0]), judging.difference(y[1], y[0], pool)
    assert (pooled.mean, pooled.error, pooled.df) == pytest.approx((own.mean, own.error, own.df))
    assert (pooled.low, pooled.high) == pytest.approx((own.low, own.high))


def test_eight_rows_know_more_of_seeds_than_two() -> None:
    """3 seeds, 8 rows: 14 degrees of freedom for what had 2."""
    y = cube(8, 3, 300, chaos=0.1)  # the seeds' part dominates
    pool = pooling.spread(y)
    found = judging.difference(y[1], y[0], pool)
    assert 13 < found.df < 20
    assert paired_difference(y[1], y[0]).df < 3
    # fewer seeds than the pool has: var_c counts once a seed
    fewer = judging.difference(y[1][:2], y[0][:2], pool)
    task = pool.task_square(y[1][:2] - y[0][:2])[0] / 600
    assert fewer.error**2 == pytest.approx(2 * pool.by_seed / 2 + task)


def test_too_small_a_table_has_no_interactions() -> None:
    with pytest.raises(UserError, match=r"two rows, seeds and tasks or more, got a table of \(1, 3, 4\)"):
        pooling.spread(np.zeros((1, 3, 4)))
    y = cube(3, 1, 30)
    assert pooling.pool_of(y).spread is None
    assert judging.difference(y[1], y[0], None) == paired_difference(y[1], y[0])


# ---------------------------------------------------------------- which rows are pooled


def test_a_collapsed_row_keeps_to_itself() -> None:
    y = cube(6, 3, 100)
    y[4] = np.random.default_rng(1).random((3, 100)) < 0.1
    assert pooling.collapsed_rows(y).tolist() == [False] * 4 + [True, False]
    pool = pooling.pool_of(y)
    assert pool.kept.tolist() == [True] * 4 + [False, True]
    assert pool.spread == pooling.spread(y[pool.kept])


def test_an_evidently_more_variable_row_keeps_to_itself_and_a_little_more_variable_one_does_not() -> None:
    y = cube(8, 3, 200)
    y[5] += np.array([-0.3, 0.0, 0.3])[:, None]
    assert np.flatnonzero(~pooling.pooled_rows(y)).tolist() == [5]
    y[2] += np.array([0.25, -0.4, 0.1])[:, None]  # a second does not hide the first
    assert np.flatnonzero(~pooling.pooled_rows(y)).tolist() == [2, 5]
    y = cube(8, 3, 200)
    y[5] += np.array([-0.02, 0.0, 0.02])[:, None]
    assert pooling.pooled_rows(y).all()


def test_rows_that_answer_alike_are_counted_once() -> None:
    """Three rows of the same answers, but for one cell, would make a pool without variance, and the rest would stand
    out from it."""
    y = cube(7, 3, 100)
    y[1] = y[2] = y[0]
    y[2, 0, 0] = 1 - y[2, 0, 0]
    assert pooling.alike_rows(y) == {1: 0, 2: 0}
    pool = pooling.pool_of(y)
    assert pool.kept.tolist() == [True, False, False, True, True, True, True]
    assert pool.spread == pooling.spread(y[pool.kept])
    # alike is not equal: the interval says what 100 tasks can show
    found = judging.difference(y[2], y[0], None)
    unseen = 1 - 0.05 ** (1 / 100)
    assert (found.low, found.high) == pytest.approx((-unseen, unseen), abs=0.002)


def test_few_false_alarms() -> None:
    """Of 200 tables of eight equal rows, 3 seeds and 100 tasks: rows set apart at random are rarer than 1 in 50."""
    apart = sum(int((~pooling.pooled_rows(cube(8, 3, 100, seed=seed))).sum()) for seed in range(200))
    assert apart / 1600 < 0.02


# ---------------------------------------------------------------- the family


def comparisons(rows: int, endpoints: int = 1, df: float = 14.0, pooled: bool = True) -> list[Comparison]:
    return [
        Comparison(str(row), str(at), estimate(0.0, 0.01, df), pooled) for at in range(endpoints) for row in range(rows)
    ]


def dunnett(c: float, rows: int, df: float) -> float:
    """P(all |T| < c) of `rows` comparisons with one row, by quadrature over that row's effect and the common scale."""
    z, weights = np.polynomial.hermite_e.hermegauss(80)
    s = np.linspace(1e-3, 4, 2000)
    density = scipy.stats.chi.pdf(s * math.sqrt(df), df) * math.sqrt(df)
    reach = math.sqrt(2) * c * s[:, None]
    inside = (scipy.stats.norm.cdf(z + reach) - scipy.stats.norm.cdf(z - reach)) ** rows
    return float(np.trapezoid(density * (inside @ weights) / weights.sum(), s))


@pytest.mark.parametrize(("rows", "df"), [(2, 5.0), (7, 14.0), (9, 60.0)])
def test_the_level_of_one_endpoint_is_dunnetts(rows: int, df: float) -> None:
    level = judging.family(comparisons(rows, df=df)).level()
    assert 1 - dunnett(scipy.stats.t.isf(level / 2, df), rows, df) == pytest.approx(0.05, abs=0.004)


def test_the_level_lies_between_one_comparison_and_bonferroni() -> None:
    assert judging.family(comparisons(1)).level() == 0.05
    assert judging.family([]).level() == 0.05
    alone = judging.family(comparisons(7)).level()
    twice = judging.family(comparisons(7, 2)).level()
    same = judging.family(comparisons(7, 2), {("0", "1"): 1.0}).level()
    assert 0.05 / 14 < twice < alone < 0.05
    assert twice < judging.family(comparisons(7, 2), {("0", "1"): 0.7}).level() < alone
    # endpoints that say the same cost nothing but their own denominators
    assert twice < same <= alone * 1.1
    independent = judging.family(comparisons(7, df=1e6, pooled=False)).level()
    assert independent == pytest.approx(1 - 0.95 ** (1 / 7), abs=0.0006)  # Sidak


@given(p=st.floats(1e-6, 1), q=st.floats(1e-6, 1))
def test_adjusted_p_values_keep_their_order_and_their_bounds(p: float, q: float) -> None:
    family = judging.family(comparisons(7, 2))
    low, high = (family.adjusted(value) for value in sorted((p, q)))
    assert low <= high
    assert min(p, q) <= low <= min(1.0, 14 * min(p, q))


def test_p_adjusted_is_at_most_5_percent_where_the_simultaneous_interval_excludes_0() -> None:
    found = judging.family(comparisons(7, 2))
    for t in np.linspace(1.5, 4.5, 61):
        one = estimate(0.01 * t, 0.01)
        p = 2 * scipy.stats.t.sf(t, 14)
        half = scipy.stats.t.isf(found.level() / 2, 14) * 0.01
        assert (found.adjusted(p) <= 0.05) == (one.mean - half > 0)


def test_endpoints_that_go_together() -> None:
    rng = np.random.default_rng(0)
    chaos = 0.1 * rng.standard_normal((8, 10, 1))
    one, other = (chaos + 0.01 * rng.standard_normal((8, 10, 50)) for _ in range(2))
    assert judging.endpoint_correlation(one, other, True) > 0.95
    assert judging.endpoint_correlation(one, other[:, :, :20], False) > 0.95
    assert judging.endpoint_correlation(one, one, True) == pytest.approx(1.0)
    apart = rng.standard_normal((8, 10, 50))
    assert judging.endpoint_correlation(one, apart, True) < 0.3


# ---------------------------------------------------------------- words


def test_verdicts() -> None:
    def said(mean: float, error: float, p: float, tasks: int = 300) -> str:
        return judging.verdict(estimate(mean, error, 1e6, tasks=tasks), p, 0.05, 0.02)

    # the 90 % interval is the mean and 1.645 errors: 0.005 + 0.0082 = 0.0132; but 300 tasks show no less than 0.01
    assert said(0.005, 0.005, 0.8) == "no difference larger than 0.02"
    assert said(0.005, 0.01, 0.8) == "undecided"  # 0.005 + 0.0164 = 0.0214
    assert said(0.005, 0.005, 0.8, tasks=100) == "undecided"  # a kind of 3 % of the tasks may be missing
    assert said(0.03, 0.005, 0.001) == "different"
    assert said(0.005, 0.001, 0.001) == "different, by less than 0.02"
    assert said(0.005, 0.001, 0.001, tasks=100) == "different"  # too few tasks to say how little


# ---------------------------------------------------------------- credit share


def test_the_ratios_interval_by_search() -> None:
    """Fieller: the ratios r at which above - r below is not evidently other than 0."""
    above, below, both = estimate(0.03, 0.012), estimate(0.08, 0.011), 0.5 * 0.012 * 0.011
    found = judging.ratio_interval(above, below, both)
    assert found is not None
    r = np.linspace(-3, 3, 60001)
    t = np.abs(above.mean - r * below.mean) / np.sqrt(above.error**2 - 2 * r * both + r**2 * below.error**2)
    inside = r[t <= scipy.stats.t.ppf(0.975, 14)]
    assert (found.low, found.high) == pytest.approx((inside.min(), inside.max()), abs=2e-4)
    assert found.mean == pytest.approx(0.375)


def test_a_ratio_to_nothing_has_no_interval() -> None:
    assert judging.ratio_interval(estimate(0.03, 0.01), estimate(0.01, 0.01), 0.0) is None
    assert judging.ratio_interval(estimate(0.03, math.nan), estimate(0.1, 0.01), 0.0) is None


def test_the_covariance_of_two_differences_is_the_baselines_variance() -> None:
    """Against the mean of many draws: rows with var_c = 0.01 over 4 seeds share 0.01 / 4 in their differences."""
    rng = np.random.default_rng(3)
    pooled, own, means = [], [], []
    for _ in range(400):
        y = 0.1 * rng.standard_normal((6, 4, 1)) + 0.05 * rng.standard_normal((6, 4, 12))
        ours, theirs = y[1] - y[0], y[2] - y[0]
        pooled.append(judging.covariance(ours, theirs, pooling.spread(y)))
        own.append(judging.covariance(ours, theirs, None))
        means.append((ours.mean(), theirs.mean()))
    truth = 0.01 / 4 + 0.05**2 / 48
    assert np.cov(np.array(means).T)[0, 1] == pytest.approx(truth, rel=0.15)
    assert np.mean(pooled) == pytest.approx(truth, rel=0.1)
    assert np.mean(own) == pytest.approx(truth, rel=0.2)


def test_a_spread_of_equal_rows_has_no_variance() -> None:
    spread = Spread(0.0, 0.0, 0.0, 3, 3, 10)
    variance, df = spread.of_difference()
    assert variance == 0
    assert math.isnan(df)
