"""What an experiment will cost, from what is recorded or measured of it."""

from __future__ import annotations

import json

import pytest
from experiments import small

from harness import ROOT
from harness.experiment import read_experiment
from harness.report.costs import SPENT, Sample, costs, evaluated, judged_within, recorded_samples
from harness.report.folder import PROVENANCE, read_records

FULL = ROOT / "results" / "full" / "bifurcation"


@pytest.mark.parametrize(
    ("steps", "every", "tasks", "episodes"),
    [
        (120, 20, 100, 6 * 2 * 100),  # before steps 0, 20, ..., 100; the point at 120 is played after the last step
        (10, 4, 3, 3 * 2 * 3),  # before steps 0, 4 and 8
        (10, 0, 3, 0),
    ],
)
def test_points_of_the_curve_are_part_of_the_steps_time(steps: int, every: int, tasks: int, episodes: int) -> None:
    assert judged_within(steps, every, tasks) == episodes


def test_an_episode_that_is_judged_within_the_steps_is_counted_once() -> None:
    """2 steps of 2 tasks with 4 siblings, a curve of 3 tasks at steps 0, 1 and 2, a panel of 5 tasks judged by 2
    samples and greedily. 16 rollouts, and 2 * 2 * 3 = 12 episodes of the curve within the steps. They took 56 s: 2 s
    each. Still to come of a run: the curve's last point, 6, and the panel, 15. 56 + 21 * 2 = 98 s for each seed."""
    experiment = small(
        budget={"steps": 2},
        sampling={"group_size": 4, "prompts_per_step": 2},
        evaluation={"every": 1, "tasks": 5, "samples": 2, "curve_tasks": 3},
        seeds=[0, 1, 2],
    )
    assert evaluated(experiment) == 12 + 6 + 15
    spent = dict.fromkeys(SPENT, 0.0)
    samples = {row.label: Sample(16, spent, 56.0, "recorded", judged=12) for row in experiment.methods}
    assert [row.seconds for row in costs(experiment, samples)] == [98.0 * 3] * len(experiment.methods)
    # Measured: 16 rollouts took 56 s without a curve, an episode that is only judged took half a second.
    samples = {row.label: Sample(16, spent, 56.0, "measured", judged_s=0.5) for row in experiment.methods}
    assert [row.seconds for row in costs(experiment, samples)] == [(56 + 33 * 0.5) * 3] * len(experiment.methods)


def test_recorded_runs_foretell_themselves() -> None:
    """The recorded seconds of the steps, and beside them only what is played after the last step."""
    experiment = read_experiment(FULL / "spec.toml")
    kept = json.loads((FULL / PROVENANCE).read_text())["wall_s"]
    samples = recorded_samples(experiment, read_records(FULL))
    for row, cost in zip(experiment.methods, costs(experiment, samples), strict=True):
        e = experiment.for_row(row)
        steps = e.budget.steps * e.sampling.prompts_per_step * e.sampling.group_size + judged_within(
            e.budget.steps, e.evaluation.every, e.evaluation.curve_tasks
        )
        later = 2 * e.evaluation.curve_tasks + e.evaluation.tasks * (e.evaluation.samples + 1)
        assert cost.seconds == pytest.approx(sum(kept[row.label]) * (1 + later / steps), rel=1e-9)
