"""What commands about experiments share: running one, and saying how it stands."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.screen import console, line
from harness.cli.where import Where
from harness.core.errors import DamagedRecordError, HarnessError, UserError
from harness.core.words import shown

if TYPE_CHECKING:
    from harness.experiment import Experiment
    from harness.protocols.backend import Start
    from harness.runs.plan import Job
    from harness.tables.agreement import Agreement
    from harness.tables.grid import Printed
    from harness.tables.table import Table


def run_experiment(
    experiment: Experiment, out: Path, runs: Path, cache: Path, where: Where, allow_missing: bool
) -> Table:
    """Do what is missing of an experiment and write its results folder; returns its table."""
    from harness.executors.work import make_starts, run_all
    from harness.report.folder import write_results
    from harness.runs.plan import check_plugs, plan

    check_plugs(experiment)
    executor = where.make(experiment, runs)
    starts = make_starts(experiment, cache, executor, console)
    print_starts(starts)
    jobs = plan(experiment, starts, runs)
    waiting = sum(not job.done for job in jobs)
    line(f"{len(jobs)} runs, {len(jobs) - waiting} of them finished before")
    with alone_with(jobs) if waiting else contextlib.nullcontext():
        failed = run_all(jobs, executor, console)
    for job, why in failed:
        line(f"[red]failed[/red]: {shown(job.name)}: {shown(why)}")
    if failed and not allow_missing:
        raise HarnessError(
            f"{len(failed)} of {len(jobs)} runs failed, as said above; the others are kept, and the same command tries "
            "again"
        )
    return write_results(experiment, jobs, starts, out, allow_missing)


def alone_with(jobs: Sequence[Job]) -> contextlib.AbstractContextManager[None]:
    """Be the one command that works on these runs; it is said where another one is waited for. Two commands that took
    runs from each other would both fail."""
    from harness.evaluation.evaluate import alone

    waits = "another command is working on these runs: this one waits, and does what is left then"
    return alone(jobs[0].folder.parent / ".lock", line, waits)


def refuse_damage(tables: Iterable[Table], allow_missing: bool = False) -> None:
    """DamagedRecordError, once tables of what is whole have been printed, with what to do about the rest; nothing
    where damage was allowed."""
    remedies = [table.remedy for table in tables if table.damaged]
    if remedies and not allow_missing:
        raise DamagedRecordError("; ".join(remedies))


def agreement(recorded: Path, table: Table) -> Sequence[Agreement]:
    """How a table stands beside the one recorded in a folder; nothing where nothing is recorded."""
    from harness.report.folder import RUNS, build_table, read_records
    from harness.report.search import experiment_of
    from harness.tables.agreement import agreements

    if not (recorded / RUNS).is_file():
        return ()
    return agreements(build_table(experiment_of(recorded), read_records(recorded)), table)


def printed_agreement(found: Sequence[Agreement]) -> list[Printed]:
    """The same, to be printed."""
    from harness.report.agreement import agreement_grid, verdict_line

    return [agreement_grid(found), verdict_line(found)] if found else []


def print_starts(starts: Mapping[int, Start]) -> None:
    """A line for every start and, indented, one for every context that a teacher will read."""
    for seeds, start in _by_start(starts):
        measured = start.measured
        if not measured:
            continue
        line(
            f"start of {seeds}: {measured['sampled']:.2f} sampled, {measured['greedy']:.2f} greedy success on "
            f"{measured['tasks']} {measured['split']} tasks"
        )
        for known in measured["contexts"].values():
            if known["adds"] is None:
                line(f"  conditioned on {shown(known['name'])}: not measured, it has nothing to say on these tasks")
                continue
            verdict = "  [yellow]teacher adds nothing[/yellow]" if known["teacher_adds_nothing"] else ""
            line(f"  conditioned on {shown(known['name'])}: {known['sampled']:.2f} ({known['adds']:+.2f}){verdict}")


def _by_start(starts: Mapping[int, Start]) -> Iterator[tuple[str, Start]]:
    """The starts, each with the words for its seeds."""
    seeds: dict[str, list[int]] = {}
    for seed, start in starts.items():
        seeds.setdefault(start.checkpoint_hash, []).append(seed)
    for of_start in seeds.values():
        yield f"seed{'s' if len(of_start) > 1 else ''} {', '.join(map(str, of_start))}", starts[of_start[0]]


def numbers(text: str) -> tuple[int, ...]:
    """Seeds as people write them: "0,1,5-7"."""
    ranges = [re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()) for part in text.split(",")]
    if None in ranges:
        raise UserError(f"seeds are whole numbers from 0 up, such as 0,1,2 or 0-2; got {text!r}")
    pairs = [(int(found[1]), int(found[2] or found[1])) for found in ranges if found is not None]
    return tuple(dict.fromkeys(seed for first, last in pairs for seed in range(first, last + 1)))
