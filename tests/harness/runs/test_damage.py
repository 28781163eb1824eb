"""Every damaged, foreign or empty file of a run is named with what to do about it; the rest is used."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, quiet, small
from safetensors.numpy import load_file, save_file

from harness.core import records
from harness.core.errors import DamagedRecordError, HarnessError
from harness.core.sums import SUMS, altered, seal
from harness.experiment import write_spec
from harness.learning.checkpoints import checkpoints
from harness.learning.run import Stopped
from harness.protocols.backend import Start
from harness.report.folder import read_records, render, write_results
from harness.runs.job import run_job
from harness.runs.plan import Job, plan
from harness.runs.reading import read_run
from harness.runs.record import gather_records
from harness.runs.verify import verify

STEPS = 3


@pytest.fixture(scope="module")
def finished(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished experiment of one row and two seeds; tests copy what they damage."""
    root = tmp_path_factory.mktemp("damage")
    start = Start(tiny_directory, "0" * 64, {})
    experiment = small(seeds=[0, 1], methods=[GRPO.model_dump()], budget={"steps": STEPS, "checkpoint_every": 2})
    starts = dict.fromkeys(experiment.seeds, start)
    for job in plan(experiment, starts, root / "runs"):
        run_job(job, quiet)
    return experiment, starts, root


@pytest.fixture
def jobs(finished: Any, tmp_path: Path) -> dict[str, Job]:
    """The runs by name, in a copy that may be damaged."""
    experiment, starts, root = finished
    shutil.copytree(root / "runs", tmp_path / "runs")
    return {job.name: job for job in plan(experiment, starts, tmp_path / "runs")}


def edit_number(file: Path) -> None:
    """One number of one line is another, and the line still reads."""
    lines = file.read_text().splitlines()
    row = json.loads(lines[2])
    key = next(name for name in ("success", "sampled", "reward", "wall_s") if isinstance(row.get(name), float))
    lines[2] = lines[2].replace(f'"{key}":{json.dumps(row[key])}', f'"{key}":{json.dumps(row[key] + 0.25)}')
    file.write_text("\n".join(lines) + "\n")


def garbage_line(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], b"\x00garbage\n", *lines[2:]]))


def lost_line(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], *lines[3:]]))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def gone(file: Path) -> None:
    file.unlink()


def bare(file: Path) -> None:
    file.write_text("{}\n")


def foreign(file: Path) -> None:
    """The file of the other seed, whole."""
    shutil.copy(Path(str(file).replace("seed0", "seed1")), file)


LINES = ("rows.jsonl", "steps.jsonl", "curve.jsonl", "timing.jsonl")
HARM: list[tuple[str, Callable[[Path], None]]] = [
    *((name, harm) for name in LINES for harm in (edit_number, garbage_line, lost_line, cut, empty, gone, foreign)),
    *(("done.json", harm) for harm in (bare, empty, cut)),
    *(("run.json", harm) for harm in (bare, empty, cut, gone, foreign)),
    *(("episodes.jsonl.gz", harm) for harm in (cut, empty, gone, foreign)),
    *((SUMS, harm) for harm in (cut, empty)),
]


QUICK = {("rows.jsonl", edit_number), ("steps.jsonl", lost_line), ("curve.jsonl", foreign), ("episodes.jsonl.gz", cut)}
QUICK |= {("done.json", bare), ("done.json", empty), ("run.json", foreign), (SUMS, empty)}


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        pytest.param(*case, id=f"{case[0]}-{case[1].__name__}", marks=[] if case in QUICK else [pytest.mark.slow])
        for case in HARM
    ],
)
def test_damage_of_a_finished_run_is_named_and_the_rest_is_used(
    finished: Any, jobs: dict[str, Job], name: str, harm: Callable[[Path], None]
) -> None:
    experiment, starts, root = finished
    hurt = jobs["GRPO, seed 0"]
    whole = gather_records(plan(experiment, starts, root / "runs"))
    harm(hurt.folder / name)
    with pytest.raises(DamagedRecordError, match=rf"{name}.*; remove .*GRPO|{name}.*; remove .*grpo") as caught:
        gather_records(list(jobs.values()))
    assert str(caught.value).count("\n") == 0
    found = gather_records(list(jobs.values()), allow_missing=True)
    assert any(name in where for where in found.damaged)
    others = [row for row in whole.rows if (row["method"], row["seed"]) != ("GRPO", 0)]
    assert [row for row in found.rows if (row["method"], row["seed"]) != ("GRPO", 0)] == others
    if name not in ("rows.jsonl", "done.json") and (name, harm) != ("run.json", foreign):
        assert found.rows == whole.rows
    assert any(not one.whole and name in " ".join(one.problems) for one in verify(hurt.folder))


