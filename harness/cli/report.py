"""Commands for looking: report, which writes one page of everything, and view, which opens it on the loopback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.lists import PUBLISHED
from harness.cli.options import CacheFolder, Json, Runs
from harness.cli.places import existing, one_spec
from harness.cli.screen import line, only_json, print_json, progress

if TYPE_CHECKING:
    from harness.report.page.article import Article


def report(
    results: Annotated[list[Path], typer.Argument(help="Results folders, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option(help="The file (default: report.html in the folder that holds them all).")
    ] = None,
    beside: Annotated[
        Path | None, typer.Option(help="A recorded results folder that this one repeats: do the two tables agree?")
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Write a report: one HTML file with the decision in words, charts, tables, trajectories and provenance.

    It loads nothing and runs nothing: open it, send it, print it.

    Example: harness report results/laptop/bifurcation --out bifurcation.html
    """
    for folder in (*results, *([beside] if beside else [])):
        existing(folder, "results folder")
    file, articles = write_report(results, out, runs, dict.fromkeys(results, beside) if beside else {})
    if as_json:
        print_json({"written": str(file), "tables": [_plain(article) for article in articles]})
        return
    for article in articles:
        if article.decision:
            line(f"{_escaped(article.title)}: [bold]{_escaped(article.decision.headline)}[/bold]")
            line(f"  {_escaped(article.decision.use)}")
    line(f"written: {file}")


def write_report(
    results: Sequence[Path], out: Path | None, runs: Path, recorded: dict[Path, Path]
) -> tuple[Path, list[Article]]:
    """The page of these results folders, with the papers' figures where they are at hand."""
    from harness.report.page.write import write_page
    from harness.tables.published import parse

    entries = parse(PUBLISHED.read_text(encoding="utf-8")) if PUBLISHED.is_file() else []
    return write_page(results, out, runs, recorded, entries)


def trajectories(
    spec: Annotated[Path, typer.Argument(help="A spec.toml, or the results folder that holds it.")],
    tasks: Annotated[int, typer.Option(min=0, help="Groups of siblings (0: the spec's prompts per step).")] = 0,
    rolls: Annotated[
        int, typer.Option(min=0, help="Re-rolls of every prefix, for each token's truth (0: without).")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Draws the tasks and everything sampled.")] = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Model directory of the policy (default: the spec's start).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the record (default: beside the spec).")] = None,
    cache: CacheFolder = Path(".cache"),
    as_json: Json = False,
) -> None:
    """Play groups of siblings and record what every method of a spec says of every sampled token, for the report.

    Nothing is trained. A report of the folder shows them side by side.

    Example: harness trajectories results/laptop/bifurcation --tasks 16 --rolls 16
    """
    from harness.core.records import write_rows
    from harness.core.sums import SUMS
    from harness.evaluation.trajectories import play
    from harness.experiment import read_experiment
    from harness.learning.warm_start import start_of
    from harness.report.files import seal_results
    from harness.report.page.trajectories import TRAJECTORIES

    file = one_spec(spec)
    experiment = read_experiment(file)
    with only_json(as_json), progress() as show:
        start = start_of(experiment, cache, show, experiment.seeds[0])
        wanted = tasks or experiment.sampling.prompts_per_step
        played = play(experiment, start, wanted, rolls, seed, checkpoint, show)
    place = (out or file.parent) / TRAJECTORIES
    write_rows(place, played.episodes, "trajectories", facts=played.facts, methods=played.methods)
    if (place.parent / SUMS).is_file():
        seal_results(place.parent, [place.name])
    won = sum(row["success"] for row in played.episodes)
    if as_json:
        print_json({"written": str(place), "episodes": len(played.episodes), "solved": won, "methods": played.methods})
        return
    line(f"{len(played.episodes)} episodes, {won} of them solved, {len(played.methods)} methods: {place}")
    line(f"Next: [bold]harness report {_escaped(str(place.parent))}[/bold]")


def view(
    page: Annotated[Path, typer.Argument(help="A report's HTML file, or results to write one of first.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on the loopback (0: any free one).")] = 0,
    runs: Runs = Path("runs"),
) -> None:
    """Show a report in a browser, from this machine to this machine alone, until Ctrl-C.

    Example: harness view results/laptop/bifurcation
    """
    from harness.report.page.serve import page_server

    existing(page, "page or results folder")
    file = page if page.suffix == ".html" else write_report([page], None, runs, {})[0]
    with page_server(file, port) as server:
        line(f"{file}: http://127.0.0.1:{server.server_address[1]}/  (Ctrl-C to stop)")
        server.serve_forever()


def _plain(article: Article) -> dict[str, Any]:
    known = {"id": article.ident, "title": article.title}
    return known | (vars(article.decision) if article.decision else {})


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
