"""A table as text: the lines of its heading, and its blocks as grids of cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.core.budget import budget_columns
from harness.core.troubles import TROUBLES
from harness.report.columns import columns, rate
from harness.tables.comparisons import LEAST_SEEDS
from harness.tables.endpoints import AREA
from harness.tables.grid import NOTHING, Grid
from harness.tables.table import Certified, Score, Table, TableRow

_FACTS = {
    "Model": "model.name",
    "group size": "sampling.group_size",
    "prompts per step": "sampling.prompts_per_step",
    "training steps, each a batch of rollouts": "budget.steps",
    "temperature": "sampling.temperature",
    "top-p": "sampling.top_p",
    "aggregation of the loss": "loss.aggregate",
    "code revision": "code",
}
"""Matched facts that the heading states, by their words."""


def heading(table: Table) -> list[str]:
    """What the numbers are of, a line each."""
    facts = table.facts
    samples = ", ".join(f"{table.samples[decoding]} {decoding}" for decoding in table.decodings)
    lines = [
        f"Environment: {table.environment}, split {table.split}: {table.tasks} tasks; "
        f"episodes per task and seed: {samples}"
    ]
    if table.historical is not None:
        lines.insert(0, historical_note(table.historical))
    if table.certified is not None:
        lines.insert(0, certified_note(table.certified))
    if facts.get("environment.protocol"):
        lines.append(f"Protocol: {facts['environment.protocol']}")
    lines += [metric.note for metric in table.extra if metric.note]
    if table.mini:
        lines.append(
            "A Mini environment: compact rendering, procedural tasks; its numbers mean nothing outside this table."
        )
    lines.append(f"Seeds: {', '.join(map(str, table.seeds))}")
    stated = [f"{name}: {_fact(facts[key])}" for name, key in _FACTS.items() if facts.get(key) is not None]
    if stated:
        lines.append("; ".join(stated))
    lines += [*_judging(table), *_headroom(table)]
    lines.append(f"Evaluation episodes lost to infrastructure failures: {table.failed}")
    lines += [f"INCOMPLETE: {warning}" for warning in table.warnings]
    lines += [f"DAMAGED, left out: {where}" for where in table.damaged]
    return lines


def _judging(table: Table) -> list[str]:
    """What decides, and how comparisons are tested."""
    if table.against is None or not table.judged.found:
        return []
    names = {AREA: f"area under the learning curve, {table.decoding}"}
    primary = names.get(table.primary, f"success at the end, {table.primary}")
    why = f" (no area under the learning curve: {table.no_area})" if table.no_area else ""
    lines = [f"Primary endpoint: {primary}{why}"]
    if any(judged.versus.seeds < LEAST_SEEDS for judged in table.judged.found.values()):
        lines.append(f"No p-values below {LEAST_SEEDS} common seeds: two seeds are no evidence of a third")
    if table.judged.size:
        lines.append(
            f"Differences to {table.against}: {table.judged.size} comparisons tested together, over all rows and "
            f"endpoints, with an error of 5 %; equivalence within {table.margin:g}"
        )
    if table.judged.detectable:
        effects = ", ".join(f"{effect:.3f} {endpoint_name(at)}" for at, effect in table.judged.detectable.items())
        lines.append(f"Minimum detectable effect (MDE), pooled over rows: {effects}")
    return lines


def _headroom(table: Table) -> list[str]:
    """What credit can have been worth on these tasks, where a row with true values was run."""
    if table.oracle is None:
        return []
    there = [endpoint for endpoint, above in table.judged.headroom.items() if above]
    if there:
        where = ", ".join(map(endpoint_name, there))
        return [f"Headroom: credit from true values ({table.oracle}) beats {table.against} beyond the MDE ({where})"]
    return [
        f"No headroom: on these tasks and this budget no credit assignment could have helped measurably; credit from "
        f"true values ({table.oracle}) does not beat {table.against} beyond the MDE"
    ]


def endpoint_name(endpoint: str) -> str:
    """An endpoint in words."""
    return "area" if endpoint == AREA else endpoint


def historical_note(revision: str) -> str:
    """The line that marks a table whose code has changed. revision: of the code that recorded it; empty where the
    records do not name it."""
    by = f"by code revision {revision}" if revision else "before records named their code revision"
    return (
        f"A historical table: it was recorded {by}; the code beside it has changed since, "
        "and running the experiment again may give other numbers."
    )


def certified_note(certified: Certified) -> str:
    """The line of a table whose code has changed and repeats the record's beginning."""
    names = {"points": "points of learning curves", "steps": "training steps", "rows": "rows of evaluation"}
    exact = ["the start"] if certified.compared.get("starts") else []
    exact += [f"{certified.compared[key]:,} {name}" for key, name in names.items() if certified.compared.get(key)]
    ranges = certified.compared.get("ranges")
    inside = f"; {ranges:,} training steps lie within what all seeds recorded" if ranges else ""
    other = certified.repeated != certified.recorded
    later = f"revision {certified.repeated}" if other else "later code of its methods"
    return (
        f"Recorded with code revision {certified.recorded}; seed {certified.seed} of every row repeated with {later} "
        f"up to step {certified.steps}: byte for byte the same ({', '.join(exact)}){inside}."
    )


