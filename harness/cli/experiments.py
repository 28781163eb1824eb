"""Commands about experiments: bench, demo, compare, table, tables, fidelity."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import (
    AllowMissing,
    CacheFolder,
    Executor,
    Json,
    Processes,
    RayAddress,
    Runs,
    Slurm,
    Workers,
)
from harness.cli.places import existing, one_spec, places_of, spec_files
from harness.cli.report import write_report
from harness.cli.running import agreement, numbers, print_starts, printed_agreement, refuse_damage, run_experiment
from harness.cli.screen import console, line, only_json, print_json, progress
from harness.cli.search import searched
from harness.cli.where import Where, crew
from harness.core.errors import UnknownNameError, UserError
from harness.core.shipped import results
from harness.core.words import shown

if TYPE_CHECKING:
    from harness.experiment import Experiment
    from harness.runs.record import Records
    from harness.tables.grid import Printed
    from harness.tables.table import Table

DEMO = results() / "demo" / "spec.toml"
LAPTOP = results() / "laptop"
FORMS = ("terminal", "markdown", "latex", "csv", "html", "json")


def bench(
    specs: Annotated[list[Path], typer.Argument(help="Spec files, or folders in which every */spec.toml is meant.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where results are written, a folder for each spec (default: beside the specs)."),
    ] = None,
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    workers: Workers = 0,
    executor: Executor = "local",
    ray_address: RayAddress = "",
    slurm: Slurm = "{}",
    processes: Processes = 0,
    allow_missing: AllowMissing = False,
    as_json: Json = False,
) -> None:
    """Run experiments and write their tables: beside their specs, or under --out, compared with what is recorded there.

    Finished runs are not repeated, killed ones go on from their last checkpoint.

    Example: harness bench results/laptop/reasoning-mini/spec.toml --out runs/results
    """
    with crew(processes) as size:
        where = Where.of(executor, workers, ray_address, slurm, size)
        _bench(spec_files(specs), out, runs, cache, where, allow_missing, as_json)


def _bench(
    found: Sequence[Path], out: Path | None, runs: Path, cache: Path, where: Where, allow_missing: bool, as_json: bool
) -> None:
    from harness.cli.finished import Call
    from harness.core.fingerprint import slug
    from harness.experiment import read_experiment
    from harness.report.delimited import lines

    folders = places_of(found, out)
    experiments = [read_experiment(file) for file in found]
    asked = [*map(str, (*found, out, runs, cache)), vars(where) | {"slurm": dict(where.slurm)}, allow_missing]
    models = [Path(experiment.model.name) for experiment in experiments]
    call = Call(asked, found, folders, runs, [runs / slug(experiment.name) for experiment in experiments], models)
    if note := call.known():
        _say_again(note, as_json)
        return
    made: dict[Path, Table] = {}
    shown_again: list[Printed] = []
    with only_json(as_json):
        for number, (file, folder, experiment) in enumerate(zip(found, folders, experiments, strict=True), start=1):
            title = experiment.title or experiment.name
            line(f"[bold]{shown(title)}[/bold]  ({shown(file)}, {number} of {len(found)})")
            made[folder], parts = _benched(experiment, file, folder, runs, cache, where, allow_missing)
            shown_again += [*parts, f"written: {folder}/table.md, table.csv, rows.jsonl.gz, curves", ""]
            line(f"written: {shown(folder)}/table.md, table.csv, rows.jsonl.gz, curves\n")
        _write_indexes(found, out)
        recorded = {folder: file.parent for folder, file in zip(made, found, strict=True)}
        repeats = {folder: place for folder, place in recorded.items() if folder != place}
        page = write_report(list(recorded), None, runs, repeats)[0]
        line(f"report: {shown(page)}")
    written = [{"written": str(folder), "rows": lines(table)} for folder, table in made.items()]
    if as_json:
        print_json({"report": str(page), "experiments": written})
    refuse_damage(made.values(), allow_missing)
    if not allow_missing:
        call.note(page, shown_again, written)


def _say_again(note: dict[str, Any], as_json: bool) -> None:
    """What the same call printed, where nothing has changed since."""
    from harness.cli.finished import printed_of
    from harness.report.terminal import print_all

    if as_json:
        print_json({"report": note["report"], "experiments": note["experiments"]})
        return
    print_all(printed_of(note), console)
    line(f"report: {shown(note['report'])}")
    line("everything was there: no source, spec, run or result has changed since this was written")


def _benched(
    experiment: Experiment, file: Path, folder: Path, runs: Path, cache: Path, where: Where, allow_missing: bool
) -> tuple[Table, list[Printed]]:
    """Run one spec's experiment and write and print its table, beside what is recorded where that lies elsewhere.
    Returns it with what was printed."""
    from harness.core.records import write_whole
    from harness.report.terminal import print_all, printed
    from harness.runs.paper import PAPER, require_at_hand

    elsewhere = folder != file.parent
    if (file.parent / PAPER).is_file():
        require_at_hand(experiment, file.parent)
        if elsewhere:  # what its table quotes goes with it
            write_whole(folder / PAPER, (file.parent / PAPER).read_bytes())
    experiment = searched(where.over(experiment), file.parent, folder, runs, cache, where)
    table = run_experiment(experiment, folder, runs, cache, where, allow_missing)
    parts = [*printed(table), *(printed_agreement(agreement(file.parent, table)) if elsewhere else ())]
    print_all(parts, console)
    if elsewhere or not (folder / "spec.toml").is_file():  # a results folder names its experiment
        write_whole(folder / "spec.toml", file.read_bytes())
    return table, parts


def _write_indexes(found: Sequence[Path], out: Path | None) -> None:
    """What holds several specs' results together: tables of a family of specs, and the lists of tables."""
    from harness.report import index, scaling

    for family in sorted({file.parent.parent for file in found}):
        if (family / scaling.DECLARATION).is_file():
            line(f"written: {scaling.write_scaling(out or family, family)}")
    joined = {file.parent.parent for file in found} if out is None else {out}
    for folder in joined:
        if (folder / "README.md").is_file() or folder in (LAPTOP, out):
            index.write_index(folder, f"Results: {folder.name}")


