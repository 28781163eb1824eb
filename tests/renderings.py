"""Every rendering of a table, for tests of what stands in all of them."""

from __future__ import annotations

import io

from rich.console import Console

from harness.report.delimited import csv_text
from harness.report.html import html_page
from harness.report.latex import latex
from harness.report.markdown import markdown
from harness.report.terminal import terminal
from harness.tables.table import Table


def renderings(table: Table) -> dict[str, str]:
    """The text of every rendering, by form; the terminal is wide enough for all columns."""
    console = Console(file=io.StringIO(), width=240)
    terminal(table, console)
    return {
        "markdown": markdown(table),
        "latex": latex(table),
        "html": html_page(table),
        "csv": csv_text(table),
        "terminal": console.file.getvalue(),  # type: ignore[attr-defined]
    }
