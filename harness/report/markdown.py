"""A table as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.escaping import markdown as escaped
from harness.report.grids import blocks, heading
from harness.tables.grid import Grid
from harness.tables.table import Table


def markdown(table: Table, appendix: Sequence[Grid] = ()) -> str:
    """The whole table; the block "Cost" holds wall time, everything else is the same bytes for the same records."""
    parts = [f"# {escaped(table.title or table.environment)}", _items(heading(table))]
    parts += map(grid_markdown, [*blocks(table, cost=True), *appendix])
    return "\n\n".join(parts) + "\n"


def grid_markdown(grid: Grid) -> str:
    """A block with its caption and notes, without a trailing newline."""
    rule = ["---" if column < grid.left else "---:" for column in range(len(grid.header))]
    lines = [[escaped(cell) for cell in line] for line in (grid.header, *grid.rows)]
    lines.insert(1, rule)
    drawn = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([f"## {escaped(grid.caption)}", drawn, *[_items(grid.notes)] * bool(grid.notes)])


def _items(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)
