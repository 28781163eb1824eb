"""What rows know together: a row's own variance by hand, the prior degrees of freedom, the least that a sum is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from harness.tables import pooling
from harness.tables.comparisons import difference
from harness.tables.planning import detectable
from harness.tables.pooling import SUSPECT, Spread, pool_of, prior_df
from harness.tables.statistics import paired_difference


def cube(rows: int, seeds: int, tasks: int, chaos: float = 0.05, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 0.5 + chaos * rng.standard_normal((rows, seeds, 1)) + 0.2 * rng.standard_normal((rows, seeds, tasks))


def test_a_suspect_row_stays_in_the_pool_and_is_judged_by_its_own_variance() -> None:
    y = cube(8, 5, 100)
    y[5] += np.array([-0.14, 0.1, 0.0, -0.07, 0.11])[:, None]
    pool = pool_of(y)
    assert pool.spread is not None
    assert pool.kept.all()
    assert [row for row, own in enumerate(pool.own) if own is not None] == [5]
    others = [row for row in range(8) if row != 5]
    apart = y[5].mean(axis=1) - y[others].mean(axis=(0, 2))
    own = 100 * apart.var(ddof=1) - pool.spread.seed / 7
    assert pool.own[5] == pytest.approx(own)
    # Var S T = MS_RS + own - 2 MS_RST + MS_T, and Satterthwaite's degrees of freedom by hand
    task, task_df = pool.spread.task_square(y[5] - y[0])
    found = difference(y[5], y[0], pool.spread, (pool.own[5], pool.own[0]))
    terms = [(own, 4), (pool.spread.seed, 28), (-2 * pool.spread.rest, 28 * 99), (task, task_df)]
    total = sum(square for square, _ in terms)
    assert found.error**2 == pytest.approx(total / 500)
    assert found.df == pytest.approx(total**2 / sum(square**2 / df for square, df in terms))
    assert found.error > difference(y[5], y[0], pool.spread).error


def test_an_evident_row_leaves_the_pool_and_still_has_the_others_part_from_it() -> None:
    y = cube(8, 5, 100)
    y[5] += np.array([-0.5, 0.4, 0.0, -0.3, 0.4])[:, None]
    pool = pool_of(y)
    assert np.flatnonzero(~pool.kept).tolist() == [5]
    assert pool.joins(5)
    assert pool.own[5] is not None
    found, alone = difference(y[5], y[0], pool.spread, (pool.own[5], None)), paired_difference(y[5], y[0])
    assert found.df == pytest.approx(alone.df, abs=1.0)
    assert found.error == pytest.approx(alone.error, rel=0.3)


def test_equal_rows_are_suspect_as_often_as_the_level_says() -> None:
    count = sum(sum(own is not None for own in pool_of(cube(8, 3, 10, seed=seed)).own) for seed in range(300))
    assert count / 2400 == pytest.approx(SUSPECT, abs=0.02)


def test_collapsed_and_alike_rows_and_tables_of_one_seed_join_nothing() -> None:
    y = cube(6, 3, 100)
    y[3] = 0.01
    y[4] = y[0]
    pool = pool_of(y)
    assert [pool.joins(row) for row in range(6)] == [True, True, True, False, False, True]
    assert not pool_of(y[:, :1]).joins(0)


def test_prior_degrees_of_freedom() -> None:
    """Variances with df degrees of freedom of true ones that vary as prior / chi-square: many of them show the prior;
    of equal ones nine tables of ten show no more than chance."""
    rng = np.random.default_rng(0)
    for prior in (4.0, 30.0):
        truth = prior / rng.chisquare(prior, 20000)
        assert prior_df(truth * rng.chisquare(19, 20000) / 19, 19.0) == pytest.approx(prior, rel=0.1)
    infinite = [math.isinf(prior_df(rng.chisquare(19, 8) / 19, 19.0)) for _ in range(500)]
    assert np.mean(infinite) > 0.85
    assert prior_df(np.array([0.0, 1.0]), 5.0) == 0.0
    assert math.isinf(prior_df(np.zeros(3), 5.0))


def test_the_tasks_term_lies_between_its_own_and_the_pools() -> None:
    y = cube(8, 3, 40)[1] - cube(8, 3, 40)[0]
    own = 3 * y.mean(axis=0).var(ddof=1)
    table = (0.05, 0.06, 0.04, 8, 3, 40)
    assert Spread(*table, prior=0.0).task_square(y) == pytest.approx((own, 39.0))
    assert Spread(*table).task_square(y) == pytest.approx((0.12, 7 * 39.0))
    # a prior worth as much as the difference itself: half each
    assert Spread(*table, prior=39.0).task_square(y) == pytest.approx(((0.12 + own) / 2, 78.0))
    # over two of the three seeds var_e + 2 var_d, with var_d = 0.02 / 3
    assert Spread(*table).task_square(y[:2])[0] == pytest.approx(2 * (0.04 + 2 * 0.02 / 3))


def test_a_sum_is_half_of_the_tasks_term_at_least() -> None:
    """2 0.01 - 2 0.05 = -0.08 with 0.1: 0.02, below 0.05, of which 0.1's 273 degrees of freedom are known."""
    table = Spread(0.01, 0.05, 0.05, 8, 3, 40)
    assert table.of_difference() == pytest.approx((0.05 / 120, 273.0))


def test_the_detectable_effect_is_found_in_80_percent() -> None:
    """By drawing the mean squares of pool and suspects: normal effects, nothing but the chance of training."""
    rng = np.random.default_rng(1)
    table, level, draws = Spread(1.0, 1e-9, 1e-9, 8, 5, 100), 0.004, 40000
    pool = rng.chisquare(28, draws) / 28
    bound = special.fdtri(4, 24, 1 - SUSPECT)
    ours, theirs = (rng.chisquare(4, draws) / 4 for _ in range(2))
    ours, theirs = (np.where(own > bound * pool, own, 0.0) for own in (ours, theirs))
    total = np.where(ours > 0, ours, pool) + np.where(theirs > 0, theirs, pool)
    shared = (ours == 0).astype(float) + (theirs == 0)
    df = total**2 / ((shared * pool) ** 2 / 28 + ours**2 / 4 + theirs**2 / 4)
    needed = stats.t.isf(level / 2, df) * np.sqrt(total / 500) - math.sqrt(2 / 500) * rng.standard_normal(draws)
    assert detectable(table, level) == pytest.approx(np.quantile(needed, 0.8), rel=0.03)
    assert detectable(Spread(0.0, 0.0, 0.0, 8, 5, 100), level) == 0.0
    assert pooling.EVIDENT < SUSPECT
