"""Commands that come before a table: tune (a search of every row's settings) and headroom (could credit help here?)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import CacheFolder, Executor, Json, RayAddress, Runs, Slurm, Workers
from harness.cli.places import one_spec
from harness.cli.running import alone_with, numbers, refuse_damage, run_experiment
from harness.cli.screen import console, line, only_json, print_json
from harness.cli.where import Where
from harness.core.errors import HarnessError, UserError
from harness.core.words import shown

if TYPE_CHECKING:
    from harness.experiment import Experiment, MethodSettings

CONTROLS = ("upper", "lower")


def tune(
    spec: Annotated[Path, typer.Argument(help="A spec.toml that declares a \\[search].")],
    out: Annotated[
        Path | None, typer.Option(help="Where the record of the search is written (default: beside the spec).")
    ] = None,
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    workers: Workers = 0,
    executor: Executor = "local",
    ray_address: RayAddress = "",
    slurm: Slurm = "{}",
    as_json: Json = False,
) -> None:
    """Run the search that a spec declares, as many trials for every row, and record every trial.

    `bench` then runs a row "X, tuned" beside every row "X". A search that was stopped goes on.

    Example: harness tune my-experiment/spec.toml
    """
    from harness.experiment import read_experiment
    from harness.report.search import TRIALS, search_grid, write_trials
    from harness.report.terminal import print_grid

    file = one_spec(spec)
    experiment = read_experiment(file)
    with only_json(as_json):
        rows = search(experiment, runs, cache, Where.of(executor, workers, ray_address, slurm))
        folder = out or file.parent
        write_trials(experiment, rows, folder)
        print_grid(search_grid(experiment, rows), console)
        line(f"written: {shown(folder / TRIALS)}")
    if as_json:
        print_json({"written": str(folder / TRIALS), "trials": rows})


def headroom(
    spec: Annotated[Path, typer.Argument(help="The experiment's spec.toml.")],
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 0-9 (default: the spec's).")] = "",
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Could credit assignment help at all on these tasks and this budget? Asked before a budget is spent on methods.

    Runs the spec's first row without a teacher beside credit that is as good, and as bad, as it can be.

    Example: harness headroom results/laptop/reasoning-mini/spec.toml --seeds 0-4
    """
    from harness.experiment import fingerprint, parse_experiment, read_experiment
    from harness.report.delimited import lines
    from harness.report.terminal import terminal

    template = read_experiment(one_spec(spec))
    rows = (_plain_row(template), *(_control_row(template, kind) for kind in CONTROLS))
    changed: dict[str, Any] = {"methods": [row.model_dump() for row in rows], "search": None}
    changed["title"] = f"Headroom of {template.title or template.name}"
    if seeds:
        changed["seeds"] = numbers(seeds)
    experiment = parse_experiment(template.model_dump() | changed)
    decides = fingerprint(experiment.model_dump(mode="json", exclude={"title"}))[:8]
    out = runs / "headroom" / f"{experiment.name}-{decides}"
    with only_json(as_json):
        table = run_experiment(experiment, out, runs, cache, Where(workers=workers), False)
        terminal(table, console)
        line(f"written: {shown(out)}")
    if as_json:
        print_json({"written": str(out), "rows": lines(table)})
    refuse_damage([table])


def search(experiment: Experiment, runs: Path, cache: Path, where: Where) -> list[dict[str, Any]]:
    """Run the trials of an experiment's search, those that are finished apart; returns their record."""
    from harness.executors.work import make_starts, run_all
    from harness.experiment.search import tuning_experiment
    from harness.runs.plan import check_plugs
    from harness.runs.search import trial_jobs, trial_rows

    check_plugs(experiment)
    tuning = tuning_experiment(experiment)
    executor = where.make(experiment, runs)
    jobs = trial_jobs(experiment, make_starts(tuning, cache, executor, console), runs)
    waiting = sum(not job.done for job in jobs)
    line(f"{len(jobs)} trials, {len(jobs) - waiting} of them finished before")
    with alone_with(jobs) if waiting else contextlib.nullcontext():
        failed = run_all(jobs, executor, console)
    for job, why in failed:
        line(f"[red]failed[/red]: {shown(job.name)}: {shown(why)}")
    if failed:
        raise HarnessError(f"{len(failed)} of {len(jobs)} trials failed; the same command tries again")
    return trial_rows(experiment, jobs)


def searched(experiment: Experiment, recorded: Path, out: Path, runs: Path, cache: Path, where: Where) -> Experiment:
    """An experiment with the rows that its search adds: by the trials recorded beside its spec, or by running them.
    `out` holds their record afterwards."""
    from harness.report.search import TRIALS, read_trials, with_winners, write_trials

    if experiment.search is None:
        return experiment
    known = (recorded / TRIALS).is_file()
    rows = read_trials(experiment, recorded) if known else search(experiment, runs, cache, where)
    if not known or out != recorded:
        write_trials(experiment, rows, out)
    return with_winners(experiment, rows)


def _plain_row(experiment: Experiment) -> MethodSettings:
    """The first row of a spec whose method needs neither a teacher nor values: what credit is to beat."""
    from harness.protocols.method import make_method

    for row in experiment.methods:
        needs = make_method(row.plug, row.options).needs
        if needs.teacher == "none" and not needs.values and not row.exploratory:
            return row
    raise UserError(f"experiment {experiment.name!r} has no row without a teacher that others could be compared with")


def _control_row(experiment: Experiment, kind: str) -> MethodSettings:
    """The spec's own row that is this control, or the installed method that says so, as it comes."""
    from harness.core.catalogue import catalogue
    from harness.experiment import MethodSettings
    from harness.protocols.method import make_method

    installed = [MethodSettings(label=short, plug=plug) for short, plug in catalogue("methods").items()]
    for row in (*experiment.methods, *installed):
        if make_method(row.plug, row.options).describe().control == kind:
            return row
    raise UserError(f"no installed method is the {kind} control (its describe() says control = {kind!r})")
