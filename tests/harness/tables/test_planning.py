"""Planning: hand numbers, what more seeds, tasks and rows are worth, the way back from an effect to seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy

from harness.core.errors import UserError
from harness.tables.planning import ASSUMED, Parts, adjusted_level, least_tasks, planning_effect, seeds_needed
from harness.tables.pooling import Spread, spread

PARTS = Parts(by_seed=0.0004, by_task=0.0025, rest=0.0, sample=0.12)


def test_hand_numbers() -> None:
    """5 seeds, 100 tasks, 4 samples: var_e = 0.03, Var = 2 (0.0004/5 + 0.0025/100 + 0.03/500) = 0.00033.

    MS_RS = 0.03 + 100 0.0004 = 0.07, MS_RT = 0.03 + 5 0.0025 = 0.0425, MS_RST = 0.03; times 2/500 these are 0.00028,
    0.00017 and 0.00012. With 8 rows: df = 0.00033^2 / (0.00028^2/28 + 0.00017^2/693 + 0.00012^2/2772) = 38.2.
    """
    table = PARTS.spread(5, 100, 4, 8)
    assert (table.seed, table.task, table.rest) == pytest.approx((0.07, 0.0425, 0.03))
    variance, df = table.of_difference()
    assert variance == pytest.approx(0.00033)
    assert df == pytest.approx(0.00033**2 / (0.00028**2 / 28 + 0.00017**2 / 693 + 0.00012**2 / 2772))
    found = planning_effect(PARTS, 5, 100, 4, rows=2, comparisons=1)  # of two rows none is suspect
    variance, df = PARTS.spread(5, 100, 4, 2).of_difference()
    quantiles = scipy.stats.t.ppf(0.975, df) + scipy.stats.t.ppf(0.8, df)
    assert found == pytest.approx(quantiles * math.sqrt(0.00033), rel=1e-9)
    assert math.isnan(planning_effect(PARTS, 1, 100, 4, rows=8))


def test_more_of_anything_finds_less_and_more_comparisons_cost() -> None:
    size: dict[str, Any] = {"seeds": 5, "tasks": 100, "samples": 4, "rows": 8}
    here = planning_effect(PARTS, **size)
    for key, more in (("seeds", 10), ("tasks", 300), ("samples", 16)):
        assert planning_effect(PARTS, **(size | {key: more})) < here
    fewer, more_often = (planning_effect(PARTS, **(size | other)) for other in ({"comparisons": 1}, {"endpoints": 3}))
    assert fewer < here < more_often
    assert planning_effect(Parts(0.0, 0.0, 0.0), 3, 10) == 0.0


def test_rows_share_their_degrees_of_freedom() -> None:
    """At 3 seeds a table of eight finds less than half of what two rows alone do, comparison for comparison."""
    chaos = Parts(by_seed=0.0009, by_task=0.0, rest=0.01)
    alone = planning_effect(chaos, 3, 300, rows=2, comparisons=1)
    assert planning_effect(chaos, 3, 300, rows=8, comparisons=1) < 0.7 * alone


def test_the_seeds_that_an_effect_needs() -> None:
    needed = seeds_needed(0.03, PARTS, 300, 4, rows=8)
    assert needed is not None
    assert planning_effect(PARTS, needed, 300, 4, rows=8) <= 0.03
    assert planning_effect(PARTS, needed - 1, 300, 4, rows=8) > 0.03
    # tasks alone vary by 0.05 each: 2 0.0025 / 20 is an error of 0.016 whatever the seeds
    assert seeds_needed(0.02, PARTS, 20, 4, rows=8) is None


def test_parts_come_back_from_the_tables_they_make() -> None:
    table = PARTS.spread(4, 50, 4, 6)
    back = Parts.of([table, table], sample=0.12, samples=4)
    assert (back.by_seed, back.by_task, back.rest) == pytest.approx((0.0004, 0.0025, 0.0), abs=1e-12)
    with pytest.raises(UserError, match="no table"):
        Parts.of([])
    rng = np.random.default_rng(0)
    scales = ((0.02, (8, 5, 1)), (0.05, (8, 1, 60)), (0.2, (8, 5, 60)))
    made = [spread(sum(scale * rng.standard_normal(shape) for scale, shape in scales)) for _ in range(200)]
    found = Parts.of(made)
    assert (found.by_seed, found.by_task, found.rest) == pytest.approx((0.0004, 0.0025, 0.04), rel=0.15)


def test_the_level_and_the_least_tasks() -> None:
    assert adjusted_level(1, 1, 10.0, 0.5) == 0.05
    assert adjusted_level(7, 3, 14.0, 0.5) < adjusted_level(7, 1, 14.0, 0.5)
    # 1 - 0.05^(1/T) < 0.02: 0.05^(1/149) = 0.98010, 0.05^(1/148) = 0.97996
    assert least_tasks(0.02) == 149
    assert planning_effect(ASSUMED, 3, 300, 4, rows=8) == pytest.approx(0.08, abs=0.03)
    assert Spread(0.1, 0.1, 0.1, 3, 3, 10).by_seed == 0
