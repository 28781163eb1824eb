"""Areas under learning curves: by hand, and against numpy's trapezoid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.tables.curves import area, areas

POINT = {"method": "A", "seed": 0, "step": 0, "panel": "x", "tasks": {"sampled": "01"}}


def test_by_hand() -> None:
    """Steps 0, 2, 10. First task 0, 1, 1: (2 (0 + 1)/2 + 8) / 10 = 0.9. Second 1, 0, 0: 1 / 10. Third lost in the
    middle, 0 and 1 at the ends: 0.2 there, (2 (0 + 0.2)/2 + 8 (0.2 + 1)/2) / 10 = (0.2 + 4.8) / 10 = 0.5. Fourth lost
    first, then 1: 1. Fifth never seen."""
    found = area([0, 2, 10], ["010--", "10-1-", "1011-"])
    assert found[:4] == pytest.approx([0.9, 0.1, 0.5, 1.0])
    assert np.isnan(found[4])


@given(data=st.data(), steps=st.lists(st.integers(0, 100), min_size=2, max_size=7, unique=True).map(sorted))
def test_numpys_trapezoid_agrees(data: st.DataObject, steps: list[int]) -> None:
    rows = [data.draw(st.text("01", min_size=4, max_size=4)) for _ in steps]
    values = np.array([list(map(int, row)) for row in rows])
    assert area(steps, rows) == pytest.approx(np.trapezoid(values, steps, axis=0) / (steps[-1] - steps[0]))


@pytest.mark.parametrize(("steps", "rows"), [([0], ["01"]), ([0, 1], ["01", "011"]), ([0, 1], ["01", "0x"])])
def test_what_is_no_curve_is_refused(steps: list[int], rows: list[str]) -> None:
    with pytest.raises(UserError):
        area(steps, rows)


def test_areas_of_methods_and_why_there_are_none() -> None:
    points = [POINT | {"method": m, "step": step, "seed": s} for m in "AB" for s in (0, 1) for step in (0, 5)]
    found, why = areas(points, {"A": [0, 1], "B": [1]}, "sampled")
    assert why == ""
    assert found["A"].seeds == (0, 1)
    np.testing.assert_array_equal(found["B"].y, [[0.0, 1.0]])
    for wanted, given_points, reason in (
        ({"A": [0]}, [], "no learning curve was recorded"),
        ({"A": [0], "C": [0]}, points, "C, seed 0, has no learning curve"),
        ({"A": [0]}, [POINT, POINT | {"step": 5, "tasks": {"greedy": "01"}}], "do not hold the tasks' outcomes"),
        ({"A": [0]}, [POINT], "not the same steps and tasks"),
        ({"A": [0]}, [POINT, POINT | {"step": 5, "panel": "y"}], "not the same steps and tasks"),
        ({"A": [0, 1]}, [*points, POINT | {"step": 7}], "not the same steps and tasks"),
    ):
        assert areas(given_points, wanted, "sampled")[0] == {}
        assert reason in areas(given_points, wanted, "sampled")[1]


def test_a_task_lost_throughout_is_left_out_for_all() -> None:
    points = [POINT | {"step": step, "tasks": {"sampled": "0-1"}} for step in (0, 5)]
    points += [POINT | {"method": "B", "step": step, "tasks": {"sampled": "011"}} for step in (0, 5)]
    found, _ = areas(points, {"A": [0], "B": [0]}, "sampled")
    np.testing.assert_array_equal(found["B"].y, [[0.0, 1.0]])