def blocks(table: Table, cost: bool) -> list[Grid]:
    """All blocks that have rows; wall time, which differs from run to run, only where `cost` asks for it."""
    grids = [*results_grids(table), share_grid(table), settings_grid(table), budget_grid(table), metrics_grid(table)]
    grids += [cost_grid(table)] if cost else []
    return [grid for grid in grids if grid.rows]


def results_grids(table: Table, narrow: bool = False) -> list[Grid]:
    """Success per method, one block per endpoint; footnotes to single rows stand under the last. narrow: without the
    columns that are left out where there is little room."""
    marks = _marks(table)
    grids = []
    for decoding in table.endpoints:
        scored = [(row, row.scores[decoding]) for row in table.rows if decoding in row.scores]
        shown = [
            (column.title(table), column)
            for column in columns(table)
            if column.title is not None
            and not (narrow and column.wide)
            and column.shown([score for _, score in scored])
        ]
        rows = [(_label(row, table, marks), *(column.cell(score) for _, column in shown)) for row, score in scored]
        caption = f"Area under the learning curve, {table.decoding}" if decoding == AREA else f"Success, {decoding}"
        wrapped = frozenset(place for place, (_, column) in enumerate(shown, start=1) if column.words)
        header = ("Method", *(title for title, _ in shown))
        grids.append(Grid(caption, header, tuple(rows), wrapped=wrapped))
    return [*grids[:-1], replace(grids[-1], notes=_footnotes(table, marks))]


def share_grid(table: Table) -> Grid:
    """Credit shares, at the endpoints where there is headroom; no rows where there is none."""
    endpoints = [endpoint for endpoint in table.endpoints if table.judged.headroom.get(endpoint)]
    rows = []
    for row in table.rows:
        if not row.run.learns or row.run.control or row.run.method == table.against:
            continue
        shares = [row.scores[e].share if e in row.scores else None for e in endpoints]
        rows.append((row.run.method, *(NOTHING if share is None else rate(share) for share in shares)))
    note = (
        f"Credit share: (method - {table.against}) / ({table.oracle} - {table.against}) with its 95 % interval "
        "(Fieller): 0 is the compared row, 1 is credit from true values."
    )
    header = ("Method", *map(endpoint_name, endpoints))
    return Grid("Credit share", header, tuple(rows) if endpoints else (), (note,))


def settings_grid(table: Table) -> Grid:
    """What each learned row ran with."""
    rows = [
        (
            row.run.method,
            f"{row.run.plug}({', '.join(f'{key}={_fact(value)}' for key, value in sorted(row.run.options.items()))})",
            NOTHING if row.run.kl is None else f"{row.run.kl:g}",
            {None: NOTHING, True: "on", False: "off"}[row.run.mixed_groups],
        )
        for row in table.rows
        if row.run.learns
    ]
    return Grid("Methods", ("Method", "Plug", "Reference KL", "Mixed-group sampling"), tuple(rows), left=2)


