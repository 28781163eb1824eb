"""Steps to a fixed success: interpolation, cut-off seeds, intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import MissingDataError
from harness.tables.scaling import speeds, steps_to


def test_a_crossing_lies_on_the_line_between_two_points() -> None:
    # from 0.2 at step 10 to 0.6 at step 20, 0.5 is three quarters of the way
    assert steps_to([0, 10, 20], [0.1, 0.2, 0.6], 0.5) == 17.5
    assert steps_to([0, 10], [0.5, 0.1], 0.5) == 0
    assert steps_to([0, 10], [0.1, 0.4], 0.5) == math.inf


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0.01, 1))
def test_the_first_crossing_equals_a_search_on_a_fine_grid(values: list[float], wanted: float) -> None:
    steps = list(range(len(values)))
    found = steps_to(steps, values, wanted)
    fine = np.linspace(0, len(values) - 1, 2000 * (len(values) - 1) + 1)
    above = fine[np.interp(fine, steps, values) >= wanted]
    assert found == math.inf if not len(above) else found == pytest.approx(above[0], abs=1 / 1000)


def test_a_seed_that_never_gets_there_counts_with_the_budget() -> None:
    points = [
        {"method": "GRPO", "seed": seed, "step": step, "sampled": value}
        for seed, curve in enumerate(([0.0, 0.4, 0.8], [0.0, 0.1, 0.2]))
        for step, value in zip((0, 10, 20), curve, strict=True)
    ]
    [speed] = speeds(points, 4, 0.6)
    # seed 0 crosses 0.6 at step 15, seed 1 is cut off at 20: mean 17.5, standard error 2.5, t(1) = 12.706
    assert (speed.steps, speed.reached, speed.seeds, speed.budget) == (17.5, 1, 2, 20)
    assert (speed.low, speed.high) == (0.0, 20.0)


def test_one_seed_has_no_interval() -> None:
    points = [{"method": "GRPO", "seed": 0, "step": step, "sampled": step / 20} for step in (0, 10, 20)]
    [speed] = speeds(points, 4, 0.75)
    assert (speed.steps, speed.low, speed.high) == (15.0, 15.0, 15.0)


def test_nothing_to_measure_is_said() -> None:
    with pytest.raises(MissingDataError, match="greedy"):
        speeds([{"method": "GRPO", "seed": 0, "step": 0, "sampled": 0.1}], 4, 0.5, "greedy")
