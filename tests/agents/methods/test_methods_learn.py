"""Every shipped method trains: those with a policy gradient solve more of Guess-v0, the others lower their own
objective on it, and all of them go through a short run on ReasoningMini-v0 with nothing but finite numbers in its
log. The five of the matched tables with the slow tests, all others with the heavy ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import judged, quiet, small

from agents.methods import SHORT
from harness.core import records
from harness.experiment import Experiment, MethodSettings
from harness.learning.warm_start import start_of
from harness.protocols.backend import Start
from harness.runs.job import run_job
from harness.runs.plan import BASE, Job

pytestmark = pytest.mark.slow

CONTEXTS = ["agents.contexts:SiblingOrSolution", "agents.contexts:SiblingAndAnswer"]
DISTILL_ONLY = {"hsd", "opsd", "sdpo"}
FIVE = {"grpo", "craft", "sgcd", "hsd", "adaptive_cringe"}
FEW_ROLLS = {"oracle": 4, "inverted": 4, "vineppo": 4}
"""Re-rolls of a prefix where the default would take minutes."""
TINY = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 1, "mlp": 128, "window": 96, "vocabulary": 290}


def each(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in FIVE else [pytest.mark.heavy]) for name in sorted(names)]


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return records.read(folder / "steps.jsonl").strict()


def run(experiment: Experiment, start: Start, name: str, folder: Path) -> Path:
    options = {"rolls": FEW_ROLLS[name]} if name in FEW_ROLLS else {}
    method = MethodSettings(label=name, plug=SHORT[name], options=options) if name in SHORT else BASE
    run_job(
        Job(experiment, start, "method" if name in SHORT else "base", method, 0, {}, (), judged(experiment), folder),
        quiet,
    )
    return folder


def sampled_success(folder: Path) -> float:
    rows = records.read(folder / "rows.jsonl").strict()
    return float(np.mean([row["success"] for row in rows if row["decoding"] == "sampled"]))


@pytest.fixture(scope="module")
def guessing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Start, float]:
    """An experiment on two windows of Guess-v0, its start, and the start's success."""
    folder = tmp_path_factory.mktemp("guess")
    experiment = small(
        environment={"id": "environments:Guess-v0", "options": {"windows": 2, "players": 4}},
        model={"tiny": TINY},
        context=CONTEXTS[0],
        warm_start={
            "steps": 150,
            "batch": 16,
            "lr": 5e-3,
            "habit_share": 0.6,
            "context_share": 0.2,
            "contexts": CONTEXTS,
        },
        sampling={"group_size": 8, "prompts_per_step": 28, "max_new_tokens": 4},
        optimiser={"lr": 5e-4},
        budget={"steps": 25, "checkpoint_every": 25},
        evaluation={"every": 0, "tasks": 14, "samples": 8, "start_tasks": 14},
    )
    start = start_of(experiment, folder / "cache")
    return experiment, start, sampled_success(run(experiment, start, "base", folder / "base"))


@pytest.fixture(scope="module")
def summing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Start]:
    """A short experiment on ReasoningMini-v0."""
    folder = tmp_path_factory.mktemp("sums")
    experiment = small(
        environment={"id": "environments:ReasoningMini-v0", "options": {}},
        model={"tiny": TINY},
        context=CONTEXTS[0],
        warm_start={
            "steps": 150,
            "batch": 32,
            "lr": 3e-3,
            "habit_share": 0.5,
            "demonstrations": 800,
            "context_share": 0.3,
            "contexts": CONTEXTS,
        },
        sampling={"group_size": 8, "prompts_per_step": 8, "max_new_tokens": 12},
        optimiser={"lr": 3e-4},
        budget={"steps": 12, "checkpoint_every": 12},
        evaluation={"every": 0, "tasks": 20, "samples": 1, "start_tasks": 20},
    )
    return experiment, start_of(experiment, folder / "cache")


@pytest.mark.parametrize("name", each(set(SHORT) - DISTILL_ONLY - {"inverted"}))
def test_policy_gradient_methods_solve_more(
    name: str, guessing: tuple[Experiment, Start, float], tmp_path: Path
) -> None:
    experiment, start, before = guessing
    folder = run(experiment, start, name, tmp_path)
    rewards = [row["reward"] for row in steps_of(folder)]
    # 1,120 episodes on either side: a difference of 0.04 is two of its standard errors; most methods gain 0.15
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.04
    # 112 episodes on secrets that training never rewards for the player who asks: not worse than chance would have it
    assert sampled_success(folder) > before - 0.07


@pytest.mark.heavy
def test_the_inverted_oracle_solves_less(guessing: tuple[Experiment, Start, float], tmp_path: Path) -> None:
    experiment, start, _ = guessing
    rewards = [row["reward"] for row in steps_of(run(experiment, start, "inverted", tmp_path))]
    assert np.mean(rewards[-5:]) < np.mean(rewards[:5]) - 0.04


@pytest.mark.parametrize("name", each(DISTILL_ONLY))
def test_distilling_methods_lower_their_own_objective(
    name: str, guessing: tuple[Experiment, Start, float], tmp_path: Path
) -> None:
    experiment, start, _ = guessing
    # fast, for 25 steps to show it: a teacher that is the policy itself moves as well
    fast = experiment.model_copy(update={"optimiser": experiment.optimiser.model_copy(update={"lr": 2e-3})})
    losses = [row["loss/distillation"] for row in steps_of(run(fast, start, name, tmp_path))]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])


@pytest.mark.parametrize("name", each(SHORT))
def test_a_short_run_on_sums_logs_finite_numbers(name: str, summing: tuple[Experiment, Start], tmp_path: Path) -> None:
    experiment, start = summing
    rows = steps_of(run(experiment, start, name, tmp_path))
    assert len(rows) == 12
    for row in rows:
        wrong = {key: value for key, value in row.items() if value is None or not np.isfinite(value)}
        assert not wrong, f"step {row['step']}"
        assert row["gradient_norm"] > 0 or row["mixed_share"] == 0
