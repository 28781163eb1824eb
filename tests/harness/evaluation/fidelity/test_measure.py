"""Credit fidelity end to end: a real policy, real methods, an environment of chance; and what is written of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import GRPO, judged, quiet, small

from harness.cli import experiments as commands
from harness.core.errors import UserError
from harness.core.seeds import SeedTree
from harness.evaluation.fidelity.measure import Measurement, measure, sample_worlds
from harness.experiment import Experiment, write_spec
from harness.learning.run import Run
from harness.learning.sampling import sample_groups
from harness.protocols.backend import Start
from harness.report import fidelity as report
from harness.report import fidelity_files
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts

ROLLS = 4
CRAFT = "agents.methods.craft:CRAFT"
METHODS = [
    GRPO.model_dump(),
    {"label": "CRAFT printed", "plug": CRAFT, "options": {"credit": "printed"}},
    {"label": "CRAFT aligned", "plug": CRAFT, "options": {"credit": "aligned"}},
    {"label": "HSD", "plug": "agents.methods.hsd:HSD"},
    {"label": "SGCD", "plug": "agents.methods.sgcd:SGCD"},
]


def spec(**changes: Any) -> Experiment:
    sections = {
        "environment": {"id": "chance_environment:Even-v0", "options": {"train": 6, "turns": 2}},
        "sampling": {"max_new_tokens": 2},
        "context": "agents.contexts:SiblingOrSolution",
        "methods": METHODS,
    }
    return small(**sections | changes)


@pytest.fixture(scope="module")
def start(tiny_directory: Path) -> Start:
    return Start(tiny_directory, "0" * 64, {})


@pytest.fixture(scope="module")
def measured(start: Start) -> Measurement:
    return measure(spec(), start, tasks=4, rolls=ROLLS, seed=1)


def arrays_of(measured: Measurement, name: str) -> list[np.ndarray]:
    return [np.array(row["credit"][name]) for row in measured.episodes]


def test_every_method_is_measured_on_the_same_tokens(measured: Measurement) -> None:
    names = [row["name"] for row in measured.methods]
    assert names == [
        "GRPO",
        "CRAFT printed",
        "CRAFT printed, own stream",
        "CRAFT aligned",
        "CRAFT aligned, own stream",
        "HSD",
        "SGCD",
    ]
    assert len(measured.episodes) == 4 * 4
    for row in measured.episodes:
        lengths = {len(row[key]) for key in ("tokens", "truth", "error", "again")} | {
            len(row["credit"][name]) for name in names
        }
        assert lengths == {len(row["tokens"])}
    assert {row["success"] for row in measured.episodes} == {True, False}


def test_grpos_credit_is_its_advantage(measured: Measurement) -> None:
    for task in {row["task_id"] for row in measured.episodes}:
        group = [row for row in measured.episodes if row["task_id"] == task]
        rewards = np.array([float(row["success"]) for row in group])
        advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
        for row, advantage in zip(group, advantages, strict=True):
            np.testing.assert_allclose(
                row["credit"]["GRPO"], advantage, atol=1e-5
            )  # float32 sampled it, six decimals are kept


def test_printed_craft_opposes_its_advantage_and_aligned_does_not(measured: Measurement) -> None:
    """With rewards of 0 and 1 on every token that has a sibling at its place; a token alone there has the fallback's
    sign in both."""
    opposed = 0
    names = ("GRPO", "CRAFT printed, own stream", "CRAFT aligned, own stream")
    for advantage, printed, aligned in zip(*(arrays_of(measured, name) for name in names), strict=True):
        turned = np.isclose(printed, -aligned, atol=2e-6)
        assert np.all(printed[turned] * advantage[turned] <= 1e-5)
        assert np.all(aligned[turned] * advantage[turned] >= -1e-5)
        opposed += int(np.sum(printed * advantage < -1e-5))
        np.testing.assert_allclose(printed[~turned], aligned[~turned], atol=2e-6)
    assert opposed > 5


def test_the_groups_are_those_of_a_runs_first_step(start: Start, tmp_path: Path) -> None:
    """Where the seed of the environment decides nothing (Parity), token for token."""
    experiment = small(budget={"steps": 1})
    run = Run(experiment, experiment.methods[0], 3, start, tmp_path, judged(experiment))
    with run.pool:
        trained, _ = sample_groups(run)
    with EnvironmentPool(experiment.environment) as pool:
        rollouts, policy = Rollouts(pool), TokenPolicy(run.backend, run.policy.params)
        worlds = sample_worlds(experiment, pool, rollouts, policy, len(trained), SeedTree(3))
    for group, world in zip(trained, worlds, strict=True):
        assert (group.task_id, group.solution, group.answer) == (
            world.group.task_id,
            world.group.solution,
            world.group.answer,
        )
        for one, two in zip(group.episodes, world.group.episodes, strict=True):
            np.testing.assert_array_equal(one.sequence.tokens, two.sequence.tokens)
            np.testing.assert_array_equal(one.sequence.mask, two.sequence.mask)


def test_one_seed_one_measurement(measured: Measurement, start: Start) -> None:
    assert measure(spec(), start, tasks=4, rolls=ROLLS, seed=1) == measured
    assert measure(spec(), start, tasks=1, rolls=1, seed=2).episodes[:4] != measured.episodes[:4]


def test_table_and_plots_are_a_function_of_the_rows(measured: Measurement, tmp_path: Path) -> None:
    judged = fidelity_files.write(measured, tmp_path / "one")
    again = fidelity_files.write(fidelity_files.read(tmp_path / "one"), tmp_path / "two")
    files = {"facts.json", "episodes.jsonl.gz", "provenance.json", "table.md", "table.csv", "SHA256SUMS"}
    files |= {"fidelity.svg", "example.svg"}
    assert {file.name for file in (tmp_path / "one").iterdir()} == files
    for name in files - {"provenance.json", "SHA256SUMS"}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert again.lines == judged.lines
    with (tmp_path / "one" / "table.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["credit"] for row in rows[-2:]] == ["random", "truth, estimated again"]
    by_name = {row["credit"]: row for row in rows}
    grpo = report.build(measured).lines[0].figures
    assert float(by_name["GRPO"]["sign_low"]) == pytest.approx(grpo["sign"].low, abs=1e-6)
    assert float(by_name["GRPO"]["within"]) == 0  # a constant inside every episode
    text = (tmp_path / "one" / "table.md").read_text()
    assert text.count("\n| ") == 3 * 2 + len(rows)
    assert "4 tasks of the train split x 4 siblings" in text


def test_the_example_is_a_failure_and_a_success_of_one_task(measured: Measurement) -> None:
    pair = report.example_pair(measured.episodes)
    assert pair is not None
    worst, right = (measured.episodes[place] for place in pair)
    assert worst["task_id"] == right["task_id"]
    assert (worst["success"], right["success"]) == (False, True)
    apart = max(right["truth"]) - min(worst["truth"])
    for bad in (row for row in measured.episodes if not row["success"]):
        for good in (row for row in measured.episodes if row["success"] and row["task_id"] == bad["task_id"]):
            assert max(good["truth"]) - min(bad["truth"]) <= apart
    assert report.example_pair([row for row in measured.episodes if row["success"]]) is None


def test_the_command_writes_beside_the_spec(tiny_directory: Path, tmp_path: Path) -> None:
    experiment = spec(model={"name": str(tiny_directory)}, sampling={"max_new_tokens": 2, "prompts_per_step": 2})
    write_spec(experiment, tmp_path / "spec.toml")
    commands.fidelity(tmp_path / "spec.toml", 0, 3, 0, None, None, tmp_path / "cache")
    assert "2 tasks of the train split x 4 siblings" in (tmp_path / "table.md").read_text()
    commands.fidelity(tmp_path / "spec.toml", 1, 2, 0, tiny_directory, tmp_path / "other", tmp_path / "cache")
    assert "one fixed policy (checkpoint" in (tmp_path / "other" / "table.md").read_text()


@pytest.mark.parametrize(
    ("changes", "tasks", "rolls", "said"),
    [
        ({"methods": []}, 2, 2, "names no methods"),
        ({}, 7, 2, "7 tasks were asked for, split 'train' has 6"),
        ({}, 0, 2, "at least one task and one re-roll, got 0 and 2"),
        ({}, 2, 0, "at least one task and one re-roll, got 2 and 0"),
        (
            {"environment": {"train_split": "test", "eval_split": "train"}},
            1,
            2,
            "split 'test' of chance_environment:Even-v0 may not be trained on",
        ),
    ],
)
def test_mistakes_are_said(start: Start, changes: dict[str, Any], tasks: int, rolls: int, said: str) -> None:
    data = spec().model_dump()
    for key, value in changes.items():
        data[key] = data[key] | value if isinstance(value, dict) else value
    with pytest.raises(UserError, match=said):
        measure(Experiment.model_validate(data), start, tasks, rolls, progress=quiet)
