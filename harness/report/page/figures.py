"""The figures of a report page: charts with the numbers they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from harness.core.budget import budget_columns
from harness.report.columns import gain, interval, p_text, rate
from harness.report.page import charts
from harness.report.page.charts import Line, Scale
from harness.report.page.decision import WORDS, Finding, findings, short_endpoint
from harness.tables.endpoints import AREA
from harness.tables.grid import NOTHING, Grid
from harness.tables.statistics import Estimate
from harness.tables.table import Table

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ForestRow:
    """A row of a forest plot."""

    method: str
    word: str
    says: str
    difference: str
    joint: str
    p: str
    chart: Markup


@dataclass(frozen=True)
class Forest:
    """Paired differences at one endpoint."""

    ident: str
    caption: str
    axis: Markup
    rows: tuple[ForestRow, ...]
    against: str
    margin: str


@dataclass(frozen=True)
class Panel:
    """A small chart under its name."""

    name: str
    chart: Markup
    word: str = ""
    says: str = ""


@dataclass(frozen=True)
class Panels:
    """Small charts on one scale, and their numbers as a grid."""

    ident: str
    caption: str
    note: str
    panels: tuple[Panel, ...]
    numbers: Grid


@dataclass(frozen=True)
class Bars:
    """What every row spent of one thing."""

    caption: str
    rows: tuple[tuple[str, Markup, str], ...] = field(default=())


# ---------------------------------------------------------------- paired differences


def forests(table: Table, prefix: str) -> list[Forest]:
    """A forest plot for every endpoint, the one that decides first."""
    endpoints = sorted(table.endpoints, key=lambda endpoint: endpoint != table.primary)
    return [
        _forest(table, endpoint, found, f"{prefix}-forest-{endpoint}")
        for endpoint in endpoints
        if (found := findings(table, endpoint))
    ]


def _forest(table: Table, endpoint: str, found: Sequence[Finding], ident: str) -> Forest:
    scale = _scale([finding for finding in found if finding.word != "control"] or found, table.margin)
    rows = []
    for number, finding in enumerate(sorted(found, key=lambda finding: finding.word == "control")):
        judged = table.judged.found[endpoint, finding.method]
        plain, shown = finding.difference, finding.shown
        stated = f"{finding.method}: {gain(shown)} to {table.against}; {WORDS[finding.word]}"
        drawn = charts.strip(
            plain.mean, shown.low, shown.high, scale, finding.word, f"{ident}-{number}", finding.method, stated,
            margin=table.margin, inner=(plain.low, plain.high) if finding.joint else None,
        )  # fmt: skip
        rows.append(
            ForestRow(
                finding.method,
                finding.word,
                WORDS[finding.word],
                gain(plain),
                interval(finding.joint) if finding.joint else NOTHING,
                NOTHING if judged.p_adjusted is None else p_text(judged.p_adjusted),
                drawn,
            )
        )
    ruler = charts.axis(scale, charts.nice_ticks(scale.low, scale.high), f"{ident}-axis", "Difference in success")
    caption = short_endpoint(endpoint, table)
    return Forest(ident, caption, ruler, tuple(rows), str(table.against), f"{table.margin:g}")


def _finite(estimate: Estimate) -> bool:
    return math.isfinite(estimate.low) and math.isfinite(estimate.high)


def _scale(found: Sequence[Finding], margin: float) -> Scale:
    """All intervals of what is tested; controls, which may lie far away, do not stretch it."""
    ends = [end for f in found if _finite(f.shown) for end in (f.shown.low, f.shown.high)]
    ends += [end for f in found if math.isfinite(f.difference.mean) for end in (f.difference.mean,)]
    low, high = min([*ends, -2 * margin]), max([*ends, 2 * margin])
    room = 0.04 * (high - low)
    return Scale(low - room, high + room)


# ---------------------------------------------------------------- learning curves


def curves(points: Sequence[Row], table: Table, prefix: str) -> list[Panels]:
    """Learning curves, a panel for every method beside the compared one's, for every decoding that was recorded."""
    found = []
    for decoding in sorted(table.decodings, key=lambda name: name != table.decoding):
        by_method = {method: line for method, line in _lines(points, decoding).items() if len(line.y)}
        if by_method:
            found.append(_curves(by_method, table, decoding, f"{prefix}-curve-{decoding}"))
    return found


