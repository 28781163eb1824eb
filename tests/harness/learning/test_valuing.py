"""A run of a method that asks for values: what it spends, that it goes on bit for bit, and what it does with groups
that have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import driven, job, judged, quiet, small

from harness.core import records
from harness.learning.feed import learn
from harness.learning.run import Run
from harness.learning.sampling import sample_groups
from harness.learning.valuing import valued
from harness.protocols.backend import Start
from harness.runs.job import run_job

VINE = {"label": "VinePPO", "plug": "agents.methods.vineppo:VinePPO", "options": {"kl": 0.0, "rolls": 3}}
EVEN = {"id": "chance_environment:Even-v0", "options": {"turns": 2, "greets": False}}


def run_of(tiny_directory: Path, folder: Path, method: dict[str, Any] = VINE, **changes: Any) -> Run:
    experiment = small(**{"environment": EVEN, "methods": [method]} | changes)
    return Run(experiment, experiment.methods[0], 0, Start(tiny_directory, "0" * 64, {}), folder, judged(experiment))


def test_re_rolls_are_counted_and_charged(tiny_directory: Path, tmp_path: Path) -> None:
    experiment = small(environment=EVEN, methods=[VINE])
    run_job(job(experiment, tiny_directory, tmp_path / "run"), quiet)
    rows = records.read(tmp_path / "run" / "steps.jsonl").rows
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    spent = json.dumps(done)
    rolls = sum(int(row["values/rolls"]) for row in rows)
    assert len(rows) == 6
    assert all(row["values/rolls"] == 3 * row["values/prefixes"] > 0 for row in rows)
    assert all(row["values/lost"] == 0 < row["values/error"] for row in rows)
    assert f'"re_rolls": {rolls}' in spent
    assert '"re_rolled_tokens": 0' not in spent


def test_two_runs_are_the_same_bytes(tiny_directory: Path, tmp_path: Path) -> None:
    experiment = small(environment=EVEN, methods=[VINE])
    for name in ("one", "two"):
        run_job(job(experiment, tiny_directory, tmp_path / name), quiet)
    for file in ("steps.jsonl", "rows.jsonl", "done.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_who_asks_for_nothing_re_rolls_nothing(tiny_directory: Path, tmp_path: Path) -> None:
    run = run_of(tiny_directory, tmp_path, {"label": "GRPO", "plug": "agents.methods.grpo:GRPO"})
    groups, _ = sample_groups(run)
    worth = valued(run, groups)
    assert worth.groups == groups
    assert (run.spent.re_rolls, run.spent.re_rolled_tokens, worth.facts) == (0, 0, {})
    assert run.pool.close() is None


@pytest.mark.parametrize("broken", ["nothing", "all"])
def test_a_group_without_values_is_dropped_whole_and_counted(tiny_directory: Path, tmp_path: Path, broken: str) -> None:
    """The worlds of the first task fail once its groups have been played: what is left is learned from."""
    run = run_of(tiny_directory, tmp_path)
    groups, _ = sample_groups(run)
    assert {group.task_id for group in groups} > {"train-0"}
    other = run_of(tiny_directory, tmp_path, environment=EVEN | {"options": EVEN["options"] | {"broken": broken}})
    learned, _ = driven(learn(other, groups, {}), other.backend)
    lost = sum(group.task_id == "train-0" for group in groups) if broken == "all" else 0
    assert other.spent.dropped_groups == lost
    assert (other.spent.failed_episodes > 0) == (lost > 0)
    assert other.spent.optimiser_steps == 1
    assert learned["gradient_norm"] > 0
    before = other.backend.score([groups[0].episodes[0].sequence])[0].logprobs
    only = [group for group in groups if group.task_id == "train-0"]
    learned, _ = driven(learn(other, only, {}), other.backend)
    after = other.backend.score([groups[0].episodes[0].sequence])[0].logprobs
    assert other.spent.optimiser_steps == (2 if broken == "nothing" else 1)  # nothing left: no step
    assert np.array_equal(before, after) == (broken == "all")
    for one in (run, other):
        one.pool.close()
