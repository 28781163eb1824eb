"""A table as text: the lines of its heading, and its blocks as grids of cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.core.budget import budget_columns
from harness.report.columns import columns
from harness.tables.grid import NOTHING, Grid
from harness.tables.table import Score, Table, TableRow

_FACTS = {
    "Model": "model.name",
    "group size": "sampling.group_size",
    "prompts per step": "sampling.prompts_per_step",
    "optimiser steps": "budget.steps",
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
    lines.append(f"Evaluation episodes lost to infrastructure failures: {table.failed}")
    lines += [f"INCOMPLETE: {warning}" for warning in table.warnings]
    return lines


def historical_note(revision: str) -> str:
    """The line that marks a table whose code has changed. revision: of the code that recorded it; empty where the
    records do not name it."""
    by = f"by code revision {revision}" if revision else "before records named their code revision"
    return (
        f"A historical table: it was recorded {by}; the code beside it has changed since, "
        "and running the experiment again may give other numbers."
    )


def blocks(table: Table, cost: bool) -> list[Grid]:
    """All blocks that have rows; wall time, which differs from run to run, only where `cost` asks for it."""
    grids = [*results_grids(table), settings_grid(table), budget_grid(table), metrics_grid(table)]
    grids += [cost_grid(table)] if cost else []
    return [grid for grid in grids if grid.rows]


def results_grids(table: Table) -> list[Grid]:
    """Success per method, one block per decoding; footnotes to single rows stand under the last."""
    marks = _marks(table)
    grids = []
    for decoding in table.decodings:
        scored = [(row, row.scores[decoding]) for row in table.rows if decoding in row.scores]
        shown = [
            (column.title(table), column)
            for column in columns(table)
            if column.title is not None and column.shown([score for _, score in scored])
        ]
        rows = [(_label(row, table, marks), *(column.cell(score) for _, column in shown)) for row, score in scored]
        grids.append(Grid(f"Success, {decoding}", ("Method", *(title for title, _ in shown)), tuple(rows)))
    return [*grids[:-1], replace(grids[-1], notes=_footnotes(table, marks))]


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
        values = [_metrics(row, decoding).get(name, math.nan) for decoding, name in measured]
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
    noted = [row.run.method for row in table.rows if _remarks(row)]
    return {method: number for number, method in enumerate(noted, start=1)}


def _label(row: TableRow, table: Table, marks: Mapping[str, int]) -> str:
    label = row.run.method
    if row.run.exploratory:
        label += " (exploratory)"
    if row.run.learns and len(row.seeds) < len(table.seeds):
        label += f" ({len(row.seeds)} of {len(table.seeds)} seeds)"
    return f"{label} [{marks[row.run.method]}]" if row.run.method in marks else label


def _footnotes(table: Table, marks: Mapping[str, int]) -> tuple[str, ...]:
    common = [
        "Brackets: 95 % intervals over seeds and tasks as crossed random effects.",
        "Gains and differences are paired by seed and task.",
    ]
    common += [column.note for column in columns(table) if column.note and column.shown(_scores(table))]
    own = [
        f"[{marks[row.run.method]}] {row.run.method}: {_remarks(row)}" for row in table.rows if row.run.method in marks
    ]
    return (*common, *own)


def _scores(table: Table) -> Sequence[Score]:
    return [score for row in table.rows for score in row.scores.values()]


def _remarks(row: TableRow) -> str:
    """What a reader must know of one row."""
    remarks = []
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