def _curves(by_method: Mapping[str, Line], table: Table, decoding: str, ident: str) -> Panels:
    other = by_method.get(str(table.against))
    words = {f.method: f for f in findings(table, AREA if AREA in table.endpoints else decoding)}
    panels = []
    for number, (method, line) in enumerate(by_method.items()):
        held = [replace(other, kind="other", low=(), high=())] if other and method != table.against else []
        stated = f"From {line.y[0]:.2f} to {line.y[-1]:.2f}; at the end the seeds lie in {line.low[-1]:.2f} to "
        stated += f"{line.high[-1]:.2f}."
        drawn = charts.panel([line, *held], f"{ident}-{number}", f"Learning curve of {method}", stated, (0.0, 1.0))
        word = words[method].word if method in words else ""
        panels.append(Panel(method, drawn, word, WORDS[words[method].word] if method in words else ""))
    steps = sorted({step for line in by_method.values() for step in line.x})
    rows = tuple((method, *(_at(line, step) for step in steps)) for method, line in by_method.items())
    header = ("Method", *(f"step {step:g}" for step in steps))
    seeds = len(table.seeds)
    note = "Mean over the seeds; band: the seeds' range." if seeds > 1 else "One seed, no band."
    if other:
        note += f" Grey: {table.against}."
    return Panels(ident, f"Success, {decoding}", note, tuple(panels), Grid(f"Success, {decoding}", header, rows))


def _lines(points: Sequence[Row], value: str) -> dict[str, Line]:
    by_method: dict[str, dict[int, dict[float, float]]] = {}
    for point in points:
        if point.get(value) is not None:
            by_method.setdefault(point["method"], {}).setdefault(point["seed"], {})[point["step"]] = point[value]
    lines = {}
    for method, of_seeds in by_method.items():
        steps = sorted(set.intersection(*(set(run) for run in of_seeds.values())))
        grid = np.array([[run[step] for step in steps] for run in of_seeds.values()]).reshape(len(of_seeds), -1)
        lines[method] = Line(
            [float(step) for step in steps], *(reduce(grid, axis=0).tolist() for reduce in (np.mean, np.min, np.max))
        )
    return lines


def _at(line: Line, step: float) -> str:
    if step not in line.x:
        return NOTHING
    place = list(line.x).index(step)
    return f"{line.y[place]:.3f} [{line.low[place]:.3f}, {line.high[place]:.3f}]"


# ---------------------------------------------------------------- budget and cost


def bars(table: Table, prefix: str) -> tuple[list[Bars], str]:
    """What the learned rows spent: a block for everything of which they spent different amounts, time last; and, in
    words, what was the same for all."""
    learned = [row for row in table.rows if row.run.learns]
    found, alike = [], []
    for column in budget_columns(row.budget for row in learned):
        amounts = [(row.run.method, row.budget[column.name]) for row in learned]
        if len({amount for _, amount in amounts}) == 1:
            alike.append(f"{amounts[0][1]:,.0f} {column.heading.lower()}")
        elif amounts:
            found.append(_bars(column.heading, amounts, f"{prefix}-spent-{column.name}"))
    timed = [(row.run.method, row.wall_s) for row in learned if row.wall_s is not None]
    if timed:
        found.append(_bars("Seconds of training", timed, f"{prefix}-spent-seconds"))
    return found, ", ".join(alike)


def _bars(caption: str, amounts: Sequence[tuple[str, float]], ident: str) -> Bars:
    most = max(amount for _, amount in amounts) or 1.0
    rows = tuple(
        (
            method,
            charts.bar(amount / most, f"{ident}-{number}", f"{caption}: {method}", f"{amount:,.0f}"),
            f"{amount:,.0f}",
        )
        for number, (method, amount) in enumerate(amounts)
    )
    return Bars(caption, rows)


def success_line(table: Table, method: str | None) -> str:
    """The success of one row at the endpoint that decides, with its interval."""
    row = next((row for row in table.rows if row.run.method == method), None)
    return rate(row.scores[table.primary].success) if row and table.primary in row.scores else NOTHING
