"""A record that later code repeats is not historical: its heading says what was repeated, for that code and those
records alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, RLOO, as_recorded_by, quiet, small

from harness.core import records
from harness.core.errors import DamagedRecordError, MissingDataError, UserError
from harness.core.sums import altered
from harness.experiment import write_spec
from harness.protocols.backend import Start
from harness.report import folder
from harness.report.certificate import CERTIFIED, certified_by, read_certificate, write_certificate
from harness.report.files import seal_results
from harness.report.grids import heading
from harness.report.recertify import HELD, read_recorded
from harness.report.search import experiment_of
from harness.runs.beginning import compare, read_beginning
from harness.runs.job import run_job
from harness.runs.plan import Job, plan
from harness.tables.table import Table

OLD = "0" * 16


@pytest.fixture(scope="module")
def made(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Job], Path]:
    """Finished runs of two methods under two seeds, and their results folder."""
    experiment = small(
        seeds=[0, 1],
        methods=[GRPO.model_dump(), RLOO.model_dump()],
        budget={"steps": 3},
        sampling={"group_size": 2, "prompts_per_step": 2},
        evaluation={"tasks": 3, "samples": 1, "curve_tasks": 2},
    )
    start = Start(tiny_directory, "a" * 64, {"sampled": 0.25, "contexts": {}})
    starts = dict.fromkeys(experiment.seeds, start)
    root = tmp_path_factory.mktemp("made")
    jobs = plan(experiment, starts, root / "runs")
    for job in jobs:
        run_job(job, quiet)
    write_spec(experiment, root / "out" / "spec.toml")
    folder.write_results(experiment, jobs, starts, root / "out")
    return jobs, root / "out"


@pytest.fixture
def old(made: Any, tmp_path: Path) -> Path:
    """The folder as other code would have recorded it."""
    place = tmp_path / "old"
    shutil.copytree(made[1], place)
    as_recorded_by(OLD, place)
    return place


def rewrite_points(place: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Points of the learning curve changed and sealed, as if they had been recorded so."""
    rows = records.read(place / folder.POINTS).strict()
    records.write_rows(place / folder.POINTS, map(change, rows), "curve")
    seal_results(place, [folder.POINTS])


def table_of(place: Path) -> Table:
    return folder.build_table(experiment_of(place), folder.read_records(place))


def certify(place: Path, jobs: list[Job], **counts: int) -> None:
    recorded = read_recorded(place)
    held = {"GRPO": counts or {"starts": 1, "points": 2, "steps": 2}, "RLOO": {"starts": 1, "points": 2, "steps": 2}}
    write_certificate(place, recorded.found.runs, jobs[0].sources, 0, 2, held, recorded.files)


def test_a_folder_keeps_the_first_steps_of_its_first_seed_as_they_were_logged(made: Any) -> None:
    """Up to the first evaluation: two of three steps, of seed 0 of both methods, bit for bit."""
    jobs, out = made
    kept = records.read(out / folder.FIRST_STEPS).strict()
    logs = {job.method.label: records.read(job.folder / "steps.jsonl").strict() for job in jobs if job.role == "method"}
    assert kept == [
        {"method": job.method.label, "seed": 0} | row
        for job in jobs
        if job.role == "method" and job.seed == 0
        for row in records.read(job.folder / "steps.jsonl").strict()[:2]
    ]
    assert len(kept) == 2 * len(logs) == 4
    assert altered(out) == {}


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_recorded_of_a_run_is_what_it_left(made: Any, old: Path, seed: int) -> None:
    """Of the first seed steps as they were logged, of the others within the range of all; a changed value is seen."""
    recorded = read_recorded(old)
    assert recorded.historical == OLD
    for job in (job for job in made[0] if job.seed == seed):
        repeated = replace(read_beginning(job, 2), rows=read_beginning(job, 2).rows if job.role != "method" else ())
        found = compare(recorded.beginning(job.method.label, seed, 2), repeated)
        assert found.differences == []
        if job.role == "method":
            how = "steps" if seed == 0 else "ranges"
            assert found.held == {"starts": 1, "points": 2, how: 2}
    rewrite_points(old, lambda row: row | {"generated_tokens": row["generated_tokens"] + (row["step"] == 2)})
    job = next(job for job in made[0] if (job.method.label, job.seed) == ("RLOO", seed))
    found = compare(read_recorded(old).beginning("RLOO", seed, 2), read_beginning(job, 2))
    assert [(difference.step, difference.what) for difference in found.differences] == [(2, "generated_tokens")]


