"""The command that says what an experiment will find before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.screen import console, line
from harness.core.words import shown


def plan(
    spec: Annotated[Path, typer.Argument(help="The experiment's spec.toml.")],
    effect: Annotated[
        list[float] | None, typer.Option(help="A difference in success for which the seeds needed are asked.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Number of seeds (0: the spec's).")] = 0,
) -> None:
    """Say what differences an experiment will find, and how many seeds a given one needs, before a budget is spent.

    Variances come from the records beside the spec, if there are any, and are assumed otherwise. Of a paper's
    spec, what is still to be fetched is named, with the command that fetches it.

    Example: harness plan results/laptop/reasoning-mini/spec.toml --effect 0.03
    """
    from harness.core.errors import UserError
    from harness.experiment import read_experiment
    from harness.report.folder import RUNS, build_table, read_records
    from harness.report.planning import planned, planning_grid
    from harness.report.terminal import print_grid
    from harness.runs.paper import PAPER, require_at_hand
    from harness.runs.plan import check_plugs

    experiment = read_experiment(spec)
    check_plugs(experiment)
    effects = effect or [0.05, experiment.evaluation.margin]
    if not all(0 < value < 1 for value in effects):
        raise UserError(f"an effect is a difference in success between 0 and 1, got {min(effects):g}")
    there = (spec.parent / RUNS).is_file()
    recorded = build_table(experiment, read_records(spec.parent), allow_missing=True) if there else None
    found = planned(experiment, recorded, effects, seeds or None)
    line(f"[bold]{shown(experiment.title or experiment.name)}[/bold]: {seeds or len(experiment.seeds)} seeds")
    print_grid(planning_grid(experiment, found, seeds or None), console)
    if (spec.parent / PAPER).is_file():
        require_at_hand(experiment, spec.parent)