def reproduce(
    folder: Annotated[Path, typer.Argument(help="A results folder: a spec, and the records of its runs.")],
    seeds: Annotated[
        str, typer.Option(help="Other seeds, and so other starts, e.g. 10-14 (default: the recorded ones).")
    ] = "",
    out: Annotated[Path, typer.Option(help="Where the repetition is written.")] = Path("runs/reproductions"),
    cache: CacheFolder = Path(".cache"),
    workers: Workers = 0,
    executor: Executor = "local",
    ray_address: RayAddress = "",
    slurm: Slurm = "{}",
    as_json: Json = False,
) -> None:
    """Run the experiment of a results folder anew, and say for every row whether the two tables agree.

    Runs of earlier calls of `bench` are not taken over; a repetition that was stopped goes on. With other seeds the
    two tables share neither starts nor runs, only tasks. The exit code is 1 where a row differs.

    Example: harness reproduce results/laptop/reasoning-mini --seeds 10-14
    """
    from harness.core.fingerprint import slug
    from harness.report.folder import RUNS, read_records
    from harness.report.search import experiment_of, read_trials, write_trials
    from harness.report.terminal import print_all

    where = Where.of(executor, workers, ray_address, slurm)
    existing(folder, "results folder")
    if not (folder / "spec.toml").is_file() or not (folder / RUNS).is_file():
        read_records(folder)  # says what is missing, and how to make it
        raise UserError(f"{folder} holds no spec.toml")
    experiment = experiment_of(folder)
    place = out / slug(experiment.name)
    if seeds:
        experiment = experiment.model_copy(update={"seeds": numbers(seeds)})
        place = out / f"{slug(experiment.name)}-seeds-{slug(seeds)}"
    if experiment.search is not None:  # its winners are taken over, the search is not run again
        write_trials(experiment, read_trials(experiment, folder), place)
    with only_json(as_json):
        table = run_experiment(experiment, place, place / "runs", cache, where, False)
        found = agreement(folder, table)
        print_all(printed_agreement(found), console)
    if as_json:
        print_json({"written": str(place), "rows": [row.plain() for row in found]})
    refuse_damage([table])
    if any(row.verdict == "differs" for row in found):
        raise typer.Exit(1)


def demo(
    runs: Runs = Path("runs"), cache: CacheFolder = Path(".cache"), workers: Workers = 0, as_json: Json = False
) -> None:
    """The main job in about two minutes on two idle cores: two methods, their table printed here.

    Example: harness demo
    """
    from harness.core.records import write_whole
    from harness.experiment import read_experiment
    from harness.report.delimited import lines
    from harness.report.terminal import terminal

    experiment = read_experiment(DEMO)
    out = runs / "demo-results"
    with only_json(as_json):
        line(f"[bold]{shown(experiment.title)}[/bold]")
        table = run_experiment(experiment, out, runs, cache, Where(workers=workers), False)
        write_whole(out / "spec.toml", DEMO.read_bytes())  # a results folder names its experiment
        terminal(table, console)
    refuse_damage([table])
    if as_json:
        print_json({"written": str(out), "rows": lines(table)})
        return
    line(f"Next: [bold]harness report {shown(out)}[/bold], the same as a page that explains itself.")


