"""The files of a table in its results folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core.records import write_whole
from harness.report.delimited import csv_text
from harness.report.html import html_page
from harness.report.latex import latex
from harness.report.markdown import markdown
from harness.tables.grid import Grid
from harness.tables.table import Table


def write_table(table: Table, folder: str | Path, appendix: Sequence[Grid] = ()) -> None:
    """table.md, table.csv, table.tex and table.html, each replaced as a whole."""
    folder = Path(folder)
    write_whole(folder / "table.md", markdown(table, appendix))
    write_whole(folder / "table.csv", csv_text(table))
    write_whole(folder / "table.tex", latex(table, appendix))
    write_whole(folder / "table.html", html_page(table, appendix))
