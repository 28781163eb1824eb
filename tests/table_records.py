"""Runs and rows of a small experiment, as the tests of tables and of their renderings read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.experiment import fingerprint
from harness.tables.records import EvaluationRow, Run, RunBudget

FACTS = {
    "environment.id": "environments:Guess-v0",
    "model.name": "tiny",
    "sampling.group_size": 8,
    "sampling.top_p": 1.0,
    "budget.steps": 40,
    "task_list": "f00d",
}
TASKS = [f"{scenario}_{variant}" for scenario in "abcdefg" for variant in (1, 2, 3)]
SEEDS = (0, 1, 2)


class Records:
    """Runs and rows of a small experiment whose success rates are drawn from one generator."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.runs: list[Run] = []
        self.rows: list[EvaluationRow] = []
        self.cells: dict[tuple[str, str], np.ndarray] = {}

    def add(self, method: str, rate: float, seeds: tuple[int, ...] = SEEDS, **run: Any) -> Records:
        for decoding, samples in (("sampled", 4), ("greedy", 1)):
            self.cells[method, decoding] = self.rng.binomial(samples, rate, (len(seeds), len(TASKS))) / samples
        for index, seed in enumerate(seeds):
            self.runs.append(Run(**{"method": method, "seed": seed, "matched": FACTS} | run))
            for decoding, samples in (("sampled", 4), ("greedy", 1)):
                for task, success in zip(TASKS, self.cells[method, decoding][index], strict=True):
                    row = {
                        "method": method,
                        "seed": seed,
                        "matched": fingerprint(FACTS),
                        "split": "test",
                        "task_id": task,
                    }
                    row |= {"decoding": decoding, "samples": samples, "success": success, "reward": success}
                    self.rows.append(EvaluationRow(**row, metrics={"turns": 2.0}))
        return self


def budget(seed: int) -> RunBudget:
    return RunBudget(
        rollouts=100 + seed, generated_tokens=2_000_000, optimiser_steps=40, dropped_groups=seed, wall_s=60.0 + seed
    )


def small_experiment() -> Records:
    """A start, four methods and two baselines."""
    made = (
        Records()
        .add("base", 0.3, role="base")
        .add("GRPO", 0.6, plug="agents.methods.grpo:GRPO", kl=0.01, mixed_groups=False)
    )
    made.add("Other", 0.7, plug="mine:Other", options={"lam": 0.5}, context="successful sibling", summariser="rules")
    made.add("Other x10", 0.65, exploratory=True, notes=("weights inert",)).add("Third", 0.4)
    made.add("do-nothing", 0.0, (0,), role="baseline").add("gold", 1.0, (0,), role="baseline")
    made.runs = [
        run.model_copy(update={"budget": budget(run.seed)}) if run.role == "method" else run for run in made.runs
    ]
    return made