def table(
    spec: Annotated[Path, typer.Argument(help="The experiment's spec.toml.")],
    form: Annotated[str, typer.Option("--format", help="terminal, markdown, latex, csv, html or json.")] = "terminal",
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    allow_missing: AllowMissing = False,
    as_json: Json = False,
) -> None:
    """Print the table of an experiment at once: from its finished runs, or else from the records beside its spec.

    Nothing is run for it, and no row of the spec is left out in silence.

    Example: harness table results/demo/spec.toml --format markdown
    """
    from harness.experiment import read_experiment
    from harness.report import delimited, folder, html, latex, markdown
    from harness.report.search import read_trials, with_winners
    from harness.report.terminal import print_grid, terminal
    from harness.runs.plan import check_plugs

    if as_json and form not in ("terminal", "json"):
        raise UserError(f"--json and --format {form} ask for two forms; leave one of them out")
    form = "json" if as_json else form
    if form not in FORMS:
        raise UnknownNameError("format", form, FORMS)
    file = one_spec(spec)
    experiment = read_experiment(file)
    if experiment.search is not None:
        experiment = with_winners(experiment, read_trials(experiment, file.parent))
    check_plugs(experiment)
    found = _finished(experiment, file.parent, runs, cache)
    built = folder.build_table(experiment, found, allow_missing)
    quoted = folder.quoted(built, file.parent)
    if form == "terminal":
        terminal(built, console)
        for grid in quoted:
            print_grid(grid, console)
    elif form == "csv":
        sys.stdout.write(delimited.csv_text(built))
    elif form == "json":
        print_json(delimited.lines(built))
    else:
        written = {"markdown": markdown.markdown, "latex": latex.latex, "html": html.html_page}
        sys.stdout.write(written[form](built, quoted))
    refuse_damage([built], allow_missing)


def tables(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Results folders, or folders of them (default: every committed one).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write tables, plots and excerpts of results folders anew from the records they hold: the same bytes for the
    same records.

    Example: harness tables results/laptop
    """
    from harness.report import collection

    written = []
    for file in collection.render_all([existing(folder, "results folder") for folder in folders or [results()]]):
        written.append(str(file))
        if not as_json:
            line(f"written: {shown(file)}")
    if as_json:
        print_json({"written": written})


def fidelity(
    spec: Annotated[Path, typer.Argument(help="A spec.toml whose methods are measured.")],
    tasks: Annotated[int, typer.Option(min=0, help="Groups of siblings (0: the spec's prompts per step).")] = 0,
    rolls: Annotated[int, typer.Option(min=1, help="Re-rolls of every prefix, in each of two independent sets.")] = 64,
    seed: Annotated[int, typer.Option(help="Draws the tasks and everything sampled.")] = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Model directory of the policy (default: the spec's start).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where table and plots are written (default: beside the spec).")
    ] = None,
    cache: CacheFolder = Path(".cache"),
    as_json: Json = False,
) -> None:
    """Measure each method's credit of single tokens against their true value, by re-rolling.

    Example: harness fidelity results/fidelity/reasoning-mini/spec.toml
    """
    from harness.evaluation.fidelity.measure import measure
    from harness.experiment import read_experiment
    from harness.learning.warm_start import start_of
    from harness.report import fidelity as report
    from harness.report import fidelity_files

    spec = one_spec(spec)
    experiment = read_experiment(spec)
    folder = out or _fidelity_folder(spec)
    with only_json(as_json), progress() as show:
        start = start_of(experiment, cache, show, experiment.seeds[0])
        wanted = tasks or experiment.sampling.prompts_per_step
        measured = measure(experiment, start, wanted, rolls, seed, checkpoint, show)
    judged = fidelity_files.write(measured, folder)
    if as_json:
        print_json({"written": str(folder), "credits": report.lines(judged)})
        return
    print_starts({experiment.seeds[0]: start})
    for grid in report.terminal(judged):
        console.print(grid)
    for sentence in report.heading(judged):
        line(f"  {shown(sentence)}")
    line(f"written: {shown(folder)}/table.md, table.csv, episodes.jsonl.gz, fidelity and example plots")


# ---------------------------------------------------------------- shared


def _finished(experiment: Experiment, beside: Path, runs: Path, cache: Path) -> Records:
    """The records of an experiment's finished runs, or else those beside its spec. MissingDataError where there are
    neither, UnmatchedError where the records beside it are of other settings than the spec's."""
    from harness.core.errors import MissingDataError, UnmatchedError
    from harness.core.fingerprint import slug
    from harness.learning.warm_start import for_every_seed, start_seeds, starts_at_hand
    from harness.report.folder import RUNS, read_records
    from harness.runs.plan import plan
    from harness.runs.record import gather_records

    recorded = (beside / RUNS).is_file()
    wanted = start_seeds(experiment)
    if (runs / slug(experiment.name)).is_dir() or not recorded:
        made = starts_at_hand(experiment, cache, wanted)
        if set(made) == set(wanted):
            found = gather_records(plan(experiment, for_every_seed(experiment, made), runs), allow_missing=True)
            if found.runs or found.damaged:
                return found
        if not recorded:
            raise MissingDataError(
                f"nothing to make a table of: no run of {experiment.name!r} is finished in {runs}, and {beside} holds "
                f"no records; run it with: harness bench {beside}"
            )
    found = read_records(beside)
    known, spec = found.runs[0]["matched"] if found.runs else {}, experiment.matched_facts()
    changed = [name for name, value in spec.items() if name in known and known[name] != value and "backend" not in name]
    if changed:
        name = changed[0]
        raise UnmatchedError(
            f"the spec says {name} = {spec[name]!r}, the records beside it were made with {known[name]!r}; "
            f"run it again with: harness bench {beside}"
        )
    return found


def _fidelity_folder(spec: Path) -> Path:
    """Beside the spec, unless a table of runs stands there."""
    from harness.report.folder import RUNS

    return spec.parent / "fidelity" if (spec.parent / RUNS).is_file() else spec.parent
