"""The files of a table in its results folder, and the checksums of that folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from harness.core.records import write_whole
from harness.core.sums import SUMS, seal
from harness.report.delimited import csv_text
from harness.report.html import html_page
from harness.report.latex import latex
from harness.report.markdown import markdown
from harness.tables.grid import Grid
from harness.tables.table import Table

RENDERED = (".md", ".csv", ".tex", ".html", ".svg")
"""Kinds of files that are made from the records of a results folder."""
REPORT = "report.html"
UNSEALED = (SUMS, "spec.toml", "scaling.toml", "paper.toml", "NOTES.md", "README.md", REPORT)
"""Files of a results folder that are not sealed: people write them, or they are made anew from others at any time."""


def write_table(table: Table, folder: str | Path, appendix: Sequence[Grid] = ()) -> None:
    """table.md, table.csv, table.tex and table.html, each replaced as a whole."""
    folder = Path(folder)
    write_whole(folder / "table.md", markdown(table, appendix))
    write_whole(folder / "table.csv", csv_text(table))
    write_whole(folder / "table.tex", latex(table, appendix))
    write_whole(folder / "table.html", html_page(table, appendix))


def sealable(folder: Path) -> list[str]:
    """The files of a results folder that its checksums are of: its records, renderings and episodes."""
    inside = [*folder.iterdir(), *(folder / "episodes").glob("*.jsonl.gz")]
    files = [file for file in inside if file.is_file() and not file.name.startswith(".") and file.name not in UNSEALED]
    return sorted(file.relative_to(folder).as_posix() for file in files)


def seal_results(folder: Path, written: Collection[str]) -> None:
    """Write the checksums of a results folder, of which `written` has just been written."""
    seal(folder, sealable(folder), written)
