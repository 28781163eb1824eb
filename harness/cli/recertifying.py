"""The command that keeps records believable while the code moves: recertify."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import CacheFolder, Json, Runs, Workers
from harness.cli.screen import console, line, only_json, print_json
from harness.cli.where import Where
from harness.core.errors import DamagedRecordError, HarnessError, MissingDataError
from harness.core.words import shown

if TYPE_CHECKING:
    from harness.executors.work import Executor
    from harness.report.recertify import Recorded
    from harness.runs.beginning import Compared, Difference
    from harness.runs.plan import Job

MOST = 5
"""Differences of a row that are printed."""


def recertify(
    folders: Annotated[list[Path], typer.Argument(help="Results folders, or folders of them.")],
    seed: Annotated[
        int | None, typer.Option(min=0, help="The seed that is repeated (default: the spec's first).")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=0, help="Training steps that are repeated (0: up to the first evaluation after step 0).")
    ] = 0,
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Have the code of today repeat the beginning of every row of a historical record, under one seed.

    Where all of it is byte for byte what was recorded, certified.json in the folder says so, and `harness tables`
    prints that in place of "historical". Where anything differs it is named, nothing is written, and the exit code is
    1. Records that are current, and those that are certified already, are left alone. A call that was stopped begins
    again, but for its starts.

    Example: harness recertify results/full/bifurcation --steps 20
    """
    from harness.report.folder import RUNS

    found = sorted({file.parent for folder in folders for file in folder.rglob(RUNS)})
    if not found:
        raise MissingDataError(f"no records below {', '.join(map(str, folders))}")
    certified = {}
    with only_json(as_json):
        for folder in found:
            try:
                certified[str(folder)] = _recertify(folder, seed, steps, runs, cache, workers)
            except HarnessError as error:
                if len(found) == 1:
                    raise
                certified[str(folder)] = False  # one that cannot be repeated here does not keep the others from it
                line(f"  [red]not repeated[/red]: {shown(error)}")
    if as_json:
        print_json(certified)
    if not all(certified.values()):
        raise typer.Exit(1)


def _recertify(folder: Path, seed: int | None, steps: int, runs: Path, cache: Path, workers: int) -> bool:
    """Whether a folder is current or certified now; what was done is printed."""
    from harness.report.certificate import CERTIFIED, write_certificate
    from harness.report.recertify import read_recorded

    recorded = read_recorded(folder)
    title = recorded.experiment.title or recorded.experiment.name
    line(f"[bold]{shown(title)}[/bold]  ({shown(folder)})")
    if recorded.historical is None:
        line("  current: the code beside it is the code that recorded it")
        return True
    repeated = recorded.seed_of(seed)
    wanted = recorded.steps_of(steps, repeated)
    if _stands(recorded, repeated, wanted):
        line(f"  certified already: seed {repeated} up to step {wanted}")
        return True
    began = time.monotonic()
    line(f"  seed {repeated} of every row is repeated up to step {wanted}")
    runs.mkdir(parents=True, exist_ok=True)
    executor = Where(workers=workers).make(recorded.experiment, runs)
    with tempfile.TemporaryDirectory(prefix=".recertify-", dir=runs) as scratch:
        jobs, early = _jobs(recorded, repeated, Path(scratch), cache, executor)
        compared = {} if early else _compared(recorded, jobs, wanted, executor)
    if early or any(of_row.differences for of_row in compared.values()):
        _print_differences(recorded, early, compared)
        return False
    against = recorded.files
    held = {label: of_row.held for label, of_row in compared.items()}
    write_certificate(folder, recorded.found.runs, jobs[0].sources, repeated, wanted, held, against)
    seconds = time.monotonic() - began
    line(f"  all {len(compared)} rows are byte for byte what was recorded  ({seconds:,.0f} s)")
    line(f"  written: {shown(folder / CERTIFIED)}   print the table anew with: harness tables {shown(folder)}")
    return True


def _stands(recorded: Recorded, seed: int, steps: int) -> bool:
    """Whether the folder holds a certificate for the code of today that says as much."""
    from harness.report.certificate import certified_by, read_certificate

    try:
        standing = certified_by(read_certificate(recorded.folder), recorded.found.runs)
    except DamagedRecordError:
        return False  # it is made anew
    return standing is not None and standing.seed == seed and standing.steps >= steps


def _jobs(
    recorded: Recorded, seed: int, scratch: Path, cache: Path, executor: Executor
) -> tuple[list[Job], list[Difference]]:
    """The runs to be repeated; and in what they differ from the recorded ones before anything is trained."""
    from harness.executors.work import make_starts
    from harness.runs.beginning import Beginning, compare, compare_facts, start_facts
    from harness.runs.plan import check_plugs, plan

    experiment = recorded.experiment.model_copy(update={"seeds": (seed,)})
    check_plugs(experiment)
    starts = make_starts(experiment, cache, executor, console)
    there = {run["method"] for run in recorded.found.runs if run["seed"] == seed}
    jobs = [job for job in plan(experiment, starts, scratch) if job.role != "baseline" or job.method.label in there]
    early = compare_facts(recorded.found.runs[0]["matched"], jobs[0].matched)
    start = recorded.beginning(jobs[0].method.label, seed, 0).start
    return jobs, early + compare(Beginning(start), Beginning(start_facts(starts[seed]))).differences


def _compared(recorded: Recorded, jobs: Sequence[Job], steps: int, executor: Executor) -> dict[str, Compared]:
    """How every row's repetition stands beside the record, by label. HarnessError where one could not be made."""
    from harness.executors.work import repeat_beginnings
    from harness.runs.beginning import compare

    found = {}
    for job, outcome in zip(jobs, repeat_beginnings(jobs, steps, executor, console), strict=True):
        if isinstance(outcome, Exception):
            raise HarnessError(f"{job.name} could not be repeated: {type(outcome).__name__}: {outcome}")
        label = job.method.label
        found[label] = compare(recorded.beginning(label, job.seed, steps), outcome)
    return found


def _print_differences(recorded: Recorded, early: Sequence[Difference], compared: dict[str, Compared]) -> None:
    for difference in early:
        line(f"  [red]differs[/red]: {shown(difference)}")
    for label, of_row in compared.items():
        if not of_row.differences:
            line(f"  same: {shown(label)}")
            continue
        for difference in of_row.differences[:MOST]:
            line(f"  [red]differs[/red]: {shown(label)}: {shown(difference)}")
        if len(of_row.differences) > MOST:
            line(f"  [red]differs[/red]: {shown(label)}: and {len(of_row.differences) - MOST} values more")
    line("  nothing is written")
    elsewhere = recorded.elsewhere()
    if elsewhere:
        line(
            f"  {shown('; '.join(elsewhere))}. Another machine or version may give other last digits, and with them "
            f"other episodes, without a change of meaning: whether the results agree says "
            f"harness reproduce {shown(recorded.folder)}"
        )
