"""What a report page says of one results folder: everything is read from its records, nothing is measured again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.core import records
from harness.core.errors import HarnessError, MissingDataError, UnmatchedError
from harness.core.plugs import resolve
from harness.experiment import Experiment, MethodSettings, fingerprint
from harness.protocols.method import paper_of
from harness.report import fidelity, fidelity_files, folder
from harness.report.agreement import agreement_grid, verdict_line
from harness.report.beside import fidelity_places
from harness.report.fidelity_files import EPISODES, FACTS
from harness.report.grids import blocks, heading
from harness.report.page import charts, diagnostics, figures
from harness.report.page.decision import Decision, decide
from harness.report.page.figures import Bars, Forest, Panels
from harness.report.page.trajectories import TRAJECTORIES, Shown, of_fidelity, of_record
from harness.report.search import TRIALS, experiment_of, read_trials, search_grid
from harness.runs.paper import read_paper
from harness.runs.record import Records
from harness.runs.steps import logs_of_folder, step_summary
from harness.tables import published
from harness.tables.agreement import agreements
from harness.tables.grid import Grid
from harness.tables.table import Table

Row = Mapping[str, Any]
NO_STEPS = (
    "This record keeps no steps: it is older than their summary. Run it again with harness bench, or name the folder "
    "of its runs with --runs."
)
NO_TRAJECTORIES = (
    "No trajectories were played for this experiment. To play some, with every method's credit of every token: "
    "harness trajectories SPEC"
)
SECTIONS = {
    "differences": "Differences",
    "curves": "Learning curves",
    "trajectories": "Trajectories",
    "cost": "Cost",
    "diagnostics": "Diagnostics",
    "fidelity": "Credit fidelity",
    "tables": "Tables",
    "reproduction": "Reproduction",
    "excluded": "Left out",
    "provenance": "Provenance",
    "published": "Published",
}
"""Sections below the decision, by their place in a link, in their order."""


@dataclass(frozen=True)
class FidelityFigure:
    """One figure of credit fidelity: a strip for every credit."""

    caption: str
    axis: Markup
    rows: tuple[tuple[str, Markup, str], ...]


@dataclass(frozen=True)
class Fidelity:
    """Credit fidelity beside a table."""

    heading: tuple[str, ...]
    figures: tuple[FidelityFigure, ...]
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class Article:
    """Everything the page shows of one folder."""

    ident: str
    title: str
    decision: Decision | None
    success: str
    heading: tuple[str, ...]
    forests: tuple[Forest, ...] = ()
    curves: tuple[Panels, ...] = ()
    bars: tuple[Bars, ...] = ()
    alike: str = ""
    """What every row spent the same amount of."""
    glance: Grid | None = None
    diagnostics: tuple[diagnostics.OfMethod, ...] = ()
    no_diagnostics: str = ""
    fidelity: Fidelity | None = None
    trajectories: Shown | None = None
    no_trajectories: str = ""
    tables: tuple[Grid, ...] = ()
    reproduction: tuple[str, Grid] | None = None
    excluded: tuple[str, ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()
    published: Grid | None = None
    no_published: str = ""

    @property
    def sections(self) -> dict[str, str]:
        """Those that have something to show, or that say why they have not."""
        empty = {
            "differences": not self.forests,
            "curves": not self.curves,
            "cost": not self.bars and not self.alike,
            "diagnostics": not self.diagnostics and not self.no_diagnostics,
            "fidelity": self.fidelity is None,
            "trajectories": self.trajectories is None and not self.no_trajectories,
            "tables": not self.tables,
            "reproduction": self.reproduction is None,
            "excluded": self.decision is None,
            "published": self.published is None and not self.no_published,
        }
        return {place: name for place, name in SECTIONS.items() if not empty.get(place)}


def article_of(
    place: Path,
    ident: str,
    runs: Path | None = None,
    recorded: Path | None = None,
    entries: Sequence[published.Entry] = (),
) -> Article:
    """The article of a results folder, or of a fidelity measurement alone.

    ident: its name in links, its own on the page. runs: where runs are kept, for diagnostics that the folder lacks.
    recorded: a folder whose table this one repeats. entries: the papers' figures. MissingDataError where the folder
    holds no records.
    """
    if (place / folder.RUNS).is_file():
        return _of_results(place, ident, runs, recorded, entries)
    if (place / FACTS).is_file():
        return _of_fidelity(place, ident)
    raise MissingDataError(f"{place} holds no records: make them with: harness bench {place}")


def article_from(ident: str, title: str, table: Table, points: Sequence[Row], summary: Sequence[Row]) -> Article:
    """What a table, the points of its learning curves and the summary of its steps give: everything but what lies
    beside them in a folder."""
    decision = decide(table)
    bars, alike = figures.bars(table, ident)
    return Article(
        ident=ident,
        title=title,
        decision=decision,
        success=figures.success_line(table, decision.pick),
        heading=tuple(heading(table)),
        forests=tuple(figures.forests(table, ident)),
        curves=tuple(figures.curves(points, table, ident)),
        bars=tuple(bars),
        alike=alike,
        glance=diagnostics.glance(summary) if summary else None,
        diagnostics=tuple(diagnostics.by_method(summary, ident)),
        no_diagnostics="" if summary else NO_STEPS,
        no_trajectories=NO_TRAJECTORIES,
        tables=tuple(blocks(table, cost=True)),
        excluded=tuple(_excluded(table)),
    )


def _of_results(
    place: Path, ident: str, runs: Path | None, recorded: Path | None, entries: Sequence[published.Entry]
) -> Article:
    experiment, found = experiment_of(place), folder.read_records(place)
    table = folder.build_table(experiment, found, allow_missing=True)
    summary = _summary(place, experiment, found, runs)
    article = article_from(ident, experiment.title or experiment.name, table, found.points, summary)
    measured = _fidelity_beside(place)
    there = {row.run.method for row in table.rows}
    missing = [f"{m.label}: no run of it is recorded" for m in experiment.methods if m.label not in there]
    search = [search_grid(experiment, read_trials(experiment, place))] if (place / TRIALS).is_file() else []
    papers, why_none = _published(table, experiment, read_paper(place).quote, entries)
    return replace(
        article,
        fidelity=_fidelity(measured, ident) if measured else None,
        trajectories=_trajectories(place) or _trajectories_of_record(recorded),
        tables=(*article.tables, *search),
        reproduction=_reproduction(recorded, table),
        excluded=(*missing, *article.excluded),
        provenance=tuple(_provenance(place, table)),
        published=papers,
        no_published=why_none,
    )


def _of_fidelity(place: Path, ident: str) -> Article:
    measured = fidelity_files.read(place)
    name = f"Credit fidelity on {measured.facts['environment'].rpartition(':')[2]}"
    shown = _fidelity(place, ident)
    file = place / "provenance.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return Article(
        ident,
        name,
        None,
        "",
        shown.heading,
        fidelity=shown,
        trajectories=of_fidelity(measured),
        provenance=tuple(_pairs(known)),
    )


# ---------------------------------------------------------------- parts


def _trajectories(place: Path) -> Shown | None:
    """Those that were played for a folder, or else those of its fidelity measurement."""
    if (place / TRAJECTORIES).is_file():
        return of_record(place / TRAJECTORIES)
    measured = _fidelity_beside(place)
    return None if measured is None else of_fidelity(fidelity_files.read(measured))


def _trajectories_of_record(recorded: Path | None) -> Shown | None:
    """Those of the record that a folder repeats, named as such: the starts may differ."""
    shown = None if recorded is None else _trajectories(recorded)
    if shown is None:
        return None
    return replace(shown, facts=(("played for", "the record that is repeated here"), *shown.facts))


def _summary(place: Path, experiment: Experiment, found: Records, runs: Path | None) -> list[dict[str, Any]]:
    if (place / folder.STEPS).is_file():
        return records.read(place / folder.STEPS).strict()
    return step_summary(logs_of_folder(experiment, found.runs[0]["matched"], runs)) if runs else []


def _fidelity_beside(place: Path) -> Path | None:
    places = fidelity_places(place)
    return next((known for known in places if (known / EPISODES).is_file() and (known / FACTS).is_file()), None)


def _fidelity(place: Path, ident: str) -> Fidelity:
    measured = fidelity_files.read(place)
    judged = fidelity.build(measured, fidelity_files.historical(measured))
    drawn = []
    for number, (name, title) in enumerate(fidelity.TITLES.items()):
        low = min([0.0, *(f.low for line in judged.lines if math.isfinite((f := line.figures[name]).low))])
        scale = charts.Scale(-1.0 if low < 0 else 0.0, 1.0)
        rows = []
        for place_, line in enumerate(judged.lines):
            figure = line.figures[name]
            stated = f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"
            word = "control" if line.kind == "control" else "undecided"
            mark = charts.strip(figure.value, figure.low, figure.high, scale, word, f"{ident}-f{number}-{place_}",
                                line.name, f"{title}: {stated}", zero=low < 0)  # fmt: skip
            rows.append((line.name, mark, stated))
        ruler = charts.axis(scale, charts.nice_ticks(scale.low, 1.0), f"{ident}-f{number}-axis", title, signed=low < 0)
        drawn.append(FidelityFigure(title, ruler, tuple(rows)))
    grids = tuple(
        Grid(caption, tuple(header), tuple(map(tuple, rows)), left=1)
        for caption, (header, *rows) in fidelity.grids(judged)
    )
    return Fidelity(tuple(fidelity.heading(judged)), tuple(drawn), grids)


def _reproduction(recorded: Path | None, table: Table) -> tuple[str, Grid] | None:
    if recorded is None or not (recorded / folder.RUNS).is_file():
        return None
    try:
        found = agreements(folder.build_table(experiment_of(recorded), folder.read_records(recorded)), table)
    except UnmatchedError as error:
        return str(error), Grid("Beside the recorded table", ("Row",), ())
    stated = verdict_line(found)
    return f"{stated[:1].upper()}{stated[1:]}.", agreement_grid(found)


def _excluded(table: Table) -> list[str]:
    """What a reader might look for and does not find, each with its reason."""
    stated = list(table.warnings)
    for row in table.rows:
        lost = sum(score.lost for score in row.scores.values())
        if lost:
            stated.append(f"{row.run.method}: {lost} evaluation episodes lost to the infrastructure are in no mean")
        stated += [f"{row.run.method}: {note}" for note in row.run.notes if note.startswith("damaged")]
        for name in ("failed_episodes", "dropped_groups"):
            if row.budget[name]:
                what = {"failed_episodes": "training episodes lost", "dropped_groups": "groups dropped"}[name]
                stated.append(f"{row.run.method}: {row.budget[name]:,.0f} {what} to the infrastructure, over all seeds")
        if row.run.exploratory:
            stated.append(f"{row.run.method}: exploratory, declared before the run; not among the tested comparisons")
        if row.run.control:
            stated.append(f"{row.run.method}: a control; not among the tested comparisons")
    return list(dict.fromkeys(stated))


def _provenance(place: Path, table: Table) -> list[tuple[str, str]]:
    file = place / "provenance.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    starts = known.pop("starts", {})
    known.pop("wall_s", None)
    found = _pairs(known)
    found += [
        (f"start of seed {seed}", f"weights {of['initial_checkpoint'][:16]}") for seed, of in sorted(starts.items())
    ]
    found.append(("matched facts", f"fingerprint {fingerprint(dict(table.facts))[:16]}"))
    return found + [(key, json.dumps(value)) for key, value in sorted(table.facts.items())]


def _pairs(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for key, value in known.items():
        if isinstance(value, Mapping):
            found += [(f"{key}: {inner}", str(entry)) for inner, entry in value.items()]
        else:
            found.append((key, str(value)))
    return found


def _published(
    table: Table, experiment: Experiment, quotes: Sequence[Mapping[str, str]], entries: Sequence[published.Entry]
) -> tuple[Grid | None, str]:
    """The figures that a paper's spec quotes; beside another spec those on this environment from the papers that its
    methods name. Or none, and why."""
    if table.mini:
        return None, "A Mini environment: no paper measured it, so no published figure is set beside it."
    if quotes and entries:
        return published.quoted_beside(table, quotes, entries)[0], ""
    name, papers = _plain_name(table.environment), " ".join(map(_paper, experiment.methods))
    found = [
        entry
        for entry in entries
        if _plain_name(str(entry["environment"])) == name and str(entry["paper"]).partition("v")[0] in papers
    ]
    return (published.published_beside(table, found), "") if found else (None, "")


def _paper(row: MethodSettings) -> str:
    """The paper that a row's method says it is from; empty for one that cannot be imported here."""
    try:
        return paper_of(resolve(row.plug, "method"))
    except HarnessError:
        return ""


def _plain_name(environment: str) -> str:
    """`environments:Tau3Airline-v0` and `tau3-airline` are one."""
    stem = environment.rpartition(":")[2].lower().rpartition("-v")
    return "".join(character for character in (stem[0] or stem[2]) if character.isalnum())
