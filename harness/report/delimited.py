"""A table as a CSV file, for programs."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from harness.core.budget import budget_columns
from harness.core.words import one_line
from harness.report.columns import Column, Value, columns
from harness.tables.statistics import Estimate
from harness.tables.table import Score, Table, TableRow


def csv_text(table: Table) -> str:
    """One line per method and decoding, all digits, no wall time.

    What was judged, then every column with an interval (further success metrics in alphabetical order), then the plain
    numbers, then the budget.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    estimates, numbers = _ordered(table)
    budget = budget_columns(row.budget for row in table.rows)
    writer.writerow(
        [
            *("method", "role", "exploratory", "decoding", "seeds", "tasks", "samples", "reward"),
            *(f"{column.name}{end}" for column in estimates for end in ("", "_low", "_high")),
            *(column.name for column in numbers),
            *(field.name for field in budget),
        ]
    )
    for row in table.rows:
        for decoding, score in row.scores.items():
            cells = [*_judged(table, row, decoding, score)]
            for column in estimates:
                cells += _bounds(column.read(score))
            cells += [_digits(column.read(score)) for column in numbers]
            writer.writerow([*cells, *(_digits(row.budget[field.name]) for field in budget)])
    return out.getvalue()


def lines(table: Table) -> list[dict[str, str]]:
    """The same lines for programs that read JSON: a mapping from column to cell for each, cells as they are written."""
    return list(csv.DictReader(io.StringIO(csv_text(table))))


def _ordered(table: Table) -> tuple[list[Column], list[Column]]:
    """The columns with an interval and those without."""
    further = {metric.name for metric in table.extra}
    estimates = [column for column in columns(table) if column.estimate]
    estimates.sort(key=lambda column: (column.name in further, column.name if column.name in further else ""))
    return estimates, [column for column in columns(table) if not column.estimate]


def _judged(table: Table, row: TableRow, decoding: str, score: Score) -> list[Any]:
    judged = score.success
    return [
        *(formula_free(row.run.method), row.run.role, row.run.exploratory, decoding, judged.seeds, judged.tasks),
        *(table.samples.get(decoding, 1), _digits(score.reward)),
    ]


def _bounds(value: Value) -> list[str]:
    if not isinstance(value, Estimate):
        return ["", "", ""]
    return [_digits(value.mean), _digits(value.low), _digits(value.high)]


def formula_free(text: str) -> str:
    """Text on one line; one that a spreadsheet would take for a formula has an apostrophe before it."""
    text = one_line(text)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def _digits(value: Any) -> str:
    """Words as they are. Twelve digits: more than anyone reads, fewer than another order of summation could change."""
    if isinstance(value, str):
        return value
    return "" if value is None or math.isnan(value) else f"{value:.12g}"
