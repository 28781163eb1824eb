"""Plots: what is drawn is what was recorded, and the same records give the same bytes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from harness.core.errors import MissingDataError, UnknownNameError
from harness.report import plots as report

POINTS = [
    {
        "method": method,
        "seed": seed,
        "step": step,
        "success": rate + 0.01 * step + 0.02 * seed,
        "rollouts": 256 * step + seed,
    }
    for method, rate in (("GRPO", 0.3), ("Other", 0.4))
    for seed in (0, 1, 2)
    for step in (0, 10, 20)
]


def curves(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in figure.axes[0].lines]


def test_a_curve_is_the_mean_over_seeds_and_its_band_their_range() -> None:
    figure = report.learning_curves(reversed(POINTS), lines={"start": 0.3})
    other, grpo, start = curves(figure)  # in the order of the first record
    np.testing.assert_allclose(grpo, [[0, 0.32], [10, 0.42], [20, 0.52]])
    np.testing.assert_allclose(other[:, 1], [0.42, 0.52, 0.62])
    assert set(start[:, 1]) == {0.3}
    band = next(band for band in figure.axes[0].collections if isinstance(band, FillBetweenPolyCollection))
    corners = np.asarray(band.get_paths()[0].vertices)
    assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx(
        (0.4, 0.64)
    )  # Other: 0.4 at the start, 0.6 + 0.04 at the end
    assert {text.get_text() for text in figure.axes[0].texts} >= {"GRPO", "Other", "start"}


def test_the_interval_is_students_over_seeds() -> None:
    figure = report.learning_curves([p for p in POINTS if p["method"] == "GRPO"], band="interval")
    band = next(band for band in figure.axes[0].collections if isinstance(band, FillBetweenPolyCollection))
    at_start = [y for x, y in np.asarray(band.get_paths()[0].vertices) if x == 0]
    theirs = scipy.stats.ttest_1samp([0.3, 0.32, 0.34], 0).confidence_interval(0.95)
    assert (min(at_start), max(at_start)) == pytest.approx((theirs.low, theirs.high))


def test_another_axis_takes_the_mean_place_of_the_seeds() -> None:
    figure = report.learning_curves(POINTS, x="rollouts")
    np.testing.assert_allclose(curves(figure)[0][:, 0], [1, 2561, 5121])
    assert figure.axes[0].get_xlabel() == "Rollouts"
    assert figure.axes[0].get_ylabel() == "Success"
    greedy = report.learning_curves([p | {"greedy": 0.5} for p in POINTS], value="greedy")
    assert set(curves(greedy)[0][:, 1]) == {0.5}
    assert greedy.axes[0].get_ylabel() == "Success, greedy"


def test_steps_that_a_seed_lacks_are_not_drawn() -> None:
    unfinished = [p for p in POINTS if not (p["seed"] == 2 and p["step"] == 20)]
    np.testing.assert_allclose(curves(report.learning_curves(unfinished))[0][:, 0], [0, 10])
    apart = [{"method": "GRPO", "seed": seed, "step": seed, "success": 0.5} for seed in (0, 1)]
    with pytest.raises(MissingDataError, match="GRPO: its seeds have no step in common"):
        report.learning_curves(apart)


@pytest.mark.parametrize("points", [[], [{"method": "GRPO", "seed": 0, "step": 0, "success": None}]])
def test_nothing_to_draw_is_said(points: list[dict[str, Any]]) -> None:
    with pytest.raises(MissingDataError, match="nothing to plot"):
        report.learning_curves(points)


def test_an_unknown_axis_is_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'rollouts'"):
        report.learning_curves(POINTS, x="rollout")


def test_one_seed_has_no_band_and_says_so() -> None:
    figure = report.learning_curves([p for p in POINTS if p["seed"] == 0])
    assert "one seed, no band" in {text.get_text() for text in figure.axes[0].texts}


def test_the_same_points_give_the_same_bytes_and_no_date(tmp_path: Path) -> None:
    for name in ("one", "two"):
        path = report.write_plot(report.learning_curves(POINTS, lines={"start": 0.3}, title="Guess"), tmp_path / name)
        assert path == tmp_path / f"{name}.svg"
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.svg", "two.svg"]
    assert b"<dc:date>" not in (tmp_path / "one.svg").read_bytes()
    other = report.learning_curves(POINTS[1:], lines={"start": 0.3}, title="Guess")
    assert report.write_plot(other, tmp_path / "three").read_bytes() != (tmp_path / "one.svg").read_bytes()


def test_labels_neither_touch_each_other_nor_cover_the_curves() -> None:
    crowd = [
        point | {"method": f"method {index}"} for index in range(9) for point in POINTS if point["method"] == "GRPO"
    ]
    figure = report.learning_curves(crowd, lines={"start": 0.3, "gold": 1.0})
    figure.draw_without_rendering()  # places the texts
    axes = figure.axes[0]
    # Text's own extent: that of an annotation includes the hair line to the curve's end.
    boxes = [
        Text.get_window_extent(text) for text in axes.texts if text.get_text().startswith(("method", "start", "gold"))
    ]
    assert len(boxes) == 11
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x0 > axes.get_window_extent().x1 for box in boxes)
    assert all(box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height for box in boxes)


@given(places=st.lists(st.floats(-1, 1), max_size=7).map(sorted), gap=st.floats(0.01, 0.5))
def test_spread_keeps_order_distance_and_the_sum(places: list[float], gap: float) -> None:
    moved = report.spread(places, gap)
    assert all(after - before >= gap - 1e-9 for before, after in itertools.pairwise(moved))
    assert sum(moved) == pytest.approx(sum(places), abs=1e-9)
    if all(after - before >= gap for before, after in itertools.pairwise(places)):
        assert moved == pytest.approx(places)


@given(places=st.lists(st.floats(0, 1), min_size=2, max_size=4).map(sorted))
def test_spread_moves_as_little_as_can_be(places: list[float]) -> None:
    """Least squares under the order: no other feasible placing that a general optimiser finds is better."""
    gap = 0.3
    found = scipy.optimize.minimize(
        lambda moved: float(np.sum((moved - np.asarray(places)) ** 2)),
        np.arange(len(places)) * gap,
        constraints=[{"type": "ineq", "fun": lambda moved: np.diff(moved) - gap}],
    )
    ours = sum((moved - place) ** 2 for moved, place in zip(report.spread(places, gap), places, strict=True))
    assert ours <= found.fun + 1e-6


def test_a_label_is_no_formula() -> None:
    """matplotlib reads text between dollars as mathematics, and refuses what is none."""
    label = "a $\\frac{$ b\n\x1b[31m"
    figure = report.learning_curves([p | {"method": label} for p in POINTS if p["method"] == "GRPO"], title=label)
    figure.draw_without_rendering()
    assert r"a \$\frac{\$ b··[31m" in {text.get_text() for text in figure.axes[0].texts}
