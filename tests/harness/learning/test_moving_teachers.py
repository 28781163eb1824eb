"""Teachers and references with weights of their own, in whole runs: stopped and resumed is never stopped, a copy of
the policy is the policy, and what nobody asks for is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from experiments import job, quiet, small

from harness.core import records
from harness.learning.checkpoints import checkpoints
from harness.runs.job import run_job
from harness.runs.plan import Job

GUESS = {
    "environment": {"id": "environments:Guess-v0", "options": {"windows": 2}},
    "context": "agents.contexts:SiblingOrSolution",
    "sampling": {"group_size": 2, "prompts_per_step": 2},
    "optimiser": {"lr": 1e-2},
    "evaluation": {"tasks": 2, "samples": 1, "every": 0},
}
MOVING: list[tuple[str, dict[str, Any]]] = [
    ("opsd:OPSD", {"teacher": "initial"}),
    ("opsd:OPSD", {"teacher": "ema", "teacher_decay": 0.7}),
    ("opsd:OPSD", {"teacher": "ema", "teacher_decay": 0.0, "teacher_every": 3}),
    ("sdar:SDAR", {"kl": 0.1}),
    ("hsd:HSD", {"teacher": "ema", "teacher_decay": 0.5, "kl": 0.1, "reference_every": 3}),
    ("hsd:HSD", {"teacher": "initial", "kl": 0.1, "reference_every": 4, "kl_form": "sequence"}),
]


def run(directory: Path, folder: Path, plug: str, options: dict[str, Any]) -> Job:
    row = {"label": plug, "plug": f"agents.methods.{plug}", "options": options}
    return job(small(**GUESS, methods=[row]), directory, folder)


def finished(job: Job) -> Path:
    run_job(job, quiet)
    return job.folder


def interrupted(job: Job, after: int) -> Job:
    class Killed(BaseException): ...

    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == after:
            raise Killed

    with pytest.raises(Killed):
        run_job(job, progress)
    return job


def steps(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's steps; a step recorded twice counts once."""
    return [row for _, row in sorted({row["step"]: row for row in records.read(folder / "steps.jsonl").rows}.items())]


def weights(folder: Path) -> dict[str, bytes]:
    """The files of the last checkpoint that hold weights."""
    last = checkpoints(folder)[-1]
    return {file.name: file.read_bytes() for file in (*last.glob("*.safetensors"), *last.glob("snapshot_*.pt"))}


@pytest.mark.parametrize(
    ("plug", "options"), [*MOVING[:1], *(pytest.param(*row, marks=pytest.mark.slow) for row in MOVING[1:])], ids=str
)
def test_stopped_and_resumed_is_never_stopped(
    tiny_directory: Path, tmp_path: Path, plug: str, options: dict[str, Any]
) -> None:
    calm = finished(run(tiny_directory, tmp_path / "calm", plug, options))
    for after in (3, 5):  # checkpoints stand at 2 and 4
        stopped = interrupted(run(tiny_directory, tmp_path / f"run {after}", plug, options), after)
        resumed = finished(stopped)
        assert steps(resumed) == steps(calm)
        assert weights(resumed) == weights(calm)
        assert (resumed / "rows.jsonl").read_bytes() == (calm / "rows.jsonl").read_bytes()


def test_a_copy_at_every_step_is_the_policy_itself(tiny_directory: Path, tmp_path: Path) -> None:
    copied = {"teacher": "ema", "teacher_decay": 0.0, "teacher_every": 1}
    for plug in ("opsd:OPSD", "hsd:HSD"):
        one = finished(run(tiny_directory, tmp_path / plug / "copy", plug, copied))
        other = finished(run(tiny_directory, tmp_path / plug / "current", plug, {"teacher": "current"}))
        assert steps(one) == steps(other)
        assert weights(one)["model.safetensors"] == weights(other)["model.safetensors"]
        assert weights(one).keys() - weights(other).keys() == {"snapshot_teacher.pt"}


def test_a_frozen_teacher_a_late_copy_and_the_policy_part_when_they_must(tiny_directory: Path, tmp_path: Path) -> None:
    """All three agree while the weights are those of the start: at step 0, and the copy of every third step with the
    frozen one up to step 2."""
    kinds: dict[str, dict[str, Any]] = {
        "current": {"teacher": "current"},
        "initial": {"teacher": "initial"},
        "third": {"teacher": "ema", "teacher_decay": 0.0, "teacher_every": 3},
    }
    rows = {
        name: [row["loss/total"] for row in steps(finished(run(tiny_directory, tmp_path / name, "opsd:OPSD", kind)))]
        for name, kind in kinds.items()
    }
    assert rows["current"][0] == rows["initial"][0] == rows["third"][0]
    assert rows["current"][1] != rows["initial"][1]
    assert rows["third"][:3] == rows["initial"][:3]
    assert rows["third"][3] != rows["initial"][3]


def test_a_refreshed_reference_holds_nothing_at_the_step_it_is_refreshed(tiny_directory: Path, tmp_path: Path) -> None:
    """k3 is 0 where policy and reference have the same weights: always with a refresh after every step, at 0 and 3 of
    every third, and only at step 0 without one."""
    held = {}
    for every in (0, 1, 3):
        options = {"kl": 0.1, "reference_every": every}
        rows = steps(finished(run(tiny_directory, tmp_path / str(every), "hsd:HSD", options)))
        held[every] = [row["step"] for row in rows if row["loss/anchor"] > 1e-9]  # float32, batches of another shape
    assert held == {0: [1, 2, 3, 4, 5], 1: [], 3: [1, 2, 4, 5]}


def test_where_nobody_asks_there_is_no_snapshot(tiny_directory: Path, tmp_path: Path) -> None:
    for plug, options in (("grpo:GRPO", {"kl": 0.1}), ("opsd:OPSD", {}), ("hsd:HSD", {})):
        folder = finished(run(tiny_directory, tmp_path / plug, plug, options))
        assert set(weights(folder)) == {"model.safetensors"}


def test_a_step_in_which_everything_failed_counts_as_one(tiny_directory: Path, tmp_path: Path) -> None:
    """The teacher is taken over after the third step, also where that step had no groups."""
    environment = {"id": "odd_environments:Faulty-v0", "options": {"fault": "raises", "at": "reset"}}
    row = {
        "label": "o",
        "plug": "agents.methods.opsd:OPSD",
        "options": {"teacher": "ema", "teacher_decay": 0.0, "teacher_every": 3},
    }
    changes: dict[str, Any] = {**GUESS, "environment": environment, "methods": [row], "budget": {"steps": 3}}
    folder = finished(job(small(**changes), tiny_directory, tmp_path / "run"))
    assert json.loads((folder / "done.json").read_text())["optimiser_steps"] == 0
    assert "snapshot_teacher.pt" in weights(folder)
