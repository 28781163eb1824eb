"""A results folder is a function of the records of finished runs; damage and gaps are named."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, RLOO, quiet, small

from harness import ROOT
from harness.core.errors import DamagedRecordError, MissingDataError, UnknownNameError, UnmatchedError
from harness.experiment import Experiment
from harness.protocols.backend import Start
from harness.report.folder import read_records, write_results
from harness.rollout import evidence
from harness.runs.job import run_job
from harness.runs.plan import Job, check_plugs, plan
from harness.runs.record import gather_records, run_notes


@pytest.fixture
def start(tiny_directory: Path) -> Start:
    return Start(tiny_directory, "0" * 64, {})


def starts(experiment: Experiment, start: Start) -> dict[int, Start]:
    return dict.fromkeys(experiment.seeds, start)


def done(experiment: Experiment, start: Start, root: Path) -> list[Job]:
    jobs = plan(experiment, starts(experiment, start), root)
    for job in jobs:
        run_job(job, quiet)
    return jobs


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
        write_results(experiment, jobs, starts(experiment, start), tmp_path / name)
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


def test_a_row_that_is_gone_leaves_no_episodes(whole: Any, tmp_path: Path) -> None:
    experiment, jobs, start, _ = whole
    write_results(experiment, jobs, starts(experiment, start), tmp_path)
    (tmp_path / "episodes" / "rloo.jsonl.gz").rename(tmp_path / "episodes" / "of-before.jsonl.gz")
    write_results(experiment, jobs, starts(experiment, start), tmp_path)
    assert {file.name for file in (tmp_path / "episodes").iterdir()} == {"grpo.jsonl.gz", "rloo.jsonl.gz"}
    assert "of-before" not in (tmp_path / "SHA256SUMS").read_text()


def test_missing_seeds_are_refused_unless_allowed(whole: Any, tmp_path: Path) -> None:
    experiment, jobs, start, _ = whole
    some = [job for job in jobs if job.name != "RLOO, seed 1"]
    with pytest.raises(MissingDataError, match=r"RLOO: 1 of 2 seeds \(missing 1\)"):
        write_results(experiment, some, starts(experiment, start), tmp_path)
    assert not (tmp_path / "table.md").exists()
    write_results(experiment, some, starts(experiment, start), tmp_path, allow_missing=True)
    assert "INCOMPLETE: RLOO: 1 of 2 seeds (missing 1)" in (tmp_path / "table.md").read_text()


def test_a_row_is_not_turned_exploratory_after_its_result_is_known(whole: Any, tmp_path: Path) -> None:
    experiment, _, start, root = whole
    turned = small(
        seeds=[0, 1], methods=[GRPO.model_dump(), RLOO.model_dump() | {"exploratory": True}], budget={"steps": 2}
    )
    jobs = plan(turned, starts(experiment, start), root / "runs")
    assert all(job.done for job in jobs)  # the flag is no part of what decides a run
    with pytest.raises(
        UnmatchedError, match="RLOO was run as tested, the spec now says exploratory: a row is declared"
    ):
        write_results(turned, jobs, starts(experiment, start), tmp_path)
    every = starts(experiment, start)
    write_results(experiment, plan(experiment, every, root / "runs"), every, tmp_path)


def test_a_run_records_every_task_of_its_curve(whole: Any, tmp_path: Path) -> None:
    experiment, jobs, start, _ = whole
    points = gather_records(jobs).points
    assert {len(point["tasks"][decoding]) for point in points for decoding in ("sampled", "greedy")} == {4}
    for point in points:
        assert point["tasks"]["sampled"].count("1") / 4 == point["sampled"]
    table = write_results(experiment, jobs, starts(experiment, start), tmp_path)
    assert table.primary == "area"
    assert "## Area under the learning curve, sampled" in (tmp_path / "table.md").read_text()


def test_damaged_rows_are_named_and_the_rest_is_kept(whole: Any, tmp_path: Path) -> None:
    experiment, _, start, root = whole
    moved = tmp_path / "runs"
    subprocess.run(["cp", "-r", str(root / "runs"), str(moved)], check=True)
    jobs = plan(experiment, starts(experiment, start), moved)
    hurt = next(job for job in jobs if job.name == "RLOO, seed 1").folder / "rows.jsonl"
    lines = hurt.read_text().splitlines()
    lines[2] = lines[2][:20]
    hurt.write_text("\n".join(lines) + "\n")
    with pytest.raises(DamagedRecordError, match=r"rows\.jsonl, line 3: not a row") as caught:
        gather_records(jobs)
    assert str(hurt) in str(caught.value)
    rows = gather_records(jobs, allow_missing=True).rows
    assert len(rows) == len(gather_records(whole[1]).rows) - 1
    write_results(experiment, jobs, starts(experiment, start), tmp_path / "out", allow_missing=True)
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


def test_a_cut_vocabulary_becomes_a_note(whole: Any, start: Start, tmp_path: Path, monkeypatch: Any) -> None:
    """Once, though every step logs it; never where whole distributions were given."""
    monkeypatch.setattr(evidence, "WHOLE_VOCABULARY", 100)
    methods = [{"label": "HSD", "plug": "agents.methods.hsd:HSD"}]
    experiment = small(methods=methods, context="agents.contexts:Answer", budget={"steps": 2}, evaluation={"every": 0})
    (job,) = (job for job in done(experiment, start, tmp_path) if job.role == "method")
    assert [note for note in run_notes(job) if "entries" in note] == [
        "top 100 of 280 entries and their tail in place of whole distributions"
    ]
    assert not any("entries" in note for other in whole[1] for note in run_notes(other))


def test_what_failed_to_evaluate_is_in_no_mean(start: Start, tmp_path: Path) -> None:
    environment = {"id": "odd_environments:Faulty-v0", "options": {"fault": "raises"}}
    experiment = small(environment=environment, budget={"steps": 1}, evaluation={"every": 0})
    jobs = done(experiment, start, tmp_path)
    with pytest.raises(MissingDataError, match="tasks lack a result"):
        write_results(experiment, jobs, starts(experiment, start), tmp_path / "out")


def test_any_success_metric_may_be_named(start: Start, tmp_path: Path) -> None:
    """From the spec's names to the table's columns, over rows that hold what the metrics need."""
    pytest.importorskip("reasoning_gym")
    named = ["pass@2", "pass^2", "maj@2"]
    experiment = small(
        environment={"id": "environments:ReasoningMini-v0", "train_split": "train", "eval_split": "test"},
        evaluation={"tasks": 5, "samples": 3, "every": 0, "extra": named},
        budget={"steps": 1},
    )
    jobs = done(experiment, start, tmp_path / "runs")
    write_results(experiment, jobs, starts(experiment, start), tmp_path / "out")
    table = (tmp_path / "out" / "table.md").read_text()
    assert all(name in table for name in named)
    rows = [row for row in read_records(tmp_path / "out").rows if row["decoding"] == "sampled"]
    assert all(len(row["answers"]) == row["samples"] == 3 for row in rows)
    assert all([success for _, success in row["answers"]].count(True) == round(row["success"] * 3) for row in rows)
    with pytest.raises(UnknownNameError, match=r"unknown success metric 'pas@2'; did you mean 'pass@2'"):
        check_plugs(small(evaluation={"extra": ["pas@2"]}))
