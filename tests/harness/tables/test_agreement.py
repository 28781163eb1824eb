"""A repetition beside the record: the interval of the difference, the verdicts, and how often true repetitions are
called different."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from table_records import FACTS, Records

from harness.core.errors import UnmatchedError
from harness.report.agreement import agreement_grid, verdict_line
from harness.tables.agreement import agreements, difference_interval
from harness.tables.statistics import Estimate, mean_interval
from harness.tables.table import build


def estimate(mean: float, low: float, high: float) -> Estimate:
    return Estimate(mean, low, high, math.nan, math.nan, 3, 100)


def test_the_interval_by_hand() -> None:
    """d = 0.2; down: the repeated estimate's 0.03 and the recorded one's upper 0.04 make 0.05; up: 0.12 and 0.05 make
    0.13."""
    low, high = difference_interval(estimate(0.4, 0.35, 0.44), estimate(0.6, 0.57, 0.72))
    assert low == pytest.approx(0.2 - 0.05)
    assert high == pytest.approx(0.2 + 0.13)


@pytest.mark.parametrize("shared", [True, False])
def test_true_repetitions_are_rarely_called_different(shared: bool) -> None:
    """1,000 pairs of tables by the statistics' own model, with other seeds, on the same tasks or on others: at most 5
    % differ (and 2 % of room for 1,000 draws)."""
    rng = np.random.default_rng(0)
    different = 0
    for _ in range(1000):
        tasks = rng.normal(0, 0.2, 60)
        others = tasks if shared else rng.normal(0, 0.2, 60)
        pair = [0.5 + rng.normal(0, 0.05, (5, 1)) + t + rng.normal(0, 0.1, (5, 60)) for t in (tasks, others)]
        low, high = difference_interval(*(mean_interval(table, bounds=None) for table in pair))
        different += not low <= 0 <= high
    assert different / 1000 <= 0.07


@pytest.fixture
def records() -> Records:
    made = Records()
    made.add("base", 0.2, role="base")
    made.add("GRPO", 0.6)
    return made


def test_a_table_is_the_same_as_itself_and_differs_from_another(records: Records) -> None:
    table = build(records.runs, records.rows)
    found = agreements(table, table)
    assert {row.verdict for row in found} == {"same"}
    assert verdict_line(found) == f"all {len(found)} rows are the same as recorded"
    moved = agreements(table, shifted(table, "GRPO", 0.001))
    assert {row.verdict for row in moved if row.method == "GRPO"} == {"agrees"}
    far = agreements(table, shifted(table, "GRPO", -0.5))
    assert {row.verdict for row in far if row.method == "GRPO"} == {"differs"}
    grid = agreement_grid(far)
    assert len(grid.rows) == len(far)
    assert "differs" in {row[-1] for row in grid.rows}
    assert "1 differ" in verdict_line([row for row in far if row.method == "GRPO"][:1])


def shifted(table, method, by):  # type: ignore[no-untyped-def]
    def moved(score):  # type: ignore[no-untyped-def]
        s = score.success
        return replace(score, success=replace(s, mean=s.mean + by, low=s.low + by, high=s.high + by))

    rows = [
        replace(row, scores={d: moved(s) for d, s in row.scores.items()}) if row.run.method == method else row
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows))


def test_another_experiment_is_no_repetition(records: Records) -> None:
    table = build(records.runs, records.rows)
    other = replace(table, facts={**FACTS, "sampling.group_size": 99})
    with pytest.raises(UnmatchedError, match=r"two experiments: sampling\.group_size was .* and is 99"):
        agreements(table, other)
    agreements(table, replace(table, facts={**FACTS, "code": "other", "initial_checkpoint": "other"}))
