"""A table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from harness.core.words import one_line
from harness.report.grids import budget_grid, heading, results_grids, share_grid
from harness.tables.grid import Grid, Printed
from harness.tables.table import Table


def terminal(table: Table, console: Console | None = None) -> None:
    """Results and budget, printed; intervals stand under their means, to fit 80 columns."""
    print_all(printed(table), console or Console())


def printed(table: Table) -> list[Printed]:
    """What `terminal` prints."""
    grids = (*results_grids(table, narrow=True), share_grid(table), _without_zeros(budget_grid(table)))
    return [table.title or table.environment, *heading(table), *(grid for grid in grids if grid.rows)]


def print_all(parts: Iterable[Printed], console: Console) -> None:
    """Lines as they are, and blocks."""
    for part in parts:
        if isinstance(part, Grid):
            print_grid(part, console)
        else:
            console.print(one_line(part), markup=False, highlight=False)


def print_grid(grid: Grid, console: Console) -> None:
    """One block with its caption and notes, after an empty line."""
    notes = map(one_line, grid.notes)
    console.print("", _rich(grid), *notes, sep="\n", markup=False, highlight=False)


def _without_zeros(grid: Grid) -> Grid:
    """Without the columns in which every number is 0."""
    kept = [column for column in range(len(grid.header)) if any(row[column] != "0" for row in grid.rows)]
    rows = tuple(tuple(row[column] for column in kept) for row in grid.rows)
    return replace(grid, header=tuple(grid.header[column] for column in kept), rows=rows)


def _rich(grid: Grid) -> RichTable:
    shown = RichTable(
        title=Text(one_line(grid.caption)), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0)
    )
    safe = [tuple(map(one_line, row)) for row in grid.rows]
    rows = [(*row[: grid.left], *(cell.replace(" [", "\n[") for cell in row[grid.left :])) for row in safe]
    for column, name in enumerate(grid.header):
        lines = [line for row in rows for line in row[column].split("\n")]
        words = column < grid.left or column in grid.wrapped  # names may be broken into lines, numbers may not
        shown.add_column(
            Text(one_line(name)),
            justify="left" if words else "right",
            min_width=None if words else max(map(len, lines)),
        )
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown
