"""The command that says what an experiment will cost and find before it is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import CacheFolder, Json, Runs, Workers
from harness.cli.places import spec_files
from harness.cli.screen import console, line, only_json, print_json, progress
from harness.cli.where import default_workers
from harness.core.errors import UserError
from harness.core.words import shown

if TYPE_CHECKING:
    from harness.experiment import Experiment

EFFECTS = (0.05,)


def plan(
    specs: Annotated[list[Path], typer.Argument(help="Spec files, or folders in which every */spec.toml is meant.")],
    effect: Annotated[
        list[float] | None, typer.Option(help="A difference in success for which the seeds needed are asked.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Number of seeds (0: the spec's).")] = 0,
    measure: Annotated[
        bool, typer.Option("--measure", help="Play two steps of every row, to know tokens, calls and time.")
    ] = False,
    price: Annotated[
        float | None, typer.Option(min=0.0, help="Dollars that a call of another language model costs.")
    ] = None,
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Say what an experiment will cost, what will be refused of it and what differences it will find, before a budget
    is spent.

    Costs come from finished runs, from the records beside the spec or from steps that are measured now; variances from
    the records, or they are assumed. Of a paper's spec, what is still to be fetched is named, with the command that
    fetches it. The exit code is 1 where something would be refused.

    Example: harness plan results/laptop/reasoning-mini --effect 0.03
    """
    from harness.experiment import read_experiment

    if not all(0 < value < 1 for value in effect or ()):
        raise UserError(f"an effect is a difference in success between 0 and 1, got {min(effect or (), key=abs):g}")
    plans = []
    with only_json(as_json):
        for file in spec_files(specs):
            experiment = read_experiment(file)
            line(f"[bold]{shown(experiment.title or experiment.name)}[/bold]  ({shown(file)})")
            plans.append(_plan(experiment, file, effect, seeds, measure, price, runs, cache, workers))
    if as_json:
        print_json(plans)
    if any(found["refused"] for found in plans):
        raise typer.Exit(1)


def _plan(
    experiment: Experiment,
    file: Path,
    effect: Sequence[float] | None,
    seeds: int,
    measure: bool,
    price: float | None,
    runs: Path,
    cache: Path,
    workers: int,
) -> dict[str, Any]:
    """One spec's plan, printed, and as plain data."""
    from harness.core.errors import HarnessError
    from harness.report import costs
    from harness.report.folder import RUNS, build_table, read_records
    from harness.report.planning import planned, planning_grid
    from harness.report.terminal import print_grid

    if seeds:
        experiment = experiment.model_copy(update={"seeds": tuple(range(seeds))})
    missing = _missing(experiment, file.parent)
    refused = [*missing, *costs.refusals(experiment, environment=not missing)]
    there = None
    if not refused:
        try:
            there = costs.stock(experiment, runs, cache)
        except (HarnessError, OSError) as error:  # a model or data that is not here
            refused = [str(error)]
    data: dict[str, Any] = {"spec": str(file), "experiment": experiment.name, "refused": refused}
    if there is None:
        for sentence in refused:
            line(f"  [red]will be refused[/red]: {shown(sentence)}")
        return data
    records = read_records(file.parent) if (file.parent / RUNS).is_file() else None
    samples = costs.recorded_samples(experiment, records) | costs.recorded_samples(experiment, there.found)
    if measure:
        with progress() as show:
            samples |= costs.measured_samples(experiment, cache, show)
    rows = costs.costs(experiment, samples)
    recorded = None
    if records is not None:
        try:
            recorded = build_table(experiment, records, allow_missing=True)
        except HarnessError as error:  # records of an earlier spec: its variances are not this one's
            line(f"  [yellow]records beside it are not used for variances[/yellow]: {shown(error)}")
    effects = list(effect or [*EFFECTS, experiment.evaluation.margin])
    found = planned(experiment, recorded, effects)
    print_grid(costs.cost_grid(experiment, rows, there, workers or default_workers(experiment), price), console)
    print_grid(planning_grid(experiment, found), console)
    return data | {
        "rows": [dataclasses.asdict(row) for row in rows],
        "cached": {"starts": [there.starts, there.starts_wanted], "runs": [there.finished, len(there.jobs)]},
        "endpoints": [dataclasses.asdict(each) for each in found],
    }


def _missing(experiment: Experiment, folder: Path) -> list[str]:
    """What a paper's spec still needs, in words with the command that fetches it."""
    from harness.core.errors import MissingDataError
    from harness.runs.paper import PAPER, require_at_hand

    if not (folder / PAPER).is_file():
        return []
    try:
        require_at_hand(experiment, folder)
    except MissingDataError as error:
        return [str(error)]
    return []