def test_a_tables_heading_says_what_is_damaged_and_so_does_its_record(
    finished: Any, jobs: dict[str, Job], tmp_path: Path
) -> None:
    experiment, starts, _ = finished
    edit_number(jobs["GRPO, seed 1"].folder / "rows.jsonl")
    bare(jobs["GRPO, seed 0"].folder / "done.json")
    write_spec(experiment, tmp_path / "out" / "spec.toml")
    table = write_results(experiment, list(jobs.values()), starts, tmp_path / "out")
    assert len(table.damaged) == 2
    for file in ("table.md", "table.tex", "table.html"):
        said = (tmp_path / "out" / file).read_text()
        assert "DAMAGED, left out" in said
        assert "it is not what was written" in said
        assert str(tmp_path) not in said
    assert "; remove " in table.remedy
    assert render(tmp_path / "out").damaged == table.damaged


def test_a_damaged_run_is_mended_as_its_message_says(finished: Any, jobs: dict[str, Job]) -> None:
    experiment, starts, root = finished
    whole = gather_records(plan(experiment, starts, root / "runs"))
    evaluated, logged = jobs["GRPO, seed 0"], jobs["GRPO, seed 1"]
    edit_number(evaluated.folder / "rows.jsonl")
    garbage_line(logged.folder / "steps.jsonl")
    assert f"remove {evaluated.folder}/done.json and run" in read_run(evaluated).remedy
    (evaluated.folder / "done.json").unlink()
    assert f"remove {logged.folder} and run" in read_run(logged).remedy
    shutil.rmtree(logged.folder)
    for job in (evaluated, logged):
        run_job(job, quiet)
    mended = gather_records(list(jobs.values()))
    assert (mended.runs, mended.rows, mended.points) == (whole.runs, whole.rows, whole.points)


# ---------------------------------------------------------------- checkpoints


def stopped(job: Job, after: int = 2) -> None:
    """A run that was asked to stop after so many steps."""
    steps = iter(range(1, STEPS + 1))
    with pytest.raises(Stopped, match=f"stopped after step {after} of {STEPS}"):
        run_job(job, quiet, lambda: next(steps) == after)


@pytest.fixture(scope="module")
def stopped_halfway(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two seeds, stopped after their second step."""
    experiment, starts, _ = finished
    root = tmp_path_factory.mktemp("halfway") / "halves"
    for job in plan(experiment, starts, root):
        if job.role == "method":
            stopped(job)
    return root


@pytest.fixture
def halves(finished: Any, stopped_halfway: Path, tmp_path: Path) -> tuple[Job, Job]:
    """The same two runs, in a copy that may be damaged."""
    experiment, starts, _ = finished
    shutil.copytree(stopped_halfway, tmp_path / "halves")
    first, second = (job for job in plan(experiment, starts, tmp_path / "halves") if job.role == "method")
    return first, second


def negated(checkpoint: Path, _: Path) -> None:
    file = checkpoint / "model.safetensors"
    save_file({name: -value for name, value in load_file(file).items()}, file, {"format": "pt"})


def of_another_seed(checkpoint: Path, other: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(other, checkpoint)


def of_another_step(checkpoint: Path, _: Path) -> None:
    checkpoint.rename(checkpoint.with_name("checkpoint-000003"))


def without_state(checkpoint: Path, _: Path) -> None:
    (checkpoint / "run_state.json").write_bytes(b"")


def unsealed(checkpoint: Path, _: Path) -> None:
    (checkpoint / SUMS).unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (negated, r"model\.safetensors is not what was written"),
        (of_another_seed, r"was written by another run \(experiment small, method grpo, seed 1, .*seed 0"),
        (of_another_step, "is the checkpoint of step 2 under another name"),
        (without_state, r"run_state\.json is empty"),
        (unsealed, f"has no {SUMS}"),
    ],
)
def test_a_checkpoint_that_is_not_the_runs_own_is_refused(
    halves: tuple[Job, Job], harm: Callable[[Path, Path], None], said: str
) -> None:
    job, other = halves
    [checkpoint], [theirs] = checkpoints(job.folder), checkpoints(other.folder)
    harm(checkpoint, theirs)
    with pytest.raises(DamagedRecordError, match=said) as caught:
        run_job(job, quiet)
    assert "; remove " in str(caught.value)
    assert not job.done
    assert any(not one.whole for one in verify(job.folder))


def test_a_run_in_anothers_folder_is_refused(halves: tuple[Job, Job]) -> None:
    job, other = halves
    with pytest.raises(DamagedRecordError, match=r"run\.json is of another run .*seed 1.*seed 0.*remove .* anew"):
        run_job(replace(job, folder=other.folder), quiet)
    (job.folder / "run.json").write_bytes(b"")
    with pytest.raises(DamagedRecordError, match=r"run\.json is empty; remove"):
        run_job(job, quiet)


def test_a_lock_that_is_a_folder_is_said(halves: tuple[Job, Job]) -> None:
    job, _ = halves
    (job.folder / ".lock").unlink(missing_ok=True)
    (job.folder / ".lock").mkdir()
    with pytest.raises(HarnessError, match=r"\.lock is a folder where a lock file belongs; remove it"):
        run_job(job, quiet)
    assert "is a folder" in verify(job.folder)[0].problems[0]


def test_a_stopped_run_goes_on_to_the_same_bytes(finished: Any, halves: tuple[Job, Job], tmp_path: Path) -> None:
    root = finished[2]
    for job in halves:
        run_job(job, quiet)
        calm = root / "runs" / job.folder.relative_to(tmp_path / "halves")
        for name in (*LINES[:3], "episodes.jsonl.gz", "done.json"):
            assert (job.folder / name).read_bytes() == (calm / name).read_bytes(), name
        assert (altered(job.folder), [one.whole for one in verify(job.folder)]) == ({}, [True, True])


# ---------------------------------------------------------------- single bytes


def noticed(place: Path, file: Path, rng: random.Random, flips: int) -> None:
    """So many single bytes of a file, each changed alone: each is noticed where the file is read.

    The first two by a check of the whole place, the others of a file that has a checksum by that of the file alone.
    """
    whole = file.read_bytes()
    name = file.relative_to(place).as_posix()
    has_checksum = file.name != SUMS and altered(place, [name]) == {}
    for number in range(flips):
        at, other = rng.randrange(len(whole)), rng.randrange(1, 256)
        file.write_bytes(whole[:at] + bytes([whole[at] ^ other]) + whole[at + 1 :])
        if has_checksum and number >= 2:
            found = bool(altered(place, [name]))
        else:
            found = any(not one.whole for one in verify(place))
        assert found, (file.name, at, whole[at], whole[at] ^ other)
    file.write_bytes(whole)
    assert all(one.whole for one in verify(place))


def kinds(finished: Any, out: Path) -> list[tuple[Path, Path]]:
    """(where it is verified, file) of every kind of file that is recorded."""
    experiment, starts, root = finished
    jobs = plan(experiment, starts, out / "runs")
    shutil.copytree(root / "runs", out / "runs")
    write_results(experiment, jobs, starts, out / "results")
    folder = next(job.folder for job in jobs if job.role == "method")
    growing = out / "evaluation" / "episodes.jsonl"
    records.append(growing, [{"task_id": "t", "reward": 0.5, "messages": ["ü", 1]} for _ in range(3)], kind="episodes")
    [checkpoint] = checkpoints(folder)
    places = [(folder, file) for file in folder.iterdir() if file.is_file() and file.name != ".lock"]
    places += [(checkpoint, file) for file in checkpoint.iterdir()]
    places += [(out / "results", file) for file in (out / "results").rglob("*") if file.is_file()]
    return [*places, (growing, growing)]


@pytest.mark.parametrize("flips", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_single_bytes_that_change_are_noticed(finished: Any, tmp_path: Path, flips: int) -> None:
    rng = random.Random(flips)
    places = kinds(finished, tmp_path)
    assert len(places) > 25
    for place, file in places:
        noticed(place, file, rng, flips)


# ---------------------------------------------------------------- results folders


def test_a_results_folder_that_was_edited_is_refused(finished: Any, jobs: dict[str, Job], tmp_path: Path) -> None:
    experiment, starts, _ = finished
    out = tmp_path / "out"
    write_spec(experiment, out / "spec.toml")
    write_results(experiment, list(jobs.values()), starts, out)
    whole = read_records(out)
    reading = records.read(out / "rows.jsonl.gz")
    shared = {key: value for key, value in reading.header.items() if key not in ("schema", "kind")}
    reading.rows[0]["success"] = 1.0 - reading.rows[0]["success"]
    before = (out / "rows.jsonl.gz").read_bytes()
    records.write_rows(out / "rows.jsonl.gz", reading.rows, "rows", **shared)
    with pytest.raises(DamagedRecordError, match=r"rows\.jsonl\.gz is not what was written.*harness bench"):
        read_records(out)
    with pytest.raises(DamagedRecordError):
        render(out)
    (out / "rows.jsonl.gz").write_bytes(before)
    (out / "table.md").write_text("# mine\n")
    render(out)  # renderings are made anew, and sealed anew
    assert altered(out) == {}
    (out / SUMS).unlink()  # as folders were before there were checksums
    assert read_records(out) == whole
    assert verify(out)[0].whole
    assert "has no SHA256SUMS" in verify(out)[0].notes[0]


def test_damage_is_never_sealed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "made").write_text("made")
    seal(tmp_path, ["kept", "made"])
    (tmp_path / "kept").write_text("hurt")
    (tmp_path / "made").write_text("anew")
    seal(tmp_path, ["kept", "made"], written=["made"])
    assert list(altered(tmp_path) or {}) == ["kept"]
