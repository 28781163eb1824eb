"""A search as runs: every trial recorded with its score, the winner's row beside the published one, in one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import GRPO, RLOO, quiet, small

from harness.core import records
from harness.core.errors import MissingDataError, UnmatchedError
from harness.experiment import Experiment, write_spec
from harness.protocols.backend import Start
from harness.report.folder import render, write_results
from harness.report.search import TRIALS, experiment_of, read_trials, search_grid, with_winners, write_trials
from harness.runs.job import run_job
from harness.runs.plan import plan
from harness.runs.record import describe
from harness.runs.search import score_of, trial_jobs, trial_rows
from harness.tables.search import chosen, tried


def experiment(**search: Any) -> Experiment:
    declared = {"space": {"lr": [1e-4, 3e-3]}, "trials": 2, "seeds": [100, 101], "steps": 2} | search
    environment = {"id": "environments:Guess-v0"}
    return small(environment=environment, seeds=[0, 1], budget={"steps": 2}, evaluation={"every": 1}, search=declared)


@pytest.fixture(scope="module")
def start(tiny_directory: Path) -> Start:
    return Start(tiny_directory, "0" * 64, {})


@pytest.fixture(scope="module")
def rows(start: Start, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The record of a finished search."""
    jobs = trial_jobs(experiment(), {100: start, 101: start}, tmp_path_factory.mktemp("search"))
    for job in jobs:
        run_job(job, quiet)
    return trial_rows(experiment(), jobs)


def test_every_trial_is_recorded_with_its_settings_and_score(rows: list[dict[str, Any]]) -> None:
    assert [(row["method"], row["trial"], row["seed"]) for row in rows] == [
        ("GRPO", trial, seed) for trial in (1, 2) for seed in (100, 101)
    ]
    assert {row["settings"]["optimiser.lr"] for row in rows} == {1e-4, 3e-3}
    assert all(0 <= row["score"] <= 1 for row in rows)


def test_trials_that_are_not_done_are_recorded_as_such(start: Start, tmp_path: Path) -> None:
    told = trial_rows(experiment(), trial_jobs(experiment(), {100: start, 101: start}, tmp_path))
    assert len(told) == 4
    assert all(row["score"] is None for row in told)


def test_scores_by_hand(tmp_path: Path) -> None:
    """Heights 0.2, 0.4, 0.8 at steps 0, 2, 3: (2 * 0.3 + 1 * 0.6) / 3 = 0.4. Rows: the mean of those that are known."""
    records.append(tmp_path / "curve.jsonl", [{"step": s, "sampled": h} for s, h in ((0, 0.2), (3, 0.8), (2, 0.4))])
    assert score_of(tmp_path, "area") == pytest.approx(0.4)
    found = [("sampled", 0.5), ("sampled", None), ("sampled", 1.0), ("greedy", 0.0)]
    records.append(tmp_path / "rows.jsonl", [{"decoding": d, "success": s} for d, s in found])
    assert score_of(tmp_path, "final") == pytest.approx(0.75)
    records.append(tmp_path / "curve.jsonl", [{"step": 4, "sampled": None}])
    assert np.isnan(score_of(tmp_path, "area"))


@pytest.mark.slow
def test_the_tuned_row_stands_beside_the_published_one(
    rows: list[dict[str, Any]], start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    write_trials(experiment(), rows, folder)
    write_spec(experiment(), folder / "spec.toml")
    expanded = experiment_of(folder)
    assert [method.label for method in expanded.methods] == ["GRPO", "GRPO, tuned"]
    starts = dict.fromkeys(expanded.seeds, start)
    jobs = plan(expanded, starts, tmp_path / "runs")
    for job in jobs:
        run_job(job, quiet)
    best = chosen(tried(rows)["GRPO"]).settings["optimiser.lr"]
    published, tuned = (describe(next(j for j in jobs if j.method.label == name)) for name in ("GRPO", "GRPO, tuned"))
    assert published["matched"] == tuned["matched"]
    assert published["settings"] == {"optimiser.lr": 3e-3}
    assert tuned["settings"] == {"optimiser.lr": best}
    assert f"settings of its own, not matched: optimiser.lr = {best:g}" in tuned["notes"]
    table = write_results(expanded, jobs, starts, folder)
    assert [row.run.method for row in table.rows][:3] == ["base", "GRPO", "GRPO, tuned"]
    said = (folder / "table.md").read_text()
    assert "settings of its own, not matched: optimiser.lr" in said
    assert "expected best score of k trials" in said
    assert (folder / "best-of-k.svg").is_file()
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".md", ".svg", ".csv")}
    render(folder)  # from its records alone
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_trials_of_another_search_choose_nothing(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    write_trials(experiment(), rows, tmp_path)
    assert read_trials(experiment(), tmp_path) == rows
    with pytest.raises(UnmatchedError, match="the record of another search than the spec declares"):
        read_trials(experiment(rule="final"), tmp_path)
    with pytest.raises(MissingDataError, match="harness tune"):
        read_trials(experiment(), tmp_path / "elsewhere")


def test_the_grid_names_what_won_and_the_best_of_k(rows: list[dict[str, Any]]) -> None:
    scores = [trial.score for trial in tried(rows)["GRPO"]]
    grid = search_grid(experiment(), rows)
    assert grid.header == ("Row", "Chosen", "k = 1", "k = 2")
    ((method, settings, one, two),) = grid.rows
    assert (method, settings.split(" = ")[0]) == ("GRPO", "optimiser.lr")
    assert (float(one), float(two)) == pytest.approx((np.mean(scores), max(scores)), abs=5e-4)
    assert "2 trials of every row on split dev, tuning seeds 100, 101" in grid.notes[0]


def test_own_settings_decide_the_folder_and_leave_the_others(start: Start, tmp_path: Path) -> None:
    def folders(*methods: dict[str, Any]) -> dict[str, Path]:
        jobs = plan(small(methods=list(methods)), {0: start}, tmp_path)
        return {job.method.label: job.folder for job in jobs}

    own = GRPO.model_dump() | {"label": "DAPO", "as_published": True, "loss": {"clip_high": 0.28}}
    plain = own | {"loss": {}}
    assert folders(own)["DAPO"] != folders(plain)["DAPO"]
    assert folders(RLOO.model_dump(), own)["RLOO"] == folders(RLOO.model_dump(), plain)["RLOO"]
    jobs = plan(small(methods=[own]), {0: start}, tmp_path)
    dapo = next(job for job in jobs if job.method.label == "DAPO")
    assert dapo.experiment.loss.clip_high == 0.28
    assert describe(dapo)["settings"] == {"loss.clip_high": 0.28}
    assert "settings" not in describe(replace(dapo, role="baseline"))
    assert json.dumps(describe(dapo))
    assert with_winners(experiment(), []).methods == experiment().methods
    assert TRIALS.endswith(".gz")