def test_which_seeds_and_steps_can_be_repeated(old: Path) -> None:
    recorded = read_recorded(old)
    assert [recorded.seed_of(None), recorded.seed_of(1), recorded.steps_of(0, 0), recorded.steps_of(3, 1)] == [
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(UserError, match="holds no seed 7; it holds 0, 1"):
        recorded.seed_of(7)
    with pytest.raises(UserError, match=r"--steps says 9, the runs of .* have 3 steps"):
        recorded.steps_of(9, 0)
    missing = [row for row in recorded.first if row["method"] == "GRPO"]  # of one row, nothing after step 0
    bare = replace(recorded, points=[row for row in recorded.points if row["step"] == 0], first=missing)
    assert bare.steps_of(0, 0) == 3  # nothing of fewer steps could be compared
    with pytest.raises(UserError, match=r"nothing of the first 2 steps of seed 0 .* --steps 3"):
        bare.steps_of(2, 0)
    with pytest.raises(MissingDataError, match="no run of 'HSD' under seed 0"):
        recorded.beginning("HSD", 0, 2)


def test_the_heading_says_what_was_repeated_in_place_of_historical(made: Any, old: Path) -> None:
    table = table_of(old)
    assert table.historical == OLD
    assert heading(table)[0].startswith("A historical table")
    certify(old, made[0])
    table = folder.render(old)
    assert "- Recorded with code revision" in (old / "table.md").read_text()
    code = made[0][0].matched["code"]
    assert table.historical is None
    assert heading(table)[0] == (
        f"Recorded with code revision {OLD}; seed 0 of every row repeated with revision {code} up to step 2: byte for "
        "byte the same (the start, 4 points of learning curves, 4 training steps)."
    )
    assert altered(old) == {}
    written = records.read_json(old / CERTIFIED)
    assert set(written["records"]) == set(HELD)
    assert written["compared"] == {"starts": 2, "points": 4, "steps": 4}
    assert {"cpu", "cores"} <= set(written["provenance"]["machine"])
    assert "torch" in written["provenance"]["packages"]
    certify(old, made[0], starts=1, points=2, ranges=2)
    assert heading(table_of(old))[0].endswith("; 2 training steps lie within what all seeds recorded.")


def test_it_stands_for_that_code_and_those_records_alone(made: Any, old: Path) -> None:
    certify(old, made[0])
    certificate, runs = read_certificate(old), folder.read_records(old).runs
    assert certified_by(certificate, runs) is not None
    assert certified_by(certificate | {"code": OLD}, runs) is None
    assert certified_by(certificate | {"plugs": certificate["plugs"] | {GRPO.plug: OLD}}, runs) is None
    assert certified_by(certificate | {"plugs": {}}, runs) is None
    assert certified_by({}, runs) is None
    rewrite_points(old, lambda row: row | {"rollouts": row["rollouts"] + 1})
    assert read_certificate(old) == {}
    assert table_of(old).historical == OLD


def test_a_record_that_is_made_anew_has_no_certificate(made: Any, old: Path) -> None:
    certify(old, made[0])
    jobs = made[0]
    folder.write_results(read_recorded(old).experiment, jobs, {job.seed: job.start for job in jobs}, old)
    assert not (old / CERTIFIED).exists()
    assert altered(old) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda known: known | {"steps": 900}, "is not what was written.*harness recertify"),
        (lambda known: known | {"schema": 2}, "has schema 2, this version reads 1"),
        (lambda known: {key: known[key] for key in known if key != "records"}, "does not say: records"),
    ],
)
def test_a_certificate_that_was_edited_is_refused(made: Any, old: Path, change: Any, message: str) -> None:
    certify(old, made[0])
    records.write_json(old / CERTIFIED, change(records.read_json(old / CERTIFIED)))
    if "written" not in message:
        seal_results(old, [CERTIFIED])
    with pytest.raises(DamagedRecordError, match=message):
        folder.read_records(old)
    assert read_recorded(old).historical == OLD  # and can be made anew