def budget_grid(table: Table) -> Grid:
    """What each learned row spent, the same bytes twice."""
    declared = budget_columns(row.budget for row in table.rows)
    rows = [
        (row.run.method, *(f"{row.budget[field.name]:,.0f}" for field in declared))
        for row in table.rows
        if row.run.learns
    ]
    header = ("Method", *(field.heading for field in declared))
    return Grid("Budget (training, mean per seed)", header, tuple(rows))


def metrics_grid(table: Table) -> Grid:
    """Means of what the environment measures besides success."""
    measured = [
        (decoding, name)
        for decoding in table.decodings
        for name in sorted({name for row in table.rows for name in _metrics(row, decoding)})
    ]
    rows = []
    for row in table.rows:
        values = [
            _metrics(row, decoding).get(name, 0.0 if name in TROUBLES and decoding in row.scores else math.nan)
            for decoding, name in measured
        ]
        rows.append((row.run.method, *(NOTHING if math.isnan(value) else f"{value:.3g}" for value in values)))
    header = ("Method", *(f"{name}, {decoding}" for decoding, name in measured))
    return Grid("Episodes (mean)", header, tuple(rows) if measured else ())


def cost_grid(table: Table) -> Grid:
    """Wall time: the one block that differs from run to run."""
    rows = [(row.run.method, f"{row.wall_s:,.0f}") for row in table.rows if row.wall_s is not None]
    return Grid("Cost (wall time of training on this machine)", ("Method", "Seconds per seed"), tuple(rows))


def _metrics(row: TableRow, decoding: str) -> Mapping[str, float]:
    return row.scores[decoding].metrics if decoding in row.scores else {}


# ---------------------------------------------------------------- footnotes


def _marks(table: Table) -> dict[str, int]:
    """Numbers of the footnotes, by method."""
    noted = [row.run.method for row in table.rows if _remarks(row, table)]
    return {method: number for number, method in enumerate(noted, start=1)}


def _label(row: TableRow, table: Table, marks: Mapping[str, int]) -> str:
    label = row.run.method
    if row.run.exploratory:
        label += " (exploratory)"
    if row.run.control:
        label += " (control)"
    if row.run.learns and len(row.seeds) < len(table.seeds):
        label += f" ({len(row.seeds)} of {len(table.seeds)} seeds)"
    return f"{label} [{marks[row.run.method]}]" if row.run.method in marks else label


def _footnotes(table: Table, marks: Mapping[str, int]) -> tuple[str, ...]:
    common = [
        "Brackets: 95 % intervals over seeds and tasks as crossed random effects.",
        "Gains and differences are paired by seed and task, and allow for kinds of tasks that were not seen.",
    ]
    common += [column.note for column in columns(table) if column.note and column.shown(_scores(table))]
    own = [
        f"[{marks[row.run.method]}] {row.run.method}: {_remarks(row, table)}"
        for row in table.rows
        if row.run.method in marks
    ]
    return (*common, *own)


def _scores(table: Table) -> Sequence[Score]:
    return [score for row in table.rows for score in row.scores.values()]


def _remarks(row: TableRow, table: Table) -> str:
    """What a reader must know of one row."""
    remarks = []
    if row.run.method in table.judged.apart:
        remarks.append(f"{table.judged.apart[row.run.method]}: its variance over seeds is its own, not pooled")
    for name, score in row.scores.items():
        if score.lost:
            remarks.append(f"{score.lost} {name} episodes lost; success {score.lost_failed:.3f} if all had failed")
    over = {score.success.over for score in row.scores.values()} - {"seeds and tasks"}
    if over:
        remarks.append(f"interval over {', '.join(sorted(over))}")
    if row.run.context:
        remarks.append(f"the teacher reads: {row.run.context}")
    if row.run.summariser:
        remarks.append(f"written by: {row.run.summariser}")
    return "; ".join([*remarks, *row.run.notes])


def _fact(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
